"""The vLLM replica: Ray Serve LLM's server, extended for reranking."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cachetools import TTLCache
from ray import serve
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig
from ray.llm._internal.serve.core.protocol import RawRequestInfo
from ray.serve.llm import LLMConfig, LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

from dear_serving import logs, tracing
from dear_serving.adapters.configured import open_registry
from dear_serving.adapters.heartbeats import Heartbeats
from dear_serving.adapters.hub_tokens import VARIABLES, HubTokens
from dear_serving.adapters.revisions import Adapters
from dear_serving.adapters.store import Store
from dear_serving.autoscaling import BACKLOG
from dear_serving.errors import (
    AdapterNotLoadable,
    EngineUnavailable,
    RequestError,
)
from dear_serving.loopback import keep_on_loopback
from dear_serving.metrics import EngineMetrics, render
from dear_serving.metrics_export import MetricsExport
from dear_serving.nodes import is_elsewhere
from dear_serving.protocol import (
    HELD,
    DecodedWindow,
    Generation,
    GenerationRequest,
    OpenAIRequest,
    PermutationRequest,
    PromptScores,
    ScoreRequest,
)
from dear_serving.replica.adapter_slots import AdapterSlots
from dear_serving.replica.adapter_sync import AdapterSync
from dear_serving.replica.core_watch import leave_with_core
from dear_serving.replica.kv_admission import KvAdmission
from dear_serving.replica.prompt_scores import label_window, log_odds, scored
from dear_serving.replica.self_check import check_burst, small_window
from dear_serving.replica.start_deadline import start_deadline
from dear_serving.replica.vllm_openai import from_vllm, vllm_errors, vllm_request
from dear_serving.replica.window_decoder import Decoder, Undecodable
from dear_serving.settings import (
    AdaptersSettings,
    EngineSettings,
    LoggingSettings,
    RegistrySettings,
    TracingSettings,
    check_shared,
)
from dear_serving.types import Decoding, Usage

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

logger = logging.getLogger(__name__)

_Request = GenerationRequest | PermutationRequest | ScoreRequest | OpenAIRequest

_COUNTED = ("prompt_tokens", "completion_tokens")
_RESTART_S = 10.0
_NOT_HELD_S = 1.0
_MOST_GATEWAYS, _BACKLOG_S = 4096, 5.0  # what a gateway said is forgotten after
_SELF_CHECK_SHARE = 0.25  # of engine.start_timeout_s, for each of two checks


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A call that is answered: its span, and what is logged of it."""

    span: tracing.NoSpan
    facts: dict[str, Any]


class RerankServer(LLMServer):  # type: ignore[misc]  # ray ships no types for it
    """One vLLM engine with the revisions that the registry wants on engines.

    Implements protocol.Engine on the replica's side (called by gateway.engine_client) and
    adapter_sync.AdapterLoader. It is ready when each wanted revision is loaded or has failed.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self,
        llm_config: LLMConfig,
        *,
        registry: RegistrySettings,
        adapters: AdaptersSettings,
        engine: EngineSettings,
        hub_tokens: HubTokens,
        home: str | None,
        logging_settings: LoggingSettings,
        tracing_settings: TracingSettings,
    ) -> None:
        """Start the engine and load the adapters that the registry wants."""
        check_shared(registry, adapters, is_elsewhere=is_elsewhere(home))
        keep_on_loopback()
        hub_tokens.use()
        keep_tokens_out_of_runtime_envs()
        logs.configure(logging_settings, "engine")
        logging.getLogger("ray.serve").addFilter(logs.keep_texts_out)
        self._tracer = tracing.tracer(tracing_settings, "engine")
        async with start_deadline(engine.start_timeout_s):
            await self._start(llm_config, registry, adapters, engine)

    async def _start(
        self,
        llm_config: LLMConfig,
        registry: RegistrySettings,
        adapters: AdaptersSettings,
        settings: EngineSettings,
    ) -> None:
        await super().__init__(llm_config)
        self._in_use: Counter[str] = Counter()
        self._backlogs: TTLCache[str, int] = TTLCache(_MOST_GATEWAYS, _BACKLOG_S)
        self._metrics = EngineMetrics()
        lora = self._client().vllm_config.lora_config
        self._slots = AdapterSlots(lora.max_loras if lora else 1)
        self._admission = await self._kv_admission()
        self._stall_s = settings.stall_timeout_s
        self._self_check_s = settings.start_timeout_s * _SELF_CHECK_SHARE
        self._use(settings.decoding)
        await self._check_decoder([None])
        if self._client().errored:
            await self._start_without_windows(llm_config)
        if adapters.capacity:
            sync = await self._adapter_sync(registry, adapters)
            self._metrics.watch(sync.outcomes)
            await sync.start()
            if held := sync.held():
                await self._check_decoder([None, *held[:2]])
            if self._client().errored:
                await self._start_without_windows(llm_config)
                await sync.start()
            self._sync_task = asyncio.create_task(sync.run())
        logger.info("windows are decoded the %s way", self._decoder.decoding)
        await self._warm_up()
        self._decoder.on_done = partial(self._metrics.took, "window")
        self._export_task = asyncio.create_task(MetricsExport(self._metrics.registry.collect).run())
        # Not before: an engine that dies in its self-check starts again in this process.
        self._core_watch = asyncio.create_task(leave_with_core(self._client, settings.stall_timeout_s))

    async def _start_without_windows(self, llm_config: LLMConfig) -> None:
        """Start vLLM again with its own scheduler, after it died of ours."""
        logger.warning("vLLM died of %s decoding and starts again without it", self._decoder.decoding)
        self._metrics.self_check_failures.inc()
        self._client().shutdown()
        ours = ("scheduler_cls", "speculative_config", "additional_config")
        kwargs = {key: value for key, value in llm_config.engine_kwargs.items() if key not in ours}
        self._llm_config = llm_config.model_copy(update={"engine_kwargs": kwargs})
        self._llm_config._engine_config = None  # made from the arguments, and cached
        await self.start()
        self._use("ordinary")

    def _use(self, decoding: Decoding) -> None:
        self._decoder = Decoder(self._client(), self._admission, decoding, self._stall_s, self._on_stall)
        self._metrics.decoding.state(decoding)

    def _on_stall(self) -> None:
        logger.warning("nothing was heard of a window for %.0f s; it is ranked again slowly", self._stall_s)
        self._metrics.stalled.inc()
        self._metrics.decoding.state(self._decoder.decoding)

    async def _adapter_sync(self, registry: RegistrySettings, settings: AdaptersSettings) -> AdapterSync:
        database = await asyncio.to_thread(open_registry, registry)
        database.observe = self._metrics.storage.registry_took
        return AdapterSync(
            serve.get_replica_context().replica_tag,
            Adapters(database, settings.capacity, cluster=registry.cluster),
            Heartbeats(database, cluster=registry.cluster),
            Store(settings.store, self._metrics.storage.store_took),
            settings.cache,
            self,
            self._metrics.load_failures.inc,
        )

    async def load(self, revision: str, folder: Path) -> None:
        """See AdapterLoader. Ranks a small window as a test: the log probabilities must be finite."""
        try:
            await self.engine.resolve_lora(
                DiskMultiplexConfig(
                    model_id=revision, local_path=str(folder), max_total_tokens=None, lora_assigned_int_id=0
                )
            )
        except ValueError as error:
            if self._client().errored:
                raise died() from None
            raise AdapterNotLoadable(f"vLLM does not load it: {error}") from None
        try:
            await self.permute(small_window(f"load-{uuid.uuid4().hex}", revision))
        except EngineUnavailable as error:
            await self.unload(revision)
            if isinstance(error.__cause__, Undecodable):
                raise AdapterNotLoadable("with it, the model gives no finite probabilities") from None
            raise

    async def unload(self, revision: str) -> bool:
        """See AdapterLoader. vLLM frees the slot only on remove_lora, not when the name is removed."""
        if self._in_use[revision]:
            return False
        models = self.engine._oai_models
        request = models.lora_requests.pop(revision, None)
        models.lora_resolver_lock.pop(revision, None)
        if request is not None:
            await self._client().remove_lora(request.lora_int_id)
        return True

    async def _kv_admission(self) -> KvAdmission:
        """Admission for the engine's batch and KV cache; 5 % of the cache is left over.

        An OpenAI request's tokens are an estimate. What it takes beyond it, vLLM preempts.
        """
        config = self._client().vllm_config
        groups = await self._client().engine_core.call_utility_async("get_kv_cache_group_metadata")
        return KvAdmission(
            max_open=config.scheduler_config.max_num_seqs,
            blocks=int(config.cache_config.num_gpu_blocks * 0.95),
            block_size=config.cache_config.block_size,
            groups=len(groups),
        )

    async def _check_decoder(self, adapters: Sequence[str | None]) -> None:
        """Rank a burst of windows with free text beside it; if naive decoding disagrees, use that.

        An engine that dies of it is left as it is.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._decoder.decoding == "ordinary":
            return
        length = self._client().vllm_config.model_config.max_model_len
        text = GenerationRequest([32] * 32, min(64, length - 32), None, f"self-check-text-{len(adapters)}")
        try:
            async with asyncio.timeout(self._self_check_s):
                loras = [self._lora(adapter) for adapter in adapters]
                problem, _ = await asyncio.gather(
                    check_burst(self._decoder, self._client(), loras, length), self.generate(text)
                )
        except TimeoutError:
            problem = f"no answer in {self._self_check_s:.0f} s"
        except (EngineDeadError, EngineUnavailable, Undecodable) as error:
            problem = str(error)
        if problem is not None and not self._client().errored:
            logger.warning(
                "windows are decoded with a request for each choice, which is several times slower; "
                "%s decoding failed its check: %s",
                self._decoder.decoding,
                problem,
            )
            self._metrics.self_check_failures.inc()
            self._use("ordinary")

    async def _warm_up(self) -> None:
        """Run every code path once, so that the first request does not wait for imports and kernels."""
        await self.permute(small_window("warm-up"))
        await self.generate(GenerationRequest([0] * 32, 2, None, "warm-up-text"))
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        chat = OpenAIRequest("chat", body, "warm-up-chat", prompt_tokens=64, new_tokens=2)
        with contextlib.suppress(RequestError):  # a base model may have no chat template
            async for _ in self.openai(chat):
                pass

    async def _start_engine(self) -> None:
        """As Ray's, but without its usage report, an actor that would import vLLM again."""
        await self.engine.start()

    async def generate(self, request: GenerationRequest) -> Generation:
        """See the protocol."""
        with self._work("generate", request, request.adapter) as work:
            generation = await self._generate(replace(request, trace_headers=work.span.headers))
            work.facts.update(generation.usage.work())
            return generation

    async def _generate(self, request: GenerationRequest) -> Generation:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        params = SamplingParams(
            temperature=0.0,
            max_tokens=request.max_tokens,
            stop=list(request.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output, arrived_s = None, time.monotonic()
        self._note_backlog(request)
        async with (
            self._using(request.adapter, request.priority) as lora,
            self._admission.hold(request.tokens, request.priority, is_text=True),
        ):
            try:
                # FINAL_ONLY: there is one output.
                async for output in self._client().generate(  # noqa: B007
                    tokens_input(list(request.token_ids), cache_salt=request.cache_salt),
                    params,
                    request.request_id,
                    lora_request=lora,
                    priority=request.priority,
                    trace_headers=request.trace_headers,
                ):
                    pass
            except EngineDeadError:
                raise died() from None
        if output is None:
            raise died()
        completion, stats = output.outputs[0], output.metrics
        self._metrics.took(
            "text",
            stats.scheduled_ts - arrived_s,
            stats.first_token_ts - stats.scheduled_ts,
            stats.last_token_ts - stats.first_token_ts,
        )
        return Generation(
            text=completion.text,
            usage=Usage(
                prompt_tokens=len(output.prompt_token_ids or ()),
                completion_tokens=len(completion.token_ids),
                queue_ms=(stats.scheduled_ts - stats.queued_ts) * 1e3,
                engine_ms=(stats.last_token_ts - stats.scheduled_ts) * 1e3,
            ),
            stop=completion.stop_reason if completion.stop_reason in request.stop else None,
        )

    async def permute(self, request: PermutationRequest) -> DecodedWindow:
        """See the protocol."""
        with self._work("permute", request, request.adapter) as work:
            asked = replace(request, trace_headers=work.span.headers)
            async with contextlib.aclosing(self._decode(asked)) as windows:
                window = await anext(windows)
            work.facts.update(window.usage.work())
            return window

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        """See the protocol."""
        with self._work("permute_stream", request, request.adapter) as work:
            asked = replace(request, trace_headers=work.span.headers)
            async with contextlib.aclosing(self._decode(asked, every_rank=True)) as windows:
                async for window in windows:
                    work.facts.update(window.usage.work())
                    yield window

    async def _decode(
        self, request: PermutationRequest, *, every_rank: bool = False
    ) -> AsyncGenerator[DecodedWindow, None]:
        from vllm.v1.engine.exceptions import EngineDeadError

        self._note_backlog(request)
        async with self._using(request.adapter, request.priority) as lora:
            windows = self._decoder.decode(request, lora, every_rank=every_rank)
            try:
                async with contextlib.aclosing(windows):
                    async for window in windows:
                        yield window
            except EngineDeadError:
                raise died() from None
            except Undecodable as error:
                raise EngineUnavailable(str(error), failed=True) from error

    async def score(self, request: ScoreRequest) -> PromptScores:
        """See the protocol."""
        with self._work("score", request, request.adapter) as work:
            asked = replace(request, trace_headers=work.span.headers)
            scores = await scored(asked, partial(self._score_one, asked))
            work.facts.update(scores.usage.work())
            return scores

    async def _score_one(self, request: ScoreRequest, place: int) -> tuple[float, Usage]:
        async with contextlib.aclosing(self._decode(label_window(request, place))) as windows:
            window = await anext(windows)
        return log_odds(window.log_probs), window.usage

    async def openai(self, request: OpenAIRequest) -> AsyncGenerator[str | dict[str, Any], None]:
        """See the protocol."""
        from vllm.exceptions import VLLMServerError

        self._note_backlog(request)
        asked = vllm_request(request)
        with self._work(request.route, request, self._adapter_of(asked)) as work:
            request = replace(request, trace_headers=work.span.headers)
            try:
                async with contextlib.aclosing(self._openai(request, asked)) as items:
                    async for item in items:
                        if isinstance(item, dict) and (usage := item.get("usage")):
                            work.facts.update({name: usage.get(name) for name in _COUNTED})
                        yield item
            except VLLMServerError:
                raise died() from None

    def _adapter_of(self, asked: ChatCompletionRequest | CompletionRequest) -> str | None:
        return None if asked.model == self._llm_config.model_id else asked.model

    async def _openai(
        self, request: OpenAIRequest, asked: ChatCompletionRequest | CompletionRequest
    ) -> AsyncGenerator[str | dict[str, Any], None]:
        async with (
            self._using(self._adapter_of(asked), request.priority),
            self._admission.hold(request.tokens, request.priority, request.sequences, is_text=True),
        ):
            with vllm_errors():
                raw = RawRequestInfo(dict(request.trace_headers or {}))
                answer = await (self.chat if request.route == "chat" else self.completions)(asked, raw)
            async with contextlib.aclosing(answer):  # a cancelled request ends the generation at once
                async for item in answer:
                    # Ray yields a stream in batches of texts, and of vLLM's error if there is one.
                    pieces = item if isinstance(item, list) else [item]
                    if text := "".join(piece for piece in pieces if isinstance(piece, str)):
                        yield text
                    for piece in pieces:
                        if isinstance(piece, str):
                            continue
                        reply = piece.model_dump(mode="json")
                        if "error" in reply:
                            raise from_vllm(reply["error"])
                        yield reply

    async def record_routing_stats(self) -> dict[str, Any]:
        """The loaded adapters, for gateway.replica_choice; called by Serve."""
        return {HELD: list(self.engine._oai_models.lora_requests)}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The work of all gateways that this replica heard of lately, for EngineScaling; called by Serve."""
        return {BACKLOG: float(sum(self._backlogs.values()))}

    def _note_backlog(self, request: _Request) -> None:
        if request.backlog is not None:
            self._backlogs[request.backlog.gateway] = request.backlog.cost

    async def metrics(self) -> str:
        """See the protocol; each series is labelled with this replica."""
        return render(self._metrics.registry, serve.get_replica_context().replica_tag)

    @contextlib.contextmanager
    def _work(self, call: str, request: _Request, adapter: str | None) -> Iterator[_Work]:
        """A call's span, if it is traced, and its line in the log."""
        headers, span = request.trace_headers, tracing.NO_SPAN
        if self._tracer is not None and headers:
            span = self._tracer.begin(f"engine {call}", headers)
        work = _Work(span, {"request_id": request.request_id, "call": call, "revision": adapter})
        began_s = time.monotonic()
        try:
            yield work
        except Exception as error:
            work.facts["error"] = tracing.error_code(error)
            span.fail(error)
            raise
        except BaseException:
            work.facts["error"] = "cancelled"
            raise
        finally:
            span.set(**work.facts)
            span.end()
            work.facts["total_ms"] = (time.monotonic() - began_s) * 1e3
            work.facts["trace_id"] = span.trace_id
            logs.write("engine call", work.facts)

    def _client(self) -> AsyncLLM:
        """The vLLM engine. It is private in Ray; only this method accesses it."""
        return cast("AsyncLLM", self.engine._engine_client)

    @contextlib.asynccontextmanager
    async def _using(self, adapter: str | None, priority: int) -> AsyncIterator[LoRARequest | None]:
        """Wait for the adapter's slot and use it until the block ends; the adapter is not unloaded before."""
        if adapter is None:
            yield None
            return
        lora = self._lora(adapter)
        self._in_use[adapter] += 1
        try:
            async with self._slots.hold(adapter, priority):
                yield lora
        finally:
            self._in_use[adapter] -= 1
            if not self._in_use[adapter]:
                del self._in_use[adapter]

    def _lora(self, adapter: str | None) -> LoRARequest | None:
        """vLLM's handle of a loaded adapter, from the table that its OpenAI routes use too."""
        if adapter is None:
            return None
        try:
            return cast("LoRARequest", self.engine._oai_models.lora_requests[adapter])
        except KeyError:
            raise EngineUnavailable(
                "the adapter is not on this engine now", retry_after_s=_NOT_HELD_S
            ) from None


def keep_tokens_out_of_runtime_envs() -> None:
    """Ray Serve LLM copies tokens into runtime environments, which Ray writes into its logs in plain text.

    What it does there is download from object stores, which needs none of them.
    """
    from ray.llm._internal.serve.constants import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.difference_update(VARIABLES)


def died() -> EngineUnavailable:
    """What a caller is told where vLLM's core is dead."""
    return EngineUnavailable("the engine died and starts again", retry_after_s=_RESTART_S, failed=True)
