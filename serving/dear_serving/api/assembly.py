"""Puts a gateway together from settings and an engine; no Ray, no HTTP."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Sequence

from dear_serving.adapters.directory import Directory, Served
from dear_serving.adapters.fleet import Fleet
from dear_serving.adapters.intake import intake
from dear_serving.adapters.lifecycle import Lifecycle
from dear_serving.adapters.preflight import base_shape
from dear_serving.adapters.revisions import Adapters
from dear_serving.adapters.templates import load_template
from dear_serving.api.gateway import GatewayState
from dear_serving.engine.protocol import Engine
from dear_serving.engine.tokenizer import BaseTokenizer
from dear_serving.metrics import Metrics
from dear_serving.ranking.canary import rank_canary
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.registry.database import open_database
from dear_serving.settings import Settings
from dear_serving.tenancy.admission import Admission
from dear_serving.tenancy.budgets import Budgets
from dear_serving.tenancy.fairness import FairQueue
from dear_serving.tenancy.keyring import KeyRing
from dear_serving.tenancy.tenants import Tenants


def assemble(
    settings: Settings,
    engine: Engine,
    tokenizer: BaseTokenizer,
    base_source: str,
    key_digests: Sequence[bytes] = (),
    admin_digests: Sequence[bytes] = (),
) -> GatewayState:
    """One gateway over its registry, which is opened here. It serves nothing but the base model until its
    directory is refreshed.

    Args:
        settings: as loaded.
        engine: of all gateways.
        tokenizer: the base model's.
        base_source: where the base model comes from.
        key_digests: of the keys of the default tenant; see tenancy.keyring.hash_keys.
        admin_digests: of the keys of the admin routes.

    Raises:
        SettingsError: no registry, base model, store or template can be had as the settings say.
    """
    builders = _prompt_builders(settings, tokenizer)
    for template in set(settings.templates().values()):
        # A chat template that fails, fails here.
        builders(template).layout(settings.ranking.window_size)
    taking = intake(settings, base_shape(base_source, settings.adapters.bases))
    database = open_database(settings.registry.url)
    tenants, metrics = Tenants(database), Metrics()
    adapters, fleet = Adapters(database, settings.adapters.capacity), Fleet(database)
    base = Served(settings.model.id, None, settings.model.template)
    directory = Directory(uuid.uuid4().hex, base, adapters, fleet)
    return GatewayState(
        settings=settings,
        engine=engine,
        builders=builders,
        directory=directory,
        lifecycle=Lifecycle(
            adapters,
            fleet,
            directory,
            taking,
            lambda revision: rank_canary(engine, builders(revision.template), revision.id),
            metrics,
        ),
        admission=Admission(settings.limits.max_requests_in_flight),
        metrics=metrics,
        database=database,
        tenants=tenants,
        keyring=KeyRing(tenants, key_digests, open_door=settings.tenancy.open),
        budgets=Budgets(settings.tenancy.limits_url),
        queue=_fair_queue(settings),
        admin_digests=tuple(admin_digests),
    )


def _prompt_builders(settings: Settings, tokenizer: BaseTokenizer) -> Callable[[str], PromptBuilder]:
    """The prompt builder of a template, made once; raises SettingsError where there is no such template."""

    @functools.cache
    def builder(template: str) -> PromptBuilder:
        return PromptBuilder(
            load_template(template, settings.ranking.templates),
            tokenizer,
            settings.engine.max_model_len,
            settings.ranking.max_reasoning_tokens,
        )

    return builder


def _fair_queue(settings: Settings) -> FairQueue:
    """One gateway's share of the engines: each replica of it lets in as many tokens as the others."""
    share = settings.engine.replicas / settings.gateway.replicas
    return FairQueue(
        alone=max(1, int(settings.engine.max_tokens * share)),
        shared=max(1, int(settings.engine.max_shared_tokens * share)),
    )
