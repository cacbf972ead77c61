"""Distributions of counts: passages a request, words a passage."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from typing import Literal

from dear_tools.exits import ToolError

_MOST_SIGMA = 3.0

_FORMS = re.compile(r"(?P<low>\d+)(?:-(?P<high>\d+))?|(?P<median>\d+)~(?P<sigma>\d*\.?\d+)")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Whole numbers from 1 on: even between ``low`` and ``high``, or lognormal around a median ``low``.

    ``sigma`` is the standard deviation of the logarithm; 0.5 has two thirds within a factor of 1.65.
    """

    kind: Literal["even", "lognormal"]
    low: int
    high: int
    sigma: float = 0.0

    def draw(self, random: random.Random) -> int:
        """One of them."""
        if self.kind == "even":
            return random.randint(self.low, self.high)
        return max(1, round(random.lognormvariate(math.log(self.low), self.sigma)))

    def __str__(self) -> str:
        if self.kind == "lognormal":
            return f"{self.low}~{self.sigma:g}"
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def parse_lengths(text: str) -> Lengths:
    """``20`` (always), ``5-100`` (each equally often) or ``20~0.5`` (lognormal, median 20, sigma 0.5).

    Raises:
        ToolError: anything else, a 0, or a sigma over 3.
    """
    found = _FORMS.fullmatch(text.replace(" ", ""))
    if found and found["median"]:
        lengths = Lengths("lognormal", int(found["median"]), int(found["median"]), float(found["sigma"]))
    elif found:
        low = int(found["low"])
        lengths = Lengths("even", low, int(found["high"] or low))
    else:
        raise ToolError(f"{text!r} is no length such as 20, 5-100 or 20~0.5")
    if not 1 <= lengths.low <= lengths.high:
        raise ToolError(f"{text!r}: lengths begin at 1 and rise")
    if lengths.sigma > _MOST_SIGMA:
        raise ToolError(f"{text!r}: a sigma of at most {_MOST_SIGMA:g} is needed, 0.5 is usual")
    return lengths
