"""What every benchmark hands to the report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the report; ``note`` says what was measured, on what and how, before the figures."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A measured figure beside the target it is held to; ``at_least`` tells which side is good."""

    text: str
    value: float
    unit: str
    target: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the figure reaches the target."""
        return self.value >= self.target if self.at_least else self.value <= self.target
