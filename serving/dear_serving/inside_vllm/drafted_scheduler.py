"""vLLM's scheduler, extended so that a window is an ordinary request with a grammar and drafts.

The grammar masks all tokens but those of a permutation. The drafts are the tokens that are forced and guesses
of the next identifiers; vLLM's rejection sampler verifies them in one pass. The result is exactly the greedy
one, whatever the guesses. Windows are preempted, aborted and cached as any request.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from vllm.platforms import current_platform
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output.request import StructuredOutputRequest

from dear_serving.inside_vllm import cpu_sampling
from dear_serving.inside_vllm.answer import WINDOW
from dear_serving.inside_vllm.computed_blocks import ComputedBlocks
from dear_serving.inside_vllm.drafts import Acceptance, DraftPolicy
from dear_serving.inside_vllm.permutation_grammar import BadStep, PermutationBackend, PermutationGrammar

logger = logging.getLogger(__name__)


def step_counts(output: Any) -> tuple[int, int, int]:
    """Passes, drafts verified and drafts that held up to this RequestOutput of a window."""
    passes, drafted, accepted = output.kv_transfer_params[WINDOW]
    return passes, drafted, accepted


class NoDrafts:
    """The proposer in vLLM's speculative_config: the worker verifies drafts, and makes none itself."""

    def __init__(self, vllm_config: Any) -> None:
        if current_platform.is_cpu():
            cpu_sampling.mend()  # this runs in the worker

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """There is no model."""

    def propose(self, sampled_token_ids: Sequence[Sequence[int]], *args: Any, **kwargs: Any) -> list[Any]:
        """No drafts, for each request."""
        return [[] for _ in sampled_token_ids]


class DraftedScheduler(ComputedBlocks):
    """For engines that schedule a step after the tokens of the step before are known.

    Nothing here raises because of one window: a window whose arguments or outputs make no sense ends with
    vLLM's finish reason "error".
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        manager = self.structured_output_manager
        self._vocabulary = self.vllm_config.model_config.get_vocab_size()
        # vLLM makes a backend on first use; one that is there already is kept.
        manager.backend = PermutationBackend(self.vllm_config, manager.tokenizer, self._vocabulary)
        self._policy = DraftPolicy.of(self.vllm_config.additional_config)
        self._acceptance = Acceptance()
        if current_platform.is_cpu():
            self._zero_new_blocks()

    def add_request(self, request: Request) -> None:
        """As vLLM's; gives a window its grammar."""
        arguments = ((request.sampling_params and request.sampling_params.extra_args) or {}).get(WINDOW)
        if arguments is not None:
            try:
                grammar = PermutationGrammar.parse(arguments, self._vocabulary)
            except ValueError:
                self._end(request)
            else:
                request.structured_output_request = StructuredOutputRequest(params=None)
                request.structured_output_request.grammar = grammar
        super().add_request(request)

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """As vLLM's, with drafts for the windows whose prompt is done."""
        windows: list[tuple[Request, PermutationGrammar]] = []
        tokens = 0
        for request in self.running:
            grammar = _grammar_of(request)
            if grammar is not None and not request.is_prefill_chunk:
                windows.append((request, grammar))
            else:
                tokens += request.num_tokens - request.num_computed_tokens
        most, policy = self.num_spec_tokens, self._policy
        free = tokens + len(windows) * (most + 1) <= policy.free_tokens and not self.waiting
        least = policy.free_chance if free else policy.paid_chance
        for request, grammar in windows:
            decided = len(grammar.answer.decided)
            guesses = self._acceptance.guesses(_adapter_of(request), decided, least)
            request.spec_token_ids = grammar.draft(most, guesses, fill=free and policy.uniform)
        return super().schedule(throttle_prefills)

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> Any:
        """As vLLM's; windows learn from the step's log probabilities and end with their last identifier."""
        stepped: dict[str, PermutationGrammar] = {}
        for req_id, row in model_runner_output.req_id_to_index.items():
            request = self.requests.get(req_id)
            grammar = None if request is None or request.is_finished() else _grammar_of(request)
            if grammar is None or not model_runner_output.sampled_token_ids:
                continue
            tokens = model_runner_output.sampled_token_ids[row]
            if tokens:
                stepped[req_id] = grammar
                drafts = scheduler_output.scheduled_spec_decode_tokens.get(req_id, ())
                try:
                    self._read_step(request, grammar, tokens, drafts, model_runner_output.logprobs, row)
                except BadStep as error:
                    logger.warning("window %s ends with an error: %s", req_id, error)
                    tokens.clear()
                    self._end(request)
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        for of_client in outputs.values():
            for output in of_client.outputs:
                grammar = stepped.get(output.request_id)
                if grammar is not None:
                    _attach_counts(output, grammar)
        return outputs

    def update_draft_token_ids(self, draft_token_ids: DraftTokenIds) -> None:
        """Nothing: the worker makes no drafts; ``schedule`` does."""

    def _read_step(
        self,
        request: Request,
        grammar: PermutationGrammar,
        tokens: list[int],
        drafts: Sequence[int],
        log_probs: Any,
        row: int,
    ) -> None:
        """Cut ``tokens`` to those of the answer, and let vLLM end the request after its last one."""
        if log_probs is None:
            raise BadStep("the log probabilities are missing")
        step = grammar.read_step(tokens, drafts, log_probs.slice_request(row, len(tokens)))
        del tokens[step.kept :]
        if step.done:
            request.max_tokens = request.num_output_tokens + step.kept
        for guess in step.guesses:
            self._acceptance.learn(_adapter_of(request), guess)

    def _zero_new_blocks(self) -> None:
        """Have the worker zero cache blocks before use, as vLLM does for some models.

        The CPU's attention multiplies what a block held before by zero: a NaN that one adapter left would
        spread to every later request in the block.
        """
        self.needs_kv_cache_zeroing = True
        for manager in self.kv_cache_manager.coordinator.single_type_managers:
            manager._record_new_block_ids = True

    def _end(self, request: Request) -> None:
        """End the request with finish reason "error" at the next output, as for a grammar of no use."""
        self.grammar_compile_error_reqs.add(request.request_id)


def _grammar_of(request: Request) -> PermutationGrammar | None:
    structured = request.structured_output_request
    grammar = structured.grammar if structured is not None else None
    return grammar if isinstance(grammar, PermutationGrammar) else None


def _adapter_of(request: Request) -> int:
    return request.lora_request.lora_int_id if request.lora_request is not None else 0


def _attach_counts(output: Any, grammar: PermutationGrammar) -> None:
    """Put the step counts into the output, in a field that vLLM hands to the caller unread.

    The caller reads the log probabilities of the first step alone; the others would cost it an object each.
    """
    output.kv_transfer_params = {WINDOW: [grammar.passes, grammar.drafted, grammar.accepted]}
    if grammar.passes > 1:
        output.new_logprobs = None
