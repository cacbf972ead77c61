"""vLLM's scheduler, extended so that windows continue from one choice to the next without the caller.

After a choice the scheduler appends the tokens up to the next one and goes on: a whole window is one request
for the caller. vLLM's resumable requests do the same with tokens that the caller sends, but wait for them
behind new requests, with their memory kept and their place in the model runner not counted. A window stays
among the running requests instead, and has all that vLLM gives to those: its turn before what waits, a place
that is counted, and preemption if memory is short. The model runner gets its next tokens as those of a
resumable request's next chunk.

Of vLLM 0.29's private parts this leans on ``_update_request_with_output``, which is extended,
``_update_request_as_session``, which makes the next chunk, and ``_pause_state``.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput
from vllm.v1.request import Request, RequestStatus, StreamingUpdate

from dear_serving.inside_vllm.answer import WINDOW, Answer
from dear_serving.inside_vllm.computed_blocks import ComputedBlocks

_log = logging.getLogger(__name__)


class WindowScheduler(ComputedBlocks):
    """For engines that schedule a step after the tokens of the step before are known."""

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """As vLLM's; windows with a new choice go to the model runner with all their tokens."""
        output = super().schedule(throttle_prefills)
        cached = output.scheduled_cached_reqs
        due = [index for index, request_id in enumerate(cached.req_ids) if _unsent(self.requests[request_id])]
        for index in due:
            request = self.requests[cached.req_ids[index]]
            output.scheduled_new_reqs.append(
                replace(
                    NewRequestData.from_request(
                        request,
                        self.kv_cache_manager.get_block_ids(request.request_id),
                        request.prompt_token_ids if self.use_v2_model_runner else None,
                    ),
                    # Before this step; the request counts the step's own tokens already.
                    num_computed_tokens=cached.num_computed_tokens[index],
                )
            )
        if due:
            output.scheduled_cached_reqs = _without(cached, set(due))
        for new in output.scheduled_new_reqs:
            self.requests[new.req_id].dear_unsent = False
        return output

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        """As vLLM's; a window with a choice made goes on to the next, and stays among those that run."""
        new_token_ids, stopped = super()._update_request_with_output(request, new_token_ids, is_stale)
        if stopped and WINDOW in (request.sampling_params.extra_args or {}):
            stopped = not self._goes_on(request)
        return new_token_ids, stopped

    def _goes_on(self, request: Request) -> bool:
        """Whether the window has another choice, which is then its next chunk; if not, it has ended."""
        try:
            update = _next_chunk(request, self.max_model_len)
        except Exception as error:  # it would end the engine, and with it everybody's requests
            _log.error("window %s ends with an error: %r", request.request_id, error)
            request.status, request.resumable = RequestStatus.FINISHED_ERROR, False
            return False
        if update is None:
            # Not resumable: its memory is free at once, before the caller reads the answer.
            request.status, request.resumable = RequestStatus.FINISHED_STOPPED, False
            return False
        self._update_request_as_session(request, update)
        request.status = RequestStatus.RUNNING
        request.dear_unsent = True
        return True


class AsyncWindowScheduler(WindowScheduler, AsyncScheduler):  # type: ignore[misc]
    """For engines that schedule ahead, vLLM's default on GPUs."""

    _pause_state: PauseState  # vLLM's; its setter logs a line

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """As a WindowScheduler's; an empty step while a window's choice is being made.

        What follows a choice is not known before, so a window cannot be in the next step. If others were,
        windows would part into two halves that take turns: two passes over the weights for each choice. Also,
        vLLM counts the adapters of a step's requests alone, so that those of the halves could be too many.
        """
        choosing = any(
            request.num_output_placeholders and WINDOW in (request.sampling_params.extra_args or {})
            for request in self.running
        )
        before = self.pause_state
        if choosing:
            self._pause_state = PauseState.PAUSED_ALL
        try:
            return super().schedule(throttle_prefills)
        finally:
            self._pause_state = before


def _unsent(request: Request) -> bool:
    return getattr(request, "dear_unsent", False)


def _without(cached: CachedRequestData, gone: set[int]) -> CachedRequestData:
    """The requests of a step that the model runner knows, but for those at some indices."""
    kept = [index for index in range(len(cached.req_ids)) if index not in gone]
    req_ids = [cached.req_ids[index] for index in kept]
    return CachedRequestData(
        req_ids=req_ids,
        resumed_req_ids=cached.resumed_req_ids.intersection(req_ids),
        new_token_ids=[cached.new_token_ids[index] for index in kept] if cached.new_token_ids else [],
        all_token_ids={one: cached.all_token_ids[one] for one in req_ids if one in cached.all_token_ids},
        new_block_ids=[cached.new_block_ids[index] for index in kept],
        num_computed_tokens=[cached.num_computed_tokens[index] for index in kept],
        num_output_tokens=[cached.num_output_tokens[index] for index in kept],
    )


def _next_chunk(request: Request, max_model_len: int) -> StreamingUpdate | None:
    """The window's tokens up to its next choice; None if all is decided.

    Raises:
        ValueError: the token chosen is not an allowed one, as with NaN logits, or the answer is too long.
    """
    parameters, token = request.sampling_params, request.output_token_ids[-1]
    answer: Answer | None = getattr(request, "dear_answer", None)
    first = answer is None
    if answer is None:
        answer = request.dear_answer = Answer(*parameters.extra_args[WINDOW])
        answer.forced_tokens()
    if not answer.advance(token):
        raise ValueError(f"token {token} is not allowed here")
    append = [token, *answer.forced_tokens()]
    if answer.done:
        return None
    if request.num_computed_tokens + len(append) >= max_model_len:
        raise ValueError(f"the answer does not fit into {max_model_len} tokens")
    following = copy.copy(parameters)
    following.allowed_token_ids = answer.allowed()
    # vLLM returns a step's log probabilities only if the request asks for some after the step. So the second
    # chunk asks for one, to get those of the first.
    following.logprob_token_ids = following.allowed_token_ids[:1] if first else None
    # All chunks of a window keep its arrival time, and so its place in the queue.
    return StreamingUpdate(None, append, 1, request.arrival_time, following)
