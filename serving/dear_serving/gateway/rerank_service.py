"""What a gateway knows and does, free of HTTP and of Ray."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache

from dear_serving.errors import InvalidRequest, Overloaded, UnknownModel
from dear_serving.gateway.admission import Admission
from dear_serving.gateway.authenticator import Authenticator
from dear_serving.gateway.budgets import Allowance, Budgets
from dear_serving.gateway.catalog import Catalog, Models, ServedModel
from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.lifecycle import Lifecycle
from dear_serving.gateway.ranker import Head, Ranker
from dear_serving.gateway.tenant_engine import TenantEngine, openai_tokens
from dear_serving.gateway.window_ranker import Reader
from dear_serving.http.rerank import DearOptions, choose_windows
from dear_serving.metrics import Metrics
from dear_serving.protocol import Engine
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.ranking.strategies import STRATEGIES
from dear_serving.ranking.strategies.auto import Choice, choose
from dear_serving.ranking.strategies.cost import cost
from dear_serving.ranking.strategies.pace import LatencyModel
from dear_serving.ranking.strategies.passes import self_consistent
from dear_serving.ranking.windows import Strategy, Windowing
from dear_serving.registry.database import Database
from dear_serving.settings import Settings
from dear_serving.tenancy.tenants import Tenant, Tenants
from dear_serving.types import Ranking, RankTask

_LONGEST_RETRY_S = 60.0
_MOST_PACES = 1024


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request is from, the models as they were when it came, and what goes back in its headers."""

    tenant: Tenant
    request_id: str
    models: Models
    headers: dict[str, str] = field(default_factory=dict)

    def tell(self, allowance: Allowance | None) -> None:
        """Say in the reply what is left of a budget."""
        if allowance is not None:
            self.headers.update(allowance.headers())

    def visible(self) -> list[ServedModel]:
        """What the tenant may use, the base model first."""
        return [one for one in self.models.served.values() if self._may_use(one)]

    def find(self, name: str) -> ServedModel:
        """What answers to a public name.

        Raises:
            UnknownModel: nothing does, or nothing that the tenant may use: they look alike.
        """
        served = self.models.served.get(name)
        if served is None or not self._may_use(served):
            raise UnknownModel(f"there is no model {name[:128]!r}", param="model")
        return served

    def _may_use(self, served: ServedModel) -> bool:
        return served.shared or served.name in self.tenant.granted


@dataclass(frozen=True, slots=True)
class GatewayState:
    """One gateway replica: the engine it calls, what it serves, a prompt builder a template, its tenants.

    ``paces`` keeps how long each model's rounds took lately.
    """

    settings: Settings
    engine: Engine
    builders: Callable[[str], PromptBuilder]
    catalog: Catalog
    lifecycle: Lifecycle
    admission: Admission
    metrics: Metrics
    database: Database
    tenants: Tenants
    authenticator: Authenticator
    budgets: Budgets
    queue: FairQueue
    admin_digests: tuple[bytes, ...] = ()
    paces: MutableMapping[str, LatencyModel] = field(default_factory=lambda: LRUCache(_MOST_PACES))
    started_s: int = field(default_factory=lambda: int(time.time()))

    def resolve(self, model: str | None, caller: Caller) -> ServedModel:
        """The model that answers; the default where the caller names none.

        Raises:
            UnknownModel: see Caller.find.
        """
        return caller.find(model or self.settings.default_model or self.settings.model.id)

    def engine_for(self, tenant: Tenant) -> TenantEngine:
        """The engines, taking the tenant's turn."""
        return TenantEngine(self.engine, self.queue, tenant)

    async def admit(self, caller: Caller, tokens: int) -> None:
        """Take on work of so many predicted tokens, or refuse it before any of it waits.

        Raises:
            RateLimited: the tenant's tokens a minute are spent.
            PayloadTooLarge: it is more than the tenant's tokens a minute by itself.
            Overloaded: as much work waits already as the gateway takes on.
        """
        waiting = self.queue.tokens
        if waiting and waiting + tokens > self.settings.limits.max_queued_tokens:
            raise Overloaded(
                f"{waiting} tokens of work are ahead, the server takes on "
                f"{self.settings.limits.max_queued_tokens}",
                retry_after_s=min(_LONGEST_RETRY_S, max(1.0, self.queue.seconds_for(waiting))),
            )
        caller.tell(await self.budgets.spend_tokens(caller.tenant, tokens))

    def admit_openai(self, caller: Caller, body: Mapping[str, Any]) -> Awaitable[None]:
        """As ``admit``, for the body of an OpenAI request."""
        return self.admit(caller, openai_tokens(body))

    async def rank(
        self,
        model: ServedModel,
        task: RankTask,
        options: DearOptions,
        caller: Caller,
        head: Head | None = None,
    ) -> Ranking:
        """Rank a task with a resolved model; see Ranker for ``head``.

        Raises:
            InvalidRequest: the options do not go with each other or with the model.
            RequestError: see ``admit`` and Ranker.rank.
        """
        builder = self.builders(model.template)
        if task.reasoning and builder.template.reasoning is None:
            raise InvalidRequest(
                f'dear.reasoning: template "{model.template}" of "{model.name}" has no reasoning form',
                param="dear.reasoning",
            )
        window, step = choose_windows(options, self.settings.ranking.window_size, self.settings.ranking.step)
        passes = options.passes or 1
        shape = Windowing(len(task.passages), window, step, task.needed)
        pace = self.paces.setdefault(model.name, LatencyModel())
        name = options.strategy or "auto"
        choice = (
            choose(shape, task.deadline_s, pace, passes=passes)
            if name == "auto"
            else Choice(name, "asked for")
        )

        def strategy() -> Strategy:
            return self_consistent(
                lambda: STRATEGIES[choice.name](shape), shape.count, passes, top_n=shape.top_n
            )

        reader = Reader(self.engine_for(caller.tenant), builder, model.adapter, task)
        work = cost(strategy())
        widest = shape.count if choice.name == "single" else min(shape.count, shape.window)
        await self.admit(caller, reader.prompts.expected_tokens(widest, work.calls, work.shown))
        self.metrics.count_model(caller.tenant.id, model.revision, "rerank")
        ranker = Ranker(reader, task, caller.request_id, pace.observe, head)
        ranking = await ranker.rank(strategy(), choice.name, choice.reason)
        self.metrics.observe_ranking(caller.tenant.id, model.revision, ranking)
        return ranking
