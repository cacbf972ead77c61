"""What is measured: a model with an adapter, and the settings file that serves them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.server import CPU_CONFIG, ROOT
from benchmarks.shapes import DEMO_ADAPTER, DEMO_BASE, SHAPES, write_adapter, write_model
from dear_serving.adapters.preflight import CONFIG_FILE

GPU_CONFIG = ROOT / "configs" / "h100.yaml"
TINY = "tiny"
NAMES = (TINY, *SHAPES)


@dataclass(frozen=True, slots=True)
class Target:
    """The default is the demo on the CPU.

    ``config``: settings file. ``base``: folder of the base model. ``model``: public name of the adapter that
    ranks. ``adapter``: its folder. ``apart``: engines that are compared run one after the other, as on a GPU,
    where two do not fit.
    """

    config: Path = CPU_CONFIG
    base: Path = DEMO_BASE
    model: str = "legal"
    adapter: Path = DEMO_ADAPTER
    apart: bool = False


def of_shape(name: str, folder: Path) -> Target:
    """The demo for ``tiny``, else a model of that shape with random weights, written into ``folder``."""
    if name == TINY:
        return of_files(DEMO_BASE, DEMO_ADAPTER, folder)
    base = write_model(folder / "base", SHAPES[name])
    return of_files(base, write_adapter(folder / "random", base), folder)


def of_files(base: Path, adapter: Path, folder: Path) -> Target:
    """A model and an adapter of it, folders, under settings for this machine, written into ``folder``.

    On a machine with CUDA the settings are those of configs/h100.yaml, elsewhere those of configs/cpu.yaml.
    """
    import torch

    gpu = torch.cuda.is_available()
    settings = yaml.safe_load((GPU_CONFIG if gpu else CPU_CONFIG).read_text(encoding="utf-8"))
    base = base.resolve()
    copied = folder / "adapters" / adapter.name
    shutil.copytree(adapter, copied)
    of_adapter = json.loads((copied / CONFIG_FILE).read_text(encoding="utf-8"))
    of_adapter["base_model_name_or_path"] = str(base)
    (copied / CONFIG_FILE).write_text(json.dumps(of_adapter), encoding="utf-8")
    served = [{"name": adapter.name, "path": adapter.name}]
    settings["model"] = {"id": "base", "source": str(base)}
    settings["adapters"] = {"root": str(folder / "adapters"), "serve": served}
    settings["tenancy"] = {"open": True, "open_metrics": True}
    if gpu:
        settings["engine"] |= {"replicas": 1}
        del settings["engine"]["accelerator_type"], settings["default_model"], settings["http"]
        settings["gateway"]["replicas"] = 1
    config = folder / f"{'gpu' if gpu else 'cpu'}.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return Target(config, base, adapter.name, copied, gpu)
