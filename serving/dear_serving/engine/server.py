"""The vLLM replica: Ray Serve LLM's server, with what a reranker needs added."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig
from ray.serve.llm import LLMConfig, LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

from dear_serving.engine.decode import Decoder, ordinary_steps
from dear_serving.engine.protocol import EngineRequest, OpenAIRoute, PermutationRequest
from dear_serving.engine.selfcheck import compare, small_window
from dear_serving.engine.sessions import Sessions
from dear_serving.errors import EngineUnavailable, InvalidRequest, RequestError, UnknownModel
from dear_serving.metrics import EngineMetrics
from dear_serving.settings import describe
from dear_serving.types import DecodedWindow, Generation

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

logger = logging.getLogger(__name__)

_RESTART_S = 10.0
_SELF_CHECK_S = 60.0


class RerankServer(LLMServer):  # type: ignore[misc]  # ray ships no types for it
    """One vLLM engine with all configured adapters loaded before it reports ready.

    Implements the calls of engine.protocol.Engine on the replica's side; engine.handle reaches them.
    Adapters must have passed adapters.preflight: vLLM itself does not survive every bad one.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self, llm_config: LLMConfig, *, adapters: dict[str, Path]
    ) -> None:
        """Start the engine and load ``adapters`` (engine-side name -> folder on this node)."""
        await super().__init__(llm_config)
        for number, (name, folder) in enumerate(adapters.items(), start=1):
            await self.engine.resolve_lora(
                DiskMultiplexConfig(
                    model_id=name,
                    local_path=str(folder),
                    max_total_tokens=None,
                    lora_assigned_int_id=number,
                )
            )
        self._metrics = EngineMetrics()
        self._decoder = Decoder(self._client(), self._sessions())
        await self._check_decoder([None, *adapters][:2])
        await self._warm_up([None, *adapters])

    def _sessions(self) -> Sessions:
        """As many windows as the engine's batch and KV cache hold, a little kept for everything else."""
        config = self._client().vllm_config
        return Sessions(
            max_open=config.scheduler_config.max_num_seqs,
            blocks=int(config.cache_config.num_gpu_blocks * 0.95),
            block_size=config.cache_config.block_size,
        )

    async def _check_decoder(self, adapters: Sequence[str | None]) -> None:
        """Rank a small window with and without resuming; decode without from now on if they disagree."""
        for number, adapter in enumerate(adapters):
            request = small_window(f"self-check-{number}")
            try:
                async with asyncio.timeout(_SELF_CHECK_S):
                    difference = await compare(self._decoder, self._client(), request, self._lora(adapter))
                if difference is None or difference.near_tie:
                    continue
                found = f"rank {difference.rank} differs by {difference.gap:.2f} nats"
            except TimeoutError:
                found = f"no answer in {_SELF_CHECK_S:.0f} s"
            logger.warning("windows are decoded one request a choice, several times slower: %s", found)
            self._decoder.steps = ordinary_steps
            self._metrics.self_check_failures.inc()
            break
        self._metrics.resumable.set(self._decoder.steps is not ordinary_steps)

    async def _warm_up(self, adapters: Sequence[str | None]) -> None:
        """Run every path once, so that the first caller does not wait for imports and kernels."""
        for number, adapter in enumerate(adapters):
            await self.permute(small_window(f"warm-up-{number}", adapter))
        await self.generate(EngineRequest([0] * 32, 2, None, "warm-up-text"))
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        with contextlib.suppress(RequestError):  # a base model may have no chat template
            async for _ in self.openai("chat", body, "warm-up-chat"):
                pass

    async def _start_engine(self) -> None:
        """As Ray's, without its usage report, an actor that would import vLLM once more."""
        await self.engine.start()

    async def generate(self, request: EngineRequest) -> Generation:
        """See the protocol."""
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
        output = None
        try:
            # FINAL_ONLY: there is one output.
            async for output in self._client().generate(  # noqa: B007
                tokens_input(list(request.token_ids), cache_salt=request.cache_salt),
                params,
                request.request_id,
                lora_request=self._lora(request.adapter),
                priority=request.priority,
            ):
                pass
        except EngineDeadError:
            raise _restarting() from None
        if output is None:
            raise _restarting()
        completion, stats = output.outputs[0], output.metrics
        return Generation(
            text=completion.text,
            prompt_tokens=len(output.prompt_token_ids or ()),
            completion_tokens=len(completion.token_ids),
            queue_ms=(stats.scheduled_ts - stats.queued_ts) * 1e3,
            engine_ms=(stats.last_token_ts - stats.scheduled_ts) * 1e3,
            stop=completion.stop_reason if completion.stop_reason in request.stop else None,
        )

    async def permute(self, request: PermutationRequest) -> DecodedWindow:
        """See the protocol."""
        async with contextlib.aclosing(self._decode(request)) as windows:
            return await anext(windows)

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        """See the protocol."""
        async with contextlib.aclosing(self._decode(request, every_rank=True)) as windows:
            async for window in windows:
                yield window

    async def _decode(
        self, request: PermutationRequest, *, every_rank: bool = False
    ) -> AsyncGenerator[DecodedWindow, None]:
        from vllm.v1.engine.exceptions import EngineDeadError

        windows = self._decoder.decode(request, self._lora(request.adapter), every_rank=every_rank)
        try:
            async with contextlib.aclosing(windows):
                async for window in windows:
                    yield window
        except EngineDeadError:
            raise _restarting() from None

    async def openai(
        self, route: OpenAIRoute, body: dict[str, Any], request_id: str
    ) -> AsyncGenerator[str | dict[str, Any], None]:
        """See the protocol."""
        request_type = ChatCompletionRequest if route == "chat" else CompletionRequest
        try:
            request = request_type.model_validate(body | {"request_id": request_id})
        except ValidationError as error:
            field = ".".join(str(step) for step in error.errors()[0]["loc"]) or None
            raise InvalidRequest(describe(error), param=field) from None
        answer = await (self.chat(request) if route == "chat" else self.completions(request))
        async with contextlib.aclosing(answer):  # a caller who leaves ends the generation now
            async for item in answer:
                if isinstance(item, list | str):
                    yield "".join(item)
                    continue
                reply = item.model_dump(mode="json")
                if "error" in reply:
                    raise _from_vllm(reply["error"])
                yield reply

    async def metrics(self) -> str:
        """See the protocol."""
        from prometheus_client import generate_latest

        return generate_latest().decode()

    def _client(self) -> AsyncLLM:
        """The engine itself. Ray keeps it private; this is the one place that reaches for it."""
        return cast("AsyncLLM", self.engine._engine_client)

    def _lora(self, adapter: str | None) -> LoRARequest | None:
        """What vLLM calls a loaded adapter, from the registry its OpenAI routes use as well."""
        if adapter is None:
            return None
        try:
            return cast("LoRARequest", self.engine._oai_models.lora_requests[adapter])
        except KeyError:
            raise UnknownModel(f'adapter "{adapter}" is not loaded', param="model") from None


def _restarting() -> EngineUnavailable:
    return EngineUnavailable("the engine is restarting", retry_after_s=_RESTART_S)


def _from_vllm(error: dict[str, Any]) -> RequestError:
    """vLLM's own error object as ours; what is not the caller's fault says nothing of its inside."""
    code, message = int(error.get("code") or 500), str(error.get("message") or "")
    if code == 404:
        return UnknownModel(message, param=error.get("param"))
    if code < 500:
        return InvalidRequest(message, param=error.get("param"))
    return EngineUnavailable("the engine could not answer", retry_after_s=_RESTART_S)
