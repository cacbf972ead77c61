"""The replica of a first stage that is a model of its own, with a head that scores."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import uuid
from collections.abc import Sequence
from typing import Any

from ray.serve.llm import LLMConfig, LLMServer

from dear_serving.errors import EngineUnavailable, SettingsError
from dear_serving.metrics import EngineMetrics
from dear_serving.metrics_export import MetricsExport
from dear_serving.protocol import HELD, PromptScores, ScoreRequest
from dear_serving.replica.core_watch import leave_with_core
from dear_serving.replica.kv_admission import KvAdmission
from dear_serving.replica.prompt_scores import scored
from dear_serving.replica.server import RerankServer, died
from dear_serving.settings import AdaptersSettings, EngineSettings, RegistrySettings
from dear_serving.types import Usage

logger = logging.getLogger(__name__)

# vLLM preempts scores where its cache is full, and encoders have none: only the batch bounds them.
_BLOCKS = 1 << 40


class ScoreServer(RerankServer):
    """One vLLM engine of a sequence classifier, without adapters. Of protocol.Engine it answers ``score``."""

    async def _start(
        self,
        llm_config: LLMConfig,
        registry: RegistrySettings,
        adapters: AdaptersSettings,
        settings: EngineSettings,
    ) -> None:
        await LLMServer.__init__(self, llm_config)
        self._metrics = EngineMetrics()
        batch = self._client().vllm_config.scheduler_config.max_num_seqs
        self._admission = KvAdmission(max_open=batch, blocks=_BLOCKS, block_size=1)
        numbers = await self._head([0] * 16, ScoreRequest([], (), None, f"warm-up-{uuid.uuid4().hex}"), 0)
        if len(numbers) != 1 or not math.isfinite(numbers[0]):
            raise SettingsError(
                f"first_stage.source: its head gives {len(numbers)} numbers, a first stage needs a finite one"
            )
        self._export_task = asyncio.create_task(MetricsExport(self._metrics.registry.collect).run())
        self._core_watch = asyncio.create_task(leave_with_core(self._client, settings.stall_timeout_s))
        logger.info("the first stage scores")

    async def score(self, request: ScoreRequest) -> PromptScores:
        """See the protocol; a score is what the head gives, before any activation."""

        async def score_one(place: int) -> tuple[float, Usage]:
            prompt, arrived_s = request.prompts[place], time.monotonic()
            async with self._admission.hold(len(prompt), request.priority):
                began_s = time.monotonic()
                (score,) = await self._head(prompt, request, place)
            if not math.isfinite(score):
                raise EngineUnavailable("the first stage gives no finite score", failed=True)
            ended_s = time.monotonic()
            self._metrics.took("window", began_s - arrived_s, ended_s - began_s, 0.0)
            return score, Usage(
                prompt_tokens=len(prompt),
                queue_ms=(began_s - arrived_s) * 1e3,
                engine_ms=(ended_s - began_s) * 1e3,
            )

        with self._work("score", request, None) as work:
            scores = await scored(request, score_one)
            work.facts.update(scores.usage.work())
            return scores

    async def _head(self, prompt: Sequence[int], request: ScoreRequest, place: int) -> list[float]:
        """The numbers of the model's head after a prompt."""
        from vllm import PoolingParams
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        outputs = self._client().encode(
            tokens_input(list(prompt), cache_salt=request.cache_salt),
            PoolingParams(task="classify", use_activation=False),
            f"{request.request_id}-{place}",
            priority=request.priority,
            trace_headers=request.trace_headers,
        )
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    numbers: list[float] = output.outputs.data.flatten().tolist()
                    return numbers
        except EngineDeadError:
            raise died() from None
        raise died()

    async def record_routing_stats(self) -> dict[str, Any]:
        """It holds no adapters; called by Serve."""
        return {HELD: []}
