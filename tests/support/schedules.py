"""Random traffic for the stub engine, and what must hold whatever comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from hypothesis import strategies as st

from benchmarks.stub_engine import Answer, Limits, NoClock, StubEngine, Text, Window
from benchmarks.stub_runner import StubModel
from benchmarks.stub_ways import Way, naive, naive_text

MODEL = StubModel()
VOCABULARY = 3350
Faults = Literal["", "token", "nan"]
"""What broken logits give: a token that is not allowed, or log probabilities that are no numbers."""
SHARED = list(range(500, 600))
"""How many prompts begin."""
PRIORITIES = (-(2**31), -1, 0, 0, 0, 1, 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that comes after ``at`` steps; it is cancelled ``cancelled`` steps later, if not None."""

    at: int
    request: Window | Text
    cancelled: int | None = None
    in_flight: bool = False
    broken: int | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """An engine's settings and all that happens to it; ``nan`` is how logits are broken."""

    limits: Limits
    arrivals: tuple[Arrival, ...]
    nan: bool = False


@st.composite
def identifiers(draw: st.DrawFn) -> tuple[tuple[int, ...], ...]:
    """Up to eight identifiers of one to three tokens, as digits are tokens, or of one token each."""
    count = draw(st.integers(2, 8))
    if draw(st.booleans()):
        return tuple((token,) for token in range(10, 10 + count))
    # Many beginnings in common, and some that others continue.
    one = st.lists(st.integers(10, 13), min_size=1, max_size=3).map(tuple)
    return tuple(draw(st.lists(one, min_size=count, max_size=count, unique=True)))


@st.composite
def schedules(
    draw: st.DrawFn, *, ahead: bool = False, runner: int = 1, drafts: bool = False, faults: Faults = ""
) -> Schedule:
    """Traffic that presses: little memory, few slots, many requests at once."""
    limits = Limits(
        max_num_seqs=draw(st.integers(2, 4)),
        max_num_batched_tokens=draw(st.sampled_from([8, 16, 64])),
        max_model_len=256,
        block_size=4,
        num_blocks=0,
        max_loras=draw(st.integers(1, 2)),
        prefix_cache=draw(st.booleans()),
        ahead=ahead,
        runner=runner,
        drafts=draw(st.sampled_from([1, 3, 7, 11])) if drafts else 0,
        policy=(("free_tokens", draw(st.sampled_from([8, 32, 256]))), ("uniform", draw(st.booleans()))),
    )
    arrivals = list[Arrival]()
    for number in range(draw(st.integers(1, 9))):
        start = draw(st.integers(0, 20)) if draw(st.booleans()) else 0
        priority = draw(st.sampled_from(PRIORITIES))
        if arrivals and draw(st.booleans()):  # the prompt of another, which may be cached
            before = draw(st.sampled_from(arrivals)).request
            prompt, adapter = before.prompt, before.adapter
        else:
            prompt = [*SHARED[:start], *[600 + number] * draw(st.integers(1, 10))]
            adapter = draw(st.integers(0, 3))
        request: Window | Text
        if draw(st.integers(0, 3)):
            answer = draw(identifiers())
            needed = draw(st.integers(1, len(answer)))
            separator = draw(st.sampled_from([(90,), (90, 91, 92)]))
            request = Window(f"w{number}", prompt, answer, separator, needed, adapter, priority)
        else:
            request = Text(f"t{number}", prompt, draw(st.integers(1, 40)), adapter, priority)
        arrivals.append(
            Arrival(
                at=draw(st.integers(0, 25)),
                request=request,
                cancelled=draw(st.integers(0, 12)) if draw(st.integers(0, 4)) == 0 else None,
                in_flight=draw(st.booleans()),
                broken=draw(st.integers(1, 4)) if faults and isinstance(request, Window) else None,
            )
        )
    longest = max(_length(arrival.request) for arrival in arrivals)
    # The longest request fits, as admission sees to; vLLM keeps a block to itself.
    room = draw(st.sampled_from([0, 1, 3, 10, 100]))
    limits = replace(limits, num_blocks=-(-longest // limits.block_size) + 1 + room)
    return Schedule(limits, tuple(sorted(arrivals, key=lambda arrival: arrival.at)), faults == "nan")


def play(
    schedule: Schedule, way: Way, also: Callable[[StubEngine, int], object] = lambda engine, step: None
) -> StubEngine:
    """Let it all happen; fails if a request has no end after far more steps than any order of them takes.

    ``also`` is called before each step, with its number.
    """
    engine = way.start(schedule.limits, MODEL, NoClock())
    engine.runner.nan = schedule.nan
    waiting, cancels = list(schedule.arrivals), list[tuple[int, Arrival]]()
    enough = 200 + 40 * sum(_work(arrival.request) for arrival in schedule.arrivals)
    for step in range(enough):
        while waiting and waiting[0].at <= step:
            arrival = waiting.pop(0)
            if arrival.broken is not None:
                engine.runner.broken[arrival.request.request_id] = arrival.broken
            if arrival.cancelled is not None:
                cancels.append((step + arrival.cancelled, arrival))
            send(engine, way, arrival.request)
        for due, arrival in cancels:
            if due == step:
                engine.abort([arrival.request.request_id], in_flight=arrival.in_flight)
        also(engine, step)
        worked = engine.step()
        if not worked and not waiting:
            return engine
    unfinished = [name for name, answer in engine.answers.items() if not answer.ended]
    raise AssertionError(f"{unfinished} not done after {enough} steps")


def send(engine: StubEngine, way: Way, request: Window | Text) -> None:
    """Hand a request to the engine."""
    engine.add(way.request(engine, request) if isinstance(request, Window) else engine.text(request))


def check(schedule: Schedule, engine: StubEngine, way: Way) -> None:
    """Nothing lost, nothing kept, and every answer the one of its request alone."""
    assert engine.free_blocks() == schedule.limits.num_blocks - 1
    assert not engine.scheduler.requests
    assert engine.runner.most <= schedule.limits.max_num_seqs
    for arrival in schedule.arrivals:
        answer = engine.answers[arrival.request.request_id]
        assert answer.ended, arrival.request
        check_answer(arrival, answer, way)


def check_answer(arrival: Arrival, answer: Answer, way: Way) -> None:
    """What one request got."""
    request = arrival.request
    whole = False
    if isinstance(request, Text):
        tokens = naive_text(request, MODEL, VOCABULARY)
    else:
        expected, whole = naive(request, MODEL), way.gives_all
        tokens = expected.tokens if whole else expected.chosen
    if answer.finish == "abort":
        assert arrival.cancelled is not None
    elif arrival.broken is not None and arrival.broken < len(tokens):
        assert answer.finish == "error"
        if whole:
            assert answer.tokens == tokens[: len(answer.tokens)]
            return
        assert answer.tokens[: arrival.broken] == tokens[: arrival.broken]
        return
    else:
        assert answer.finish in ("length", "stop"), answer
        assert len(answer.tokens) == len(tokens)
    assert answer.tokens == tokens[: len(answer.tokens)]
    assert answer.outputs <= len(tokens) if whole else answer.outputs == len(answer.tokens)


def _length(request: Window | Text) -> int:
    """Tokens in the cache at its end, at most."""
    if isinstance(request, Text):
        return len(request.prompt) + request.length
    return len(request.prompt) + sum(len(one) + len(request.separator) for one in request.identifiers)


def _work(request: Window | Text) -> int:
    """About how many steps it takes alone."""
    answer = sum(map(len, request.identifiers)) if isinstance(request, Window) else request.length
    return len(request.prompt) // 8 + answer + 1
