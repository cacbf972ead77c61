"""Permutation decoding: the model chooses identifiers; the separators are appended without generation.

A listwise answer looks like ``[4] > [1] > [0]``. Only the identifiers carry a decision, so only they are
sampled, each from the identifiers not ranked yet. This takes one forward pass per ranked passage instead of
four, always gives a valid permutation, and stops when enough passages are ranked. The last identifier left
is implied.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING

from dear_serving.errors import EngineUnavailable
from dear_serving.inside_vllm.answer_path import AnswerPath, TokenChoice, answer_path
from dear_serving.protocol import DecodedWindow, PermutationRequest
from dear_serving.replica.kv_admission import KvAdmission
from dear_serving.types import Order, Usage

if TYPE_CHECKING:
    from vllm.engine.protocol import StreamingInput
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

Outputs = AsyncGenerator["RequestOutput", None]
Steps = Callable[["AsyncLLM", PermutationRequest, "LoRARequest | None"], Outputs]
"""Decodes one window: yields one or more chosen tokens per item; the first item has the log probabilities of
all tokens allowed at the first choice. Closing it aborts its work in the engine."""


async def window_steps(client: AsyncLLM, request: PermutationRequest, lora: LoRARequest | None) -> Outputs:
    """The window as one resumable request; inside_vllm.resumable_scheduler appends tokens after a choice."""
    from vllm.engine.protocol import StreamingInput
    from vllm.inputs import tokens_input

    from dear_serving.inside_vllm.resumable_scheduler import window_arguments

    choice = next(answer_path(request.identifiers, request.separator, request.needed))
    parameters = _parameters(choice)
    parameters.extra_args = window_arguments(request.identifiers, request.separator, request.needed)
    never = asyncio.Event()

    async def chunks() -> AsyncGenerator[StreamingInput, None]:
        tokens = [*request.token_ids, *choice.append]
        yield StreamingInput(tokens_input(tokens, cache_salt=request.cache_salt), parameters)
        await never.wait()  # returning would end the request

    outputs = client.generate(
        chunks(), parameters, request.request_id, lora_request=lora, priority=request.priority
    )
    async with contextlib.aclosing(outputs):
        async for output in outputs:
            yield output


async def ordinary_steps(client: AsyncLLM, request: PermutationRequest, lora: LoRARequest | None) -> Outputs:
    """Every choice as an ordinary request that uses the prefix cache: several times slower."""
    from vllm.inputs import tokens_input

    path = answer_path(request.identifiers, request.separator, max(1, request.needed))
    tokens, number = list(request.token_ids), 0
    with contextlib.suppress(StopIteration):
        choice = next(path)
        while True:
            tokens += choice.append
            outputs = client.generate(
                tokens_input(tokens.copy(), cache_salt=request.cache_salt),
                _parameters(choice),
                f"{request.request_id}-{number}",
                lora_request=lora,
                priority=request.priority,
            )
            async with contextlib.aclosing(outputs):
                output = await anext(outputs, None)
            if output is None:
                return
            yield output
            number += 1
            choice = path.send(output.outputs[0].token_ids[-1])


class Decoder:
    """Ranks windows on one vLLM engine.

    Args:
        client: the engine.
        admission: bounds the windows in the engine.
        steps: ``window_steps``, or ``ordinary_steps`` if the engine fails the self-check.
    """

    def __init__(self, client: AsyncLLM, admission: KvAdmission, steps: Steps = window_steps) -> None:
        self._client = client
        self._admission = admission
        self.steps = steps

    async def decode(
        self, request: PermutationRequest, lora: LoRARequest | None, *, every_rank: bool = False
    ) -> AsyncGenerator[DecodedWindow, None]:
        """Yield the result of Engine.permute or, with ``every_rank``, the items of Engine.permute_stream.

        Closing the iterator aborts the window in the engine.
        """
        arrived_s = time.monotonic()
        ends_s = math.inf if request.deadline_s is None else arrived_s + request.deadline_s
        path = answer_path(request.identifiers, request.separator, max(1, request.needed))
        depth = next(path).depth
        steps = self.steps if request.needed else ordinary_steps
        log_probs: tuple[float, ...] = ()
        scheduled_s = arrived_s
        decided: Order = ()
        passes, complete = 0, False
        async with (
            self._admission.hold(request.tokens, request.priority),
            contextlib.aclosing(steps(self._client, request, lora)) as outputs,
        ):
            async for output in outputs:
                completion = output.outputs[0]
                if not passes:
                    first = completion.logprobs[0]
                    log_probs = tuple(first[tokens[depth]].logprob for tokens in request.identifiers)
                    scheduled_s = output.metrics.scheduled_ts
                passes += len(completion.token_ids)
                before = len(decided)
                decided, complete = _follow(path, completion.token_ids)
                now_s = time.monotonic()
                last = complete or not request.needed or now_s >= ends_s
                if last or (every_rank and len(decided) > before):
                    yield _window(request, decided, log_probs, passes, arrived_s, scheduled_s, now_s)
                if last:
                    return
        raise EngineUnavailable("the engine gave no answer")


def _window(
    request: PermutationRequest,
    decided: Order,
    log_probs: tuple[float, ...],
    passes: int,
    arrived_s: float,
    scheduled_s: float,
    now_s: float,
) -> DecodedWindow:
    decided = decided[: request.needed] if request.needed < len(decided) else decided
    rest = set(range(len(log_probs))).difference(decided)
    return DecodedWindow(
        order=(*decided, *sorted(rest, key=lambda position: (-log_probs[position], position))),
        decided=len(decided),
        log_probs=log_probs,
        usage=Usage(
            prompt_tokens=len(request.token_ids),
            completion_tokens=passes,
            queue_ms=max(0.0, scheduled_s - arrived_s) * 1e3,
            engine_ms=(now_s - scheduled_s) * 1e3,
        ),
    )


def _follow(path: AnswerPath, tokens: Sequence[int]) -> tuple[tuple[int, ...], bool]:
    """Apply chosen tokens to the path: the positions decided so far, and whether the path is complete."""
    decided: tuple[int, ...] = ()
    for token in tokens:
        try:
            decided = path.send(token).decided
        except StopIteration as done:
            return done.value, True
    return decided, False


def _parameters(choice: TokenChoice) -> SamplingParams:
    """Greedy sampling of one allowed token, with the log probabilities of all allowed ones; no text."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        allowed_token_ids=choice.allowed,
        logprob_token_ids=choice.allowed,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
    )
