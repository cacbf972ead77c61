"""The ways of decoding a window, as the stub engine runs them, and the naive one that they must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.request import Request

from benchmarks.stub_engine import Limits, StubEngine, Text, Window
from benchmarks.stub_runner import StubModel, with_adapter
from dear_serving.inside_vllm.answer_path import TokenChoice, answer_path
from dear_serving.inside_vllm.resumable_scheduler import (
    AsyncWindowScheduler,
    WindowScheduler,
    window_arguments,
)

Order = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """A way of decoding: ``start`` makes its engine, ``request`` a window's request."""

    name: str
    start: Callable[[Limits, StubModel], StubEngine]
    request: Callable[[StubEngine, Window], Request]


@dataclass(frozen=True, slots=True)
class Naive:
    """A window decoded choice by choice: positions ranked, the tokens chosen, and log probabilities asked."""

    order: Order
    chosen: list[int]
    answer: list[int]


def naive(window: Window, model: StubModel) -> Naive:
    """One choice after another, each from the whole history."""
    path = answer_path(window.identifiers, window.separator, window.needed)
    history, chosen = list(window.prompt), []
    try:
        choice: TokenChoice = next(path)
        while True:
            history += choice.append
            chosen.append(_best(model, history, window.adapter, choice.allowed))
            choice = path.send(chosen[-1])
    except StopIteration as done:
        return Naive(done.value, chosen, [*history[len(window.prompt) :], *chosen[-1:]])


def naive_text(text: Text, model: StubModel, vocabulary: int) -> list[int]:
    """Greedy, token by token."""
    history = list(text.prompt)
    for _ in range(text.length):
        history.append(_best(model, history, text.adapter, range(vocabulary)))
    return history[len(text.prompt) :]


def _best(model: StubModel, history: list[int], adapter: int, allowed: Sequence[int]) -> int:
    tokens = with_adapter(list(allowed), 0)
    return int(tokens[model.logits(with_adapter(history, adapter), tokens).argmax()])


def _resumable_engine(limits: Limits, model: StubModel) -> StubEngine:
    return StubEngine(AsyncWindowScheduler if limits.ahead else WindowScheduler, limits, model)


def _resumable_request(engine: StubEngine, window: Window) -> Request:
    choice = next(answer_path(window.identifiers, window.separator, window.needed))
    parameters = SamplingParams(
        temperature=0.0,
        max_tokens=1,
        allowed_token_ids=choice.allowed,
        logprob_token_ids=choice.allowed,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
        extra_args=window_arguments(window.identifiers, window.separator, window.needed),
    )
    prompt = [*window.prompt, *choice.append]
    return engine.request(window.request_id, prompt, parameters, window.adapter, window.priority, True)


RESUMABLE = Way("resumable", _resumable_engine, _resumable_request)
