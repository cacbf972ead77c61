"""Decoder: one window over a client that answers as vLLM does."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.errors import EngineUnavailable
from dear_serving.protocol import DecodedWindow, PermutationRequest
from dear_serving.replica.kv_admission import KvAdmission
from dear_serving.replica.window_decoder import Decoder, Undecodable
from dear_serving.types import Decoding
from tests.support.vllm_client import Client, Model, always

pytestmark = pytest.mark.integration

PROMPT = [1, 2, 3, 4]
SEPARATOR = (90, 91)
LOG_PROBS = {10: math.log(0.15), 11: math.log(0.5), 12: math.log(0.1), 13: math.log(0.25)}
BY_POSITION = pytest.approx(tuple(LOG_PROBS.values()))  # the order 1, 3, 0, 2

every_way = pytest.mark.parametrize("decoding", get_args(Decoding))


def request_of(
    needed: int = 4,
    identifiers: tuple[tuple[int, ...], ...] = ((10,), (11,), (12,), (13,)),
    deadline_s: float | None = None,
) -> PermutationRequest:
    return PermutationRequest(PROMPT, identifiers, SEPARATOR, needed, "legal", "w", 3, deadline_s)


def sessions(max_open: int = 8) -> KvAdmission:
    return KvAdmission(max_open=max_open, blocks=100, block_size=16)


async def decode(
    client: Client, request: PermutationRequest, decoding: Decoding = "drafted", *, every_rank: bool = False
) -> list[DecodedWindow]:
    decoder = Decoder(client, sessions(), decoding)
    found = [window async for window in decoder.decode(request, None, every_rank=every_rank)]
    assert client.running == set()
    return found


@every_way
async def test_the_order_is_the_greedy_one_among_what_is_left(decoding: Decoding) -> None:
    client = Client(always(LOG_PROBS))
    (window,) = await decode(client, request_of(), decoding)
    assert window.order == (1, 3, 0, 2)
    assert window.decided == 4
    assert window.log_probs == BY_POSITION
    assert (window.usage.prompt_tokens, window.usage.completion_tokens, client.computed) == (4, 3, 3)


@every_way
async def test_the_stages_of_a_window_are_told_once_and_are_its_time(decoding: Decoding) -> None:
    told: list[tuple[float, float, float]] = []
    decoder = Decoder(Client(always(LOG_PROBS), pauses=0.02), sessions(), decoding)
    decoder.on_done = lambda *stages: told.append(stages)
    windows = [window async for window in decoder.decode(request_of(), None, every_rank=True)]
    assert len(windows) > 1
    ((queue_s, prefill_s, decode_s),) = told
    assert min(prefill_s, decode_s) >= 0
    usage = windows[-1].usage
    assert max(0.0, queue_s) * 1e3 == pytest.approx(usage.queue_ms)
    assert (prefill_s + decode_s) * 1e3 == pytest.approx(usage.engine_ms)


@every_way
@pytest.mark.parametrize(("needed", "passes"), [(1, 1), (2, 2), (3, 3), (4, 3)])
async def test_no_more_is_decided_than_needed_and_the_rest_stands_by_its_first_step(
    decoding: Decoding, needed: int, passes: int
) -> None:
    # After the first choice the model would change its mind about the rest.
    def model(tokens: Sequence[int]) -> object:
        return (lambda token: LOG_PROBS[token]) if len(tokens) == 4 else lambda token: float(token)

    client = Client(model)
    (window,) = await decode(client, request_of(needed), decoding)
    assert window.decided == needed
    assert window.order == {1: (1, 3, 0, 2), 2: (1, 3, 0, 2), 3: (1, 3, 2, 0), 4: (1, 3, 2, 0)}[needed]
    assert window.log_probs == BY_POSITION
    assert client.computed == window.usage.completion_tokens == passes


@every_way
async def test_every_request_of_a_traced_window_belongs_to_its_trace(decoding: Decoding) -> None:
    headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    client = Client(always(LOG_PROBS))
    await decode(client, replace(request_of(), trace_headers=headers), decoding)
    await decode(client, request_of(), decoding)
    count = len(client.calls) // 2
    assert [call.trace_headers for call in client.calls] == [headers] * count + [None] * count


async def test_equal_log_probabilities_stand_as_shown() -> None:
    (window,) = await decode(Client(always(dict.fromkeys([10, 11, 12, 13], -1.5))), request_of(0))
    assert window.order == (0, 1, 2, 3)


@every_way
async def test_needed_0_is_one_ordinary_forward_pass(decoding: Decoding) -> None:
    client = Client(always(LOG_PROBS))
    (window,) = await decode(client, request_of(0), decoding)
    assert (window.order, window.decided) == ((1, 3, 0, 2), 0)
    assert (client.computed, window.usage.completion_tokens) == (1, 1)
    assert [call.resumable for call in client.calls] == [False]


async def test_log_probabilities_are_normalised_over_the_identifiers() -> None:
    client = Client(always({token: value - 7 for token, value in LOG_PROBS.items()}))
    (window,) = await decode(client, request_of(), "ordinary")
    assert window.log_probs == BY_POSITION


@pytest.mark.parametrize("decoding", ["drafted", "resumable"])
async def test_a_window_is_one_request(decoding: Decoding) -> None:
    client = Client(always(LOG_PROBS))
    await decode(client, request_of(), decoding)
    (call,) = client.calls
    assert (call.request_id, call.tokens, call.priority) == ("w", PROMPT, 3)
    assert call.resumable is (decoding == "resumable")
    assert call.parameters.temperature == 0
    assert call.parameters.detokenize is False
    if decoding == "resumable":
        assert call.parameters.max_tokens == 1
        assert call.parameters.allowed_token_ids == call.parameters.logprob_token_ids == [10, 11, 12, 13]
    else:
        assert call.parameters.allowed_token_ids is call.parameters.logprob_token_ids is None


@pytest.mark.parametrize(
    ("decoding", "passes", "drafted"), [("drafted", 3, 4), ("resumable", 3, 0), ("ordinary", 3, 0)]
)
async def test_passes_and_drafts_are_the_engines_own_counts(
    decoding: Decoding, passes: int, drafted: int
) -> None:
    (window,) = await decode(Client(always(LOG_PROBS)), request_of(), decoding)
    assert (window.usage.passes, window.usage.drafted, window.usage.accepted) == (passes, drafted, drafted)


async def test_the_prompt_is_not_changed() -> None:
    client = Client(always(LOG_PROBS))
    for decoding in get_args(Decoding):
        await decode(client, request_of(), decoding)
    assert PROMPT == [1, 2, 3, 4]


async def test_ordinary_steps_are_requests_that_grow_by_what_was_chosen_and_the_separator() -> None:
    client = Client(always(LOG_PROBS))
    await decode(client, request_of(), "ordinary")
    assert [call.request_id for call in client.calls] == ["w-0", "w-1", "w-2"]
    assert [call.tokens for call in client.calls] == [
        [*PROMPT],
        [*PROMPT, 11, *SEPARATOR],
        [*PROMPT, 11, *SEPARATOR, 13, *SEPARATOR],
    ]
    assert [call.parameters.allowed_token_ids for call in client.calls] == [
        [10, 11, 12, 13],
        [10, 12, 13],
        [10, 12],
    ]
    assert {call.priority for call in client.calls} == {3}
    assert not any(call.resumable for call in client.calls)


@every_way
async def test_the_adapter_goes_to_the_client(decoding: Decoding) -> None:
    client, lora = Client(always(LOG_PROBS)), object()
    decoder = Decoder(client, sessions(), decoding)
    async for _ in decoder.decode(request_of(), lora):
        pass
    assert all(call.lora is lora for call in client.calls)


# Identifiers of several tokens.


@every_way
async def test_an_identifier_that_another_continues_can_win(decoding: Decoding) -> None:
    log_probs = {1: math.log(0.7), 2: math.log(0.3), 90: -0.1}  # "1" rather than "12"
    request = request_of(3, ((1,), (2,), (1, 2)))
    client = Client(always(log_probs))
    (window,) = await decode(client, request, decoding)
    assert window.order == (0, 2, 1)
    assert window.log_probs == pytest.approx(
        [math.log(0.7), math.log(0.3), math.log(0.7)]
    )  # of the first token, which two share
    assert client.computed == 3


@every_way
async def test_log_probabilities_are_those_of_the_first_token_that_is_not_settled(decoding: Decoding) -> None:
    client = Client(always({1: math.log(0.1), 2: math.log(0.6), 3: math.log(0.3)}))
    (window,) = await decode(client, request_of(3, ((5, 1), (5, 2), (5, 3))), decoding)
    assert window.order == (1, 2, 0)
    assert window.log_probs == pytest.approx([math.log(0.1), math.log(0.6), math.log(0.3)])
    assert client.calls[0].tokens == [*PROMPT, 5]


# Ranks as they are decided.


@every_way
@pytest.mark.parametrize("together", [1, 2, 8])
@pytest.mark.parametrize("needed", [1, 2, 4])
async def test_every_rank_is_told_in_a_growing_window(decoding: Decoding, together: int, needed: int) -> None:
    client = Client(always(LOG_PROBS), together=together)
    windows = await decode(client, request_of(needed), decoding, every_rank=True)
    final = windows[-1]
    assert (final.order, final.decided) == ((1, 3, 0, 2), needed)
    told = [window.decided for window in windows]
    assert told == sorted(set(told))
    if decoding == "ordinary" or together == 1:
        assert told == {1: [1], 2: [1, 2], 4: [1, 2, 4]}[needed]
    for window in windows:
        assert window.order[: window.decided] == final.order[: window.decided]
        assert sorted(window.order) == [0, 1, 2, 3]
        assert window.log_probs == final.log_probs


async def test_a_token_that_ends_no_identifier_tells_nothing() -> None:
    client = Client(always({1: -0.5, 2: -2.0, 90: -0.1}))
    windows = await decode(client, request_of(3, ((1,), (2,), (1, 2))), every_rank=True)
    assert client.computed == 3
    assert [window.decided for window in windows] == [1, 3]


# Time.


@every_way
async def test_a_deadline_gives_what_was_decided_and_ends_the_work(decoding: Decoding) -> None:
    identifiers = tuple((token,) for token in range(10, 18))
    client = Client(always(LOG_PROBS), pauses={2: 60})
    request = request_of(8, identifiers, deadline_s=0.5)
    async with asyncio.timeout(10):
        (window,) = await decode(client, request, decoding)
    assert window.decided == 2
    assert window.order == (1, 3, 0, 2, 4, 5, 6, 7)
    assert window.usage.completion_tokens == client.computed == 2


@every_way
@pytest.mark.parametrize("deadline_s", [0.0, -5.0])
async def test_a_deadline_that_has_passed_gives_the_first_step(decoding: Decoding, deadline_s: float) -> None:
    client = Client(always(LOG_PROBS))
    (window,) = await decode(client, request_of(deadline_s=deadline_s), decoding)
    assert (window.decided, window.order) == (1, (1, 3, 0, 2))
    assert client.computed == 1


@every_way
async def test_a_window_of_which_nothing_is_heard_is_ranked_again_choice_by_choice(
    decoding: Decoding,
) -> None:
    client = Client(always(LOG_PROBS), pauses={1: 60})
    stalls = []

    def on_stall() -> None:
        stalls.append(decoder.decoding)
        client.pauses = 0.0

    decoder = Decoder(client, sessions(), decoding, 0.1, on_stall)
    windows = [window async for window in decoder.decode(request_of(), None, every_rank=True)]
    assert windows[-1].order == (1, 3, 0, 2)
    assert [window.decided for window in windows] == [1, 2, 4]  # no rank is told twice
    assert stalls == [decoding]
    assert client.running == set()


async def test_several_stalled_windows_in_a_row_end_a_way_of_decoding() -> None:
    client = Client(always(LOG_PROBS), pauses=60)
    decoder = Decoder(client, sessions(), "drafted", 0.02)
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="does not answer"):
            await anext(decoder.decode(request_of(), None))
    client.pauses = 0.0
    window = await anext(decoder.decode(request_of(), None))
    assert window.order == (1, 3, 0, 2)
    assert decoder.decoding == "ordinary"
    # Other windows may still have drafts; vLLM dies of log probabilities of chosen tokens beside them.
    assert all(call.parameters.logprob_token_ids is None for call in client.calls)


async def test_a_window_that_the_engine_cannot_decode_is_unavailable() -> None:
    class Broken(Client):
        async def generate(self, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
            async for output in super().generate(*args, **options):
                output.outputs[0].finish_reason = "error"
                yield output

    with pytest.raises(Undecodable, match="could not decode"):
        await decode(Broken(always(LOG_PROBS)), request_of())


async def test_a_deadline_within_an_identifier_decides_nothing() -> None:
    client = Client(always({1: -0.5, 2: -2.0, 90: -0.1}))
    (window,) = await decode(client, request_of(3, ((1,), (2,), (1, 2)), deadline_s=0.0))
    assert (window.decided, window.order) == (0, (0, 2, 1))


async def test_time_in_the_queue_is_told_apart_from_time_in_the_engine() -> None:
    places = sessions(max_open=1)
    decoder = Decoder(Client(always(LOG_PROBS), pauses=0.03), places, "drafted")
    started_s = time.monotonic()
    async with asyncio.timeout(5):
        async with places.hold(1, 0):
            waiting = asyncio.create_task(anext(decoder.decode(request_of(), None)))
            await asyncio.sleep(0.05)
        window = await waiting
    took_ms = (time.monotonic() - started_s) * 1e3
    assert window.usage.queue_ms >= 50
    assert window.usage.engine_ms >= 90
    assert window.usage.queue_ms + window.usage.engine_ms <= took_ms


# Leaving.


@every_way
async def test_closing_the_iterator_closes_the_clients_and_frees_the_place(decoding: Decoding) -> None:
    client, places = Client(always(LOG_PROBS)), sessions(max_open=1)
    decoder = Decoder(client, places, decoding)
    windows = decoder.decode(request_of(), None, every_rank=True)
    await anext(windows)
    assert len(client.running) == (0 if decoding == "ordinary" else 1)
    await windows.aclose()
    assert client.running == set()
    async with asyncio.timeout(0.1), places.hold(10_000, 0):
        pass


@every_way
async def test_cancelling_while_the_engine_works_closes_the_clients_iterator(decoding: Decoding) -> None:
    client, places = Client(always(LOG_PROBS), pauses=60), sessions(max_open=1)
    decoder = Decoder(client, places, decoding)
    task = asyncio.create_task(anext(decoder.decode(request_of(), None)))
    await asyncio.sleep(0.02)
    assert len(client.running) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.running == set()
    async with asyncio.timeout(0.1), places.hold(10_000, 0):
        pass


async def test_no_more_windows_are_in_the_engine_than_there_are_places() -> None:
    client = Client(always(LOG_PROBS), pauses=0.01)
    decoder = Decoder(client, sessions(max_open=2), "drafted")
    most = 0

    async def one(number: int) -> DecodedWindow:
        nonlocal most
        request = PermutationRequest(PROMPT, ((10,), (11,), (12,)), SEPARATOR, 3, None, f"w{number}")
        windows = decoder.decode(request, None, every_rank=True)
        async for window in windows:  # noqa: B007
            most = max(most, len(client.running))
        return window

    windows = await asyncio.gather(*(one(number) for number in range(6)))
    assert most == 2
    assert [window.order for window in windows] == [(1, 0, 2)] * 6


@pytest.mark.parametrize("answered", [0, 1, 2])
async def test_a_resumed_window_that_ends_early_is_unavailable(answered: int) -> None:
    client = Client(always(LOG_PROBS), steps=answered)
    with pytest.raises(EngineUnavailable, match="no answer"):
        await decode(client, request_of())


async def test_an_ordinary_request_that_gives_nothing_is_unavailable() -> None:
    with pytest.raises(EngineUnavailable, match="no answer"):
        await decode(Client(always(LOG_PROBS), steps=0), request_of(), "ordinary")


# Any window.


def by_context(seed: int) -> Model:
    """Log probabilities that depend on every token before."""

    def model(tokens: Sequence[int]) -> object:
        generator = random.Random(f"{seed} {list(tokens)}")
        table = {token: math.log(generator.random()) for token in [*range(1, 4), *SEPARATOR]}
        return table.__getitem__

    return model  # type: ignore[return-value]


several = st.lists(
    st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple), min_size=2, max_size=6, unique=True
).filter(lambda found: len({tokens[0] for tokens in found}) > 1)


@given(identifiers=several, seed=st.integers(0, 10_000), together=st.integers(1, 4), data=st.data())
def test_a_window_in_one_go_is_the_one_of_a_request_a_choice(
    identifiers: list[tuple[int, ...]], seed: int, together: int, data: st.DataObject
) -> None:
    needed = data.draw(st.integers(0, len(identifiers)))
    request = request_of(needed, tuple(identifiers))

    async def run() -> None:
        (ours,) = await decode(Client(by_context(seed), together=together), request)
        (naive,) = await decode(Client(by_context(seed)), request, "ordinary")
        assert (ours.order, ours.decided, ours.log_probs, ours.usage.completion_tokens) == (
            (naive.order, naive.decided, naive.log_probs, naive.usage.completion_tokens)
        )
        assert sorted(ours.order) == list(range(len(identifiers)))
        assert ours.decided == needed

    asyncio.run(run())
