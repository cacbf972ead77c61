"""Permutation decoding: the model chooses identifiers; everything else in a ranking is forced.

A listwise answer looks like ``[4] > [1] > [0]``. Only the identifiers carry a decision, each among those not
ranked yet. So the answer is always a valid permutation, and it stops when enough passages are ranked. There
are three ways through it, all with the same result (see ``Decoding``).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dear_serving.errors import EngineUnavailable
from dear_serving.inside_vllm.answer import Answer, window_arguments
from dear_serving.protocol import DecodedWindow, PermutationRequest
from dear_serving.replica.kv_admission import KvAdmission
from dear_serving.types import Decoding, Usage

if TYPE_CHECKING:
    from vllm.engine.protocol import StreamingInput
    from vllm.logprobs import Logprob
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM


@dataclass(frozen=True, slots=True)
class Step:
    """News of a window: vLLM's output, and its forward passes and drafts so far."""

    output: RequestOutput
    passes: int
    drafted: int = 0
    accepted: int = 0


_MOST_STALLED = 3

Steps = Callable[["AsyncLLM", PermutationRequest, "LoRARequest | None", Answer], AsyncGenerator[Step, None]]
"""Decodes a window whose prompt goes up to the first choice, and advances its Answer, which stands there. The
first output has the log probabilities of all tokens allowed there. Closing it aborts the engine's work."""


async def drafted_steps(
    client: AsyncLLM, request: PermutationRequest, lora: LoRARequest | None, answer: Answer
) -> AsyncGenerator[Step, None]:
    """The window as one ordinary request with drafts; see inside_vllm.drafted_scheduler."""
    from dear_serving.inside_vllm.drafted_scheduler import step_counts

    arguments = window_arguments(request.identifiers, request.separator, max(1, request.needed))
    parameters = _greedy(
        max_tokens=request.tokens - len(request.token_ids) if request.needed else 1,
        logprobs=len(answer.allowed()),
        extra_args=arguments,
    )
    outputs = _generate(client, request, lora, [*request.token_ids], parameters)
    async with contextlib.aclosing(outputs):
        async for output in outputs:
            for token in output.outputs[0].token_ids:
                answer.advance(token)
            yield Step(output, *step_counts(output))


async def resumable_steps(
    client: AsyncLLM, request: PermutationRequest, lora: LoRARequest | None, answer: Answer
) -> AsyncGenerator[Step, None]:
    """The window as one resumable request; see inside_vllm.resumable_scheduler."""
    from vllm.engine.protocol import StreamingInput
    from vllm.inputs import tokens_input

    parameters = _choice(answer)
    parameters.extra_args = window_arguments(request.identifiers, request.separator, request.needed)
    never = asyncio.Event()

    async def chunks() -> AsyncGenerator[StreamingInput, None]:
        yield StreamingInput(tokens_input([*request.token_ids], cache_salt=request.cache_salt), parameters)
        await never.wait()  # returning would end the request

    outputs = client.generate(
        chunks(),
        parameters,
        request.request_id,
        lora_request=lora,
        priority=request.priority,
        trace_headers=request.trace_headers,
    )
    passes = 0
    async with contextlib.aclosing(outputs):
        async for output in outputs:
            for token in output.outputs[0].token_ids:
                answer.advance(token)
                answer.forced_tokens()
                passes += 1
            yield Step(output, passes)


async def ordinary_steps(
    client: AsyncLLM, request: PermutationRequest, lora: LoRARequest | None, answer: Answer
) -> AsyncGenerator[Step, None]:
    """Every choice as an ordinary request that uses the prefix cache: several times slower."""
    async for step in _one_by_one(client, request, lora, answer, _choice):
        yield step


async def masked_steps(
    client: AsyncLLM, request: PermutationRequest, lora: LoRARequest | None, answer: Answer
) -> AsyncGenerator[Step, None]:
    """As ``ordinary_steps``, each request with a grammar of one choice.

    For engines with drafted windows: vLLM dies of log probabilities of chosen tokens beside drafts.
    """

    def parameters(answer: Answer) -> SamplingParams:
        allowed = answer.allowed()
        return _greedy(
            max_tokens=1,
            logprobs=len(allowed),
            extra_args=window_arguments([[token] for token in allowed], [0], 1),
        )

    async for step in _one_by_one(client, request, lora, answer, parameters):
        yield step


async def _one_by_one(
    client: AsyncLLM,
    request: PermutationRequest,
    lora: LoRARequest | None,
    answer: Answer,
    parameters: Callable[[Answer], SamplingParams],
) -> AsyncGenerator[Step, None]:
    tokens, passes = [*request.token_ids], 0
    while not answer.done:
        outputs = _generate(client, request, lora, tokens.copy(), parameters(answer), f"-{passes}")
        async with contextlib.aclosing(outputs):
            output = await anext(outputs, None)
        if output is None:
            return
        passes += 1
        for token in output.outputs[0].token_ids:
            answer.advance(token)
            tokens += [token, *answer.forced_tokens()]
        yield Step(output, passes)


class Decoder:
    """Ranks windows on one vLLM engine.

    Args:
        client: the engine, configured for ``decoding``.
        admission: bounds the requests in the engine.
        decoding: how windows are decoded. After several stalled windows in a row it becomes ``ordinary``.
        stall_s: a window of which nothing is heard for so many seconds is aborted, and ranked again slowly.
        on_stall: called for each such window.

    ``on_done`` is called for each window with the seconds that it waited, until its first step was done, and
    from then to its last.
    """

    def __init__(
        self,
        client: AsyncLLM,
        admission: KvAdmission,
        decoding: Decoding,
        stall_s: float = math.inf,
        on_stall: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._admission = admission
        self._stall_s = stall_s
        self._slow = masked_steps if decoding == "drafted" else ordinary_steps
        self._on_stall = on_stall
        self.on_done: Callable[[float, float, float], None] = lambda queue_s, prefill_s, decode_s: None
        self._stalled = 0
        self.decoding = decoding

    async def decode(
        self, request: PermutationRequest, lora: LoRARequest | None, *, every_rank: bool = False
    ) -> AsyncGenerator[DecodedWindow, None]:
        """Yield the result of Engine.permute or, with ``every_rank``, the items of Engine.permute_stream.

        Closing the iterator aborts the window in the engine.
        """
        arrived_s = time.monotonic()
        ends_s = math.inf if request.deadline_s is None else arrived_s + request.deadline_s
        told = 0
        async with self._admission.hold(request.tokens, request.priority):
            for steps in (self._steps(request), self._slow):
                windows = self._windows(steps, request, lora, arrived_s, ends_s)
                with contextlib.suppress(_Stalled):
                    async with contextlib.aclosing(windows):
                        async for window, is_last in windows:
                            if is_last or (every_rank and window.decided > told):
                                told = window.decided
                                yield window
                            if is_last:
                                self._stalled = 0
                                return
                self._stalled += 1
                if self._stalled >= _MOST_STALLED:
                    self.decoding = "ordinary"
                self._on_stall()
        raise EngineUnavailable("the engine does not answer", failed=True)

    def _steps(self, request: PermutationRequest) -> Steps:
        if self.decoding == "drafted":
            return drafted_steps
        return resumable_steps if self.decoding == "resumable" and request.needed else self._slow

    async def _windows(
        self,
        steps: Steps,
        request: PermutationRequest,
        lora: LoRARequest | None,
        arrived_s: float,
        ends_s: float,
    ) -> AsyncGenerator[tuple[DecodedWindow, bool], None]:
        """The window after each step, and whether it is the last; after the first step it ends in time."""
        answer = Answer(request.identifiers, request.separator, max(1, request.needed))
        opening = answer.forced_tokens()  # what all identifiers begin with
        begun = replace(request, token_ids=[*request.token_ids, *opening])
        first_tokens = [answer.token_of(position) for position in answer.choices]
        log_probs: tuple[float, ...] = ()
        scheduled_s = first_s = arrived_s
        step: Step | None = None
        async with contextlib.aclosing(steps(self._client, begun, lora, answer)) as news:
            while True:
                left_s = ends_s - time.monotonic() if step else math.inf
                try:
                    async with asyncio.timeout(_finite(min(left_s, self._stall_s))):
                        step = await anext(news)
                except StopAsyncIteration:
                    raise EngineUnavailable("the engine gave no answer", failed=True) from None
                except TimeoutError:
                    if step is None or left_s > self._stall_s:
                        raise _Stalled from None
                else:
                    completion = step.output.outputs[0]
                    if completion.finish_reason == "error":
                        raise Undecodable("the engine could not decode the window")
                    if not log_probs:
                        log_probs = _normalised(completion.logprobs[0], first_tokens)
                        scheduled_s = step.output.metrics.scheduled_ts
                        first_s = time.monotonic()
                now_s = time.monotonic()
                is_last = answer.done or not request.needed or now_s >= ends_s
                if is_last:
                    self.on_done(scheduled_s - arrived_s, first_s - scheduled_s, now_s - first_s)
                usage = Usage(
                    prompt_tokens=len(request.token_ids),
                    completion_tokens=answer.chosen,
                    queue_ms=max(0.0, scheduled_s - arrived_s) * 1e3,
                    engine_ms=(now_s - scheduled_s) * 1e3,
                    passes=step.passes,
                    drafted=step.drafted,
                    accepted=step.accepted,
                )
                yield _window(request, answer, log_probs, usage), is_last


class Undecodable(Exception):
    """The model gives no finite probabilities for the window, or tokens that are not allowed."""


class _Stalled(Exception):
    """Nothing was heard of a window for too long."""


def _window(
    request: PermutationRequest, answer: Answer, log_probs: tuple[float, ...], usage: Usage
) -> DecodedWindow:
    decided = answer.decided[: request.needed]
    rest = set(range(len(log_probs))).difference(decided)
    return DecodedWindow(
        order=(*decided, *sorted(rest, key=lambda position: (-log_probs[position], position))),
        decided=len(decided),
        log_probs=log_probs,
        usage=usage,
    )


def _normalised(log_probs: Mapping[int, Logprob], tokens: Sequence[int]) -> tuple[float, ...]:
    """The log probability of each of ``tokens`` among them all; tokens may repeat."""
    raw = {token: log_probs[token].logprob if token in log_probs else math.nan for token in tokens}
    if not all(map(math.isfinite, raw.values())):
        raise Undecodable("the model gives no finite probabilities for the window")
    most = max(raw.values())
    total = most + math.log(sum(math.exp(one - most) for one in raw.values()))
    return tuple(raw[token] - total for token in tokens)


def _finite(seconds: float) -> float | None:
    return None if math.isinf(seconds) else seconds


def _generate(
    client: AsyncLLM,
    request: PermutationRequest,
    lora: LoRARequest | None,
    tokens: list[int],
    parameters: SamplingParams,
    suffix: str = "",
) -> AsyncGenerator[RequestOutput, None]:
    from vllm.inputs import tokens_input

    outputs: AsyncGenerator[RequestOutput, None] = client.generate(
        tokens_input(tokens, cache_salt=request.cache_salt),
        parameters,
        request.request_id + suffix,
        lora_request=lora,
        priority=request.priority,
        trace_headers=request.trace_headers,
    )
    return outputs


def _choice(answer: Answer) -> SamplingParams:
    """One of the tokens allowed now, with the log probabilities of all of them, by vLLM's own means."""
    allowed = answer.allowed()
    return _greedy(max_tokens=1, allowed_token_ids=allowed, logprob_token_ids=allowed)


def _greedy(**options: Any) -> SamplingParams:
    """Greedy sampling without text."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
        **options,
    )
