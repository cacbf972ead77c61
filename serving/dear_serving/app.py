"""Builds the Serve application from settings; the one file that knows every layer."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from ray.serve.config import HTTPOptions
from ray.serve.deployment import Application
from ray.serve.llm import LLMConfig, build_llm_deployment

from dear_serving.adapters.configured import register_configured
from dear_serving.adapters.hub_tokens import HubTokens
from dear_serving.adapters.preflight import base_source, check_models
from dear_serving.errors import SettingsError
from dear_serving.gateway.authenticator import hash_keys
from dear_serving.http.ingress import Gateway
from dear_serving.nodes import count_nodes, this_node
from dear_serving.replica.score_server import ScoreServer
from dear_serving.replica.server import RerankServer
from dear_serving.settings import (
    ADMIN_PORT_VARIABLE,
    EngineAutoscaling,
    EngineSettings,
    GatewayAutoscaling,
    LoggingSettings,
    Settings,
    accepted_api_keys,
    admin_keys,
    check_open_access,
    check_shared,
    load_settings,
    read_settings,
)
from dear_serving.tracing import engine_variables
from dear_serving.types import MAX_IDENTIFIERS

# Read by Ray's HTTP proxy, a process of its own. A Ray that runs already needs it in its own environment.
os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "dear_serving.http.proxy.middlewares")

APP_NAME = "dear"
ENGINE_NAME = "Engine"
FIRST_STAGE_NAME = "FirstStage"
GATEWAY_NAME = "Gateway"
ROUTER = {
    "request_router_class": "dear_serving.gateway.replica_choice.AdapterRouter",
    "request_routing_stats_period_s": 1.0,
}
"""Serve's option for how gateways choose a replica of an engine deployment."""

_HEALTH_CHECK_S = 3.0
_LOOK_BACK_S = 10.0
_INSIDE = "dear_serving.inside_vllm"
_RESUMABLE = {"cpu": "WindowScheduler", "gpu": "AsyncWindowScheduler"}


def build(args: dict[str, Any]) -> Application:
    """Entry point for ``serve run`` and ``serve deploy``.

    Args:
        args: ``settings``, as in a settings file; relative paths start in the current folder. Or ``config``,
            a settings file. Serve deploys again when the args change: it takes no notice of a changed file.

    Raises:
        StartupError: a setting, a template or an adapter is wrong.
    """
    if len(args) != 1 or not args.keys() <= {"settings", "config"}:
        raise SettingsError("args: give settings, or config: serve run dear_serving.app:build config=FILE")
    if "settings" in args:
        settings = read_settings(args["settings"], Path.cwd(), "args.settings")
    else:
        settings = load_settings(Path(args["config"]))
    check_admin_port(settings)
    check_models(settings)
    register_configured(settings)
    return build_application(settings)


def check_admin_port(settings: Settings) -> None:
    """Refuse an admin port that Ray's proxies do not open, or another one.

    Raises:
        SettingsError: the environment, which Ray's proxies read, does not say the settings' port, or says
            that HAProxy is to take their place.
    """
    wanted, told = settings.http.admin_port, os.environ.get(ADMIN_PORT_VARIABLE) or None
    if wanted is not None and os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        raise SettingsError(
            f"http.admin_port: HAProxy, which RAY_SERVE_ENABLE_HA_PROXY=1 asks for, does not open {wanted}; "
            "leave out one of the two"
        )
    if (None if wanted is None else str(wanted)) == told:
        return
    raise SettingsError(
        f"http.admin_port: Ray's proxies open it, and here {ADMIN_PORT_VARIABLE} is {told or 'not set'}; "
        + (f"set it to {wanted} where Ray is started" if wanted else f"set http.admin_port to {told}")
        + ", on every machine"
    )


def build_application(settings: Settings, start_attempts: int | None = None) -> Application:
    """Build gateways in front of engines. Reads no weights and starts nothing; seed the registry first.

    Args:
        settings: the loaded settings.
        start_attempts: how often engines are started until the first one runs. Serve's own: three times each,
            20 in all. Later, Serve replaces engines without end.

    Raises:
        SettingsError: the server would be open to a network, or its registry is a file of one machine while
            there are several.
    """
    check_open_access(settings)
    check_shared(settings.registry, settings.adapters, is_elsewhere=count_nodes() > 1)
    options: dict[str, Any] = {"name": ENGINE_NAME}
    if start_attempts is not None:
        options["max_constructor_retry_count"] = start_attempts
    engine = build_llm_deployment(
        llm_config(settings),
        deployment_cls=RerankServer,
        bind_kwargs=_bind_kwargs(settings, settings.engine),
        override_serve_options=options,
    )
    return gateways_before(engine, settings, _first_stage(settings, start_attempts))


def _first_stage(settings: Settings, start_attempts: int | None) -> Application | None:
    """The engines of a first stage that is a model of its own; None: it is none."""
    stage = settings.first_stage
    if stage is None or stage.source is None or stage.engine is None:
        return None
    options: dict[str, Any] = {"name": FIRST_STAGE_NAME}
    if start_attempts is not None:
        options["max_constructor_retry_count"] = start_attempts
    kwargs = {"runner": "pooling", "scheduling_policy": "priority"} | stage.engine.engine_kwargs
    application: Application = build_llm_deployment(
        _llm_config(settings, stage.engine, stage.model, stage.source, kwargs),
        deployment_cls=ScoreServer,
        bind_kwargs=_bind_kwargs(settings, stage.engine),
        override_serve_options=options,
    )
    return application


def _bind_kwargs(settings: Settings, engine: EngineSettings) -> dict[str, Any]:
    """What a replica of these engines is constructed with."""
    return {
        "registry": settings.registry,
        "adapters": settings.adapters,
        "engine": engine,
        "hub_tokens": HubTokens.from_environment(),
        "home": this_node(),
        "logging_settings": settings.logging,
        "tracing_settings": settings.tracing,
    }


def gateways_before(
    engine: Application, settings: Settings, first_stage: Application | None = None
) -> Application:
    """Gateways in front of a deployment that answers the calls of protocol.Engine, and of one that answers
    its call ``score`` for a first stage that is a model of its own.
    """
    gateway = Gateway.options(  # type: ignore[attr-defined]  # added by serve.deployment
        name=GATEWAY_NAME,
        **_how_many(settings.gateway.replicas, settings.gateway.autoscaling),
        logging_config=serve_logging(settings.logging),
        max_ongoing_requests=settings.gateway.max_ongoing_requests,
        graceful_shutdown_timeout_s=settings.gateway.drain_s,
        ray_actor_options={
            "num_cpus": settings.gateway.cpus,
            "runtime_env": {"env_vars": hub_environment()},
        },
    )
    application: Application = gateway.bind(
        engine,
        settings,
        base_source(settings),
        hash_keys(accepted_api_keys()),
        hash_keys(admin_keys()),
        HubTokens.from_environment(),
        this_node(),
        first_stage,
    )
    return application


def llm_config(settings: Settings) -> LLMConfig:
    """Ray Serve LLM's configuration: our defaults, overridden by the settings' engine_kwargs."""
    engine = settings.engine
    engine_kwargs: dict[str, Any] = {
        "enable_prefix_caching": True,
        # Requests carry a priority, as in Cohere's API.
        "scheduling_policy": "priority",
    } | _decoding_kwargs(engine)
    if settings.adapters.capacity:
        engine_kwargs |= {
            "enable_lora": True,
            "max_lora_rank": engine.max_lora_rank,
            "max_loras": min(settings.adapters.slots, settings.adapters.capacity),
            # Room for every adapter: a miss would read one from disk inside an engine step. Twice, because
            # retired adapters stay until their last request ends.
            "max_cpu_loras": 2 * settings.adapters.capacity,
        }
        if engine.accelerator == "cpu":
            engine_kwargs["worker_cls"] = "dear_serving.inside_vllm.cpu_lora.GroupedLoraWorker"
    if settings.model.chat_template is not None:
        engine_kwargs["chat_template"] = str(settings.model.chat_template)
    if settings.tracing.traces_url is not None:
        engine_kwargs["otlp_traces_endpoint"] = settings.tracing.traces_url
    engine_kwargs |= engine.engine_kwargs
    return _llm_config(
        settings,
        engine,
        settings.model.id,
        base_source(settings),
        engine_kwargs,
    )


def _llm_config(
    settings: Settings,
    engine: EngineSettings,
    model: str,
    source: str,
    engine_kwargs: dict[str, Any],
) -> LLMConfig:
    """The configuration of some engines."""
    hardware: dict[str, Any] = {"accelerator_config": {"kind": engine.accelerator}}
    if engine.accelerator == "cpu":
        hardware["placement_group_config"] = {"bundles": [{"CPU": 1}]}
    if engine.accelerator_type is not None:
        hardware["accelerator_type"] = engine.accelerator_type
    return LLMConfig(
        model_loading_config={"model_id": model, "model_source": source},
        engine_kwargs=engine_kwargs,
        deployment_config=_how_many(engine.replicas, engine.autoscaling)
        | {
            "max_ongoing_requests": engine.max_ongoing_requests,
            "logging_config": serve_logging(settings.logging),
            "graceful_shutdown_timeout_s": settings.gateway.drain_s,
            "health_check_period_s": _HEALTH_CHECK_S,  # until a dead engine is replaced
            "ray_actor_options": {"num_cpus": 0 if engine.accelerator == "cpu" else 1},
            "request_router_config": ROUTER,
        },
        # vLLM counts in the registry that /metrics shows and metrics_export copies to Ray. With True
        # it would record in Ray in every step, and /metrics had nothing.
        log_engine_metrics=False,
        runtime_env={"env_vars": engine_environment(settings, engine)},
        **hardware,
    )


def _how_many(replicas: int, scaling: EngineAutoscaling | GatewayAutoscaling | None) -> dict[str, Any]:
    """Serve's options for the number of replicas."""
    if scaling is None:
        return {"num_replicas": replicas}
    config: dict[str, Any] = {
        "min_replicas": scaling.min_replicas,
        "max_replicas": scaling.max_replicas,
        "initial_replicas": min(max(replicas, scaling.min_replicas), scaling.max_replicas),
        "upscale_delay_s": scaling.upscale_delay_s,
        "downscale_delay_s": scaling.downscale_delay_s,
        "look_back_period_s": _LOOK_BACK_S,
    }
    if isinstance(scaling, GatewayAutoscaling):
        return {"autoscaling_config": config | {"target_ongoing_requests": scaling.requests_per_replica}}
    policy = {
        "policy_function": "dear_serving.autoscaling:EngineScaling",
        "policy_kwargs": {"tokens_per_replica": scaling.tokens_per_replica},
    }
    config |= {"policy": policy, "downscale_to_zero_delay_s": scaling.to_zero_delay_s}
    return {"autoscaling_config": config}


def _decoding_kwargs(engine: EngineSettings) -> dict[str, Any]:
    """What vLLM needs to know for the way windows are decoded."""
    if engine.decoding == "ordinary":
        return {}
    if engine.decoding == "resumable":
        return {"scheduler_cls": f"{_INSIDE}.resumable_scheduler.{_RESUMABLE[engine.accelerator]}"}
    batched, requests = (
        engine.engine_kwargs.get(name) for name in ("max_num_batched_tokens", "max_num_seqs")
    )
    if batched and requests and batched < requests * (engine.max_drafts + 1):
        raise SettingsError(
            f"engine.max_drafts: {requests} requests (max_num_seqs) with {engine.max_drafts} drafts each "
            f"do not fit a step of {batched} tokens (max_num_batched_tokens)"
        )
    on_gpu = {"free_tokens": 256, "free_chance": 0.0, "uniform": True}
    return {
        "scheduler_cls": f"{_INSIDE}.drafted_scheduler.DraftedScheduler",
        "speculative_config": {
            "method": "custom_class",
            "model": f"{_INSIDE}.drafted_scheduler.NoDrafts",
            "num_speculative_tokens": engine.max_drafts,
        },
        # A window's first step gives the log probabilities of all its identifiers.
        "max_logprobs": MAX_IDENTIFIERS,
        "additional_config": {"dear_drafts": on_gpu if engine.accelerator == "gpu" else {}},
    }


def serve_logging(settings: LoggingSettings) -> dict[str, Any]:
    """Serve's own lines: none for each request, since gateways and engines write one."""
    return {"encoding": settings.format.upper(), "enable_access_log": False}


def http_options(settings: Settings) -> HTTPOptions:
    """The address on which Serve's proxy listens."""
    return HTTPOptions(host=settings.http.host, port=settings.http.port)


def engine_environment(settings: Settings, engine: EngineSettings | None = None) -> dict[str, str]:
    """Environment variables for vLLM, for these engines, else the base model's. The user's own values win."""
    engine = engine or settings.engine
    variables = {"VLLM_NO_USAGE_STATS": "1"} | engine_variables(settings.tracing)
    if engine.accelerator == "cpu":
        # By default vLLM reserves one core, which is half of a two-core laptop.
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(engine.kv_cache_gib),
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            # Iterations that an OpenMP thread spins before it sleeps. The default spins for milliseconds on
            # cores that the gateway needs; with much less, every matrix product pays for a wake-up.
            "GOMP_SPINCOUNT": "2000",
        }
        if engine.engine_kwargs.get("enforce_eager"):
            # vLLM still compiles its sampler, which needs a C++ compiler that a laptop may not have.
            variables["TORCHDYNAMO_DISABLE"] = "1"
    # Ray Serve LLM has a limit of its own; the engine's start_timeout_s is the one that counts.
    variables["RAYLLM_ENGINE_START_TIMEOUT_S"] = str(math.ceil(engine.start_timeout_s))
    return {name: os.environ.get(name, value) for name, value in variables.items()} | hub_environment()


def hub_environment() -> dict[str, str]:
    """Where the Hugging Face hub is, for processes on other machines. Tokens travel as HubTokens."""
    return {name: os.environ[name] for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE") if name in os.environ}
