"""A vLLM client without an engine: greedy over a table, with vLLM's outputs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from dear_serving.inside_vllm.answer import WINDOW, Answer

Model = Callable[[Sequence[int]], Callable[[int], float]]
"""All tokens so far -> the natural log of each next token's probability."""


def always(log_probs: dict[int, float]) -> Model:
    """The same log probabilities after any text; -50 for tokens not named."""
    return lambda tokens: lambda token: log_probs.get(token, -50.0)


@dataclass(frozen=True)
class Call:
    """One request to the client; ``tokens`` are those of its first prompt."""

    request_id: str
    tokens: list[int]
    parameters: Any
    lora: object
    priority: int
    resumable: bool
    trace_headers: object


@dataclass
class Client:
    """AsyncLLM as far as windows use it.

    Requests for whole windows go through all choices by themselves, as under our schedulers; resumable ones
    then wait to be ended. ``whole`` is their model where it differs; ``together`` how many choices an output
    of theirs holds at most; ``pauses`` what a choice takes in seconds, by its number from 0, or any choice;
    ``steps`` how many choices they give before they end without a word (None: all).
    """

    model: Model
    whole: Model | None = None
    together: int = 1
    pauses: dict[int, float] | float = 0.0
    steps: int | None = None
    calls: list[Call] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    computed: int = 0
    errored: bool = False
    vllm_config: Any = None

    async def generate(
        self,
        prompt: Any,
        parameters: Any,
        request_id: str,
        *,
        lora_request: object = None,
        priority: int = 0,
        trace_headers: object = None,
    ) -> AsyncGenerator[Any, None]:
        resumable = not isinstance(prompt, dict)
        first = (await anext(prompt)).prompt if resumable else prompt
        tokens = list(first["prompt_token_ids"])
        assert request_id not in self.running
        self.calls.append(
            Call(request_id, tokens.copy(), parameters, lora_request, priority, resumable, trace_headers)
        )
        self.running.add(request_id)
        try:
            scheduled_s = time.monotonic()
            if resumable:
                outputs = self._resumable(tokens, parameters)
            elif parameters.extra_args:
                outputs = self._drafted(tokens, parameters)
            else:
                outputs = self._one(tokens, parameters)
            async with aclosing(outputs):
                async for output in outputs:
                    output.metrics = SimpleNamespace(scheduled_ts=scheduled_s)
                    yield output
        finally:
            self.running.remove(request_id)
            if resumable:
                await prompt.aclose()

    async def _one(self, tokens: list[int], parameters: Any) -> AsyncGenerator[Any, None]:
        assert parameters.max_tokens == 1
        if self.steps != 0:
            yield _output([await self._step(self.model, tokens, parameters.allowed_token_ids)])

    async def _resumable(self, tokens: list[int], parameters: Any) -> AsyncGenerator[Any, None]:
        answer = _begun(parameters.extra_args[WINDOW])
        assert parameters.allowed_token_ids == answer.allowed()
        made: list[tuple[int, dict[int, float]]] = []
        while self.steps is None or answer.chosen < self.steps:
            made.append(await self._step(self.whole or self.model, tokens, answer.allowed()))
            token, _ = made[-1]
            assert answer.advance(token)
            tokens += [token, *answer.forced_tokens()]
            if answer.done:
                yield _output(made)
                await asyncio.Event().wait()  # the caller ends it
            if len(made) == self.together:
                yield _output(made)
                made = []

    async def _drafted(self, tokens: list[int], parameters: Any) -> AsyncGenerator[Any, None]:
        """A pass a choice; the forced tokens before it come with it."""
        answer = _begun(parameters.extra_args[WINDOW])
        assert parameters.logprobs == len(answer.allowed())
        made: list[tuple[int, dict[int, float]]] = []
        passes = given = drafted = 0
        model = self.whole if self.whole and parameters.max_tokens != 1 else self.model
        while (
            not answer.done and given < parameters.max_tokens and (self.steps is None or passes < self.steps)
        ):
            forced = answer.forced_tokens()
            made += [(token, {}) for token in forced]
            drafted += len(forced)
            tokens += forced
            made.append(await self._step(model, tokens, answer.allowed()))
            assert answer.advance(made[-1][0])
            tokens.append(made[-1][0])
            passes += 1
            given += len(forced) + 1
            if answer.done or given >= parameters.max_tokens or passes % self.together == 0:
                output = _output(made)
                output.kv_transfer_params = {WINDOW: [passes, drafted, drafted]}
                yield output
                made = []

    async def _step(
        self, model: Model, tokens: list[int], allowed: list[int]
    ) -> tuple[int, dict[int, float]]:
        pauses = self.pauses
        await asyncio.sleep(pauses.get(self.computed, 0) if isinstance(pauses, dict) else pauses)
        self.computed += 1
        log_prob = model(tokens)
        log_probs = {token: log_prob(token) for token in allowed}
        return max(log_probs, key=log_probs.__getitem__), log_probs


def _begun(arguments: Any) -> Answer:
    answer = Answer(*arguments)
    answer.forced_tokens()
    return answer


def _output(made: Sequence[tuple[int, dict[int, float]]]) -> Any:
    log_probs = [{one: SimpleNamespace(logprob=value) for one, value in table.items()} for _, table in made]
    completion = SimpleNamespace(
        token_ids=[token for token, _ in made], logprobs=log_probs, finish_reason=None
    )
    return SimpleNamespace(outputs=[completion], metrics=None)
