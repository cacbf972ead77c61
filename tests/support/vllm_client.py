"""A vLLM client without an engine: greedy over a table, with vLLM's outputs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from dear_serving.inside_vllm.answer_path import answer_path

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


@dataclass
class Client:
    """AsyncLLM as far as windows use it.

    Resumable requests go through all choices of their window by themselves, as under engine.scheduler, and
    then wait to be ended. ``resumed`` is their model where it differs; ``together`` how many tokens an
    output of theirs holds at most; ``pauses`` what a token takes in seconds, by its number from 0, or any
    token; ``steps`` how many tokens they give before they end without a word (None: all).
    """

    model: Model
    resumed: Model | None = None
    together: int = 1
    pauses: dict[int, float] | float = 0.0
    steps: int | None = None
    calls: list[Call] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    computed: int = 0

    async def generate(
        self, prompt: Any, parameters: Any, request_id: str, *, lora_request: object = None, priority: int = 0
    ) -> AsyncGenerator[Any, None]:
        resumable = not isinstance(prompt, dict)
        first = (await anext(prompt)).prompt if resumable else prompt
        tokens = list(first["prompt_token_ids"])
        assert request_id not in self.running
        self.calls.append(Call(request_id, tokens.copy(), parameters, lora_request, priority, resumable))
        self.running.add(request_id)
        try:
            scheduled_s = time.monotonic()
            outputs = self._window(tokens, parameters) if resumable else self._one(tokens, parameters)
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

    async def _window(self, tokens: list[int], parameters: Any) -> AsyncGenerator[Any, None]:
        from dear_serving.inside_vllm.resumable_scheduler import WINDOW  # imports vLLM

        path = answer_path(*parameters.extra_args[WINDOW])
        choice = next(path)
        assert tokens[len(tokens) - len(choice.append) :] == choice.append
        assert parameters.allowed_token_ids == choice.allowed
        made: list[tuple[int, dict[int, float]]] = []
        steps = 0
        while self.steps is None or steps < self.steps:
            made.append(await self._step(self.resumed or self.model, tokens, choice.allowed))
            steps += 1
            try:
                choice = path.send(made[-1][0])
            except StopIteration:
                yield _output(made)
                await asyncio.Event().wait()  # the caller ends it
            tokens += choice.append
            if len(made) == self.together:
                yield _output(made)
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


def _output(made: Sequence[tuple[int, dict[int, float]]]) -> Any:
    log_probs = [{one: SimpleNamespace(logprob=value) for one, value in table.items()} for _, table in made]
    completion = SimpleNamespace(token_ids=[token for token, _ in made], logprobs=log_probs)
    return SimpleNamespace(outputs=[completion], metrics=None)
