"""PassageScorer and cascades over an engine that answers as it is told."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

from dear_serving.adapters.template_files import load_template
from dear_serving.errors import DeadlineExceeded, EngineUnavailable
from dear_serving.gateway.canary import rank_canary
from dear_serving.gateway.catalog import ServedModel
from dear_serving.gateway.first_stage import PassageScorer, Scoring
from dear_serving.gateway.ranker import Ranker
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.gateway.window_ranker import WindowRanker
from dear_serving.protocol import PromptScores, ScoreRequest
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.ranking.strategies import FIRST_STAGE
from dear_serving.ranking.windows import Sizes
from dear_serving.types import Ranking, RankTask
from tests.support.fake_engine import FakeEngine
from tests.support.worths import QUERY, best_first, engine_of, task_of

WORTHS = [(37 * position) % 101 for position in range(100)]


@pytest.fixture
def yes_no(demo: BaseTokenizer) -> PromptBuilder:
    return PromptBuilder(load_template("yes-no", None), demo, 4096)


@pytest.fixture
def plain(demo: BaseTokenizer) -> PromptBuilder:
    return PromptBuilder(load_template("plain", None), demo, 4096)


def worth_of(builder: PromptBuilder, prompt: Sequence[int]) -> int:
    (worth,) = re.findall(r"worth (\d+)\b", builder.tokenizer.decode(prompt))
    return int(worth)


@pytest.fixture
def engine(plain: PromptBuilder, yes_no: PromptBuilder) -> FakeEngine:
    """Scores a passage by its worth, and ranks a window the other way round: one sees who ranked what."""
    engine = engine_of(plain)
    prefer = engine.prefer
    engine.prefer = lambda request: list(prefer(request))[::-1]
    engine.rate = lambda prompt: (worth_of(yes_no, prompt) - 50) / 10
    return engine


async def rank(
    engine: FakeEngine,
    builders: tuple[PromptBuilder, PromptBuilder],
    task: RankTask,
    depth: int = 20,
    began_s: float | None = None,
    cap: int | None = None,
    **options: Any,
) -> Ranking:
    scorer = PassageScorer(Scoring(ServedModel("point", "point@1", "yes-no"), builders[1], cap), task)
    scorer.engine = engine
    windows = WindowRanker(engine, builders[0], "legal@1", task)
    sizes = Sizes(len(task.passages), 20, 10, task.needed, depth)
    ranker = Ranker(windows, task, "req", scorer=scorer, **options)
    return await ranker.rank(FIRST_STAGE[task.strategy](sizes, 1), task.strategy, "asked for", began_s)


async def test_a_cascade_scores_all_and_ranks_the_best_listwise(
    engine: FakeEngine, plain: PromptBuilder, yes_no: PromptBuilder
) -> None:
    ranking = await rank(engine, (plain, yes_no), task_of(WORTHS, strategy="cascade"))
    by_worth = best_first(WORTHS)
    assert list(ranking.order) == by_worth[:20][::-1] + by_worth[20:]
    assert (ranking.windows, ranking.rounds, ranking.scored) == (1, 2, 100)
    assert ranking.score_type == "first_step"
    (window,) = engine.requests
    prompts = [prompt for request in engine.scored for prompt in request.prompts]
    assert ranking.usage.prompt_tokens == len(window.token_ids) + sum(map(len, prompts))
    assert [request.adapter for request in engine.scored] == ["point@1"] * len(engine.scored)
    assert window.adapter == "legal@1"
    odds = [(WORTHS[passage] - 50) / 10 for passage in ranking.order]
    assert [round(score, 9) for score in ranking.first_scores] == [
        round(1 / (1 + 2.718281828459045**-one), 9) for one in odds
    ]


async def test_the_labels_and_the_prompt_are_the_templates(
    engine: FakeEngine, plain: PromptBuilder, yes_no: PromptBuilder
) -> None:
    await rank(engine, (plain, yes_no), task_of([7, 3], strategy="pointwise"))
    (request,) = engine.scored
    encode = yes_no.tokenizer.encode
    assert request.labels == (encode(" yes")[0], encode(" no")[0])
    assert yes_no.tokenizer.decode(request.prompts[0]) == (
        "<|begin_of_text|>Answer yes or no, is this passage relevant to the search query: "
        f"{QUERY}\n\n[0] worth 7\n\nAnswer:"
    )
    assert engine.requests == []


async def test_pointwise_orders_by_the_scores_which_fall(
    engine: FakeEngine, plain: PromptBuilder, yes_no: PromptBuilder
) -> None:
    ranking = await rank(engine, (plain, yes_no), task_of(WORTHS, strategy="pointwise"))
    assert list(ranking.order) == best_first(WORTHS)
    assert (ranking.windows, ranking.rounds, ranking.score_type) == (0, 1, "pointwise")
    assert all(before > after for before, after in zip(ranking.scores, ranking.scores[1:], strict=False))
    assert ranking.scores[0] == pytest.approx(ranking.first_scores[0], abs=0.01)


async def test_passages_travel_in_batches(
    engine: FakeEngine, plain: PromptBuilder, yes_no: PromptBuilder
) -> None:
    await rank(engine, (plain, yes_no), task_of(WORTHS, strategy="pointwise"))
    assert [len(request.prompts) for request in engine.scored] == [32, 32, 32, 4]
    assert len({request.request_id for request in engine.scored}) == 4
    engine.scored.clear()
    long = RankTask(
        QUERY, [f"worth {worth} " + "many words " * 600 for worth in range(10)], strategy="pointwise"
    )
    await rank(engine, (plain, yes_no), long)
    assert max(request.tokens for request in engine.scored) <= 2 * 8192
    assert len(engine.scored) > 1


async def test_what_is_not_scored_in_time_follows_with_a_warning(
    engine: FakeEngine, plain: PromptBuilder, yes_no: PromptBuilder
) -> None:
    engine.rate = lambda prompt: None if worth_of(yes_no, prompt) < 50 else 1.0 * worth_of(yes_no, prompt)
    task = task_of(WORTHS, strategy="pointwise", deadline_ms=60_000)
    ranking = await rank(engine, (plain, yes_no), task)
    late = [place for place, worth in enumerate(WORTHS) if worth < 50]
    assert list(ranking.order[-len(late) :]) == late
    assert ranking.warnings == (
        f"deadline passed: {len(late)} passages were not scored by the first stage and follow those that "
        "were",
    )
    assert ranking.first_scores[-1] is None
    assert ranking.scored == 100 - len(late)
    assert all(request.deadline_s is not None and request.deadline_s <= 60 for request in engine.scored)


async def test_a_deadline_after_the_scores_leaves_their_order(
    engine: FakeEngine, plain: PromptBuilder, yes_no: PromptBuilder
) -> None:
    class Slow(FakeEngine):
        async def permute(self, request: Any) -> Any:
            await asyncio.sleep(60)

    slow = Slow(engine.write, rate=engine.rate)
    task = task_of(WORTHS, strategy="cascade", deadline_ms=2_000)
    ranking = await rank(slow, (plain, yes_no), task)
    assert list(ranking.order) == best_first(WORTHS)
    assert ranking.score_type == "pointwise"
    assert ranking.warnings == (
        "deadline passed: 1 of 1 windows were not ranked and keep the order they had",
    )


async def test_nothing_scored_in_time_is_an_error(
    engine: FakeEngine, plain: PromptBuilder, yes_no: PromptBuilder
) -> None:
    engine.delay_s = 60
    task = task_of(WORTHS, strategy="cascade", deadline_ms=50)
    with pytest.raises(DeadlineExceeded):
        await rank(engine, (plain, yes_no), task)
    assert engine.cancelled == len(engine.scored)
    with pytest.raises(DeadlineExceeded):
        await rank(engine, (plain, yes_no), task, began_s=time.monotonic() - 1)


async def test_a_cancelled_request_cancels_its_scores(
    engine: FakeEngine, plain: PromptBuilder, yes_no: PromptBuilder
) -> None:
    engine.delay_s = 60
    ranking = asyncio.create_task(rank(engine, (plain, yes_no), task_of(WORTHS, strategy="cascade")))
    while len(engine.scored) < 4:  # noqa: ASYNC110
        await asyncio.sleep(0)
    ranking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ranking
    assert engine.cancelled == 4


async def test_one_failed_batch_fails_the_request_and_ends_the_others(
    engine: FakeEngine, plain: PromptBuilder, yes_no: PromptBuilder
) -> None:
    class Failing(FakeEngine):
        async def score(self, request: ScoreRequest) -> PromptScores:
            if request.request_id.endswith("score1"):
                raise EngineUnavailable("the engine died and starts again", failed=True)
            return await super().score(request)

    failing = Failing(engine.write, rate=engine.rate, delay_s=60)
    with pytest.raises(EngineUnavailable, match="first stage: the engine died and starts again"):
        await rank(failing, (plain, yes_no), task_of(WORTHS, strategy="cascade"))
    assert failing.cancelled == 3


async def test_the_head_is_streamed_and_begins_the_final_order(
    engine: FakeEngine, plain: PromptBuilder, yes_no: PromptBuilder
) -> None:
    told: list[tuple[Any, Any]] = []
    task = task_of(WORTHS, strategy="cascade", top_n=5)
    ranking = await rank(
        engine, (plain, yes_no), task, on_progress=lambda order, scores: told.append((order, scores))
    )
    assert told
    for order, scores in told:
        assert ranking.order[: len(order)] == order
        assert ranking.scores[: len(scores)] == scores


async def test_a_canary_of_a_pointwise_template_scores_its_passages(
    engine: FakeEngine, yes_no: PromptBuilder
) -> None:
    engine.rate = lambda prompt: 1.0 if "Edison" in yes_no.tokenizer.decode(prompt) else -1.0
    ranking = await rank_canary(engine, yes_no, "point@1")
    assert ranking.order[0] == 1
    assert engine.requests == []


async def test_cuts_in_the_first_stages_prompts_are_told_apart(
    engine: FakeEngine, plain: PromptBuilder, demo: BaseTokenizer
) -> None:
    short = PromptBuilder(load_template("yes-no", None), demo, 128)
    passages = ["worth 7 " + "many words " * 300, "worth 9"]
    task = RankTask(QUERY, passages, strategy="cascade")
    ranking = await rank(engine, (plain, short), task)
    assert ranking.warnings == (
        "first stage: 1 passage cut to fit the model's 128 tokens",
        '1 passage cut to 300 characters by template "plain"',
    )


async def test_a_cap_of_the_settings_cuts_what_the_first_stage_reads_without_a_warning(
    engine: FakeEngine, plain: PromptBuilder, yes_no: PromptBuilder
) -> None:
    passages = ["worth 7 " + "many words " * 50, "worth 9"]
    task = RankTask(QUERY, passages, strategy="pointwise", max_passage_tokens=100)
    await rank(engine, (plain, yes_no), task)
    await rank(engine, (plain, yes_no), task, cap=20)
    whole, capped = (request.prompts for request in engine.scored)
    assert len(whole[0]) - len(capped[0]) == 80
    assert whole[1] == capped[1]
    assert (await rank(engine, (plain, yes_no), task, cap=20)).warnings == ()
    assert len((await rank(engine, (plain, yes_no), task)).warnings) == 1
