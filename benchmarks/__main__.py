"""Measures the server beside its peers: python -m benchmarks [--only decode,serving] [--quick] [--out FOLDER]

The demo model on the CPU, or another: --shape 8b is a model with random weights, --model and --adapter are
folders of a real one. On a machine with CUDA these two run on the GPU.

Writes results.json (every figure), report.md and plots into the folder. Only one benchmark, and only one
server, runs at a time.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as EtaColumn

from benchmarks import target
from benchmarks.context import Context, Skipped
from benchmarks.environment import environment, settings_file
from benchmarks.report import Outcome, write_report
from benchmarks.server import ROOT

# In the order they run: those on the default server follow each other and share it.
MODULES = (
    "decode",
    "growth",
    "strategies",
    "serving",
    "adapters",
    "cascade",
    "step_model",
    "host_cost",
    "decoders",
)
USUAL = MODULES[:7]

console = Console()


def main() -> int:
    """The command line; 1 where a benchmark failed, 130 after Ctrl-C."""
    arguments = _arguments()
    started_s = time.monotonic()
    found = [(name, _module(name)) for name in arguments.only]
    at_start = environment()  # the machine as it was before our own load
    try:
        with _progress([module for _, module in found if module], arguments.quick) as progress:
            outcomes, config = _run_all(found, arguments, *progress)
    except KeyboardInterrupt:
        _say("stopped; nothing is left running and nothing was written")
        return 130
    path = write_report(
        arguments.out,
        outcomes,
        at_start
        | {
            "config": config,
            "quick": arguments.quick,
            "seed": arguments.seed,
            "wall_s": time.monotonic() - started_s,
        },
    )
    for outcome in outcomes:
        if outcome.reason:
            _say(f"{outcome.name}: {outcome.status}: {outcome.reason}")
        for claim in outcome.claims:
            mark = "met" if claim.met else "NOT met"
            _say(f"{claim.text}: {claim.value:.2f} {claim.unit}".rstrip() + f" ({mark})")
    _say(f"written: {path}")
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _say(text: str) -> None:
    """One line as it is: no markup, no colours, no wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", type=_names, default=USUAL, help="some of: " + ", ".join(MODULES))
    parser.add_argument("--quick", action="store_true", help="a smoke run: the same code, a few figures")
    parser.add_argument("--seed", type=int, default=0, help="of the lists that are ranked")
    parser.add_argument("--shape", choices=target.NAMES, help="a model of this shape, with random weights")
    parser.add_argument("--model", type=Path, help="folder of a base model in bfloat16")
    parser.add_argument("--adapter", type=Path, help="folder of an adapter of it")
    parser.add_argument("--apart", action="store_true", help="systems one after the other, as on a GPU")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the report")
    found = parser.parse_args()
    if (found.model is None) != (found.adapter is None) or (found.model and found.shape):
        parser.error("give --model and --adapter together, without --shape")
    return found


def _names(text: str) -> tuple[str, ...]:
    wanted = {name.strip() for name in text.split(",")}
    if unknown := wanted - set(MODULES):
        raise argparse.ArgumentTypeError(f"no benchmark {', '.join(sorted(unknown))}")
    return tuple(name for name in MODULES if name in wanted)


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"benchmarks.{name}":
            raise
        return None


def _run_all(
    found: list[tuple[str, ModuleType | None]],
    arguments: argparse.Namespace,
    advance: Callable[[str], None],
    show: Callable[[str], None],
) -> tuple[list[Outcome], dict[str, str]]:
    outcomes = []
    with _interruptible(), tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
        show("the model")
        measured = _target(arguments, Path(scratch))
        context = Context(arguments.quick, arguments.seed, Path(scratch), advance, show, measured)
        config = _relative(settings_file(measured.config), Path(scratch))
        try:
            for name, module in found:
                outcomes.append(_run_one(name, module, context))
        finally:
            context.stop_server()
    return outcomes, config


def _target(arguments: argparse.Namespace, folder: Path) -> target.Target:
    """What is measured; files that it needs are written into ``folder``."""
    if arguments.model:
        found = target.of_files(arguments.model, arguments.adapter, folder)
    elif arguments.shape:
        found = target.of_shape(arguments.shape, folder)
    else:
        found = target.Target()
    return replace(found, apart=found.apart or arguments.apart)


def _run_one(name: str, module: ModuleType | None, context: Context) -> Outcome:
    if module is None:
        return Outcome(name, name, "skipped", "its module is not there")
    title, started_s = module.TITLE, time.monotonic()
    try:
        result = module.run(context)
    except Skipped as reason:
        return Outcome(name, title, "skipped", str(reason))
    except Exception as error:  # the others' figures are worth having
        console.print_exception()
        context.stop_server()
        return Outcome(name, title, "failed", f"{type(error).__name__}: {error}")
    result = _relative(result, context.scratch)
    return Outcome(name, title, "measured", "", time.monotonic() - started_s, result, module)


def _relative(value: Any, scratch: Path) -> Any:
    """A result without the folders of this machine: commands and settings hold some."""
    if isinstance(value, dict):
        return {key: _relative(one, scratch) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_relative(one, scratch) for one in value]
    if isinstance(value, str):
        return value.replace(str(scratch), "SCRATCH").replace(f"{ROOT}{os.sep}", "")
    return value


@contextmanager
def _progress(
    modules: list[ModuleType], quick: bool
) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """A bar over all steps of all benchmarks; gives ``advance`` and ``show`` of Context."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        EtaColumn(),
    )
    with Progress(*columns, console=console, speed_estimate_period=600) as progress:
        total = sum(module.steps(quick) for module in modules)
        bar = progress.add_task("", total=total)

        def advance(text: str) -> None:
            progress.update(bar, advance=1, description=text)
            if not console.is_terminal:  # a log: lines instead of a bar
                _say(f"{progress.tasks[bar].completed:.0f}/{total} {text}")

        yield advance, lambda text: progress.update(bar, description=text)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM, and SIGINT where a shell had it ignored, end the run as Ctrl-C does: servers are stopped."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
