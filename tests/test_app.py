"""The Serve application, built from the configs without starting an engine."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.llm._internal.serve.engines.vllm import vllm_models
from ray.serve._private.build_app import build_app
from ray.serve.llm import LLMConfig

from dear_serving.adapters.hub_tokens import VARIABLES, HubTokens
from dear_serving.adapters.revisions import Adapters
from dear_serving.app import build, build_application, http_options, llm_config
from dear_serving.autoscaling import EngineScaling
from dear_serving.errors import InvalidAdapterFiles, SettingsError
from dear_serving.inside_vllm.drafts import DraftPolicy
from dear_serving.registry.database import open_database
from dear_serving.replica.score_server import ScoreServer
from dear_serving.replica.server import RerankServer, keep_tokens_out_of_runtime_envs
from dear_serving.settings import FirstStageSettings, RegistrySettings, Settings, load_settings
from dear_serving.types import Decoding
from tests.conftest import CPU_CONFIG, ROOT

pytestmark = pytest.mark.integration

A100 = ROOT / "configs" / "a100.yaml"


@pytest.fixture(scope="module")
def a100() -> Settings:
    return load_settings(A100)


def test_the_gpu_config_is_the_published_model(a100: Settings) -> None:
    config = llm_config(a100)
    assert isinstance(config, LLMConfig)
    assert config.model_loading_config.model_source == "meta-llama/Llama-3.1-8B"
    assert config.accelerator_type == "A100"
    kwargs = config.engine_kwargs
    assert (kwargs["dtype"], kwargs["tensor_parallel_size"], kwargs["enable_lora"]) == ("bfloat16", 1, True)
    assert kwargs["max_lora_rank"] == 16
    assert kwargs["max_cpu_loras"] >= len(a100.adapters.serve)
    assert config.deployment_config["num_replicas"] == 4


def test_the_gpu_application_holds_gateways_and_one_engine_a_gpu(a100: Settings) -> None:
    built = build_app(build_application(a100), name="dear")
    deployments = {deployment.name: deployment for deployment in built.deployments}
    assert set(deployments) == {"Engine", "Gateway"}
    engine, gateway = deployments["Engine"], deployments["Gateway"]
    assert built.ingress_deployment_name == "Gateway"
    assert engine.num_replicas == 4
    assert gateway.num_replicas == 2
    bundles = engine._replica_config.placement_group_bundles
    assert sum(bundle.get("GPU", 0) for bundle in bundles) == 1
    assert any("A100" in resource for bundle in bundles for resource in bundle)
    assert engine.func_or_class.__name__ == RerankServer.__name__


def test_a_first_stage_of_its_own_is_a_deployment_of_its_own() -> None:
    settings = load_settings(CPU_CONFIG)
    kwargs = {"dtype": "float32", "max_model_len": 512}
    stage = FirstStageSettings.model_validate(
        {
            "model": "scorer",
            "source": "org/scorer",
            "template": "bge-reranker",
            "engine": {"replicas": 2, "kv_cache_gib": 2, "engine_kwargs": kwargs},
        }
    )
    built = build_app(build_application(settings.model_copy(update={"first_stage": stage})), name="dear")
    deployments = {deployment.name: deployment for deployment in built.deployments}
    assert set(deployments) == {"Engine", "FirstStage", "Gateway"}
    first = deployments["FirstStage"]
    assert (first.func_or_class.__name__, first.num_replicas) == (ScoreServer.__name__, 2)
    config = first._replica_config.init_kwargs["llm_config"]
    assert config.model_loading_config.model_source == "org/scorer"
    assert config.engine_kwargs == {"runner": "pooling", "scheduling_policy": "priority"} | kwargs
    assert config.runtime_env["env_vars"]["VLLM_CPU_KVCACHE_SPACE"] == "2"
    router = config.deployment_config["request_router_config"]
    assert router["request_router_class"] == "dear_serving.gateway.replica_choice.AdapterRouter"


def test_tensor_parallelism_reserves_a_gpu_a_rank(a100: Settings) -> None:
    kwargs = a100.engine.engine_kwargs | {"tensor_parallel_size": 4}
    engine = a100.engine.model_copy(update={"engine_kwargs": kwargs, "replicas": 2})
    built = build_app(build_application(a100.model_copy(update={"engine": engine})), name="dear")
    deployment = next(one for one in built.deployments if one.name == "Engine")
    bundles = deployment._replica_config.placement_group_bundles
    assert sum(bundle.get("GPU", 0) for bundle in bundles) == 4


def test_the_cpu_application_needs_no_gpu(tmp_path: Path) -> None:
    config = yaml.safe_load(CPU_CONFIG.read_text())
    config["model"]["source"] = f"{ROOT}/configs/demo/base"
    config["adapters"]["root"] = f"{ROOT}/configs/demo/adapters"
    (tmp_path / "cpu.yaml").write_text(yaml.safe_dump(config))
    built = build_app(build({"config": str(tmp_path / "cpu.yaml")}), name="dear")
    # What the settings name is in the registry before anything starts.
    database = open_database(f"sqlite:///{tmp_path}/.dear/registry.db")
    assert set(Adapters(database, 64).pointers().active) == {"legal", "medical"}
    database.close()
    deployment = next(one for one in built.deployments if one.name == "Engine")
    bundles = deployment._replica_config.placement_group_bundles
    assert sum(bundle.get("GPU", 0) for bundle in bundles) == 0
    assert deployment.max_ongoing_requests == 512


def test_engines_and_gateways_scale_where_the_settings_say_so(a100: Settings) -> None:
    data = a100.model_dump()
    data["engine"]["autoscaling"] = {"min_replicas": 0, "max_replicas": 3, "tokens_per_replica": 1000}
    data["gateway"]["autoscaling"] = {"max_replicas": 8, "requests_per_replica": 50}
    built = build_app(build_application(Settings.model_validate(data)), name="dear")
    engine, gateway = (
        next(one for one in built.deployments if one.name == name)._deployment_config.autoscaling_config
        for name in ("Engine", "Gateway")
    )
    assert (engine.min_replicas, engine.initial_replicas, engine.max_replicas) == (0, 3, 3)
    policy = imported(engine.policy.policy_function.replace(":", "."))
    assert policy is EngineScaling
    assert policy(**engine.policy.policy_kwargs)
    assert (gateway.min_replicas, gateway.initial_replicas, gateway.max_replicas) == (1, 2, 8)
    assert gateway.target_ongoing_requests == 50


def test_a_deployment_has_its_settings_in_its_args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A settings file may change, and Serve would take no notice."""
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(CPU_CONFIG.read_text())
    config["model"]["source"] = f"{ROOT}/configs/demo/base"
    config["adapters"]["root"] = f"{ROOT}/configs/demo/adapters"
    assert build({"settings": config})
    assert (tmp_path / ".dear" / "registry.db").exists()
    with pytest.raises(SettingsError, match=r"^args.settings: engine.replica: unknown setting"):
        build({"settings": config | {"engine": config["engine"] | {"replica": 2}}})


@pytest.mark.parametrize("args", [{}, {"config": "x", "settings": {}}, {"conf": "x"}])
def test_other_args_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"^args: give settings, or config"):
        build(args)


@pytest.mark.parametrize(
    ("url", "store", "is_shared", "wrong"),
    [
        ("sqlite:////data/registry.db", "s3://bucket/dear", False, "registry.url"),
        ("postgresql+psycopg://host/dear", "/data/store", False, "adapters.store"),
        ("postgresql+psycopg://host/dear", "/data/store", True, None),
        ("postgresql+psycopg://host/dear", "s3://bucket/dear", False, None),
    ],
)
def test_what_is_one_machines_is_refused_where_there_are_several(
    monkeypatch: pytest.MonkeyPatch, a100: Settings, url: str, store: str, is_shared: bool, wrong: str | None
) -> None:
    adapters = a100.adapters.model_copy(update={"store": store, "store_is_shared": is_shared})
    settings = a100.model_copy(update={"registry": RegistrySettings(url=url), "adapters": adapters})
    assert build_application(settings)
    monkeypatch.setattr("dear_serving.app.count_nodes", lambda: 2)
    if wrong is None:
        assert build_application(settings)
        return
    with pytest.raises(SettingsError, match=rf"^{wrong}: .* of one machine, and the cluster has several"):
        build_application(settings)


DRAFTED = "dear_serving.inside_vllm.drafted_scheduler.DraftedScheduler"
RESUMABLE = "dear_serving.inside_vllm.resumable_scheduler.WindowScheduler"
RESUMABLE_ON_GPU = "dear_serving.inside_vllm.resumable_scheduler.AsyncWindowScheduler"
CPU_WORKER = "dear_serving.inside_vllm.cpu_lora.GroupedLoraWorker"


def with_engine(settings: Settings, adapters: bool = True, **engine_kwargs: Any) -> Settings:
    """The settings with more engine_kwargs, and without adapters where told."""
    kwargs = settings.engine.engine_kwargs | engine_kwargs
    update: dict[str, Any] = {"engine": settings.engine.model_copy(update={"engine_kwargs": kwargs})}
    if not adapters:
        update["adapters"] = settings.adapters.model_copy(update={"serve": (), "capacity": 0})
        update["model"] = settings.model.model_copy(update={"source": f"{ROOT}/configs/demo/base"})
    return settings.model_copy(update=update)


def imported(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("adapters", [True, False])
@pytest.mark.parametrize(("config", "worker"), [(CPU_CONFIG, CPU_WORKER), (A100, None)])
def test_cpus_have_their_lora_and_requests_a_priority(
    config: Path, worker: str | None, adapters: bool
) -> None:
    kwargs = llm_config(with_engine(load_settings(config), adapters)).engine_kwargs
    assert kwargs.get("worker_cls") == (worker if adapters else None)
    assert kwargs["scheduling_policy"] == "priority"
    assert kwargs.get("enable_lora", False) is adapters


@pytest.mark.parametrize(
    ("config", "decoding", "scheduler"),
    [
        (CPU_CONFIG, "drafted", DRAFTED),
        (A100, "drafted", DRAFTED),
        (CPU_CONFIG, "resumable", RESUMABLE),
        (A100, "resumable", RESUMABLE_ON_GPU),
        (A100, "ordinary", None),
    ],
)
def test_each_way_of_decoding_has_its_scheduler(
    config: Path, decoding: Decoding, scheduler: str | None
) -> None:
    settings = load_settings(config)
    engine = settings.engine.model_copy(update={"decoding": decoding, "max_drafts": 7})
    kwargs = llm_config(settings.model_copy(update={"engine": engine})).engine_kwargs
    assert kwargs.get("scheduler_cls") == scheduler
    drafts = kwargs.get("speculative_config", {})
    assert drafts.get("num_speculative_tokens") == (7 if decoding == "drafted" else None)
    if decoding == "drafted":
        assert imported(drafts["model"])
        uniform = DraftPolicy.of(kwargs["additional_config"]).uniform
        assert uniform is (config == A100)  # for full CUDA graphs


def test_more_drafts_than_a_step_has_room_for_are_refused() -> None:
    settings = load_settings(A100)
    kwargs = settings.engine.engine_kwargs | {"max_num_batched_tokens": 2048, "max_num_seqs": 256}
    engine = settings.engine.model_copy(update={"engine_kwargs": kwargs, "max_drafts": 8})
    with pytest.raises(SettingsError, match=r"engine.max_drafts: 256 .* 8 .* 2048"):
        llm_config(settings.model_copy(update={"engine": engine}))


def test_the_classes_named_to_vllm_exist() -> None:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.worker.cpu_worker import CPUWorker

    expected = {
        DRAFTED: (Scheduler, False),
        RESUMABLE: (Scheduler, False),
        RESUMABLE_ON_GPU: (AsyncScheduler, True),
        CPU_WORKER: (CPUWorker, False),
    }
    for name, (parent, is_async) in expected.items():
        found = imported(name)
        assert isinstance(found, type)
        assert issubclass(found, parent)
        assert issubclass(found, AsyncScheduler) is is_async


def test_the_users_engine_kwargs_win() -> None:
    own = {
        "scheduler_cls": "own.Scheduler",
        "worker_cls": "own.Worker",
        "scheduling_policy": "fcfs",
        "enable_prefix_caching": False,
        "max_loras": 1,
        "max_cpu_loras": 7,
    }
    kwargs = llm_config(with_engine(load_settings(CPU_CONFIG), **own)).engine_kwargs
    assert {name: kwargs[name] for name in own} == own


def test_the_cpu_engine_compiles_nothing_unless_asked_to() -> None:
    """A machine without a C++ compiler has to be able to run the default."""
    settings = load_settings(CPU_CONFIG)
    assert llm_config(settings).runtime_env["env_vars"]["TORCHDYNAMO_DISABLE"] == "1"
    kwargs = settings.engine.engine_kwargs | {"enforce_eager": False}
    compiling = settings.model_copy(
        update={"engine": settings.engine.model_copy(update={"engine_kwargs": kwargs})}
    )
    assert "TORCHDYNAMO_DISABLE" not in llm_config(compiling).runtime_env["env_vars"]


def test_the_batch_has_the_settings_slots_and_memory_has_room_for_all() -> None:
    settings = load_settings(CPU_CONFIG)
    adapters = settings.adapters.model_copy(update={"capacity": 100, "slots": 4})
    kwargs = llm_config(settings.model_copy(update={"adapters": adapters})).engine_kwargs
    assert kwargs["max_loras"] == 4
    assert kwargs["max_cpu_loras"] >= 100


def test_hub_tokens_reach_gateway_and_engine_beside_the_logged_runtime_environment(
    a100: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    built = build_app(build_application(a100), name="dear")
    assert len(built.deployments) == 2
    for deployment in built.deployments:
        arguments = [*deployment.init_args, *deployment.init_kwargs.values()]
        assert HubTokens({"HF_TOKEN": "hf_secret"}) in arguments
        assert "hf_secret" not in repr((arguments, deployment, deployment.ray_actor_options))
        variables = deployment.ray_actor_options["runtime_env"]["env_vars"]
        assert variables["HF_ENDPOINT"] == "https://hub.example"


def test_a_process_takes_the_tokens_that_it_has_not_and_ray_is_kept_from_copying_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_own")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "gone after the test")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN")
    HubTokens({"HF_TOKEN": "hf_given", "HUGGING_FACE_HUB_TOKEN": "hf_given"}).use()
    assert (os.environ["HF_TOKEN"], os.environ["HUGGING_FACE_HUB_TOKEN"]) == ("hf_own", "hf_given")
    engine = llm_config(load_settings(CPU_CONFIG)).get_engine_config()
    propagated = set(vllm_models.ENV_VARS_TO_PROPAGATE)
    assert propagated == set(VARIABLES)
    keep_tokens_out_of_runtime_envs()
    assert not {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} & set(
        engine.get_runtime_env_with_local_env_vars()["env_vars"]
    )


def test_the_engines_start_has_the_settings_limit() -> None:
    settings = load_settings(CPU_CONFIG)
    engine = settings.engine.model_copy(update={"start_timeout_s": 7200.5})
    settings = settings.model_copy(update={"engine": engine})
    built = build_app(build_application(settings), name="dear")
    deployment = next(one for one in built.deployments if one.name == "Engine")
    assert deployment.init_kwargs["engine"].start_timeout_s == 7200.5
    variables = deployment.ray_actor_options["runtime_env"]["env_vars"]
    assert variables["RAYLLM_ENGINE_START_TIMEOUT_S"] == "7201"


def test_a_first_start_that_fails_is_told_at_once_and_a_deployment_tries_again(a100: Settings) -> None:
    tries = {}
    for attempts in (None, 1):
        built = build_app(build_application(a100, attempts), name="dear")
        deployment = next(one for one in built.deployments if one.name == "Engine")
        tries[attempts] = deployment._deployment_config.max_constructor_retry_count
    assert tries == {None: 20, 1: 1}


def test_gateways_and_engines_finish_their_requests_within_the_settings_time(a100: Settings) -> None:
    gateway = a100.gateway.model_copy(update={"drain_s": 77.0})
    built = build_app(build_application(a100.model_copy(update={"gateway": gateway})), name="dear")
    assert [one._deployment_config.graceful_shutdown_timeout_s for one in built.deployments] == [77.0, 77.0]
    engine = next(one for one in built.deployments if one.name == "Engine")
    assert engine._deployment_config.health_check_period_s <= 5  # a dead engine is replaced soon


def test_the_listener_is_the_settings_host_and_port(a100: Settings) -> None:
    options = http_options(a100)
    assert (options.host, options.port) == ("0.0.0.0", 8000)


def test_build_checks_models_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="config=FILE"):
        build({})
    with pytest.raises(InvalidAdapterFiles, match='adapter "dear-8b-listwise": no such folder'):
        config = tmp_path / "config.yaml"
        text = A100.read_text().replace(
            "source: meta-llama/Llama-3.1-8B", f"source: {ROOT}/configs/demo/base"
        )
        config.write_text(text)
        build({"config": str(config)})


@pytest.mark.parametrize(
    ("wanted", "told", "said"),
    [
        (8001, None, "DEAR_ADMIN_PORT is not set; set it to 8001 where Ray is started, on every machine"),
        (8001, "8002", "DEAR_ADMIN_PORT is 8002; set it to 8001 where Ray is started, on every machine"),
        (None, "8002", "DEAR_ADMIN_PORT is 8002; set http.admin_port to 8002, on every machine"),
    ],
)
def test_an_admin_port_that_rays_proxies_do_not_open_is_refused(
    wanted: int | None, told: str | None, said: str, a100: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEAR_ADMIN_PORT", raising=False)
    if told is not None:
        monkeypatch.setenv("DEAR_ADMIN_PORT", told)
    data = yaml.safe_load(A100.read_text()) | {"http": {"admin_port": wanted}}
    with pytest.raises(SettingsError, match=said):
        build({"settings": data})
