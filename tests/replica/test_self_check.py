"""The self-check: whether windows in one go are decoded as with a request a choice, and what follows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dear_serving.metrics import EngineMetrics
from dear_serving.protocol import GenerationRequest
from dear_serving.replica import self_check
from dear_serving.replica.kv_admission import KvAdmission
from dear_serving.replica.self_check import NEAR_TIE, Difference, small_window
from dear_serving.replica.window_decoder import Decoder
from dear_serving.types import Decoding
from tests.support.vllm_client import Client, Model, always

pytestmark = pytest.mark.integration

FIRST = 40  # the small window's first identifier
FALLING = {FIRST + place: -float(place) for place in range(8)}


def decoder_of(client: Client, decoding: Decoding = "drafted") -> Decoder:
    places = KvAdmission(max_open=4, blocks=100, block_size=16)
    return Decoder(client, places, decoding)


async def difference(model: Model, whole: Model | None = None) -> Difference | None:
    client = Client(model, whole)
    request = small_window("check")
    order = await self_check.rank(decoder_of(client), request, None)
    found = await self_check.difference(order, client, request, None)
    assert client.running == set()
    assert len(client.calls) == 8  # the window, and its seven choices
    return found


def changed(**places: float) -> Model:
    """FALLING, with other log probabilities at the places named p0, p1 and so on."""
    return always(FALLING | {FIRST + int(name[1:]): value for name, value in places.items()})


def after(ranks: int, model: Model, before: Model) -> Model:
    """``before`` for the first so many choices, then ``model``."""
    start, step = len(small_window("").token_ids), 4

    def pick(tokens: Sequence[int]) -> Any:
        return (model if len(tokens) >= start + ranks * step else before)(tokens)

    return pick


async def test_two_ways_that_agree_have_no_difference() -> None:
    assert await difference(always(FALLING)) is None


async def test_log_probabilities_that_give_the_same_order_are_no_difference() -> None:
    assert await difference(always(FALLING), changed(p0=-0.9)) is None


@pytest.mark.parametrize(("rank", "gap"), [(0, 1.0), (3, 1.0), (6, 1.0)])
async def test_the_first_rank_that_differs_and_its_gap_are_found(rank: int, gap: float) -> None:
    swapped = changed(**{f"p{rank}": -float(rank + 1), f"p{rank + 1}": -float(rank)})
    found = await difference(always(FALLING), swapped)
    assert found == Difference(rank, pytest.approx(gap))
    assert not found.near_tie


async def test_the_gap_is_the_naive_ways_own() -> None:
    whole = changed(p0=-100.0, p3=0.0)
    found = await difference(changed(p0=-0.5), whole)
    assert found == Difference(0, pytest.approx(2.5))  # -0.5 of place 0 over the -3.0 of place 3


async def test_a_fault_that_shows_late_is_found_late() -> None:
    broken = after(4, changed(p4=-50.0), always(FALLING))
    assert await difference(always(FALLING), broken) == Difference(4, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("gap", "near"), [(0.0, True), (0.01, True), (NEAR_TIE, True), (NEAR_TIE + 0.01, False), (9.0, False)]
)
async def test_a_small_gap_is_a_near_tie(gap: float, near: bool) -> None:
    found = await difference(changed(p0=-1.0 + gap), changed(p0=-1.5))
    assert found == Difference(0, pytest.approx(gap))
    assert found.near_tie is near
    assert Difference(0, gap).near_tie is near


def test_the_small_window_is_eight_different_identifiers_all_needed() -> None:
    request = small_window("self-check", "legal")
    assert len(set(request.identifiers)) == request.needed == 8
    assert (request.request_id, request.adapter, request.deadline_s) == ("self-check", "legal", None)


# What the server makes of it.


class Server:
    """The parts of a RerankServer that its check uses."""

    def __init__(self, client: Client, decoding: Decoding = "drafted") -> None:
        self.client = client
        self.registry = CollectorRegistry()
        self._metrics = EngineMetrics(self.registry)
        client.vllm_config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=4096))
        self.texts: list[GenerationRequest] = []
        self._self_check_s = 60.0
        self._use(decoding)

    def _use(self, decoding: Decoding) -> None:
        self._decoder = decoder_of(self.client, decoding)
        self._metrics.decoding.state(decoding)

    def _client(self) -> Client:
        return self.client

    def _lora(self, adapter: str | None) -> object:
        return adapter and SimpleNamespace(name=adapter)

    async def generate(self, request: GenerationRequest) -> None:
        self.texts.append(request)

    async def check(self, *adapters: str | None) -> tuple[Decoding, float | None]:
        """The way windows are decoded from now on, and how often a check failed."""
        from dear_serving.replica.server import RerankServer  # imports Ray and vLLM

        await RerankServer._check_decoder(self, adapters)
        decoding = self._decoder.decoding
        assert self.registry.get_sample_value("dear_decoder", {"dear_decoder": decoding}) == 1
        return decoding, self.registry.get_sample_value("dear_decoder_self_check_failures_total")


@pytest.mark.parametrize("decoding", ["drafted", "resumable"])
async def test_a_decoder_that_agrees_stays(decoding: Decoding) -> None:
    server = Server(Client(always(FALLING)), decoding)
    assert await server.check(None, "legal") == (decoding, 0)


async def test_the_burst_mixes_lengths_and_adapters_with_free_text_beside_it() -> None:
    server = Server(Client(always(FALLING)))
    await server.check(None, "legal")
    windows = [call for call in server.client.calls if call.parameters.max_tokens > 1]
    lengths = {call.parameters.logprobs for call in windows}
    assert {2, 100} < lengths
    assert {getattr(call.lora, "name", None) for call in windows} == {None, "legal"}
    # Drafts kill an engine that gives log probabilities of chosen tokens: first all windows, then the others.
    naive = [number for number, call in enumerate(server.client.calls) if call.parameters.logprob_token_ids]
    assert min(naive) == len(windows)
    assert len(server.texts) == 1


async def test_a_model_too_short_for_long_windows_is_checked_with_short_ones() -> None:
    server = Server(Client(always(FALLING)))
    server.client.vllm_config.model_config.max_model_len = 128
    assert await server.check(None) == ("drafted", 0)
    assert max(len(call.tokens) for call in server.client.calls) < 128


async def test_a_near_tie_is_no_failure() -> None:
    server = Server(Client(changed(p0=-0.9), changed(p0=-1.1)))
    assert await server.check(None, "legal") == ("drafted", 0)


async def test_a_decoder_that_disagrees_goes_on_with_a_request_a_choice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server(Client(always(FALLING), changed(p2=5.0)))
    with caplog.at_level(logging.WARNING):
        assert await server.check(None, "legal") == ("ordinary", 1)
    (said,) = [record.message for record in caplog.records if "a request for each choice" in record.message]
    assert "drafted decoding failed its check" in said
    assert "rank 0 by 2.00 nats" in said


async def test_a_decoder_that_hangs_goes_on_with_a_request_a_choice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server(Client(always(FALLING), pauses=60))
    server._self_check_s = 0.05
    async with asyncio.timeout(5):
        assert await server.check(None) == ("ordinary", 1)
    assert server.client.running == set()
    assert "no answer" in caplog.text


@pytest.mark.parametrize("answered", [0, 1])
async def test_a_decoder_whose_windows_end_early_is_not_taken_for_a_right_one(answered: int) -> None:
    server = Server(Client(always(FALLING), steps=answered))
    assert await server.check(None) == ("ordinary", 1)
