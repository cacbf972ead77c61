"""Decoder: one window over a client that answers as vLLM does."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.errors import EngineUnavailable
from dear_serving.protocol import DecodedWindow, PermutationRequest
from dear_serving.replica.kv_admission import KvAdmission
from dear_serving.replica.window_decoder import Decoder, Steps, ordinary_steps, window_steps
from tests.support.vllm_client import Client, Model, always

pytestmark = pytest.mark.integration

PROMPT = [1, 2, 3, 4]
SEPARATOR = (90, 91)
LOG_PROBS = {10: -3.0, 11: -1.0, 12: -4.0, 13: -2.0}  # the order 1, 3, 0, 2

both_ways = pytest.mark.parametrize("steps", [window_steps, ordinary_steps])


def request_of(
    needed: int = 4,
    identifiers: tuple[tuple[int, ...], ...] = ((10,), (11,), (12,), (13,)),
    deadline_s: float | None = None,
) -> PermutationRequest:
    return PermutationRequest(PROMPT, identifiers, SEPARATOR, needed, "legal", "w", 3, deadline_s)


def sessions(max_open: int = 8) -> KvAdmission:
    return KvAdmission(max_open=max_open, blocks=100, block_size=16)


async def decode(
    client: Client, request: PermutationRequest, steps: Steps = window_steps, *, every_rank: bool = False
) -> list[DecodedWindow]:
    decoder = Decoder(client, sessions(), steps)
    found = [window async for window in decoder.decode(request, None, every_rank=every_rank)]
    assert client.running == set()
    return found


@both_ways
async def test_the_order_is_the_greedy_one_among_what_is_left(steps: Steps) -> None:
    client = Client(always(LOG_PROBS))
    (window,) = await decode(client, request_of(), steps)
    assert window.order == (1, 3, 0, 2)
    assert window.decided == 4
    assert window.log_probs == (-3.0, -1.0, -4.0, -2.0)
    assert (window.usage.prompt_tokens, window.usage.completion_tokens, client.computed) == (4, 3, 3)


@both_ways
@pytest.mark.parametrize(("needed", "passes"), [(1, 1), (2, 2), (3, 3), (4, 3)])
async def test_no_more_is_decided_than_needed_and_the_rest_stands_by_its_first_step(
    steps: Steps, needed: int, passes: int
) -> None:
    # After the first choice the model would change its mind about the rest.
    def model(tokens: Sequence[int]) -> object:
        return (lambda token: LOG_PROBS[token]) if len(tokens) == 4 else lambda token: float(token)

    client = Client(model)
    (window,) = await decode(client, request_of(needed), steps)
    assert window.decided == needed
    assert window.order == {1: (1, 3, 0, 2), 2: (1, 3, 0, 2), 3: (1, 3, 2, 0), 4: (1, 3, 2, 0)}[needed]
    assert window.log_probs == (-3.0, -1.0, -4.0, -2.0)
    assert client.computed == window.usage.completion_tokens == passes


async def test_equal_log_probabilities_stand_as_shown() -> None:
    (window,) = await decode(Client(always(dict.fromkeys([10, 11, 12, 13], -1.5))), request_of(0))
    assert window.order == (0, 1, 2, 3)


@both_ways
async def test_needed_0_is_one_ordinary_forward_pass(steps: Steps) -> None:
    client = Client(always(LOG_PROBS))
    (window,) = await decode(client, request_of(0), steps)
    assert (window.order, window.decided) == ((1, 3, 0, 2), 0)
    assert (client.computed, window.usage.completion_tokens) == (1, 1)
    assert [call.resumable for call in client.calls] == [False]


async def test_a_window_is_one_resumable_request() -> None:
    client = Client(always(LOG_PROBS))
    await decode(client, request_of())
    (call,) = client.calls
    assert (call.request_id, call.tokens, call.priority, call.resumable) == ("w", PROMPT, 3, True)
    assert call.parameters.temperature == 0
    assert call.parameters.max_tokens == 1
    assert call.parameters.detokenize is False
    assert call.parameters.allowed_token_ids == call.parameters.logprob_token_ids == [10, 11, 12, 13]


async def test_the_prompt_is_not_changed() -> None:
    client = Client(always(LOG_PROBS))
    for steps in (window_steps, ordinary_steps):
        await decode(client, request_of(), steps)
    assert PROMPT == [1, 2, 3, 4]


async def test_ordinary_steps_are_requests_that_grow_by_what_was_chosen_and_the_separator() -> None:
    client = Client(always(LOG_PROBS))
    await decode(client, request_of(), ordinary_steps)
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


@both_ways
async def test_the_adapter_goes_to_the_client(steps: Steps) -> None:
    client, lora = Client(always(LOG_PROBS)), object()
    decoder = Decoder(client, sessions(), steps)
    async for _ in decoder.decode(request_of(), lora):
        pass
    assert all(call.lora is lora for call in client.calls)


# Identifiers of several tokens.


@both_ways
async def test_an_identifier_that_another_continues_can_win(steps: Steps) -> None:
    log_probs = {1: -0.5, 2: -2.0, 90: -0.1}  # "1" rather than "12"
    request = request_of(3, ((1,), (2,), (1, 2)))
    client = Client(always(log_probs))
    (window,) = await decode(client, request, steps)
    assert window.order == (0, 2, 1)
    assert window.log_probs == (-0.5, -2.0, -0.5)  # of the first token, which two share
    assert client.computed == 3


@both_ways
async def test_log_probabilities_are_those_of_the_first_token_that_is_not_settled(steps: Steps) -> None:
    client = Client(always({1: -3.0, 2: -1.0, 3: -2.0}))
    (window,) = await decode(client, request_of(3, ((5, 1), (5, 2), (5, 3))), steps)
    assert window.order == (1, 2, 0)
    assert window.log_probs == (-3.0, -1.0, -2.0)
    assert client.calls[0].tokens == [*PROMPT, 5]


# Ranks as they are decided.


@both_ways
@pytest.mark.parametrize("together", [1, 2, 8])
@pytest.mark.parametrize("needed", [1, 2, 4])
async def test_every_rank_is_told_in_a_growing_window(steps: Steps, together: int, needed: int) -> None:
    client = Client(always(LOG_PROBS), together=together)
    windows = await decode(client, request_of(needed), steps, every_rank=True)
    final = windows[-1]
    assert (final.order, final.decided) == ((1, 3, 0, 2), needed)
    told = [window.decided for window in windows]
    assert told == sorted(set(told))
    if steps is ordinary_steps or together == 1:
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


@both_ways
async def test_a_deadline_gives_what_was_decided_and_ends_the_work(steps: Steps) -> None:
    identifiers = tuple((token,) for token in range(10, 18))
    client = Client(always(LOG_PROBS), pauses={2: 0.6, 3: 60})
    request = request_of(8, identifiers, deadline_s=0.5)
    async with asyncio.timeout(10):
        (window,) = await decode(client, request, steps)
    assert window.decided == 3
    assert window.order == (1, 3, 0, 2, 4, 5, 6, 7)
    assert window.usage.completion_tokens == client.computed == 3


@both_ways
@pytest.mark.parametrize("deadline_s", [0.0, -5.0])
async def test_a_deadline_that_has_passed_gives_the_first_step(steps: Steps, deadline_s: float) -> None:
    client = Client(always(LOG_PROBS))
    (window,) = await decode(client, request_of(deadline_s=deadline_s), steps)
    assert (window.decided, window.order) == (1, (1, 3, 0, 2))
    assert client.computed == 1


async def test_a_deadline_within_an_identifier_decides_nothing() -> None:
    client = Client(always({1: -0.5, 2: -2.0, 90: -0.1}))
    (window,) = await decode(client, request_of(3, ((1,), (2,), (1, 2)), deadline_s=0.0))
    assert (window.decided, window.order) == (0, (0, 2, 1))


async def test_time_in_the_queue_is_told_apart_from_time_in_the_engine() -> None:
    places = sessions(max_open=1)
    decoder = Decoder(Client(always(LOG_PROBS), pauses=0.03), places)
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


@both_ways
async def test_closing_the_iterator_closes_the_clients_and_frees_the_place(steps: Steps) -> None:
    client, places = Client(always(LOG_PROBS)), sessions(max_open=1)
    decoder = Decoder(client, places, steps)
    windows = decoder.decode(request_of(), None, every_rank=True)
    await anext(windows)
    assert len(client.running) == (1 if steps is window_steps else 0)
    await windows.aclose()
    assert client.running == set()
    async with asyncio.timeout(0.1), places.hold(10_000, 0):
        pass


@both_ways
async def test_cancelling_while_the_engine_works_closes_the_clients_iterator(steps: Steps) -> None:
    client, places = Client(always(LOG_PROBS), pauses=60), sessions(max_open=1)
    decoder = Decoder(client, places, steps)
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
    decoder = Decoder(client, sessions(max_open=2))
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
        await decode(Client(always(LOG_PROBS), steps=0), request_of(), ordinary_steps)


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
        (naive,) = await decode(Client(by_context(seed)), request, ordinary_steps)
        assert (ours.order, ours.decided, ours.log_probs, ours.usage.completion_tokens) == (
            (naive.order, naive.decided, naive.log_probs, naive.usage.completion_tokens)
        )
        assert sorted(ours.order) == list(range(len(identifiers)))
        assert ours.decided == needed

    asyncio.run(run())
