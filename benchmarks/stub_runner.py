"""A model runner without a model, for vLLM's real schedulers.

Each request's tokens are rebuilt from what the scheduler sends, as vLLM's runners do, and each token is
written into a cache of blocks as keys and values are. A sampled token depends on all tokens that the
request's block table shows: a wrong history, block or adapter gives other tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm.v1.core.sched.output import CachedRequestData, GrammarOutput, NewRequestData, SchedulerOutput
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput

_MIX = np.uint64(0x9E3779B97F4A7C15)
_ADAPTER = 1 << 32
"""A cached token carries its adapter: token + _ADAPTER * adapter."""


@dataclass(frozen=True, slots=True)
class StubModel:
    """Logits as a function of all tokens so far and the adapter.

    ``sticking``, 0 to 1, is the share of a token's logit that stays the same all through an answer.
    """

    sticking: float = 0.0
    scale: float = 6.0

    def logits(self, history: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """A logit for each of the ``tokens`` after ``history``, tokens with their adapter."""
        now = _uniform(history, tokens)
        if not self.sticking:
            return now * self.scale
        return (self.sticking * _uniform(history[:16], tokens) + (1 - self.sticking) * now) * self.scale


def with_adapter(tokens: list[int], adapter: int) -> NDArray[np.int64]:
    """Tokens as the cache holds them; adapter 0 is the base model."""
    return np.array(tokens, np.int64) + _ADAPTER * adapter


def _uniform(history: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers in [0, 1), one a token, by a hash of the history."""
    digest = hashlib.blake2b(history.tobytes(), digest_size=8).digest()
    mixed = (tokens.astype(np.uint64) + np.uint64(1)) * _MIX ^ np.frombuffer(digest, np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(slots=True)
class _State:
    """What a runner keeps of a request."""

    tokens: list[int]
    prompt_length: int
    blocks: list[int]
    computed: int
    parameters: Any
    adapter: int


@dataclass(slots=True)
class _Row:
    """What a request sampled in a step: its tokens, and the log probabilities at each."""

    tokens: list[int] = field(default_factory=list)
    log_probs: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = field(default_factory=list)


class StubRunner:
    """Answers what a scheduler schedules.

    Args:
        blocks: blocks in the cache.
        block_size: tokens in a block.
        slots: max_num_seqs. Version 2 has no more room for requests that are neither finished nor preempted.
        vocabulary: number of tokens.
        version: 1 or 2, the model runner of vLLM to behave as.
        model: where the logits come from.

    Attributes:
        broken: requests whose logits are wrong after so many sampled tokens; they get token 0.
        nan: whether logits are NaN there; then they get the first token that is allowed.
        most: the largest number of slots taken so far, in version 2.
        context: cached tokens that the last step read.
    """

    def __init__(
        self, *, blocks: int, block_size: int, slots: int, vocabulary: int, version: int, model: StubModel
    ) -> None:
        self._cache = np.full((blocks, block_size), -1, np.int64)
        self._block_size = block_size
        self._slots = slots
        self._all = np.arange(vocabulary)
        self._version = version
        self._model = model
        self._states: dict[str, _State] = {}
        self.broken: dict[str, int] = {}
        self.nan = False
        self._sampled: dict[str, int] = {}
        self.most = 0
        self.context = 0

    def execute(self, scheduled: SchedulerOutput, grammar: GrammarOutput | None) -> ModelRunnerOutput:
        """One step: take in what is new, compute all scheduled tokens, sample where a request is complete."""
        self._remove(scheduled)
        for new in scheduled.scheduled_new_reqs:
            self._add(new)
        self._continue(scheduled.scheduled_cached_reqs)
        counts = scheduled.num_scheduled_tokens
        if self._version == 1:  # its batch holds what is scheduled
            assert len(counts) <= self._slots
        masks = self._masks(scheduled, grammar)
        self.context = 0
        rows = {
            request_id: self._forward(
                request_id,
                count,
                scheduled.scheduled_spec_decode_tokens.get(request_id, []),
                masks.get(request_id),
            )
            for request_id, count in counts.items()
        }
        return ModelRunnerOutput(
            req_ids=list(rows),
            req_id_to_index={request_id: index for index, request_id in enumerate(rows)},
            sampled_token_ids=[row.tokens for row in rows.values()],
            logprobs=_log_probs(list(rows.values())),
        )

    def _remove(self, scheduled: SchedulerOutput) -> None:
        gone = set(scheduled.finished_req_ids)
        if self._version == 2:
            gone |= scheduled.preempted_req_ids
        for request_id in gone:
            self._states.pop(request_id, None)

    def _add(self, new: NewRequestData) -> None:
        self._states.pop(new.req_id, None)  # the next chunk of a request that is known
        if self._version == 2:
            assert len(self._states) < self._slots, "No free indices"
        tokens = new.prompt_token_ids if self._version == 1 else new.prefill_token_ids
        self._states[new.req_id] = _State(
            tokens=list(tokens),
            prompt_length=len(new.prompt_token_ids),
            blocks=list(new.block_ids[0]),
            computed=new.num_computed_tokens,
            parameters=new.sampling_params,
            adapter=new.lora_request.lora_int_id if new.lora_request else 0,
        )
        if self._version == 2:
            self.most = max(self.most, len(self._states))

    def _continue(self, cached: CachedRequestData) -> None:
        for index, request_id in enumerate(cached.req_ids):
            state = self._states[request_id]
            state.computed = cached.num_computed_tokens[index]
            blocks = cached.new_block_ids[index]
            if request_id in cached.resumed_req_ids:
                assert self._version == 1
                state.blocks = list(blocks[0])
            elif blocks is not None:
                state.blocks += blocks[0]
            if self._version == 1:
                del state.tokens[state.prompt_length + cached.num_output_tokens[index] :]

    def _masks(
        self, scheduled: SchedulerOutput, grammar: GrammarOutput | None
    ) -> dict[str, list[NDArray[np.int64]]]:
        """The tokens allowed in each row of a request with a grammar: one row a draft, and one more."""
        if grammar is None:
            return {}
        masks, at = {}, 0
        for request_id in grammar.structured_output_request_ids:
            end = at + 1 + len(scheduled.scheduled_spec_decode_tokens.get(request_id, ()))
            masks[request_id] = [self._tokens_of(row) for row in grammar.grammar_bitmask[at:end]]
            at = end
        assert at == len(grammar.grammar_bitmask)
        return masks

    def _tokens_of(self, row: NDArray[np.int32]) -> NDArray[np.int64]:
        """The bits that are set."""
        words = np.flatnonzero(row)
        bits = np.unpackbits(row[words].view(np.uint8), bitorder="little").reshape(-1, 32)
        at, bit = np.nonzero(bits)
        tokens = words[at] * 32 + bit
        return tokens[tokens < len(self._all)]

    def _forward(
        self, request_id: str, count: int, drafts: list[int], masks: list[NDArray[np.int64]] | None
    ) -> _Row:
        state = self._states[request_id]
        known, first = len(state.tokens), state.computed
        self.context += first + count
        inputs = (state.tokens + drafts)[first : first + count]
        assert len(inputs) == count, f"{request_id}: {count} tokens from {first} on, of {known}"
        positions = np.arange(first, first + count)
        blocks = np.array(state.blocks)
        self._cache[blocks[positions // self._block_size], positions % self._block_size] = with_adapter(
            inputs, state.adapter
        )
        seen = self._cache[blocks].reshape(-1)
        assert np.array_equal(seen[:first], with_adapter(state.tokens[:first], state.adapter)), (
            f"{request_id}: the cache holds other tokens than the {first} that count as computed"
        )
        row = _Row()
        if first + count < known:
            return row  # a part of a prompt
        for place, draft in enumerate([*drafts, None]):
            allowed = self._all if masks is None else masks[place]
            token = self._sample(request_id, state, seen[: known + place], allowed, row)
            if token != draft:
                break
        state.tokens += row.tokens
        return row

    def _sample(
        self,
        request_id: str,
        state: _State,
        history: NDArray[np.int64],
        allowed: NDArray[np.int64],
        row: _Row,
    ) -> int:
        """Greedy, as the sampler and the rejection sampler are at temperature 0."""
        if state.parameters.allowed_token_ids:
            allowed = np.array(state.parameters.allowed_token_ids)
        logits = self._model.logits(history, allowed)
        best = int(allowed[logits.argmax()])
        number = self._sampled[request_id] = self._sampled.get(request_id, 0) + 1
        if number > self.broken.get(request_id, number):
            best = int(allowed[0]) if self.nan else 0
            logits = logits * np.nan if self.nan else logits
        row.tokens.append(best)
        if state.parameters.num_logprobs is not None:
            row.log_probs.append(_best_log_probs(state.parameters, allowed, logits, best))
        return best


def _best_log_probs(
    parameters: Any, allowed: NDArray[np.int64], logits: NDArray[np.float64], sampled: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The sampled token and the asked ones, over what is allowed."""
    log_probs = logits - logits.max()
    log_probs -= np.log(np.exp(log_probs).sum())
    order = np.argsort(-log_probs)[: parameters.num_logprobs]
    if parameters.logprob_token_ids:
        order = np.array([int(np.flatnonzero(allowed == token)[0]) for token in parameters.logprob_token_ids])
    tokens = np.concatenate(([sampled], allowed[order]))
    return tokens, np.concatenate((log_probs[allowed == sampled][:1], log_probs[order]))


def _log_probs(rows: list[_Row]) -> LogprobsLists | None:
    """Those of a batch, [sampled tokens, as many as the widest has]; None if nobody asks for any."""
    width = max((len(tokens) for row in rows for tokens, _ in row.log_probs), default=0)
    if not width:
        return None
    total = sum(len(row.tokens) for row in rows)
    ids, values = np.zeros((total, width), np.int64), np.full((total, width), -np.inf)
    ends, at = [0], 0
    for row in rows:
        for place, (tokens, log_probs) in enumerate(row.log_probs):
            ids[at + place, : len(tokens)] = tokens
            values[at + place, : len(log_probs)] = log_probs
        at += len(row.tokens)
        ends.append(at)
    return LogprobsLists(ids, values, np.zeros(total, np.int64), ends)
