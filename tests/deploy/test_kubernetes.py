"""configs/kubernetes, rendered: valid, consistent in itself, and what the server and Ray expect."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _get_ray_resources_from_group_spec

from dear_serving.app import llm_config
from dear_serving.http.access import key_for
from dear_serving.settings import (
    ADMIN_KEY_VARIABLE,
    ADMIN_PORT_VARIABLE,
    API_KEYS_VARIABLE,
    LIMITS_VARIABLE,
    REGISTRY_VARIABLE,
    load_settings,
)
from tests.conftest import ROOT
from tests.deploy.manifests import (
    CRD,
    KUBERNETES,
    OVERLAYS,
    Manifest,
    containers,
    environment,
    groups,
    new_secrets,
    of_kind,
    overlay,
    pods,
    problems,
    ray_service,
    render,
    settings_of,
)

pytestmark = pytest.mark.integration

PORTS = {"serve": 8000, "admin": 8001, "metrics": 8080}


@pytest.fixture(autouse=True)
def _environment_of_the_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (API_KEYS_VARIABLE, ADMIN_KEY_VARIABLE, REGISTRY_VARIABLE, LIMITS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(ADMIN_PORT_VARIABLE, environment()[ADMIN_PORT_VARIABLE])


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return overlay(request.param)


def test_there_are_overlays_for_one_machine_for_eight_and_for_spot_machines() -> None:
    assert OVERLAYS == ["eight-nodes", "one-a100-node", "spot"]


def test_every_manifest_is_valid(manifests: list[Manifest]) -> None:
    assert problems(manifests) == []
    kinds = {one["kind"] for one in manifests}
    expected = {
        "RayService",
        "Job",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "ConfigMap",
    }
    assert expected <= kinds


def test_a_cluster_needs_no_more_than_kuberay_for_the_first_overlay() -> None:
    foreign = {
        one["apiVersion"] for one in overlay("one-a100-node") if "." in one["apiVersion"].partition("/")[0]
    }
    assert foreign - {"networking.k8s.io/v1"} == {"ray.io/v1"}
    assert of_kind(overlay("eight-nodes"), "PodMonitor")


@pytest.mark.skipif(not CRD.is_file(), reason="KubeRay's schema is not beside the checkout")
def test_rays_pods_are_valid_with_the_schema_of_kuberay(manifests: list[Manifest]) -> None:
    service = ray_service(manifests)
    assert problems([service]) == []
    service = yaml.safe_load(yaml.safe_dump(service))
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["nodeSelektor"] = {}
    assert any("nodeSelektor" in said for said in problems([service]))


BREAKS = {
    "a field of RayService": ("base/rayservice.yaml", "rayClusterConfig:", "rayClusterConfg:"),
    "a field of a probe": ("base/rayservice.yaml", "failureThreshold: 6\n", "failureTreshold: 6\n"),
    "a kind of value": ("base/rayservice.yaml", "minReplicas: 2", "minReplicas: two"),
    "a value that is none": ("base/rayservice.yaml", "mode: token", "mode: tokn"),
    "a field of a Job": ("base/migrate.yaml", "backoffLimit: 20", "backofLimit: 20"),
    "a field of a budget": ("base/disruption.yaml", "maxUnavailable: 1", "maxUnavailble: 1"),
    "a field of a policy": ("base/network.yaml", "  ingress:", "  ingres:"),
    "a field of a claim": ("base/files.yaml", "accessModes:", "acessModes:"),
    "a field of a monitor": (
        "components/monitor/monitor.yaml",
        "podMetricsEndpoints:",
        "podMetricsEndpoint:",
    ),
    "a field of a StatefulSet": (
        "components/databases/redis.yaml",
        "serviceName: redis",
        "servceName: redis",
    ),
    "a setting": ("overlays/one-a100-node/serve.yaml", "max_drafts: 7", "max_draft: 7"),
    "a setting's value": ("overlays/one-a100-node/serve.yaml", "accelerator: gpu", "accelerator: gpus"),
    "an adapter": ("overlays/one-a100-node/serve.yaml", "model: dear-8b-listwise", "model: dear-8b-listwse"),
    "a field of Serve": ("overlays/one-a100-node/serve.yaml", "proxy_location:", "proxy_locaton:"),
    "a value of Serve": ("overlays/one-a100-node/serve.yaml", "EveryNode", "EveryNde"),
    "a field of the application": ("overlays/one-a100-node/serve.yaml", "route_prefix:", "route_prefx:"),
    "the application": (
        "overlays/one-a100-node/serve.yaml",
        "dear_serving.app:build",
        "dear_serving.ap:build",
    ),
    "a store of one machine": (
        "overlays/one-a100-node/serve.yaml",
        "store_is_shared: true",
        "store_is_shared: false",
    ),
    "another admin port": ("overlays/one-a100-node/serve.yaml", "admin_port: 8001", "admin_port: 8002"),
}


@pytest.mark.parametrize(("file", "old", "new"), BREAKS.values(), ids=BREAKS.keys())
def test_a_typo_is_found(file: str, old: str, new: str, tmp_path: Path) -> None:
    if file == "base/rayservice.yaml" and not CRD.is_file():
        pytest.skip("KubeRay's schema is not beside the checkout")
    copy = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new, 1))
    try:
        folder = "eight-nodes" if "monitor" in file else "one-a100-node"
        manifests = render(copy / "overlays" / folder)
    except AssertionError:  # kustomize found it itself, where a patch has no place any more
        return
    assert problems(manifests)


def test_the_incremental_upgrade_is_a_component(tmp_path: Path) -> None:
    where = {name: os.path.relpath(KUBERNETES / name, tmp_path) for name in ("overlays", "components")}
    kustomization = {
        "resources": [f"{where['overlays']}/eight-nodes"],
        "components": [f"{where['components']}/incremental-upgrade"],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    manifests = render(tmp_path)
    assert problems(manifests) == []
    strategy = ray_service(manifests)["spec"]["upgradeStrategy"]
    assert strategy["type"] == "NewClusterWithIncrementalUpgrade"
    assert 0 < strategy["clusterUpgradeOptions"]["maxSurgePercent"] < 100


def test_every_component_is_used_or_named(manifests: list[Manifest]) -> None:
    texts = "".join(file.read_text() for file in (KUBERNETES / "overlays").glob("*/kustomization.yaml"))
    for component in (KUBERNETES / "components").iterdir():
        assert f"../../components/{component.name}\n" in texts


def test_the_engine_is_that_of_the_a100s_settings(manifests: list[Manifest]) -> None:
    settings = settings_of(ray_service(manifests)["spec"]["serveConfigV2"])
    a100 = load_settings(ROOT / "configs" / "a100.yaml")
    same = ("engine_kwargs", "max_drafts", "accelerator", "accelerator_type", "start_timeout_s")
    for name in same:
        assert getattr(settings.engine, name) == getattr(a100.engine, name)
    assert settings.adapters.bases == a100.adapters.bases
    assert settings.templates().items() == a100.templates().items()


def test_what_replicas_ask_of_ray_is_what_their_pods_have(manifests: list[Manifest]) -> None:
    service = ray_service(manifests)
    settings = settings_of(service["spec"]["serveConfigV2"])
    found = groups(service)
    have = {name: _get_ray_resources_from_group_spec(group, name == "head") for name, group in found.items()}
    assert have["head"]["CPU"] == 0  # no replica is placed there
    assert have["engines"]["CPU"] == have["gateways"]["CPU"] == 1  # one replica a pod
    config = llm_config(settings)
    (bundle,) = config.get_engine_config().placement_bundles  # of the worker, to which the replica's is added
    engine = {"CPU": config.deployment_config["ray_actor_options"]["num_cpus"]} | bundle
    assert engine.keys() >= {"CPU", "GPU", "accelerator_type:A100"}
    for ask, group in ((engine, "engines"), ({"CPU": settings.gateway.cpus}, "gateways")):
        for resource, amount in ask.items():
            assert 0 < amount <= have[group][resource], resource


def test_the_settings_name_files_that_the_head_fetches_and_all_pods_see(manifests: list[Manifest]) -> None:
    service = ray_service(manifests)
    settings = settings_of(service["spec"]["serveConfigV2"])
    found = groups(service)
    (models, _) = found["head"]["template"]["spec"]["initContainers"]
    fetched = set(re.findall(r"--local-dir (\S+)", models["command"][-1]))
    adapters = settings.adapters
    assert {settings.model.source, *(str(adapters.root / one.path) for one in adapters.serve)} == fetched
    for group in found.values():
        (container,) = group["template"]["spec"]["containers"]
        mounted = tuple(
            f"{mount['mountPath']}/" for mount in container["volumeMounts"] if mount["name"] == "files"
        )
        assert all(path.startswith(mounted) for path in [*fetched, adapters.store])
        if group is not found["head"]:
            assert str(adapters.cache).startswith("/var/cache/dear/")


def test_there_are_pods_for_as_many_replicas_as_the_settings_ask_for(manifests: list[Manifest]) -> None:
    service = ray_service(manifests)
    settings = settings_of(service["spec"]["serveConfigV2"])
    found = groups(service)
    for part, group in ((settings.engine, found["engines"]), (settings.gateway, found["gateways"])):
        most = part.replicas if part.autoscaling is None else part.autoscaling.max_replicas
        least = part.replicas if part.autoscaling is None else part.autoscaling.min_replicas
        assert group["maxReplicas"] == most
        assert group["minReplicas"] == least <= group["replicas"] <= most


def test_one_machine_is_not_asked_for_more_gpus_than_it_has() -> None:
    service = ray_service(overlay("one-a100-node"))
    assert groups(service)["engines"]["maxReplicas"] == 8
    assert service["spec"]["upgradeStrategy"]["type"] == "None"


def test_where_a_disk_is_one_machines_all_pods_are_on_it() -> None:
    manifests = overlay("one-a100-node")
    (claim,) = of_kind(manifests, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    found = [group["template"]["spec"] for group in groups(ray_service(manifests)).values()]
    places = [(pod.get("nodeSelector"), pod.get("tolerations")) for pod in found]
    assert places[0][0]
    assert all(place == places[0] for place in places)
    assert of_kind(overlay("eight-nodes"), "PersistentVolumeClaim")[0]["spec"]["accessModes"] == [
        "ReadWriteMany"
    ]


def test_the_environment_is_what_dear_serve_sets() -> None:
    found = environment()
    program = (
        "import json, os, dear_serving.app, dear_serving.process.runtime; print(json.dumps({**os.environ}))"
    )
    clean = {name: value for name, value in os.environ.items() if name not in found}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean, capture_output=True, text=True, check=True
    )
    sets = json.loads(done.stdout.splitlines()[-1])
    # The admin port is one of the settings; how long Ray's machines drain is nothing that dear serve has.
    assert found.keys() - sets.keys() == {ADMIN_PORT_VARIABLE, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"}
    assert {name: sets[name] for name in found.keys() & sets.keys()}.items() <= found.items()
    ours = {name for name in sets.keys() - clean.keys() if name.startswith(("RAY", "VLLM"))}
    of_a_local_ray = {"RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_TMPDIR"}
    assert ours - found.keys() <= of_a_local_ray


def test_ray_wants_its_token(manifests: list[Manifest]) -> None:
    assert ray_service(manifests)["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}


def test_everything_that_is_named_is_there(manifests: list[Manifest]) -> None:
    maps = {one["metadata"]["name"] for one in of_kind(manifests, "ConfigMap")}
    claims = {one["metadata"]["name"] for one in of_kind(manifests, "PersistentVolumeClaim")}
    secrets = {one["metadata"]["name"]: one for one in new_secrets() if one["kind"] == "Secret"}
    for name, pod, _ in pods(manifests):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for volume in pod.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, name
        for container in containers(pod):
            templates = {"data"} if name.startswith("StatefulSet") else set()
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes | templates
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] in maps, name
                else:
                    assert source["secretRef"]["name"] in secrets, name
            for variable in container.get("env", []):
                if (key := variable.get("valueFrom", {}).get("secretKeyRef")) is not None:
                    assert key["key"] in secrets[key["name"]]["stringData"], name
    password = ray_service(manifests)["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisPassword"]
    key = password["valueFrom"]["secretKeyRef"]
    assert key["key"] in secrets[key["name"]]["stringData"]


def test_new_secrets_are_valid_new_each_time_and_the_servers_variables() -> None:
    secrets = new_secrets(HF_TOKEN="hf_x")
    assert problems(secrets) == []
    namespace, server, databases = secrets
    assert namespace["metadata"]["name"] == "dear" == server["metadata"]["namespace"]
    variables = {ADMIN_KEY_VARIABLE, API_KEYS_VARIABLE, REGISTRY_VARIABLE, LIMITS_VARIABLE, "HF_TOKEN"}
    found = server["stringData"]
    assert found.keys() == variables
    assert found["HF_TOKEN"] == "hf_x"
    assert databases["stringData"]["POSTGRES_PASSWORD"] in found[REGISTRY_VARIABLE]
    assert databases["stringData"]["REDIS_PASSWORD"] in found[LIMITS_VARIABLE]
    assert len(found[ADMIN_KEY_VARIABLE]) == len(found[API_KEYS_VARIABLE]) == 64
    assert new_secrets()[1]["stringData"][ADMIN_KEY_VARIABLE] != found[ADMIN_KEY_VARIABLE]


def test_selectors_find_pods(manifests: list[Manifest]) -> None:
    labels = [found for _, _, found in pods(manifests)]

    def finds(selector: dict[str, str]) -> bool:
        return any(selector.items() <= found.items() for found in labels)

    for service in of_kind(manifests, "Service"):
        assert finds(service["spec"]["selector"])
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        assert finds(budget["spec"]["selector"]["matchLabels"])
    for monitor in of_kind(manifests, "PodMonitor"):
        assert finds(monitor["spec"]["selector"]["matchLabels"])
    budgets = [
        one["spec"]["selector"]["matchLabels"]["ray.io/group"]
        for one in of_kind(manifests, "PodDisruptionBudget")
    ]
    assert sorted(budgets) == ["engines", "gateways"]


def test_ports_are_named_alike_on_every_ray_pod(manifests: list[Manifest]) -> None:
    service = ray_service(manifests)
    assert environment()[ADMIN_PORT_VARIABLE] == str(PORTS["admin"])
    http = settings_of(service["spec"]["serveConfigV2"]).http
    assert (http.port, http.admin_port) == (PORTS["serve"], PORTS["admin"])
    for group in groups(service).values():
        (container,) = group["template"]["spec"]["containers"]
        assert {port["name"]: port["containerPort"] for port in container["ports"]}.items() >= PORTS.items()
    for monitor in of_kind(manifests, "PodMonitor"):
        assert [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


def test_no_port_of_rays_is_open_beyond_our_own_pods(manifests: list[Manifest]) -> None:
    (policy,) = (
        one["spec"] for one in of_kind(manifests, "NetworkPolicy") if one["metadata"]["name"] == "dear"
    )
    assert policy["policyTypes"] == ["Ingress"]
    for _, pod, labels in pods(manifests):
        is_ours = policy["podSelector"]["matchLabels"].items() <= labels.items()
        assert is_ours is ("ray" in pod["containers"][0]["name"])
    own, *others = policy["ingress"]
    assert own == {"from": [{"podSelector": policy["podSelector"]}]}
    for rule in others:
        is_operator = "podSelector" in rule["from"][0] and "namespaceSelector" in rule["from"][0]
        allowed = {"serve", "dashboard"} if is_operator else {"serve", "admin", "metrics"}
        assert rule["from"]
        assert rule["ports"]
        assert {port["port"] for port in rule["ports"]} <= allowed


def test_the_outside_reaches_the_tenants_port_alone(manifests: list[Manifest]) -> None:
    for service in of_kind(manifests, "Service"):
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
    for ingress in of_kind(manifests, "Ingress"):
        assert ingress["spec"]["tls"]
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                assert key_for(path["path"]) != "admin"
                assert path["backend"]["service"] == {
                    "name": "dear-serve-svc",
                    "port": {"number": PORTS["serve"]},
                }


def test_pods_have_time_to_finish_what_they_do(manifests: list[Manifest]) -> None:
    service = ray_service(manifests)
    settings = settings_of(service["spec"]["serveConfigV2"])
    for name, group in groups(service).items():
        if name == "head":
            continue
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        own = {one["name"]: one.get("value") for one in container.get("env", [])}
        drain_s = int((environment() | own)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert pod["terminationGracePeriodSeconds"] > pause_s + drain_s
        if pod["terminationGracePeriodSeconds"] > 30:  # spot machines have no time
            assert drain_s >= settings.gateway.drain_s
    assert service["spec"]["rayClusterDeletionDelaySeconds"] > 2 * settings.gateway.drain_s


def test_pods_have_no_rights_that_they_do_not_need(manifests: list[Manifest]) -> None:
    for name, pod, _ in pods(manifests):
        security = pod["securityContext"]
        assert security["runAsNonRoot"], name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        if not name.endswith("/head"):  # its autoscaler changes the number of pods
            assert pod["automountServiceAccountToken"] is False, name
        for container in containers(pod):
            expected: dict[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == expected, name
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name


def test_every_ray_pod_is_probed(manifests: list[Manifest]) -> None:
    for name, group in groups(ray_service(manifests)).items():
        (container,) = group["template"]["spec"]["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert "healthz" in container[probe]["exec"]["command"][-1], (name, probe)
        ready = container["readinessProbe"]["exec"]["command"][-1]
        assert ("8000/-/healthz" in ready) is (name != "head")
