"""How sure an order is, by the windows that made it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from dear_serving.ranking.tournament import Tournament
from dear_serving.types import Order, Sureness

_DIGITS = 4


class Evidence:
    """Collects the windows of one task.

    The **confidence** of a rank is how far its passage rightly stands before the next one, from 0 to 1: 0.5
    is a toss-up. Every window that showed both votes: with the probability that the model names the one
    first rather than the other (by the first step, the sigmoid of the difference of their log
    probabilities), and, where it decided between them, with that decision, half each. The mean of the votes
    counts; so windows that contradict each other (several passes or looks) lower it. If no window showed
    both, the log odds that a first stage gave them are compared, or else their mean log odds against
    chance. It is no probability of being right until it is calibrated.

    A place is **certified** if the windows prove it: by decisions alone, each pair by the majority of the
    windows that decided it, and carried over from pair to pair, all before the passage are better and all
    others worse, without a circle. That is what the model says, not whether it is right.

    Args:
        count: number of passages in the task.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._windows: list[tuple[dict[int, int], int, dict[int, float]]] = []
        self._of_passage: list[list[int]] = [[] for _ in range(count)]
        self._log_odds = [0.0] * count
        self._scored = [0] * count
        self._alone: dict[int, float] = {}

    def observe(
        self, passages: Sequence[int], order: Order, decided: int, log_probs: Sequence[float]
    ) -> None:
        """Add a window.

        Args:
            passages: those shown.
            order: positions in ``passages``, best first.
            decided: how many of them were decided one by one.
            log_probs: of each position, that it is named first; empty: not known.
        """
        ranks = {passages[place]: rank for rank, place in enumerate(order)}
        by_passage = dict(zip(passages, log_probs, strict=bool(log_probs)))
        for passage in passages:
            self._of_passage[passage].append(len(self._windows))
        for passage, log_prob in by_passage.items():
            self._log_odds[passage] += log_prob + math.log(len(passages))
            self._scored[passage] += 1
        self._windows.append((ranks, decided, by_passage))

    def observe_alone(self, log_odds: Mapping[int, float]) -> None:
        """Add what a first stage said of passages, each read alone: the log odds that it is relevant."""
        self._alone.update(log_odds)

    def along(self, order: Sequence[int], needed: int, *, proved: bool = True) -> tuple[Sureness, ...]:
        """The sureness of the first ``needed`` ranks.

        Args:
            order: passages, best first: all of the task, or those that stand for the others.
            needed: how many ranks.
            proved: False: certify nothing, because ``order`` is not of all passages.
        """
        confidences: list[float | None] = [self._before(one, other) for one, other in pairwise(order)]
        confidences.append(None)
        certified = self._certified(order) if proved else [False] * len(order)
        return tuple(map(Sureness, confidences[:needed], certified[:needed]))

    def _before(self, one: int, other: int) -> float:
        votes = [vote for number in self._of_passage[one] for vote in self._votes(number, one, other)]
        if not votes and one in self._alone and other in self._alone:
            votes = [_sigmoid(self._alone[one] - self._alone[other])]
        if not votes and self._scored[one] and self._scored[other]:
            odds = [self._log_odds[passage] / self._scored[passage] for passage in (one, other)]
            votes = [_sigmoid(odds[0] - odds[1])]
        return round(sum(votes) / len(votes), _DIGITS) if votes else 0.5

    def _votes(self, number: int, one: int, other: int) -> Iterable[float]:
        ranks, decided, log_probs = self._windows[number]
        if other not in ranks:
            return
        if log_probs:
            yield _sigmoid(log_probs[one] - log_probs[other])
        if min(ranks[one], ranks[other]) < decided:
            yield float(ranks[one] < ranks[other])

    def _certified(self, order: Sequence[int]) -> list[bool]:
        tournament = Tournament(self._count, even_counts=False)
        for ranks, decided, _ in self._windows:
            tournament.observe(list(ranks), range(len(ranks)), decided)
        tournament.settle()
        before, everything, certified = 0, (1 << self._count) - 1, []
        for passage in order:
            after = everything & ~before & ~(1 << passage)
            certified.append(tournament.better[passage] == before and tournament.worse[passage] == after)
            before |= 1 << passage
        return certified


def _sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, log_odds))))
