"""A rerank request from its task to its ranking: the heart of the gateway."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field, replace

from cachetools import LRUCache

from dear_serving.errors import InvalidRequest
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.catalog import ServedModel
from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.ranker import Ranker
from dear_serving.gateway.tenant_engine import TenantEngine
from dear_serving.gateway.token_admission import TokenAdmission
from dear_serving.gateway.window_ranker import WindowRanker
from dear_serving.metrics import Metrics
from dear_serving.protocol import Engine
from dear_serving.ranking.plan import plan_ranking
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.ranking.strategies.latency import LatencyModel
from dear_serving.settings import RankingSettings
from dear_serving.types import OnProgress, Ranking, RankTask

_MOST_MODELS = 1024


@dataclass(frozen=True, slots=True)
class RerankService:
    """Ranks tasks of all callers on the engines.

    Args:
        engine: decodes windows.
        builders: the prompt builder of a template; raises SettingsError where there is none.
        queue: whose turn it is in the engines.
        admission: takes on work or refuses it.
        metrics: counts what was ranked.
        defaults: of window and step.
        latencies: of each model's rounds lately, by its public name.
    """

    engine: Engine
    builders: Callable[[str], PromptBuilder]
    queue: FairQueue
    admission: TokenAdmission
    metrics: Metrics
    defaults: RankingSettings
    latencies: MutableMapping[str, LatencyModel] = field(default_factory=lambda: LRUCache(_MOST_MODELS))

    async def rank(self, task: RankTask, caller: Caller, on_progress: OnProgress | None = None) -> Ranking:
        """Rank a task: find its model, plan it, take it on, run its windows.

        Args:
            task: with every option of the request.
            caller: whose turn it takes and whose budget it spends.
            on_progress: called with the best ranks as they are decided, where the strategy allows.

        Raises:
            UnknownModel: no model of that name that the caller may use.
            InvalidRequest: the options do not go with each other or with the model.
            Overloaded, RateLimited, PayloadTooLarge: see TokenAdmission.admit.
            DeadlineExceeded, EngineUnavailable: see Ranker.rank.
        """
        model = caller.find(task.model)
        builder = self.builders(model.template)
        _check_reasoning(task, model, builder)
        latency = self.latencies.setdefault(model.name, LatencyModel())
        prompts = builder.prepare(task)
        plan = plan_ranking(task, prompts, self.defaults.window_size, self.defaults.step, latency)
        await self.admission.admit(caller, plan.prompt_tokens)
        self.metrics.count_model(caller.tenant.id, model.revision, "rerank")
        engine = TenantEngine(self.engine, self.queue, caller.tenant)
        window_ranker = WindowRanker(engine, builder, model.adapter, task, prompts)
        ranker = Ranker(window_ranker, task, caller.request_id, latency.observe, on_progress)
        ranking = await ranker.rank(plan.start(), plan.strategy, plan.reason)
        self.metrics.observe_ranking(caller.tenant.id, model.revision, ranking)
        return replace(ranking, model=model.name, revision=model.revision)


def _check_reasoning(task: RankTask, model: ServedModel, builder: PromptBuilder) -> None:
    """Refuse reasoning where free text or the model's template has no place for it."""
    if not task.reasoning:
        return
    if task.scoring == "generate":
        raise InvalidRequest(
            'dear.reasoning: goes with scoring "permutation" or "first_token", not "generate"',
            param="dear.reasoning",
        )
    if builder.template.reasoning is None:
        raise InvalidRequest(
            f'dear.reasoning: template "{model.template}" of "{model.name}" has no reasoning form',
            param="dear.reasoning",
        )
