"""Ranker: drives a strategy over an engine, here one that answers as it is told."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from dear_serving.adapters.template_files import load_template
from dear_serving.errors import DeadlineExceeded, EngineUnavailable, InvalidRequest
from dear_serving.gateway.ranker import Ranker
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.gateway.window_ranker import WindowRanker
from dear_serving.protocol import DecodedWindow, GenerationRequest, PermutationRequest
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.ranking.strategies import STRATEGIES
from dear_serving.ranking.strategies.passes import self_consistent
from dear_serving.ranking.windows import Batch, Sizes, Strategy, Window
from dear_serving.types import OnProgress, Order, Ranking, RankTask, Repairs, Scoring, Usage
from tests.support.fake_engine import FakeEngine
from tests.support.worths import best_first, engine_of, task_of

WORTHS = [(37 * position) % 101 for position in range(45)]
SCORINGS: tuple[Scoring, ...] = ("permutation", "generate", "first_token")
every_scoring = pytest.mark.parametrize("scoring", SCORINGS)


@pytest.fixture(params=["plain", "chat"])
def builder(request: pytest.FixtureRequest, demo: BaseTokenizer) -> PromptBuilder:
    return PromptBuilder(load_template(request.param, None), demo, 4096)


@pytest.fixture
def plain(demo: BaseTokenizer) -> PromptBuilder:
    return PromptBuilder(load_template("plain", None), demo, 4096)


def strategy_of(name: str, task: RankTask, window: int = 20, step: int = 10) -> Strategy:
    return STRATEGIES[name](Sizes(len(task.passages), window, step, task.needed))


async def rank(
    engine: FakeEngine,
    builder: PromptBuilder,
    task: RankTask,
    strategy: Strategy | str = "single",
    on_progress: OnProgress | None = None,
    **options: Any,
) -> Ranking:
    name = strategy if isinstance(strategy, str) else "own"
    if isinstance(strategy, str):
        strategy = strategy_of(strategy, task)
    ranker = Ranker(
        WindowRanker(engine, builder, "legal@1", task), task, "req", on_progress=on_progress, **options
    )
    return await ranker.rank(strategy, name, "asked for")


def side_by_side(count: int, windows: int, needed: int | None = None) -> Strategy:
    """All passages ``windows`` times over, in one batch; answers with the last window's order."""
    everything = Window(tuple(range(count)), count if needed is None else needed)
    orders: Sequence[Order] = yield Batch((everything,) * windows)
    assert len(orders) == windows
    return orders[-1]


async def test_one_window_gives_the_engines_order(builder: PromptBuilder) -> None:
    ranking = await rank(engine_of(builder), builder, task_of([30, 10, 50, 20]))
    assert ranking.order == (2, 0, 3, 1)
    assert (ranking.strategy, ranking.strategy_reason) == ("single", "asked for")
    assert (ranking.windows, ranking.rounds) == (1, 1)
    assert not ranking.repairs
    assert (ranking.warnings, ranking.reasoning) == ((), ())


@pytest.mark.parametrize(
    ("strategy", "windows", "rounds"),
    [("single", 1, 1), ("sliding", 4, 4), ("merge2", 4, 2), ("tourrank", 6, 4)],
)
@every_scoring
async def test_every_strategy_and_scoring_brings_the_best_to_the_head(
    builder: PromptBuilder, strategy: str, windows: int, rounds: int, scoring: Scoring
) -> None:
    engine = engine_of(builder)
    ranking = await rank(engine, builder, task_of(WORTHS, top_n=5, scoring=scoring), strategy)
    assert list(ranking.order[:5]) == best_first(WORTHS)[:5]
    assert sorted(ranking.order) == list(range(45))
    assert (ranking.windows, ranking.rounds) == (windows, rounds)
    assert [request.request_id for request in engine.requests] == [f"req-{n}" for n in range(windows)]
    assert ranking.warnings == ()


async def test_a_strategy_with_several_passes_runs_them_side_by_side(builder: PromptBuilder) -> None:
    engine, task = engine_of(builder), task_of(WORTHS, top_n=5)
    strategy = self_consistent(lambda: strategy_of("sliding", task), 45, 3, top_n=5)
    ranking = await rank(engine, builder, task, strategy)
    assert list(ranking.order[:5]) == best_first(WORTHS)[:5]
    assert (ranking.windows, ranking.rounds) == (12, 4)


async def test_identifiers_from_zero_and_from_one_give_the_same_ranking(demo: BaseTokenizer) -> None:
    rankings = []
    for name in ("plain", "chat"):
        builder = PromptBuilder(load_template(name, None), demo, 4096)
        rankings.append(await rank(engine_of(builder), builder, task_of(WORTHS), "sliding"))
    assert rankings[0].order == rankings[1].order
    assert rankings[0].scores == rankings[1].scores


async def test_no_more_ranks_are_asked_for_than_the_strategy_needs(builder: PromptBuilder) -> None:
    engine = engine_of(builder)
    await rank(engine, builder, task_of([3, 1, 2], top_n=1))
    await rank(engine, builder, task_of([3, 1, 2]))
    assert [request.needed for request in engine.requests if isinstance(request, PermutationRequest)] == [
        1,
        3,
    ]


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("strategy", [*STRATEGIES])
async def test_fewer_than_two_passages_ask_no_engine(plain: PromptBuilder, strategy: str, count: int) -> None:
    engine = FakeEngine(lambda _: "", dead=True)
    ranking = await rank(engine, plain, task_of([1] * count), strategy)
    assert ranking.order == tuple(range(count))
    assert ranking.scores == (1.0,) * count
    assert (ranking.windows, ranking.rounds, ranking.score_type) == (0, 0, "rank")


async def test_windows_of_one_batch_run_at_once(plain: PromptBuilder) -> None:
    waiting = asyncio.Barrier(3)

    class Together(FakeEngine):
        async def _work(self) -> None:
            await waiting.wait()  # passes only when all three calls are here

    engine = Together(lambda _: "[1]")
    async with asyncio.timeout(5):
        ranking = await rank(engine, plain, task_of([1, 2]), side_by_side(2, 3))
    assert (ranking.windows, ranking.rounds) == (3, 1)
    assert [request.request_id for request in engine.requests] == ["req-0", "req-1", "req-2"]


# Scores.


@pytest.mark.parametrize("strategy", [*STRATEGIES])
@every_scoring
async def test_scores_fall_along_the_order(plain: PromptBuilder, strategy: str, scoring: Scoring) -> None:
    ranking = await rank(engine_of(plain), plain, task_of(WORTHS, scoring=scoring), strategy)
    assert len(ranking.scores) == 45
    assert all(first > second for first, second in itertools.pairwise(ranking.scores))
    assert 0 < ranking.scores[-1] < ranking.scores[0] <= 1
    assert ranking.score_type == ("rank" if scoring == "generate" else "first_step")


async def test_scores_come_from_all_windows_that_showed_a_passage(plain: PromptBuilder) -> None:
    """The fake gives the preferred position 1/2, the next 1/4: prominences 3/5, 3/7 and so on."""

    def twice() -> Strategy:
        yield Batch((Window((0, 1, 2), 3),))
        orders = yield Batch((Window((2, 1, 0), 3),))
        return tuple((2, 1, 0)[place] for place in orders[0])

    engine = FakeEngine(lambda _: "", lambda request: (0, 1, 2))  # the first shown is the best
    ranking = await rank(engine, plain, task_of([1, 1, 1]), twice())
    # Of 7 parts the first named has 4, the second 2, the third 1; passages 0 and 2 were first and third.
    odds = ((4 / 7 * 3) * (1 / 7 * 3)) ** 0.5
    best = 0.99 * odds / (1 + odds)
    assert ranking.order == (2, 1, 0)
    assert ranking.scores == pytest.approx((best + 0.01, best + 0.01 * 2 / 3, best + 0.01 / 3), abs=1e-6)


# What it took.


async def test_usage_and_repairs_of_free_text_add_up(plain: PromptBuilder) -> None:
    engine = FakeEngine(lambda _: "nothing of use")
    ranking = await rank(engine, plain, task_of(WORTHS, scoring="generate"), "sliding")
    assert ranking.order == tuple(range(45))
    assert ranking.repairs == Repairs(unparseable=4)
    prompts = sum(len(request.token_ids) for request in engine.requests)
    # The fake takes 1 ms in the queue and 2 ms in the engine and counts words.
    assert ranking.usage == Usage(prompts, 4 * 3, 4 * 1.0, 4 * 2.0)


async def test_usage_of_decoded_windows_counts_ranks(plain: PromptBuilder) -> None:
    engine = engine_of(plain)
    ranking = await rank(engine, plain, task_of(WORTHS, top_n=1), "sliding")
    prompts = sum(len(request.token_ids) for request in engine.requests)
    ranks = sum(request.needed for request in engine.requests if isinstance(request, PermutationRequest))
    assert ranking.usage == Usage(prompts, ranks, 4 * 1.0, 4 * 2.0)
    assert ranking.repairs == Repairs()


async def test_time_of_windows_side_by_side_counts_once(plain: PromptBuilder) -> None:
    engine = FakeEngine(lambda _: "[1] > [1]")
    ranking = await rank(engine, plain, task_of([1, 2], scoring="generate"), side_by_side(2, 3))
    assert (ranking.usage.queue_ms, ranking.usage.engine_ms) == (1.0, 2.0)
    assert ranking.usage.completion_tokens == 3 * 3
    assert ranking.repairs == Repairs(repeated=3, missing=3)


async def test_reasoning_and_ranking_of_a_window_count_one_after_the_other(plain: PromptBuilder) -> None:
    engine = engine_of(plain)
    engine.write = lambda request: "so it is"
    ranking = await rank(engine, plain, task_of([1, 2], reasoning=True), side_by_side(2, 2))
    assert ranking.reasoning == ("so it is", "so it is")
    assert ranking.windows == 2
    assert (ranking.usage.queue_ms, ranking.usage.engine_ms) == (2.0, 4.0)
    assert ranking.usage.completion_tokens == 2 * (3 + 2)
    assert ranking.usage.prompt_tokens == sum(len(request.token_ids) for request in engine.requests)


async def test_what_was_cut_is_a_warning(plain: PromptBuilder) -> None:
    ranking = await rank(FakeEngine(lambda _: ""), plain, RankTask("q", ["a", "b" * 301]))
    assert ranking.warnings == ('1 passage cut to 300 characters by template "plain"',)


async def test_rounds_are_observed_with_their_windows_and_seconds(plain: PromptBuilder) -> None:
    engine = engine_of(plain)
    engine.delay_s = 0.02
    observed: list[tuple[int, float]] = []
    task = task_of(WORTHS)
    started_s = time.monotonic()
    await rank(
        engine, plain, task, "merge2", observe=lambda windows, wall_s: observed.append((windows, wall_s))
    )
    assert [windows for windows, _ in observed] == [3, 1]
    assert all(wall_s >= 0.02 for _, wall_s in observed)
    assert sum(wall_s for _, wall_s in observed) <= time.monotonic() - started_s


async def test_an_explanation_says_when_windows_ran_and_what_was_cut(plain: PromptBuilder) -> None:
    engine = engine_of(plain)
    engine.delay_s = 0.02
    first, *others = task_of(WORTHS).passages
    passages = [f"{first} {'a' * 301}", *others]
    task = replace(task_of(WORTHS), passages=passages, explain=True)
    explanation = (await rank(engine, plain, task, "merge2")).explanation
    assert explanation is not None
    *groups, final = explanation.windows
    assert [one.round for one in explanation.windows] == [0, 0, 0, 1]
    assert sorted(passage for one in groups for passage in one.passages) == list(range(len(WORTHS)))
    assert max(one.start_ms for one in groups) < min(one.end_ms for one in groups)
    assert max(one.end_ms for one in groups) <= final.start_ms
    assert all(one.end_ms - one.start_ms >= 20 and one.queue_ms == 1.0 for one in explanation.windows)
    assert final.end_ms <= explanation.total_ms
    assert explanation.cut == (0,)
    assert (await rank(engine, plain, task_of(WORTHS), "merge2")).explanation is None


async def test_windows_that_the_deadline_ends_are_in_the_explanation(plain: PromptBuilder) -> None:
    task = replace(task_of(WORTHS, deadline_ms=300), explain=True)
    ranking = await rank(stalling_after(plain, 1), plain, task, "merge2")
    assert ranking.explanation is not None
    assert [one.round for one in ranking.explanation.windows] == [0, 0, 0]
    assert len(ranking.warnings) == 1


# Ranks as they are decided.

Told = list[tuple[Order, tuple[float, ...]]]


def listening() -> tuple[Told, OnProgress]:
    told: Told = []
    return told, lambda order, scores: told.append((order, scores))


def agree(told: Told, ranking: Ranking) -> bool:
    """Whether everything told holds in the end, and every call told more."""
    told_more = all(len(a[0]) < len(b[0]) for a, b in itertools.pairwise(told))
    return told_more and all(
        order == ranking.order[: len(order)] and scores == ranking.scores[: len(scores)]
        for order, scores in told
    )


@pytest.mark.parametrize("top_n", [1, 3, 10, None])
@pytest.mark.parametrize("strategy", ["single", "sliding", "merge2", "tourrank"])
async def test_ranks_of_a_leading_window_are_told_as_they_will_be(
    builder: PromptBuilder, strategy: str, top_n: int | None
) -> None:
    told, head = listening()
    ranking = await rank(engine_of(builder), builder, task_of(WORTHS, top_n=top_n), strategy, head)
    assert agree(told, ranking)
    last_window = {"single": 45, "sliding": 20, "merge2": 18, "tourrank": 4}[strategy]
    assert [len(order) for order, _ in told] == list(range(1, min(top_n or 45, last_window) + 1))


async def test_only_the_leading_window_is_told(plain: PromptBuilder) -> None:
    engine, (told, head) = engine_of(plain), listening()
    stages: list[int] = []
    prefer = engine.prefer

    def counting(request: PermutationRequest) -> Sequence[int]:
        stages.append(len(told))
        return prefer(request)

    engine.prefer = counting
    await rank(engine, plain, task_of(WORTHS, top_n=3), "sliding", head)
    assert stages == [0, 0, 0, 0, 1, 2]  # nothing is told before the last of four windows
    assert len(told) == 3


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("joint", {}),  # no window leads
        ("sliding", {"scoring": "first_token"}),
        ("sliding", {"scoring": "generate"}),
    ],
)
async def test_nothing_is_told_where_no_rank_is_known_before_the_end(
    plain: PromptBuilder, strategy: str, options: dict[str, Any]
) -> None:
    told, head = listening()
    ranking = await rank(engine_of(plain), plain, task_of(WORTHS, **options), strategy, head)
    assert sorted(ranking.order) == list(range(45))
    assert told == []


async def test_several_passes_tell_nothing(plain: PromptBuilder) -> None:
    told, head = listening()
    task = task_of([3, 1, 2])
    strategy = self_consistent(lambda: strategy_of("single", task), 3, 2)
    await rank(engine_of(plain), plain, task, strategy, head)
    assert told == []


async def test_a_window_decided_in_part_tells_what_was_decided(plain: PromptBuilder) -> None:
    engine, (told, head) = engine_of(plain), listening()
    engine.decides = 2

    ranking = await rank(engine, plain, task_of([30, 10, 50, 20], deadline_ms=60000), "single", head)
    assert {order for order, _ in told} == {(2,), (2, 0)}
    assert all(scores == ranking.scores[: len(scores)] for _, scores in told)


class StallsWhileTelling(FakeEngine):
    """Tells two ranks of a window, then nothing for a minute."""

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        self.requests.append(request)
        for decided in (1, 2):
            yield self._window(request, decided)
        await self._work()


@pytest.mark.parametrize("strategy", ["single", "sliding"])
@pytest.mark.integration
async def test_what_was_told_stands_when_the_deadline_passes(plain: PromptBuilder, strategy: str) -> None:
    engine = StallsWhileTelling(lambda _: "", engine_of(plain).prefer)
    told, head = listening()

    def tell(order: Order, scores: tuple[float, ...]) -> None:
        engine.delay_s = 60
        head(order, scores)

    ranking = await rank(engine, plain, task_of(WORTHS, deadline_ms=1000), strategy, tell)
    assert len(told) == 2
    assert agree(told, ranking)
    assert sorted(ranking.order) == list(range(45))
    assert ranking.windows == len(engine.requests)
    needed = 45 if strategy == "single" else 20
    assert ranking.warnings == (
        f"deadline passed: {needed - 2} ranks were not decided one by one, they follow the first-step "
        "probabilities",
    )


# Deadlines.


@every_scoring
async def test_a_deadline_that_passes_in_the_first_round_is_an_error(
    plain: PromptBuilder, scoring: Scoring
) -> None:
    engine = FakeEngine(lambda _: "[1]", delay_s=60)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded) as failure:
        await rank(engine, plain, task_of([1, 2], deadline_ms=50, scoring=scoring))
    assert failure.value.param == "dear.deadline_ms"
    assert time.monotonic() - started < 10
    assert (engine.cancelled, engine.finished) == (1, 0)


async def test_a_deadline_that_has_passed_already_asks_no_engine(plain: PromptBuilder) -> None:
    engine = FakeEngine(lambda _: "[1]")
    with pytest.raises(DeadlineExceeded):
        await rank(engine, plain, task_of([1, 2], deadline_ms=-1000))
    assert engine.requests == []


def stalling_after(builder: PromptBuilder, windows: int) -> FakeEngine:
    """Ranks so many windows at once, the others in a minute."""

    class Stalls(FakeEngine):
        async def _work(self) -> None:
            self.delay_s = 60 if len(self.requests) > windows else 0
            await super()._work()

    engine = engine_of(builder)
    return Stalls(engine.write, engine.prefer)


@pytest.mark.parametrize("rounds", [1, 2, 3])
@every_scoring
@pytest.mark.integration
async def test_rounds_that_come_too_late_keep_the_order_they_were_shown(
    plain: PromptBuilder, rounds: int, scoring: Scoring
) -> None:
    engine = stalling_after(plain, rounds)
    observed: list[int] = []
    ranking = await rank(
        engine,
        plain,
        task_of(WORTHS, deadline_ms=700, scoring=scoring),
        "sliding",
        observe=lambda windows, wall_s: observed.append(windows),
    )
    assert ranking.rounds == ranking.windows == rounds
    assert ranking.warnings == (
        f"deadline passed: {4 - rounds} of 4 windows were not ranked and keep the order they had",
    )
    # The best of what was seen stand where the last window that was ranked began.
    start = (25, 15, 5)[rounds - 1]
    assert list(ranking.order[:start]) == list(range(start))
    best = [place for place in best_first(WORTHS) if place >= start]
    assert list(ranking.order[start : start + 10]) == best[:10]
    assert sorted(ranking.order) == list(range(45))
    assert engine.cancelled == 1
    assert len(engine.requests) == rounds + 1  # the rest of the strategy asks no engine
    assert observed == [1] * rounds


async def test_a_round_that_loses_some_windows_keeps_the_others(plain: PromptBuilder) -> None:
    engine = stalling_after(plain, 2)
    observed: list[tuple[int, float]] = []
    ranking = await rank(
        engine,
        plain,
        task_of([1, 3, 2], deadline_ms=500),
        groups_of_one_round(),
        observe=lambda windows, wall_s: observed.append((windows, wall_s)),
    )
    assert ranking.order == (1, 2, 0)
    assert (ranking.windows, ranking.rounds) == (2, 1)
    assert ranking.warnings == (
        "deadline passed: 1 of 3 windows were not ranked and keep the order they had",
    )
    assert engine.cancelled == 1
    ((windows, wall_s),) = observed
    assert windows == 3
    assert 0.5 * 3 / 2 <= wall_s < 0.5 * 3 / 2 + 1  # the third would have taken its share more


def groups_of_one_round() -> Strategy:
    """Three windows in one batch: both of the first two ranked give the order, the third comes as shown."""
    orders = yield Batch((Window((0, 1, 2), 3), Window((0, 1, 2), 3), Window((2, 1, 0), 3)))
    assert orders[0] == orders[1]
    assert orders[2] == (0, 1, 2)
    return orders[0]


async def test_requests_after_a_lost_window_have_names_of_their_own(plain: PromptBuilder) -> None:
    class LosesOne(FakeEngine):
        async def _work(self) -> None:
            if self.requests[-1].request_id == "req-0":
                await asyncio.sleep(60)

    engine = LosesOne(lambda _: "")
    task = task_of([1, 2], deadline_ms=300)
    await rank(engine, plain, task, side_by_side(2, 2))
    assert [request.request_id for request in engine.requests] == ["req-0", "req-1"]


@pytest.mark.parametrize(("decides", "missing"), [(0, 4), (1, 3), (3, 1), (4, 0)])
async def test_ranks_that_were_not_decided_are_counted(
    plain: PromptBuilder, decides: int, missing: int
) -> None:
    engine = engine_of(plain)
    engine.decides = decides
    ranking = await rank(engine, plain, task_of([30, 10, 50, 20], deadline_ms=60000))
    assert ranking.order == (2, 0, 3, 1)
    said = (
        f"deadline passed: {missing} ranks were not decided one by one, they follow the first-step "
        "probabilities"
    )
    assert ranking.warnings == ((said,) if missing else ())


async def test_first_token_scoring_has_no_ranks_to_miss(plain: PromptBuilder) -> None:
    engine = engine_of(plain)
    engine.decides = 0
    task = task_of([30, 10], deadline_ms=60000, scoring="first_token")
    assert (await rank(engine, plain, task)).warnings == ()


# Failures.


class FailsOne(FakeEngine):
    """Fails the window numbered 1 with ``error``; the others work for a minute."""

    error: Exception = EngineUnavailable("engine gone", retry_after_s=5.0)

    async def _work(self) -> None:
        if len(self.requests) == 2:
            raise self.error
        await super()._work()


@pytest.mark.parametrize("error", [EngineUnavailable("engine gone"), ValueError("a bug")], ids=repr)
@pytest.mark.parametrize("deadline_ms", [None, 60_000])
@every_scoring
async def test_a_failing_window_cancels_its_siblings_and_is_raised_itself(
    plain: PromptBuilder, error: Exception, deadline_ms: int | None, scoring: Scoring
) -> None:
    engine = FailsOne(lambda _: "[1]", delay_s=60)
    engine.error = error
    task = task_of([1, 2], scoring=scoring, deadline_ms=deadline_ms)
    with pytest.raises(type(error)) as failure:
        await rank(engine, plain, task, side_by_side(2, 3))
    assert failure.value is error
    assert engine.finished == 0
    assert engine.cancelled >= 1


@pytest.mark.parametrize("deadline_ms", [None, 60_000])
async def test_an_engines_own_timeout_is_not_taken_for_the_deadline(
    plain: PromptBuilder, deadline_ms: int | None
) -> None:
    engine = FailsOne(lambda _: "[1]", delay_s=60)
    engine.error = TimeoutError("engine's own")
    with pytest.raises(TimeoutError, match="engine's own"):
        await rank(engine, plain, task_of([1, 2], deadline_ms=deadline_ms), side_by_side(2, 2))


async def test_a_window_that_fails_in_the_leading_stream_is_raised(plain: PromptBuilder) -> None:
    class Breaks(FakeEngine):
        async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
            yield self._window(request, 1)
            raise EngineUnavailable("engine gone")

    told, head = listening()
    with pytest.raises(EngineUnavailable, match="engine gone"):
        await rank(Breaks(lambda _: ""), plain, task_of([1, 2, 3]), "single", head)
    assert len(told) == 1


async def test_a_dead_engine_is_unavailable(plain: PromptBuilder) -> None:
    for scoring in SCORINGS:
        with pytest.raises(EngineUnavailable):
            await rank(FakeEngine(lambda _: "[1]", dead=True), plain, task_of([1, 2], scoring=scoring))


async def test_a_window_that_does_not_fit_asks_no_engine(demo: BaseTokenizer) -> None:
    engine = FakeEngine(lambda _: "[1]")
    builder = PromptBuilder(load_template("plain", None), demo, 256)
    with pytest.raises(InvalidRequest):
        await rank(engine, builder, task_of(range(50)))
    assert engine.requests == []


@every_scoring
async def test_cancelling_cancels_the_engines_calls(plain: PromptBuilder, scoring: Scoring) -> None:
    engine = FakeEngine(lambda _: "[1]", delay_s=60)
    task = task_of([1, 2], scoring=scoring)
    running = asyncio.create_task(rank(engine, plain, task, side_by_side(2, 3)))
    await asyncio.sleep(0.1)
    assert len(engine.requests) == 3
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (engine.cancelled, engine.finished) == (3, 0)


async def test_the_engine_gets_the_adapter_and_the_priority(plain: PromptBuilder) -> None:
    for scoring in SCORINGS:
        engine = engine_of(plain)
        await rank(engine, plain, task_of([1, 2], priority=3, scoring=scoring))
        (request,) = engine.requests
        assert (request.adapter, request.priority, request.request_id) == ("legal@1", 3, "req-0")
        assert isinstance(request, GenerationRequest if scoring == "generate" else PermutationRequest)
