"""How fast this machine reads weights and multiplies in bfloat16: what floors are made of.

python -m benchmarks.machine_rates, in a process of its own, so that nothing stays on the device.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.server import ROOT

_SIDE = 4096
_WEIGHTS = 16
_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes and FLOP a second, the best of several tries."""

    device: str
    bytes_s: float
    flop_s: float


def machine_rates() -> Rates:
    """Measure, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.machine_rates"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return Rates(**json.loads(said))


def main() -> None:
    """Time a token's products with half a gigabyte of weights, and one large product."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, device=device).to(torch.bfloat16)

    weights = [random(_SIDE, _SIDE) for _ in range(_WEIGHTS)]
    token, many = random(1, _SIDE), random(_SIDE, _SIDE)

    def read() -> None:
        for weight in weights:
            torch.nn.functional.linear(token, weight)

    def multiply() -> None:
        torch.nn.functional.linear(many, weights[0])

    def best_s(work: Callable[[], None]) -> float:
        taken = []
        for _ in range(_REPEATS):
            if device == "cuda":
                torch.cuda.synchronize()
            started_s = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - started_s)
        return min(taken)

    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    rates = {
        "device": name,
        "bytes_s": _WEIGHTS * 2 * _SIDE**2 / best_s(read),
        "flop_s": 2 * _SIDE**3 / best_s(multiply),
    }
    sys.stdout.write(json.dumps(rates) + "\n")


if __name__ == "__main__":
    main()
