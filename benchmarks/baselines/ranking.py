"""One ranked list, whoever ranked it; several ranked in one go; and how far two systems agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Ranking:
    """One list as a system ranked it.

    ``positions`` from 0, best first, are what the system hands to its caller; peers promise no permutation.
    The first ``decided`` of them the model chose; what follows was filled in, in input order, where its text
    broke off. ``completion_tokens`` is what was written and paid for.
    """

    positions: tuple[int, ...]
    decided: int
    prompt_tokens: int
    completion_tokens: int
    latency_s: float

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The ranking a child process wrote as JSON."""
        return cls(**fields | {"positions": tuple(fields["positions"])})

    @property
    def is_whole(self) -> bool:
        """Whether the model itself named every passage, once each."""
        return self.decided == len(self.positions) == len(set(self.positions))

    @property
    def order(self) -> tuple[int, ...]:
        """The ranking as a permutation: a passage named twice has its first place, missing ones follow."""
        first = dict.fromkeys(self.positions)
        return (*first, *(rank for rank in range(len(self.positions)) if rank not in first))


@dataclass(frozen=True, slots=True)
class Run:
    """Lists ranked in one go, in the order they were given, and the wall time of all of them."""

    rankings: tuple[Ranking, ...]
    wall_s: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two systems on the same lists: share of equal orders, of equal first places, and mean Kendall tau.

    ``same_decided`` is the share of orders that are equal as far as both models decided them.
    """

    lists: int
    same_order: float
    same_decided: float
    same_first: float
    mean_tau: float


def kendall_tau(one: Sequence[int], other: Sequence[int]) -> float:
    """Kendall's tau of two orders of the same passages: 1 the same, -1 reversed; 1 for fewer than two."""
    place = {passage: rank for rank, passage in enumerate(other)}
    pairs = [place[better] < place[worse] for better, worse in combinations(one, 2)]
    return 2 * sum(pairs) / len(pairs) - 1 if pairs else 1.0


def agreement(pairs: Sequence[tuple[Ranking, Ranking]]) -> Agreement:
    """How far two systems agree; one pair of rankings for each list, at least one."""
    orders = [(one.order, other.order) for one, other in pairs]
    decided = [min(one.decided, other.decided) for one, other in pairs]
    return Agreement(
        lists=len(orders),
        same_order=sum(one == other for one, other in orders) / len(orders),
        same_decided=sum(one[:end] == other[:end] for (one, other), end in zip(orders, decided, strict=True))
        / len(orders),
        same_first=sum(one[0] == other[0] for one, other in orders) / len(orders),
        mean_tau=sum(kendall_tau(one, other) for one, other in orders) / len(orders),
    )
