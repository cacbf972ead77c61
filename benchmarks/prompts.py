"""The server's own prompts as token ids, for arms that go past the ranking layer."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from benchmarks.rerank import Answer
from benchmarks.workloads import Workload
from dear_serving.adapters.preflight import base_source
from dear_serving.adapters.template_files import load_template
from dear_serving.gateway.tokenizer import load_tokenizer
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.settings import load_settings
from dear_serving.types import RankTask


class Prompts:
    """Prompts as the gateway builds them for one public model name.

    Args:
        config: settings file of the server.
        model: the base model's id or an adapter's name.
    """

    def __init__(self, config: Path, model: str) -> None:
        settings = load_settings(config)
        self._model = model
        self._builder = PromptBuilder(
            load_template(settings.templates()[model], settings.ranking.templates),
            load_tokenizer(base_source(settings), settings.model.chat_template),
            settings.engine.max_model_len,
        )

    def token_ids(self, workload: Workload) -> list[int]:
        """The prompt of one window with all passages, in input order."""
        task = RankTask(query=workload.query, passages=workload.passages)
        return self._builder.prepare(task).window(range(len(workload.passages)))

    async def complete(self, client: httpx.AsyncClient, workload: Workload, tokens: int) -> Answer:
        """Exactly ``tokens`` freely generated tokens by /v1/completions, whatever they say.

        The answer has no order, and its engine time is unknown (0).

        Raises:
            httpx.HTTPStatusError: the server refused.
        """
        body = {
            "model": self._model,
            "prompt": self.token_ids(workload),
            "temperature": 0,
            "max_tokens": tokens,
            "min_tokens": tokens,
            "ignore_eos": True,
        }
        started_s = time.perf_counter()
        response = await client.post("/v1/completions", json=body)
        wall_ms = (time.perf_counter() - started_s) * 1e3
        response.raise_for_status()
        usage = response.json()["usage"]
        return Answer((), wall_ms, 0.0, 0.0, usage["prompt_tokens"], usage["completion_tokens"], 1, "")
