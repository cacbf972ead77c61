"""A plan: one card for a workload, the other ways to keep the weights on it, and smaller cards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dear_serving.errors import SettingsError
from dear_serving.sizing.engine import Engine, Memory
from dear_serving.sizing.figures import Figures, Gpu
from dear_serving.sizing.fleet import gpus_for, utilisation_within
from dear_serving.sizing.measured import Measured
from dear_serving.sizing.model import QUANTISATIONS, Model, Quantisation
from dear_serving.sizing.workload import Workload
from dear_tools.load.objective import Objective

MOST_GPUS = 10_000
"""No fleet is larger: a rate that needs more is a slip of the finger."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be planned for: requests/s of the whole fleet, None for one GPU, within an objective.

    Raises:
        SettingsError: the rate is no number over 0.
    """

    objective: Objective
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise SettingsError(f"--rate: {self.rate:g} is no rate; requests a second, over 0, are needed")


@dataclass(frozen=True, slots=True)
class Estimate:
    """An engine under a workload. Seconds and requests/s of one GPU; ``within_s`` is the rate that keeps the
    objective, at ``utilisation``. ``gpus`` are for the whole rate, the spare one included.
    """

    engine: Engine
    memory: Memory
    fits: bool
    batch: int
    floor_s: float
    alone_s: float
    full_s: float
    utilisation: float
    within_s: float
    gpus: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The card asked for; and it and each smaller card with weights kept in every way (QUANTISATIONS)."""

    wish: Wish
    model: Model
    work: Workload
    chosen: Estimate
    others: tuple[tuple[Estimate, ...], ...]


@dataclass(frozen=True, slots=True)
class Planner:
    """Everything that stays the same from card to card.

    Args:
        work_of: the workload of so many passages, with options such as ``top_n``.
        measured: a report, and how many ``engines`` it measured; None for the stated factors.
    """

    figures: Figures
    model: Model
    rank: int
    slots: int
    max_model_len: int
    work: Workload
    work_of: Callable[[int, dict[str, Any]], Workload]
    measured: Measured | None = None
    engines: int = 1

    def engine(self, gpu: Gpu, quantisation: Quantisation) -> Engine:
        """An engine as calculated, before any measurement."""
        return Engine(
            gpu,
            self.model,
            quantisation,
            self.rank,
            self.slots,
            self.figures.efficiency,
            self.figures.host,
            self.figures.engine,
            self.max_model_len,
        )

    def plan(self, gpu: Gpu, quantisation: Quantisation, wish: Wish) -> Plan:
        """The plan for a card.

        Raises:
            SettingsError: the model does not fit, or no number of such cards keeps the objective or the rate.
        """
        engine = self.engine(gpu, quantisation)
        if not engine.fits:
            raise SettingsError(self._no_room(engine))
        slowness, delay = 1.0, 1.0
        if self.measured is not None:
            found = self.measured.apply(engine, self.engines, self.work_of)
            slowness, delay = found.slowness, found.delay

        def estimate_of(card: Gpu, kept: Quantisation) -> Estimate:
            return estimate(self.engine(card, kept).measured(slowness, delay), self.work, wish)

        chosen = estimate_of(gpu, quantisation)
        check(chosen, wish)
        cards = [gpu, *(card for card in self.figures.gpus.values() if card.memory_gb < gpu.memory_gb)]
        others = tuple(tuple(estimate_of(card, kept) for kept in QUANTISATIONS.values()) for card in cards)
        return Plan(wish, self.model, self.work, chosen, others)

    def table(self, wish: Wish) -> list[list[Estimate]]:
        """Every card, with weights kept in every way."""
        return [
            [estimate(self.engine(gpu, kept), self.work, wish) for kept in QUANTISATIONS.values()]
            for gpu in self.figures.gpus.values()
        ]

    def _no_room(self, engine: Engine) -> str:
        memory, name = engine.memory, engine.gpu.name
        kept = [one.text for one in QUANTISATIONS.values() if self.engine(engine.gpu, one).fits]
        cards = [
            card.name for card in self.figures.gpus.values() if self.engine(card, engine.quantisation).fits
        ]
        others = " or ".join(
            text
            for text in (
                f"{', '.join(kept)} would fit" if kept else "",
                f"take {', '.join(cards)}" if cards else "",
            )
            if text
        )
        taken = (memory.weights + memory.adapters + memory.working) / 1e9
        return (
            f"--gpu: {self.model.name} in {engine.quantisation.text} does not fit {name}: weights, adapters "
            f"and what vLLM works in take {taken:.1f} of {memory.usable / 1e9:.1f} GB, and the cache holds "
            f"{memory.cache_tokens:,} tokens where max_model_len is {engine.max_model_len:,}; "
            f"{others or 'no card here holds it'}"
        )


def estimate(engine: Engine, work: Workload, wish: Wish) -> Estimate:
    """What an engine does under a workload; all zeros where it does not fit."""
    memory = engine.memory
    batch = engine.batch(work) if engine.fits else 0
    if not batch:
        return Estimate(engine, memory, False, 0, engine.floor_s(work), 0.0, 0.0, 0.0, 0.0, None)
    alone_s, busy_s = engine.alone_s(work), engine.busy_s(work)
    utilisation = utilisation_within(
        alone_s,
        busy_s,
        wish.objective.percent / 100,
        wish.objective.limit_s,
        engine.settings.most_utilisation,
    )
    within_s = utilisation / busy_s
    gpus = None if wish.rate is None or not within_s else gpus_for(wish.rate, within_s) + 1
    return Estimate(
        engine, memory, True, batch, engine.floor_s(work), alone_s, 1 / busy_s, utilisation, within_s, gpus
    )


def check(chosen: Estimate, wish: Wish) -> None:
    """Refuse what no fleet can do.

    Raises:
        SettingsError: with the floor, or with the most that can be had.
    """
    name = chosen.engine.gpu.name
    if not chosen.within_s:
        raise SettingsError(
            f"--objective: {wish.objective} cannot be kept by any number of {name}: a request alone takes "
            f"{chosen.alone_s:.2f} s, its latency floor is {chosen.floor_s:.2f} s; show fewer or shorter "
            "passages, ask for a lower --top-n, or take a faster card"
        )
    if chosen.gpus is not None and chosen.gpus > MOST_GPUS:
        raise SettingsError(
            f"--rate: {wish.rate:,.0f} requests/s would take {chosen.gpus:,} {name}; {MOST_GPUS:,} of them "
            f"reach {(MOST_GPUS - 1) * chosen.within_s:,.0f}"
        )
