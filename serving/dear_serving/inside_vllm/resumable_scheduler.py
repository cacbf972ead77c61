"""vLLM's scheduler, extended so that windows continue from one choice to the next without the caller.

vLLM has resumable requests: the prompt grows chunk by chunk while the KV cache stays. Normally each chunk
comes from the caller, with a round trip through two processes. Here the scheduler appends the tokens after a
choice itself, so that a whole window is one request for the caller.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus, StreamingUpdate

from dear_serving.inside_vllm.answer import Answer

WINDOW = "dear_window"
"""Key in SamplingParams.extra_args that makes a resumable request a window; see ``window_arguments``."""


def window_arguments(
    identifiers: Sequence[Sequence[int]], separator: Sequence[int], needed: int
) -> dict[str, Any]:
    """The extra_args of a window's first chunk, as plain lists, which vLLM's message format needs."""
    return {WINDOW: [[list(tokens) for tokens in identifiers], list(separator), needed]}


class _WindowScheduler(Scheduler):  # type: ignore[misc]  # vllm is not typed here
    def _handle_stopped_request(self, request: Request) -> bool:
        """Called when a chunk's token was sampled: queues the window's next chunk, then does as vLLM."""
        parameters = request.sampling_params
        if (
            request.resumable
            and request.status == RequestStatus.FINISHED_LENGTH_CAPPED
            and parameters is not None
            and WINDOW in (parameters.extra_args or {})
        ):
            update = _next_chunk(request)
            if update is None:
                return True  # all decided: free its memory at once, before the caller reads the answer
            request.streaming_queue.append(update)
        return bool(super()._handle_stopped_request(request))


class WindowScheduler(_WindowScheduler):
    """For engines that schedule a step after the tokens of the step before are known."""


class AsyncWindowScheduler(_WindowScheduler, AsyncScheduler):  # type: ignore[misc]
    """For engines that schedule ahead, vLLM's default on GPUs."""


def _next_chunk(request: Request) -> StreamingUpdate | None:
    parameters = request.sampling_params
    answer: Answer | None = getattr(request, "dear_answer", None)
    first = answer is None
    if answer is None:
        answer = request.dear_answer = Answer(*parameters.extra_args[WINDOW])
        answer.forced_tokens()
    token = request.output_token_ids[-1]
    answer.advance(token)
    append = [token, *answer.forced_tokens()]
    if answer.done:
        return None
    following = copy.copy(parameters)
    following.allowed_token_ids = answer.allowed()
    # vLLM returns a step's log probabilities only if the request asks for some after the step. So the second
    # chunk asks for one, to get those of the first.
    following.logprob_token_ids = following.allowed_token_ids[:1] if first else None
    # All chunks of a window keep its arrival time, and so its place in the queue.
    return StreamingUpdate(None, append, 1, request.arrival_time, following)
