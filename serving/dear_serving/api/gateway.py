"""What a gateway knows and does, free of HTTP and of Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from dear_serving.api.rerank import DearOptions, choose_windows
from dear_serving.engine.protocol import Engine
from dear_serving.errors import UnknownModel
from dear_serving.metrics import Metrics
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.ranking.ranker import Ranker
from dear_serving.ranking.windows import STRATEGIES, choose
from dear_serving.settings import Settings
from dear_serving.tenancy.admission import Admission
from dear_serving.types import Ranking, RankTask


@dataclass(frozen=True, slots=True)
class GatewayState:
    """One gateway replica: the engine it calls, a prompt builder and a revision for every model."""

    settings: Settings
    engine: Engine
    builders: Mapping[str, PromptBuilder]
    revisions: Mapping[str, str]
    admission: Admission
    metrics: Metrics
    key_digests: tuple[bytes, ...] = ()
    started_s: int = field(default_factory=lambda: int(time.time()))

    def resolve(self, model: str | None) -> str:
        """The public name of the model that answers; the default where the caller names none.

        Raises:
            UnknownModel: neither the base model nor an adapter has that name.
        """
        name = model or self.settings.default_model or self.settings.model.id
        if name not in self.builders:
            raise UnknownModel(f"there is no model {name[:128]!r}", param="model")
        return name

    async def rank(self, model: str, task: RankTask, options: DearOptions, request_id: str) -> Ranking:
        """Rank a task with a resolved model; see Ranker.rank for what it raises."""
        defaults = self.settings.ranking
        window, step = choose_windows(options, defaults.window_size, defaults.step)
        count = len(task.passages)
        name: str = options.strategy or "auto"
        if name == "auto":
            name = choose(count, window)
        adapter = None if model == self.settings.model.id else model
        ranker = Ranker(self.engine, self.builders[model], adapter, request_id)
        ranking = await ranker.rank(task, STRATEGIES[name](count, window, step), name)
        self.metrics.observe_ranking(model, ranking)
        return ranking
