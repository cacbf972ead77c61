"""WindowRanker: how one window is ranked on the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from dear_serving.adapters.template_files import load_template
from dear_serving.errors import EngineUnavailable, InvalidRequest
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.gateway.window_ranker import WindowRanker
from dear_serving.protocol import DecodedWindow, Generation, GenerationRequest, PermutationRequest
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.ranking.windows import Window
from dear_serving.types import Repairs, Scoring, Usage
from tests.support.fake_engine import FakeEngine
from tests.support.worths import engine_of, task_of

WORTHS = [30, 10, 50, 20]
WINDOW = Window((3, 0, 2), 2)  # worth 20, 30, 50
ENDS = ("### Final Reranking:", "</think>")
decoded_scorings = pytest.mark.parametrize("scoring", ["permutation", "first_token"])


@pytest.fixture(params=["plain", "chat"])
def builder(request: pytest.FixtureRequest, demo: BaseTokenizer) -> PromptBuilder:
    return PromptBuilder(load_template(request.param, None), demo, 4096, max_reasoning_tokens=99)


def window_ranker_of(engine: FakeEngine, builder: PromptBuilder, **options: object) -> WindowRanker:
    return WindowRanker(engine, builder, "legal@1", task_of(WORTHS, **options))


def expected(builder: PromptBuilder, token_ids: list[int], needed: int) -> PermutationRequest:
    """What asks for WINDOW."""
    answer = builder.answer
    return PermutationRequest(
        token_ids, answer.identifiers[:3], answer.separator, needed, "legal@1", "req-7", priority=5
    )


async def test_permutation_asks_for_the_needed_ranks_behind_the_answers_opening(
    builder: PromptBuilder,
) -> None:
    engine = engine_of(builder)
    ranker = window_ranker_of(engine, builder, priority=5)
    decoded = await ranker.rank(WINDOW, "req-7")
    prompt = ranker.prompts.window(WINDOW.passages)
    assert engine.requests == [expected(builder, [*prompt, *builder.answer.opening], 2)]
    assert (decoded.order, decoded.decided) == ((2, 1, 0), 2)
    assert len(decoded.log_probs) == 3
    assert decoded.usage == Usage(len(prompt) + len(builder.answer.opening), 2, 1.0, 2.0)
    assert (decoded.repairs, decoded.reasoning) == (Repairs(), None)


async def test_first_token_asks_for_no_rank_at_all(builder: PromptBuilder) -> None:
    engine = engine_of(builder)
    ranker = window_ranker_of(engine, builder, priority=5, scoring="first_token")
    told: list[DecodedWindow] = []
    decoded = await ranker.rank(WINDOW, "req-7", on_decoded=told.append)
    prompt = ranker.prompts.window(WINDOW.passages)
    assert engine.requests == [expected(builder, [*prompt, *builder.answer.opening], 0)]
    assert (decoded.order, decoded.decided) == ((2, 1, 0), 0)
    assert told == []  # there is nothing to tell before the answer


async def test_generate_reads_free_text(builder: PromptBuilder) -> None:
    engine = engine_of(builder)
    ranker = window_ranker_of(engine, builder, priority=5, scoring="generate")
    decoded = await ranker.rank(WINDOW, "req-7")
    prompt = ranker.prompts.window(WINDOW.passages)
    assert engine.requests == [
        GenerationRequest(prompt, builder.layout(3).max_new_tokens, "legal@1", "req-7", 5)
    ]
    assert (decoded.order, decoded.decided, decoded.log_probs) == ((2, 1, 0), 3, ())
    assert decoded.usage == Usage(len(prompt), 3 * 2 - 1, 1.0, 2.0)


async def test_generate_counts_what_was_mended(builder: PromptBuilder) -> None:
    first = builder.template.first_identifier
    engine = FakeEngine(lambda _: f"[{first + 2}] > [{first + 2}] > [77]")
    decoded = await window_ranker_of(engine, builder, scoring="generate").rank(WINDOW, "req-7")
    assert decoded.order == (2, 0, 1)
    assert decoded.repairs == Repairs(repeated=1, missing=2, out_of_range=1)


async def test_the_base_model_is_no_adapter(builder: PromptBuilder) -> None:
    engine = engine_of(builder)
    await WindowRanker(engine, builder, None, task_of(WORTHS)).rank(WINDOW, "req-7")
    assert engine.requests[0].adapter is None


# First tokens that several identifiers share.


@pytest.mark.parametrize(("template", "fit"), [("plain", 101), ("chat", 100)])
async def test_identifiers_that_begin_alike_cannot_be_read_from_the_first_token(
    demo: BaseTokenizer, template: str, fit: int
) -> None:
    builder = PromptBuilder(load_template(template, None), demo, 20_000)
    assert len({tokens[0] for tokens in builder.answer.identifiers[: fit + 1]}) == fit  # "10" begins "101"
    engine = FakeEngine(lambda _: "")
    ranker = WindowRanker(engine, builder, None, task_of([1] * 128, scoring="first_token"))
    assert len((await ranker.rank(Window(tuple(range(fit)), 1), "a")).order) == fit
    for count in (fit + 1, 128):
        with pytest.raises(InvalidRequest, match=f"first tokens of {count} identifiers") as failure:
            await ranker.rank(Window(tuple(range(count)), 1), "b")
        assert failure.value.param == "dear.scoring"
    assert len(engine.requests) == 1
    other = WindowRanker(engine, builder, None, task_of([1] * 128))
    assert len((await other.rank(Window(tuple(range(128)), 1), "c")).order) == 128


# Reasoning.


class Thinking(FakeEngine):
    """Reasons as it is told to."""

    stop: str | None = None

    async def generate(self, request: GenerationRequest) -> Generation:
        self.requests.append(request)
        return Generation(self.write(request), Usage(len(request.token_ids), 4, 1.0, 2.0), self.stop)


@decoded_scorings
@pytest.mark.parametrize("stop", [None, *ENDS])
async def test_reasoning_is_written_first_and_the_ranking_goes_on_from_it(
    builder: PromptBuilder, scoring: Scoring, stop: str | None
) -> None:
    engine = Thinking(lambda _: " It is worth [9] most.\n", engine_of(builder).prefer)
    engine.stop = stop
    ranker = window_ranker_of(engine, builder, priority=5, scoring=scoring, reasoning=True)
    decoded = await ranker.rank(WINDOW, "req-7")
    prompt = ranker.prompts.window(WINDOW.passages)
    after = builder.after_reasoning(" It is worth [9] most.\n", stop)
    assert engine.requests == [
        GenerationRequest(prompt, 99, "legal@1", "req-7-reasoning", 5, ENDS),
        expected(builder, [*prompt, *after], 2 if scoring == "permutation" else 0),
    ]
    assert decoded.reasoning == "It is worth [9] most."
    ranks = 2 if scoring == "permutation" else 1
    assert decoded.usage == Usage(2 * len(prompt) + len(after), 4 + ranks, 2.0, 4.0)
    assert decoded.order == (2, 1, 0)


async def test_reasoning_uses_the_templates_reasoning_form(builder: PromptBuilder) -> None:
    plain, thinking = (
        window_ranker_of(engine_of(builder), builder, reasoning=reasoning).prompts.window((0, 1))
        for reasoning in (False, True)
    )
    form = builder.template.render("q", ["a", "b"], builder.tokenizer.render_chat, reasoning=True)
    assert plain != thinking
    assert builder.tokenizer.decode(thinking)[-40:] == form[-40:]


async def test_ranks_are_told_after_reasoning_too(builder: PromptBuilder) -> None:
    engine = Thinking(lambda _: "Hm.", engine_of(builder).prefer)
    told: list[DecodedWindow] = []
    await window_ranker_of(engine, builder, reasoning=True).rank(WINDOW, "req-7", on_decoded=told.append)
    assert [window.decided for window in told] == [1, 2]


# Ranks as they are decided.


async def test_every_rank_is_told_and_the_last_is_the_answer(builder: PromptBuilder) -> None:
    told: list[DecodedWindow] = []
    decoded = await window_ranker_of(engine_of(builder), builder).rank(
        WINDOW, "req-7", on_decoded=told.append
    )
    assert [(window.order[: window.decided]) for window in told] == [(2,), (2, 1)]
    assert told[-1] == decoded


class Silent(FakeEngine):
    """Its streams end without a word."""

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        nothing: tuple[DecodedWindow, ...] = ()
        for one in nothing:
            yield one


async def test_a_stream_without_an_item_is_unavailable(builder: PromptBuilder) -> None:
    engine = Silent(lambda _: "")
    with pytest.raises(EngineUnavailable):
        await window_ranker_of(engine, builder).rank(WINDOW, "req-7", on_decoded=lambda window: None)


class Stalling(FakeEngine):
    """Tells one rank, then nothing for a minute."""

    closed = False

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        try:
            yield self._window(request, 1)
            await asyncio.sleep(60)
        finally:
            self.closed = True


async def test_leaving_closes_the_engines_stream(builder: PromptBuilder) -> None:
    engine = Stalling(lambda _: "")
    told: list[DecodedWindow] = []
    task = asyncio.create_task(
        window_ranker_of(engine, builder).rank(WINDOW, "req-7", on_decoded=told.append)
    )
    await asyncio.sleep(0.05)
    assert len(told) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.closed


async def test_a_listener_that_fails_closes_the_engines_stream(builder: PromptBuilder) -> None:
    engine = Stalling(lambda _: "")

    def fail(window: DecodedWindow) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await window_ranker_of(engine, builder).rank(WINDOW, "req-7", on_decoded=fail)
    assert engine.closed


# Time.


@pytest.mark.parametrize(
    ("left_s", "for_engine_s"), [(0.02, 0.018), (0.1, 0.09), (0.5, 0.45), (2.0, 1.95), (60.0, 59.95)]
)
@decoded_scorings
async def test_the_engine_gets_the_deadline_less_the_way_back(
    builder: PromptBuilder, scoring: Scoring, left_s: float, for_engine_s: float
) -> None:
    engine = engine_of(builder)
    ranker = window_ranker_of(engine, builder, scoring=scoring)
    ranker.prompts.window(WINDOW.passages)  # what takes long is done
    started_s = time.monotonic()
    await ranker.rank(WINDOW, "req-7", started_s + left_s)
    (request,) = engine.requests
    assert isinstance(request, PermutationRequest)
    assert request.deadline_s is not None
    spent_s = time.monotonic() - started_s
    assert for_engine_s - spent_s <= request.deadline_s <= for_engine_s


async def test_a_window_decided_in_part_says_so(builder: PromptBuilder) -> None:
    engine = engine_of(builder)
    engine.decides = 1
    decoded = await window_ranker_of(engine, builder).rank(WINDOW, "req-7", time.monotonic() + 60)
    assert (decoded.order, decoded.decided) == ((2, 1, 0), 1)


@pytest.mark.parametrize("scoring", ["permutation", "generate", "first_token"])
async def test_a_window_that_does_not_fit_asks_no_engine(demo: BaseTokenizer, scoring: Scoring) -> None:
    builder = PromptBuilder(load_template("plain", None), demo, 256)
    engine = engine_of(builder)
    ranker = WindowRanker(engine, builder, None, task_of([1] * 50, scoring=scoring))
    with pytest.raises(InvalidRequest, match="50 passages in one window do not fit"):
        await ranker.rank(Window(tuple(range(50)), 1), "req-7")
    assert engine.requests == []
