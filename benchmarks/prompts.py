"""The server's own prompts as token ids, for arms that go past the ranking layer."""

from __future__ import annotations

from pathlib import Path

from dear_serving.adapters.preflight import base_source
from dear_serving.adapters.template_files import load_template
from dear_serving.gateway.tokenizer import load_tokenizer
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.settings import load_settings
from dear_serving.types import RankTask
from dear_tools.load.lists import List


class Prompts:
    """Prompts as the gateway builds them for one public model name.

    Args:
        config: settings file of the server.
        model: the base model's id or an adapter's name.
    """

    def __init__(self, config: Path, model: str) -> None:
        settings = load_settings(config)
        self._builder = PromptBuilder(
            load_template(settings.templates()[model], settings.ranking.templates),
            load_tokenizer(base_source(settings), settings.model.chat_template),
            settings.engine.max_model_len,
        )

    def token_ids(self, one: List) -> list[int]:
        """The prompt of one window with all passages, in input order."""
        task = RankTask(query=one.query, passages=one.passages)
        return self._builder.prepare(task).window(range(len(one.passages)))
