"""Windows under vLLM's real scheduler, with a stub in place of the model runner, in each way of decoding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stub_engine import Limits, NoClock, StubEngine, Text, Window
from benchmarks.stub_ways import DRAFTED, RESUMABLE, Way
from dear_serving.inside_vllm import drafted_scheduler, resumable_scheduler
from tests.support.schedules import MODEL, Arrival, Faults, Schedule, check, play, schedules, send

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Engine:
    """A way of decoding on a kind of engine: steps scheduled ahead or not, and the model runner's version."""

    way: Way
    ahead: bool = False
    runner: int = 1
    drafts: int = 0

    def limits(self, **settings: Any) -> Limits:
        """Settings for this engine."""
        return replace(Limits(ahead=self.ahead, runner=self.runner, drafts=self.drafts), **settings)

    def schedules(self, faults: Faults = "") -> st.SearchStrategy[Schedule]:
        """Traffic for it."""
        return schedules(ahead=self.ahead, runner=self.runner, drafts=bool(self.drafts), faults=faults)


ENGINES = {
    "resumable, CPU": Engine(RESUMABLE),
    "resumable, GPU": Engine(RESUMABLE, runner=2),
    "resumable, GPU ahead": Engine(RESUMABLE, ahead=True, runner=2),
    "drafted": Engine(DRAFTED, drafts=7),
}
on_every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
WINDOW = Window("w", range(500, 520), tuple((token,) for token in range(10, 18)), (90, 91, 92), 8)


@pytest.mark.hypothesis
@on_every_engine
@given(data=st.data())
def test_whatever_comes_every_window_gets_its_order(data: st.DataObject, engine: Engine) -> None:
    schedule = data.draw(engine.schedules())
    check(schedule, play(schedule, engine.way), engine.way)


@pytest.mark.hypothesis
@on_every_engine
@given(data=st.data())
def test_a_token_that_is_not_allowed_ends_its_window_alone(data: st.DataObject, engine: Engine) -> None:
    schedule = data.draw(engine.schedules("token"))
    check(schedule, play(schedule, engine.way), engine.way)


@pytest.mark.hypothesis
@given(data=st.data())
def test_log_probabilities_that_are_no_numbers_end_their_drafted_window_alone(data: st.DataObject) -> None:
    schedule = data.draw(ENGINES["drafted"].schedules("nan"))
    check(schedule, play(schedule, DRAFTED), DRAFTED)


@on_every_engine
@pytest.mark.parametrize("in_flight", [False, True])
@pytest.mark.parametrize("step", range(12))
def test_a_window_cancelled_at_any_step_leaves_nothing_behind(
    engine: Engine, step: int, in_flight: bool
) -> None:
    cancelled = Arrival(0, replace(WINDOW, request_id="cancelled"), cancelled=step, in_flight=in_flight)
    schedule = Schedule(engine.limits(), (cancelled, Arrival(0, WINDOW)))
    check(schedule, play(schedule, engine.way), engine.way)


@on_every_engine
@pytest.mark.parametrize("step", range(1, 12))
def test_a_window_preempted_at_any_step_goes_on_from_its_last_choice(engine: Engine, step: int) -> None:
    schedule = Schedule(
        engine.limits(), (Arrival(0, WINDOW), Arrival(0, replace(WINDOW, request_id="other")))
    )

    def preempt(running: StubEngine, at: int) -> None:
        if at == step:
            running.scheduler.reset_prefix_cache(reset_running_requests=True)

    check(schedule, play(schedule, engine.way, preempt), engine.way)


@on_every_engine
def test_a_window_that_began_ends_though_a_better_request_waits_for_its_memory(engine: Engine) -> None:
    limits = engine.limits(num_blocks=9, max_num_batched_tokens=32, prefix_cache=False)
    running = engine.way.start(limits, MODEL, NoClock())
    send(running, engine.way, WINDOW)
    assert running.step()
    send(running, engine.way, Text("t", range(600, 650), 4, priority=-1))
    for _ in range(60):
        running.step()
    assert running.answers["w"].ended
    assert running.answers["t"].ended


@on_every_engine
def test_windows_between_two_choices_count_among_the_requests_that_run(engine: Engine) -> None:
    windows = [replace(WINDOW, request_id=f"w{number}") for number in range(6)]
    schedule = Schedule(
        engine.limits(max_num_seqs=2), tuple(Arrival(at, one) for at, one in enumerate(windows))
    )
    running = play(schedule, engine.way)
    check(schedule, running, engine.way)
    assert running.most_running == 2


@on_every_engine
def test_windows_share_their_steps(engine: Engine) -> None:
    windows = [replace(WINDOW, request_id=f"w{number}") for number in range(4)]
    schedule = Schedule(engine.limits(), tuple(Arrival(at, one) for at, one in enumerate(windows)))
    running = play(schedule, engine.way)
    # Seven choices, begun in four steps.
    assert running.steps <= 7 + 4


@on_every_engine
def test_an_answer_that_does_not_fit_ends_with_an_error(engine: Engine) -> None:
    running = engine.way.start(engine.limits(max_model_len=32), MODEL, NoClock())
    send(running, engine.way, WINDOW)
    for _ in range(30):
        running.step()
    assert running.answers["w"].ended
    assert running.free_blocks() == running.limits.num_blocks - 1


@on_every_engine
@pytest.mark.parametrize(
    "arguments",
    [7, [], [[], [1], 1], [[[1], [1]], [2], 2], [[["a"], [2]], [3], 1], [[[1], [2]], [3], "x"]],
)
def test_wrong_arguments_end_their_request_alone(engine: Engine, arguments: Any) -> None:
    running = engine.way.start(engine.limits(), MODEL, NoClock())
    key = drafted_scheduler.WINDOW if engine.way is DRAFTED else resumable_scheduler.WINDOW
    request = engine.way.request(running, replace(WINDOW, request_id="wrong"))
    request.sampling_params.extra_args = {key: arguments}
    running.add(request)
    send(running, engine.way, WINDOW)
    for _ in range(30):
        running.step()
    assert running.answers["w"].finish in ("length", "stop")
    assert running.answers["wrong"].ended
    assert running.answers["wrong"].finish == "error"
