"""What a gateway knows and does, free of HTTP and of Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from dear_serving.api.rerank import DearOptions, choose_windows
from dear_serving.engine.protocol import Engine
from dear_serving.errors import InvalidRequest, UnknownModel
from dear_serving.metrics import Metrics
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.ranking.ranker import Head, Ranker
from dear_serving.ranking.reading import Reader
from dear_serving.ranking.strategies import STRATEGIES
from dear_serving.ranking.strategies.auto import Choice, choose
from dear_serving.ranking.strategies.pace import Pace
from dear_serving.ranking.strategies.passes import self_consistent
from dear_serving.ranking.windows import Shape
from dear_serving.settings import Settings
from dear_serving.tenancy.admission import Admission
from dear_serving.types import Ranking, RankTask


@dataclass(frozen=True, slots=True)
class GatewayState:
    """One gateway replica: the engine it calls, a prompt builder and a revision for every model.

    ``paces`` keeps how long each model's rounds took lately.
    """

    settings: Settings
    engine: Engine
    builders: Mapping[str, PromptBuilder]
    revisions: Mapping[str, str]
    admission: Admission
    metrics: Metrics
    key_digests: tuple[bytes, ...] = ()
    paces: dict[str, Pace] = field(default_factory=dict)
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

    async def rank(
        self,
        model: str,
        task: RankTask,
        options: DearOptions,
        request_id: str,
        head: Head | None = None,
    ) -> Ranking:
        """Rank a task with a resolved model; see Ranker for ``head``.

        Raises:
            InvalidRequest: the options do not go with each other or with the model.
            RequestError: see Ranker.rank.
        """
        builder = self.builders[model]
        if task.reasoning and builder.template.reasoning is None:
            raise InvalidRequest(
                f'dear.reasoning: template "{builder.template.name}" of "{model}" has no reasoning form',
                param="dear.reasoning",
            )
        window, step = choose_windows(options, self.settings.ranking.window_size, self.settings.ranking.step)
        passes = options.passes or 1
        shape = Shape(len(task.passages), window, step, task.needed)
        pace = self.paces.setdefault(model, Pace())
        name = options.strategy or "auto"
        choice = (
            choose(shape, task.deadline_s, pace, passes=passes)
            if name == "auto"
            else Choice(name, "asked for")
        )
        strategy = self_consistent(
            lambda: STRATEGIES[choice.name](shape), shape.count, passes, top_n=shape.top_n
        )
        adapter = None if model == self.settings.model.id else model
        reader = Reader(self.engine, builder, adapter, task)
        ranker = Ranker(reader, task, request_id, pace.observe, head)
        ranking = await ranker.rank(strategy, choice.name, choice.reason)
        self.metrics.observe_ranking(model, ranking)
        return ranking
