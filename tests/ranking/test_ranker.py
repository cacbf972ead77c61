"""Ranker: drives a strategy over an engine, here one that answers as it is told."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence

import pytest

from dear_serving.adapters.templates import load_template
from dear_serving.engine.fake import FakeEngine
from dear_serving.engine.protocol import EngineRequest
from dear_serving.engine.tokenizer import BaseTokenizer
from dear_serving.errors import DeadlineExceeded, EngineUnavailable, InvalidRequest
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.ranking.ranker import Ranker
from dear_serving.ranking.windows import STRATEGIES, Batch, Strategy
from dear_serving.types import Order, Ranking, RankTask, Repairs, Usage

QUERY = "who is worth most"
_WORTH = re.compile(r"\[(\d+)\] worth (\d+)\b")


@pytest.fixture(params=["plain", "chat"])
def builder(request: pytest.FixtureRequest, demo: BaseTokenizer) -> PromptBuilder:
    return PromptBuilder(load_template(request.param, None), demo, 4096)


def oracle(tokenizer: BaseTokenizer) -> Callable[[EngineRequest], str]:
    """Reads the prompt as a model would, and ranks by the number in each passage, highest first."""

    def write(request: EngineRequest) -> str:
        worth = {int(i): int(n) for i, n in _WORTH.findall(tokenizer.decode(request.token_ids))}
        return " > ".join(f"[{i}]" for i in sorted(worth, key=worth.__getitem__, reverse=True))

    return write


def task_of(worths: Sequence[int], **options: float) -> RankTask:
    return RankTask(QUERY, [f"worth {worth}" for worth in worths], **options)  # type: ignore[arg-type]


async def rank(
    engine: FakeEngine, builder: PromptBuilder, task: RankTask, strategy: Strategy | str = "single"
) -> Ranking:
    name = strategy if isinstance(strategy, str) else "own"
    if isinstance(strategy, str):
        strategy = STRATEGIES[strategy](len(task.passages), 20, 10)
    return await Ranker(engine, builder, "legal@1", "req").rank(task, strategy, name)


def side_by_side(count: int, windows: int) -> Strategy:
    """All passages ``windows`` times over, in one batch; answers with the last window's order."""
    everything = tuple(range(count))
    orders: Sequence[Order] = yield Batch((everything,) * windows, everything)
    assert len(orders) == windows
    return orders[-1]


WORTHS = [(37 * position) % 101 for position in range(45)]


async def test_one_window_gives_the_engines_order(builder: PromptBuilder) -> None:
    engine = FakeEngine(oracle(builder.tokenizer))  # type: ignore[arg-type]
    ranking = await rank(engine, builder, task_of([30, 10, 50, 20]))
    assert ranking.order == (2, 0, 3, 1)
    assert (ranking.strategy, ranking.windows, ranking.rounds) == ("single", 1, 1)
    assert not ranking.repairs
    assert ranking.warnings == ()


async def test_sliding_windows_bring_the_best_to_the_head(builder: PromptBuilder) -> None:
    engine = FakeEngine(oracle(builder.tokenizer))  # type: ignore[arg-type]
    ranking = await rank(engine, builder, task_of(WORTHS), "sliding")
    best = sorted(range(45), key=WORTHS.__getitem__, reverse=True)
    assert list(ranking.order[:10]) == best[:10]
    assert sorted(ranking.order) == list(range(45))
    assert (ranking.windows, ranking.rounds) == (4, 4)
    assert [request.request_id for request in engine.requests] == [f"req-{n}" for n in range(4)]


async def test_identifiers_from_zero_and_from_one_give_the_same_order(demo: BaseTokenizer) -> None:
    orders = []
    for name in ("plain", "chat"):
        builder = PromptBuilder(load_template(name, None), demo, 4096)
        ranking = await rank(FakeEngine(oracle(demo)), builder, task_of(WORTHS), "sliding")
        orders.append(ranking.order)
    assert orders[0] == orders[1]


async def test_the_engine_gets_the_prompt_the_adapter_and_the_priority(
    builder: PromptBuilder,
) -> None:
    engine = FakeEngine(oracle(builder.tokenizer))  # type: ignore[arg-type]
    task = task_of([1, 2], priority=3)
    await rank(engine, builder, task)
    prompt = builder.prepare(task).window((0, 1))
    assert engine.requests == [EngineRequest(prompt.token_ids, prompt.max_new_tokens, "legal@1", "req-0", 3)]


async def test_fewer_than_two_passages_ask_no_engine(builder: PromptBuilder) -> None:
    engine = FakeEngine(lambda _: "", dead=True)
    assert (await rank(engine, builder, task_of([]))).order == ()
    assert (await rank(engine, builder, task_of([1]))).order == (0,)


async def test_windows_of_one_batch_run_at_once(builder: PromptBuilder) -> None:
    waiting = asyncio.Barrier(3)

    class Together(FakeEngine):
        async def _work(self) -> None:
            await waiting.wait()  # passes only when all three calls are here

    engine = Together(lambda _: "[1]")
    async with asyncio.timeout(5):
        ranking = await rank(engine, builder, task_of([1, 2]), side_by_side(2, 3))
    assert (ranking.windows, ranking.rounds) == (3, 1)
    assert [request.request_id for request in engine.requests] == ["req-0", "req-1", "req-2"]


async def test_usage_and_repairs_add_up(builder: PromptBuilder) -> None:
    engine = FakeEngine(lambda _: "nothing of use")
    ranking = await rank(engine, builder, task_of(WORTHS), "sliding")
    assert ranking.order == tuple(range(45))
    assert ranking.repairs == Repairs(unparseable=4)
    prompts = sum(len(request.token_ids) for request in engine.requests)
    # The fake takes 1 ms in the queue and 2 ms in the engine and counts words.
    assert ranking.usage == Usage(prompts, 4 * 3, 4 * 1.0, 4 * 2.0)


async def test_time_of_windows_side_by_side_counts_once(builder: PromptBuilder) -> None:
    engine = FakeEngine(lambda _: "[1] > [1]")
    ranking = await rank(engine, builder, task_of([1, 2]), side_by_side(2, 3))
    assert (ranking.usage.queue_ms, ranking.usage.engine_ms) == (1.0, 2.0)
    assert ranking.usage.completion_tokens == 3 * 3
    assert ranking.repairs == Repairs(repeated=3, missing=3)


async def test_what_was_cut_is_a_warning(demo: BaseTokenizer) -> None:
    builder = PromptBuilder(load_template("plain", None), demo, 4096)
    ranking = await rank(FakeEngine(lambda _: "[1] > [0]"), builder, RankTask("q", ["a", "b" * 301]))
    assert ranking.warnings == ('1 passage cut to 300 characters by template "plain"',)


async def test_a_deadline_that_passes_in_the_first_round_is_an_error(builder: PromptBuilder) -> None:
    engine = FakeEngine(lambda _: "[1]", delay_s=60)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded) as failure:
        await rank(engine, builder, task_of([1, 2], deadline_s=0.05))
    assert failure.value.param == "dear.deadline_ms"
    assert time.monotonic() - started < 10
    assert (engine.cancelled, engine.finished) == (1, 0)


async def test_a_deadline_that_has_passed_already_is_an_error(builder: PromptBuilder) -> None:
    engine = FakeEngine(lambda _: "[1]", delay_s=60)
    with pytest.raises(DeadlineExceeded):
        await rank(engine, builder, task_of([1, 2], deadline_s=-1.0))
    assert engine.finished == 0


@pytest.mark.parametrize(("rounds", "said"), [(1, "1 round"), (2, "2 rounds")])
async def test_a_deadline_that_passes_later_gives_the_order_so_far(
    builder: PromptBuilder, rounds: int, said: str
) -> None:
    engine = FakeEngine(oracle(builder.tokenizer))  # type: ignore[arg-type]
    write = engine.write

    def stall_after(request: EngineRequest) -> str:
        engine.delay_s = 60 if engine.finished >= rounds else 0
        return write(request)

    engine.write = stall_after
    ranking = await rank(engine, builder, task_of(WORTHS, deadline_s=1.0), "sliding")
    assert ranking.rounds == ranking.windows == rounds
    assert ranking.warnings == (f"deadline passed after {said}; the order is partial",)
    tail = sorted(range(45 - 10 - 10 * rounds, 45), key=WORTHS.__getitem__, reverse=True)
    start = 45 - 10 - 10 * rounds
    assert list(ranking.order[:start]) == list(range(start))
    assert list(ranking.order[start : start + 10]) == tail[:10]
    assert sorted(ranking.order) == list(range(45))
    assert engine.cancelled == 1


class FailsOne(FakeEngine):
    """Fails the window numbered 1 with ``error``; the others work for a minute."""

    error: Exception = EngineUnavailable("engine gone", retry_after_s=5.0)

    async def _work(self) -> None:
        if len(self.requests) == 2:
            raise self.error
        await super()._work()


@pytest.mark.parametrize("error", [EngineUnavailable("engine gone"), ValueError("a bug")], ids=repr)
async def test_a_failing_window_cancels_its_siblings_and_is_raised_itself(
    builder: PromptBuilder, error: Exception
) -> None:
    engine = FailsOne(lambda _: "[1]", delay_s=60)
    engine.error = error
    with pytest.raises(type(error)) as failure:
        await rank(engine, builder, task_of([1, 2]), side_by_side(2, 3))
    assert failure.value is error
    assert engine.finished == 0
    assert engine.cancelled >= 1


@pytest.mark.parametrize("deadline_s", [None, 60.0])
async def test_an_engines_own_timeout_is_not_taken_for_the_deadline(
    builder: PromptBuilder, deadline_s: float | None
) -> None:
    engine = FailsOne(lambda _: "[1]", delay_s=60)
    engine.error = TimeoutError("engine's own")
    task = RankTask(QUERY, ["a", "b"], deadline_s=deadline_s)
    with pytest.raises(TimeoutError, match="engine's own"):
        await rank(engine, builder, task, side_by_side(2, 2))


async def test_a_dead_engine_is_unavailable(builder: PromptBuilder) -> None:
    with pytest.raises(EngineUnavailable):
        await rank(FakeEngine(lambda _: "[1]", dead=True), builder, task_of([1, 2]))


async def test_a_window_that_does_not_fit_asks_no_engine(demo: BaseTokenizer) -> None:
    engine = FakeEngine(lambda _: "[1]")
    builder = PromptBuilder(load_template("plain", None), demo, 200)
    with pytest.raises(InvalidRequest):
        await rank(engine, builder, task_of(range(50)))
    assert engine.requests == []


async def test_cancelling_cancels_the_engines_calls(builder: PromptBuilder) -> None:
    engine = FakeEngine(lambda _: "[1]", delay_s=60)
    running = asyncio.create_task(rank(engine, builder, task_of([1, 2]), side_by_side(2, 3)))
    await asyncio.sleep(0.1)
    assert len(engine.requests) == 3
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (engine.cancelled, engine.finished) == (3, 0)
