"""The ways of decoding a window, as the stub engine runs them, and the naive one that they must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.request import Request

from benchmarks.stub_engine import Clock, Limits, StubEngine, Text, Window
from benchmarks.stub_runner import StubModel, with_adapter
from dear_serving.inside_vllm.answer import Answer, window_arguments
from dear_serving.inside_vllm.drafted_scheduler import DraftedScheduler
from dear_serving.inside_vllm.resumable_scheduler import AsyncWindowScheduler, WindowScheduler

Order = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """A way of decoding: ``start`` makes its engine, ``request`` a window's request.

    Its outputs hold all tokens of the answer if ``gives_all``, else the chosen ones.
    """

    name: str
    start: Callable[[Limits, StubModel, Clock], StubEngine]
    request: Callable[[StubEngine, Window], Request]
    gives_all: bool


@dataclass(frozen=True, slots=True)
class Naive:
    """A window decoded choice by choice: positions ranked, the tokens chosen, and all from the first on."""

    order: Order
    chosen: list[int]
    tokens: list[int]


def naive(window: Window, model: StubModel) -> Naive:
    """One choice after another, each from the whole history."""
    answer = Answer(window.identifiers, window.separator, window.needed)
    history, chosen = [*window.prompt, *answer.forced_tokens()], list[int]()
    begun = len(history)
    while not answer.done:
        chosen.append(_best(model, history, window.adapter, answer.allowed()))
        answer.advance(chosen[-1])
        history += [chosen[-1], *answer.forced_tokens()]
    return Naive(answer.decided, chosen, history[begun:])


def naive_text(text: Text, model: StubModel, vocabulary: int) -> list[int]:
    """Greedy, token by token."""
    history = list(text.prompt)
    for _ in range(text.length):
        history.append(_best(model, history, text.adapter, range(vocabulary)))
    return history[len(text.prompt) :]


def _best(model: StubModel, history: list[int], adapter: int, allowed: Sequence[int]) -> int:
    tokens = with_adapter(list(allowed), 0)
    return int(tokens[model.logits(with_adapter(history, adapter), tokens).argmax()])


def _resumable_engine(limits: Limits, model: StubModel, clock: Clock) -> StubEngine:
    return StubEngine(AsyncWindowScheduler if limits.ahead else WindowScheduler, limits, model, clock)


def _resumable_request(engine: StubEngine, window: Window) -> Request:
    answer = Answer(window.identifiers, window.separator, window.needed)
    prompt = [*window.prompt, *answer.forced_tokens()]
    parameters = SamplingParams(
        temperature=0.0,
        max_tokens=1,
        allowed_token_ids=answer.allowed(),
        logprob_token_ids=answer.allowed(),
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
        extra_args=window_arguments(window.identifiers, window.separator, window.needed),
    )
    return engine.request(window.request_id, prompt, parameters, window.adapter, window.priority, True)


def _drafted_engine(limits: Limits, model: StubModel, clock: Clock) -> StubEngine:
    return StubEngine(DraftedScheduler, limits, model, clock)


def _drafted_request(engine: StubEngine, window: Window) -> Request:
    answer = Answer(window.identifiers, window.separator, window.needed)
    prompt = [*window.prompt, *answer.forced_tokens()]
    parameters = SamplingParams(
        temperature=0.0,
        max_tokens=sum(len(one) + len(window.separator) for one in window.identifiers),
        logprobs=len(answer.allowed()),
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
        extra_args=window_arguments(window.identifiers, window.separator, max(1, window.needed)),
    )
    return engine.request(window.request_id, prompt, parameters, window.adapter, window.priority)


RESUMABLE = Way("resumable", _resumable_engine, _resumable_request, False)
DRAFTED = Way("drafted", _drafted_engine, _drafted_request, True)
