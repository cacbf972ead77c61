"""Breaks the product as a cluster under load: python -m benchmarks.chaos [--only head,worker] [--out FOLDER]

Head, two workers with a gateway and an engine each (the tiny model on the CPU), PostgreSQL and two Redis,
each a machine of its own as far as the kernel goes: network, processes, mounts. Eight callers rerank small
lists through a load balancer; half use dear_client, half send each call once. Needs root on Linux, PostgreSQL
and Redis. Nothing is left running, however it ends.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from rich.console import Console

from benchmarks.chaos import report
from benchmarks.chaos.faults import FAULTS, Fault
from benchmarks.chaos.machines import make_network, run_apart
from benchmarks.chaos.trial import Trial
from benchmarks.environment import environment

_NAMES = tuple(fault.name for fault in FAULTS)

console = Console(highlight=False, markup=False, soft_wrap=True)


def main() -> int:
    """The command line; 1 where something that it needs is missing, 130 after Ctrl-C."""
    arguments = _arguments()
    if arguments.inside:
        return _inside(arguments)
    if os.geteuid() != 0:
        console.print("namespaces and links need root: run it as root")
        return 1
    missing = [
        program for program in ("ip", "unshare", "nsenter", "redis-server") if not shutil.which(program)
    ]
    if not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        missing.append("PostgreSQL's server")
    if missing:
        console.print(
            f"not installed: {', '.join(missing)} (Debian: iproute2 util-linux redis-server postgresql)"
        )
        return 1
    scratch = Path(tempfile.mkdtemp(prefix="dear-chaos-", dir="/tmp"))
    scratch.chmod(0o755)  # the user postgres passes
    try:
        again = [sys.executable, "-m", "benchmarks.chaos", *sys.argv[1:], "--inside", str(scratch)]
        return run_apart(again)
    finally:
        if arguments.keep:
            console.print(f"logs: {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)


def _inside(arguments: argparse.Namespace) -> int:
    """The run itself, in namespaces of its own."""
    signal.signal(signal.SIGINT, _interrupt)
    facts = environment() | {"command": "make chaos"}
    if arguments.only != _usual():
        facts["command"] = f"python -m benchmarks.chaos --only {','.join(arguments.only)}"
    make_network()
    outcomes: list[report.Outcome] = []
    started_s = time.monotonic()
    trial = Trial(arguments.inside, console.print)
    try:
        for name in arguments.only:
            outcomes.append(trial.run(_fault(name)))
            path = report.write(arguments.out, outcomes, facts | {"wall_s": time.monotonic() - started_s})
            console.print(report.table(outcomes[-1:]).splitlines()[-1])
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    finally:
        trial.close()
    console.print(f"written: {path} after {time.monotonic() - started_s:.0f} s")
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fault(name: str) -> Fault:
    return FAULTS[_NAMES.index(name)]


def _usual() -> tuple[str, ...]:
    return tuple(fault.name for fault in FAULTS if fault.is_usual)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=_names, default=_usual(), help="some of: " + ", ".join(_NAMES))
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks/results/chaos"),
        help="folder of report, figures and plot",
    )
    parser.add_argument("--keep", action="store_true", help="keep the machines' logs")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    wanted = tuple(name.strip() for name in text.split(","))
    if unknown := set(wanted) - set(_NAMES):
        raise argparse.ArgumentTypeError(f"no fault {', '.join(sorted(unknown))}")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
