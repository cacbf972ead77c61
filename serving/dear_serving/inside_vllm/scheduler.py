"""vLLM's scheduler, with windows that go on by themselves from one choice to the next.

vLLM has resumable requests: a request whose prompt grows chunk by chunk while its KV cache stays. Chunks
normally come from the caller, one round trip through two processes each. Here the scheduler itself appends
what follows a choice, so that a whole window is one request from outside.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus, StreamingUpdate

from dear_serving.inside_vllm.answer_path import AnswerPath, answer_path

WINDOW = "dear_window"
"""Key in SamplingParams.extra_args that makes a resumable request a window; see ``window_arguments``."""


def window_arguments(
    identifiers: Sequence[Sequence[int]], separator: Sequence[int], needed: int
) -> dict[str, Any]:
    """The extra_args of a window's first chunk, plain lists as vLLM's message format wants them."""
    return {WINDOW: [[list(tokens) for tokens in identifiers], list(separator), needed]}


class _WindowScheduler(Scheduler):  # type: ignore[misc]  # vllm is not typed here
    def _handle_stopped_request(self, request: Request) -> bool:
        """A chunk's one token was sampled: queue the next chunk, if the window has one, then as vLLM's."""
        parameters = request.sampling_params
        if (
            request.resumable
            and request.status == RequestStatus.FINISHED_LENGTH_CAPPED
            and parameters is not None
            and WINDOW in (parameters.extra_args or {})
        ):
            update = _next_chunk(request)
            if update is None:
                return True  # all decided: its memory is free before the caller has read the answer
            request.streaming_queue.append(update)
        return bool(super()._handle_stopped_request(request))


class WindowScheduler(_WindowScheduler):
    """For engines that schedule a step after the last one's tokens are known."""


class AsyncWindowScheduler(_WindowScheduler, AsyncScheduler):  # type: ignore[misc]
    """For engines that schedule ahead, vLLM's default on GPUs."""


def _next_chunk(request: Request) -> StreamingUpdate | None:
    parameters = request.sampling_params
    path: AnswerPath | None = getattr(request, "dear_walk", None)
    first = path is None
    if path is None:
        path = request.dear_walk = answer_path(*parameters.extra_args[WINDOW])
        next(path)
    try:
        choice = path.send(request.output_token_ids[-1])
    except StopIteration:
        return None
    following = copy.copy(parameters)
    following.allowed_token_ids = choice.allowed
    # vLLM sends out a step's log probabilities only if the request, as it stands after the step, asks for
    # some: the second chunk does, so that the first one's arrive.
    following.logprob_token_ids = choice.allowed[:1] if first else None
    # Its place in the queue is that of the whole window.
    return StreamingUpdate(None, choice.append, 1, request.arrival_time, following)
