"""Builds a gateway from settings and an engine; no Ray, no HTTP."""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dear_serving.adapters.configured import open_registry
from dear_serving.adapters.heartbeats import Heartbeats
from dear_serving.adapters.intake import intake
from dear_serving.adapters.preflight import base_shape
from dear_serving.adapters.revisions import Adapters
from dear_serving.adapters.store import Store
from dear_serving.adapters.template_files import load_template
from dear_serving.errors import SettingsError
from dear_serving.gateway.authenticator import Authenticator
from dear_serving.gateway.budgets import Budgets
from dear_serving.gateway.busyness import Busyness
from dear_serving.gateway.canary import rank_canary
from dear_serving.gateway.catalog import Catalog, ServedModel
from dear_serving.gateway.engine_replicas import Seen
from dear_serving.gateway.fair_queue import FairQueue, Share
from dear_serving.gateway.fair_threads import FairThreads
from dear_serving.gateway.first_stage import FirstStage, OwnEngines, ScoreEngines
from dear_serving.gateway.grammar_check import GrammarCheck
from dear_serving.gateway.label_scoring import LabelScoring
from dear_serving.gateway.lifecycle import Lifecycle
from dear_serving.gateway.openai_service import OpenAIService
from dear_serving.gateway.peers import Peers
from dear_serving.gateway.request_admission import RequestAdmission
from dear_serving.gateway.rerank_service import RerankService
from dear_serving.gateway.state import AskGateways, AskReports, GatewayState
from dear_serving.gateway.token_admission import TokenAdmission
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.gateway.worker_process import WorkerProcess
from dear_serving.metrics import Metrics
from dear_serving.protocol import Engine
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.settings import EngineSettings, Settings
from dear_serving.tenancy.tenants import Tenants
from dear_serving.tracing import tracer

if TYPE_CHECKING:
    from dear_serving.gateway.shared_counts import SharedCounts

Scores = tuple[ScoreEngines, BaseTokenizer]
"""Engines that run a first stage alone, and its tokenizer."""

# Two, because cleaning text holds Python's lock while encoding it does not.
_THREADS = 2


def build_gateway(
    settings: Settings,
    engine: Engine,
    tokenizer: BaseTokenizer,
    base_source: str,
    key_digests: Sequence[bytes] = (),
    admin_digests: Sequence[bytes] = (),
    count_engines: Callable[[], int | None] = lambda: None,
    engines_seen: Callable[[], Mapping[str, Seen]] = dict,
    ask_gateways: AskGateways | None = None,
    ask_reports: AskReports | None = None,
    scores: Scores | None = None,
    name: str | None = None,
) -> GatewayState:
    """Build a gateway and open its registry. Until its catalog is refreshed, it serves only the base model.

    Args:
        settings: the loaded settings.
        engine: the engines, shared by all gateways.
        tokenizer: the base model's tokenizer.
        base_source: folder, URL or Hugging Face id of the base model.
        key_digests: digests of the default tenant's keys; see gateway.authenticator.hash_keys.
        admin_digests: digests of the admin keys.
        count_engines: how many engines run now; None: as many as the settings say.
        engines_seen: what this gateway sees of the engines.
        ask_gateways: asks all gateways for their metrics; None: this is the only one.
        ask_reports: asks them for their reports.
        scores: the first stage's own engines, if the settings want some, and its tokenizer.
        name: this gateway's id, never used before; None: one is made up.

    Raises:
        SettingsError: the registry, base model, store or a template in the settings cannot be used.
    """
    builders = _prompt_builders(settings, tokenizer)
    for template in set(settings.templates().values()):
        # Find a broken chat template now instead of in the first request.
        builder = builders(template)
        builder.layout(1 if builder.template.is_pointwise else settings.ranking.window_size)
    first_stage = _first_stage(settings, builders, scores)
    metrics = Metrics()
    store = Store(settings.adapters.store, metrics.storage.store_took)
    adapter_intake = intake(settings, base_shape(base_source, settings.adapters.bases), store)
    database = open_registry(settings.registry)
    database.observe = metrics.storage.registry_took
    tenants = Tenants(database)
    cluster = settings.registry.cluster
    adapters = Adapters(database, settings.adapters.capacity, cluster=cluster)
    heartbeats = Heartbeats(database, cluster=cluster)
    base = ServedModel(settings.model.id, None, settings.model.template)
    catalog = Catalog(name or uuid.uuid4().hex, base, adapters, heartbeats, settings.default_model)
    queue = _fair_queue(settings.engine, settings.gateway.replicas)
    url = settings.tenancy.limits_url
    counts = _shared_counts(url, cluster, catalog.gateway) if url is not None else None

    async def count_gateways() -> int:
        return len((await asyncio.to_thread(heartbeats.alive)).gateways)

    peers = Peers(queue, counts, count_gateways, count_engines)
    metrics.engines_least.set(settings.engine.least)
    metrics.queued_tokens_most.set(settings.limits.max_queued_tokens)
    metrics.watch(lambda: queue.cost, count_engines, queue.loads)
    budgets = Budgets(url, peers.part_of)
    token_admission = TokenAdmission(queue, budgets, peers, settings.limits.max_queued_tokens)
    threads = FairThreads(_THREADS)
    return GatewayState(
        settings=settings,
        engine=engine,
        rerank=RerankService(
            engine,
            builders,
            queue,
            token_admission,
            metrics,
            settings.ranking,
            settings.limits.max_windows,
            settings.limits.max_prompt_tokens,
            threads,
            Busyness(lambda: peers.seconds_for(queue.cost + peers.others_cost()), settings.ranking.busy_s),
            first_stage=first_stage,
        ),
        openai=OpenAIService(
            engine,
            queue,
            token_admission,
            metrics,
            tokenizer,
            threads,
            settings.engine.max_model_len,
            settings.limits.default_new_tokens,
            GrammarCheck(base_source, settings.limits.grammar_compile_s),
        ),
        labels=LabelScoring(
            engine, queue, token_admission, metrics, tokenizer, threads, settings.engine.max_model_len
        ),
        catalog=catalog,
        lifecycle=Lifecycle(
            adapters,
            heartbeats,
            catalog,
            adapter_intake,
            lambda revision: rank_canary(engine, builders(revision.template), revision.id),
            metrics,
        ),
        database=database,
        tenants=tenants,
        authenticator=Authenticator(
            tenants, key_digests, open_access=settings.tenancy.open, stale_s=settings.registry.stale_s
        ),
        arrivals=RequestAdmission(settings.limits.max_requests_in_flight, "bodies arriving"),
        admission=RequestAdmission(settings.limits.max_requests_in_flight),
        budgets=budgets,
        queue=queue,
        peers=peers,
        metrics=metrics,
        worker=WorkerProcess(),
        admin_digests=tuple(admin_digests),
        engines_seen=engines_seen,
        ask_gateways=ask_gateways,
        ask_reports=ask_reports,
        tracer=tracer(settings.tracing, "gateway"),
    )


def _prompt_builders(settings: Settings, tokenizer: BaseTokenizer) -> Callable[[str], PromptBuilder]:
    """A cached function from template name to prompt builder; it raises SettingsError for unknown names."""

    @functools.cache
    def builder(name: str) -> PromptBuilder:
        template = load_template(name, settings.ranking.templates)
        if template.labels == ():
            raise SettingsError(
                f'template "{name}": it has no labels, and is for a model with a head that scores'
            )
        return PromptBuilder(
            template,
            tokenizer,
            settings.engine.max_model_len,
            settings.ranking.max_reasoning_tokens,
        )

    return builder


def _first_stage(
    settings: Settings, builders: Callable[[str], PromptBuilder], scores: Scores | None
) -> FirstStage | None:
    """The first stage in the settings; one of its own where there are engines for it."""
    stage, template = settings.first_stage, settings.first_stage_template()
    if stage is None or template is None or (stage.source is not None and scores is None):
        return None
    own = None
    if stage.engine is not None and scores is not None:
        client, tokenizer = scores
        own = OwnEngines(client, _fair_queue(stage.engine, settings.gateway.replicas))
        loaded = load_template(template, settings.ranking.templates)
        # The head answers, with a number, and not a label.
        loaded = loaded.model_copy(update={"labels": (), "label_scale": 1.0})
        builder = PromptBuilder(loaded, tokenizer, stage.engine.max_model_len)
    else:
        builder = builders(template)
    builder.layout(1)
    return FirstStage(stage.model, builder, stage.depth, stage.max_passage_tokens, own)


def _shared_counts(url: str, cluster: str, gateway: str) -> SharedCounts:
    from dear_serving.gateway.shared_counts import SharedCounts  # its driver is installed where it is used

    return SharedCounts(url, cluster, gateway)


def _fair_queue(engine: EngineSettings, gateways: int) -> FairQueue:
    """This gateway replica's fair queue before some engines."""
    queue = FairQueue(engine.max_tokens, engine.max_shared_tokens)
    queue.engines = engine.replicas
    queue.share = Share.equal(gateways)
    return queue
