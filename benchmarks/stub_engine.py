"""vLLM's real scheduler over a stub runner: an engine without a model, one step a call."""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vllm.config import (
    CacheConfig,
    LoRAConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from benchmarks.server import ROOT
from benchmarks.stub_runner import StubModel, StubRunner
from dear_serving.inside_vllm.drafts import CONFIG

MODEL = ROOT / "configs" / "demo" / "base"


@dataclass(frozen=True, slots=True)
class Limits:
    """The engine's settings, under vLLM's names; ``ahead`` is async scheduling, ``runner`` 1 or 2.

    ``vocabulary`` replaces the model's number of tokens; ``drafts`` tokens are verified a step at most, by
    ``policy``, the fields of DraftPolicy.
    """

    max_num_seqs: int = 4
    max_num_batched_tokens: int = 64
    max_model_len: int = 512
    num_blocks: int = 64
    block_size: int = 8
    max_loras: int = 2
    prefix_cache: bool = True
    vocabulary: int | None = None
    ahead: bool = False
    runner: int = 1
    drafts: int = 0
    policy: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """Passages to rank: a prompt, and the answer's identifiers."""

    request_id: str
    prompt: Sequence[int]
    identifiers: Sequence[Sequence[int]]
    separator: Sequence[int]
    needed: int
    adapter: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """A free text of ``length`` tokens to write."""

    request_id: str
    prompt: Sequence[int]
    length: int
    adapter: int = 0
    priority: int = 0


@dataclass(slots=True)
class Answer:
    """What came out for a request; ``finish`` is its finish reason, None while it runs.

    ``log_probs`` are those of its first token; ``counts`` what a drafted window tells of its passes.
    """

    tokens: list[int] = field(default_factory=list)
    outputs: int = 0
    log_probs: Any = None
    counts: Any = None
    finish: str | None = None
    ended: bool = False


class Clock(Protocol):
    """Told of each forward pass, with what the scheduler took here, in seconds."""

    def scheduled(self, step: SchedulerOutput, context: int, schedule_s: float, mask_s: float) -> None:
        """A pass begins that reads ``context`` cached tokens; its masks are made meanwhile."""

    def processed(self, update_s: float) -> None:
        """The earliest pass that has begun has ended, and the scheduler has its tokens."""


class NoClock:
    """Counts nothing."""

    def scheduled(self, step: SchedulerOutput, context: int, schedule_s: float, mask_s: float) -> None:
        """Nothing."""

    def processed(self, update_s: float) -> None:
        """Nothing."""


class StubEngine:
    """EngineCore as far as scheduling goes.

    Args:
        scheduler: the scheduler's class.
        limits: settings.
        model: where logits come from.
        clock: told of each step.

    Attributes:
        answers: what came out so far, by request.
        steps: forward passes so far.
        most_running: the largest number of requests that ran at once.
    """

    def __init__(
        self,
        scheduler: type[Any],
        limits: Limits,
        model: StubModel,
        clock: Clock,
    ) -> None:
        self.limits = limits
        config = _config(limits)
        spec = FullAttentionSpec(
            block_size=limits.block_size, num_kv_heads=1, head_size=1, dtype=config.model_config.dtype
        )
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(limits.block_size, sha256)
        self.scheduler = scheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(limits.num_blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=limits.block_size,
            log_stats=False,
        )
        self.scheduler.use_v2_model_runner = limits.runner == 2  # CPUs have none of their own
        self.runner = StubRunner(
            blocks=limits.num_blocks,
            block_size=limits.block_size,
            slots=limits.max_num_seqs,
            vocabulary=config.model_config.get_vocab_size(),
            version=limits.runner,
            model=model,
        )
        self._depth = 2 if limits.ahead else 1
        self._queue: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()
        self._aborted: list[str] = []
        self._arrivals = 0.0
        self.answers: dict[str, Answer] = {}
        self._clock = clock
        self.steps = self.most_running = 0

    def add(self, request: Request) -> None:
        """A request arrives."""
        self.answers[request.request_id] = Answer()
        self.scheduler.add_request(request)

    def request(
        self,
        request_id: str,
        prompt: Sequence[int],
        parameters: SamplingParams,
        adapter: int,
        priority: int,
        resumable: bool = False,
    ) -> Request:
        """vLLM's request, arriving after all others so far."""
        self._arrivals += 1.0
        return Request(
            request_id=request_id,
            prompt_token_ids=list(prompt),
            sampling_params=parameters,
            pooling_params=None,
            arrival_time=self._arrivals,
            lora_request=LoRARequest(f"adapter-{adapter}", adapter, "/nowhere") if adapter else None,
            priority=priority,
            block_hasher=self._hasher if self.limits.prefix_cache else None,
            resumable=resumable,
        )

    def text(self, text: Text) -> Request:
        """A request for free text."""
        parameters = SamplingParams(
            temperature=0.0, max_tokens=text.length, ignore_eos=True, output_kind=RequestOutputKind.DELTA
        )
        return self.request(text.request_id, text.prompt, parameters, text.adapter, text.priority)

    def abort(self, request_ids: Iterable[str], *, in_flight: bool) -> None:
        """Requests are cancelled: now, or while the next step's model runs."""
        if in_flight:
            self._aborted += request_ids
        else:
            self._finish(list(request_ids))

    def step(self) -> bool:
        """One call of EngineCore.step, or of step_with_batch_queue; False if there is nothing to do."""
        if not self.scheduler.has_requests() and not self._queue:
            return False
        if not self.scheduler.has_requests():
            self._process()
            return True
        started_s = time.perf_counter()
        scheduled = self.scheduler.schedule()
        schedule_s = time.perf_counter() - started_s
        tokens = scheduled.total_num_scheduled_tokens
        self.steps += tokens > 0
        self.most_running = max(self.most_running, len(self.scheduler.running))
        assert not scheduled.pending_structured_output_tokens, "a grammar needs synchronous scheduling"
        started_s = time.perf_counter()
        grammar = self.scheduler.get_grammar_bitmask(scheduled)
        mask_s = time.perf_counter() - started_s
        self._queue.append((scheduled, self.runner.execute(scheduled, grammar)))
        self._clock.scheduled(scheduled, self.runner.context, schedule_s, mask_s)
        if len(self._queue) == self._depth or not (tokens or self.scheduler.has_requests()):
            self._process()
        return True

    def _process(self) -> None:
        scheduled, output = self._queue.popleft()
        started_s = time.perf_counter()
        self._finish(self._aborted)
        self._aborted = []
        for of_client in self.scheduler.update_from_output(scheduled, output).values():
            for one in of_client.outputs:
                self._take(one)
        if self._depth == 1 and scheduled.total_num_scheduled_tokens and self.scheduler.num_spec_tokens:
            ids = list(output.req_ids)
            self.scheduler.update_draft_token_ids(DraftTokenIds(ids, [[] for _ in ids]))
        self._clock.processed(time.perf_counter() - started_s)

    def _take(self, output: Any) -> None:
        answer = self.answers[output.request_id]
        assert not answer.ended, output.request_id
        answer.tokens += output.new_token_ids
        answer.outputs += 1
        if answer.log_probs is None:
            answer.log_probs = output.new_logprobs
        answer.counts = output.kv_transfer_params or answer.counts
        if output.finish_reason is not None:
            answer.finish = str(output.finish_reason)
            answer.ended = output.request_id not in self.scheduler.requests

    def _finish(self, request_ids: Sequence[str]) -> None:
        for request in self.scheduler.finish_requests(list(request_ids), RequestStatus.FINISHED_ABORTED):
            answer = self.answers[request.request_id]
            answer.finish, answer.ended = "abort", True

    def free_blocks(self) -> int:
        """Blocks of the cache that no request holds; vLLM keeps one to itself."""
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())


@functools.cache
def _config(limits: Limits) -> VllmConfig:
    logging.getLogger("vllm").setLevel(logging.ERROR)  # which tells of each setting
    model = ModelConfig(
        model=str(MODEL),
        tokenizer=str(MODEL),
        dtype="float32",
        max_model_len=limits.max_model_len,
        max_logprobs=128,
    )
    if limits.vocabulary is not None:
        model.model_arch_config.vocab_size = limits.vocabulary
    scheduling = SchedulerConfig(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_model_len=limits.max_model_len,
        enable_chunked_prefill=True,
        policy="priority",
        is_encoder_decoder=False,
        async_scheduling=False,
    )
    config = VllmConfig(
        model_config=model,
        scheduler_config=scheduling,
        cache_config=CacheConfig(block_size=limits.block_size, enable_prefix_caching=limits.prefix_cache),
        lora_config=LoRAConfig(max_loras=limits.max_loras, max_cpu_loras=8, lora_dtype="auto"),
        speculative_config=_drafts(limits, model) if limits.drafts else None,
        additional_config={CONFIG: dict(limits.policy)},
    )
    config.cache_config.num_gpu_blocks = limits.num_blocks
    scheduling.async_scheduling = limits.ahead  # which the CPU platform turns off
    return config


def _drafts(limits: Limits, model: ModelConfig) -> SpeculativeConfig:
    return SpeculativeConfig(
        method="custom_class",
        model="dear_serving.inside_vllm.drafted_scheduler.NoDrafts",
        num_speculative_tokens=limits.drafts,
        target_model_config=model,
        target_parallel_config=ParallelConfig(),
    )
