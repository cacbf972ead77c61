"""Renders configs/kubernetes, and finds what is wrong with a manifest."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from dear_serving.app import check_admin_port
from dear_serving.errors import SettingsError
from dear_serving.settings import Settings, check_open_access, check_shared, read_settings
from tests.conftest import ROOT

KUBERNETES = ROOT / "configs" / "kubernetes"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
VERSION = "1.32"
CRD = ROOT.parent / "shared" / "kuberay" / "ray.io_rayservices.yaml"

Manifest = dict[str, Any]


def render(folder: Path) -> list[Manifest]:
    """What ``kubectl apply -k`` would send; skips the test where nothing renders."""
    if (program := shutil.which("kustomize")) is not None:
        command = [program, "build", str(folder)]
    elif (program := shutil.which("kubectl")) is not None:
        command = [program, "kustomize", str(folder)]
    else:
        pytest.skip("neither kubectl nor kustomize is installed")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@cache
def overlay(name: str) -> list[Manifest]:
    """An overlay's manifests, as they are in the repository."""
    return render(KUBERNETES / "overlays" / name)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Those of a kind."""
    return [one for one in manifests if one["kind"] == kind]


def ray_service(manifests: list[Manifest]) -> Manifest:
    """The RayService."""
    (one,) = of_kind(manifests, "RayService")
    return one


def problems(manifests: list[Manifest]) -> list[str]:
    """What Kubernetes, KubeRay, the Prometheus operator, Serve or the application would refuse or ignore."""
    return [said for one in manifests for said in _problems(one)]


def _problems(manifest: Manifest) -> Iterator[str]:
    kind = manifest["kind"]
    if kind == "RayService":
        if CRD.is_file():
            yield from _refusals(manifest, ray_service_schema())
        yield from serve_problems(manifest["spec"].get("serveConfigV2", ""))
    elif kind == "PodMonitor":
        yield from _refusals(manifest, POD_MONITOR)
    else:
        try:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{kind}: {error.message}"


def _refusals(manifest: Manifest, schema: Manifest) -> Iterator[str]:
    for error in jsonschema.Draft7Validator(schema).iter_errors(manifest):
        yield f"{manifest['kind']}: {'.'.join(str(step) for step in error.absolute_path)}: {error.message}"


@cache
def ray_service_schema() -> Manifest:
    """KubeRay's schema, which also refuses what it does not know; Kubernetes would drop that in silence."""
    crd = yaml.load(CRD.read_text(), Loader=yaml.CSafeLoader)
    (version,) = (one for one in crd["spec"]["versions"] if one["name"] == "v1")
    schema: Manifest = version["schema"]["openAPIV3Schema"]
    _close(schema)
    return schema


def _close(schema: Any) -> None:
    if isinstance(schema, list):
        for one in schema:
            _close(one)
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for one in list(schema.values()):
        _close(one)


def _object(required: tuple[str, ...] = (), **properties: Manifest) -> Manifest:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}
_RELABELLING = _object(
    sourceLabels={"type": "array", "items": _TEXT},
    **dict.fromkeys(("separator", "targetLabel", "regex", "replacement", "action"), _TEXT),
)
POD_MONITOR = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PodMonitor"},
    metadata={"type": "object", "required": ["name"]},
    spec=_object(
        ("selector", "podMetricsEndpoints"),
        selector=_object(matchLabels={"type": "object", "additionalProperties": _TEXT}),
        podMetricsEndpoints={
            "type": "array",
            "minItems": 1,
            "items": _object(
                ("port",),
                port=_TEXT,
                path=_TEXT,
                interval={"type": "string", "pattern": "^[0-9]+s$"},
                relabelings={"type": "array", "items": _RELABELLING},
                metricRelabelings={"type": "array", "items": _RELABELLING},
            ),
        },
    ),
)
"""The part of the Prometheus operator's schema that is used here, written by hand: no package has it."""


def serve_problems(text: str) -> Iterator[str]:
    """What Serve or the application would refuse of a serveConfigV2, or Serve would ignore."""
    config = yaml.safe_load(text)
    if not isinstance(config, dict):
        yield "serveConfigV2: not a mapping"
        return
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        yield f"serveConfigV2: {error}"
        return
    yield from (f"serveConfigV2: unknown: {name}" for name in config.keys() - ServeDeploySchema.model_fields)
    for application in config["applications"]:
        unknown = application.keys() - ServeApplicationSchema.model_fields
        yield from (f"serveConfigV2: unknown: applications.{name}" for name in unknown)
        if application["import_path"] != "dear_serving.app:build":
            yield f"serveConfigV2: import_path: {application['import_path']}"
        if application.get("args", {}).keys() != {"settings"}:
            yield "serveConfigV2: args has something else than settings"
            continue
        try:
            settings = settings_of(text)
            check_open_access(settings)
            check_shared(settings.registry, settings.adapters, is_elsewhere=True)
            check_admin_port(settings)
        except SettingsError as error:
            yield error.message


def settings_of(text: str) -> Settings:
    """The settings in a serveConfigV2, read as dear_serving.app.build reads them."""
    (application,) = yaml.safe_load(text)["applications"]
    return read_settings(application["args"]["settings"], Path("/srv/dear"), "args.settings")


def groups(service: Manifest) -> dict[str, Manifest]:
    """The groups of pods of a RayService, by name; head among them."""
    cluster = service["spec"]["rayClusterConfig"]
    return {"head": cluster["headGroupSpec"]} | {one["groupName"]: one for one in cluster["workerGroupSpecs"]}


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, dict[str, str]]]:
    """Name, specification and labels of every kind of pod; KubeRay's own labels are among them."""
    for one in manifests:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "RayService":
            for group, found in groups(one).items():
                template = found["template"]
                labels = template["metadata"]["labels"] | {
                    "ray.io/group": "headgroup" if group == "head" else group
                }
                yield f"{name}/{group}", template["spec"], labels
        elif one["kind"] in {"Job", "StatefulSet", "Deployment"}:
            template = one["spec"]["template"]
            yield name, template["spec"], template["metadata"]["labels"]


def containers(pod: Manifest) -> list[Manifest]:
    """All containers of a pod, those that run first among them."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment() -> dict[str, str]:
    """configs/kubernetes/base/environment.env."""
    text = (KUBERNETES / "base" / "environment.env").read_text()
    return dict(re.findall(r"^([A-Za-z_0-9]+)=(.*)$", text, re.MULTILINE))


def new_secrets(**given: str) -> list[Manifest]:
    """What new-secrets.sh prints."""
    script = KUBERNETES / "new-secrets.sh"
    done = subprocess.run(
        ["sh", str(script)],
        env={"PATH": "/usr/bin:/bin", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    return list(yaml.safe_load_all(done.stdout))
