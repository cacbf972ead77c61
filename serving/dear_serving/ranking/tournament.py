"""What windows prove: which passage is better than which, directly or by way of others."""

from __future__ import annotations

from collections.abc import Sequence

from dear_serving.ranking.windows import places


class Tournament:
    """A directed graph of passages: an edge from one to the other where the windows that showed both put it
    first more often; where they are even, the last one counts.

    Wins carry over (transitive closure): who beats a winner beats those that the winner beats. Orders may
    contradict each other; passages that then beat each other share a **tier**.

    Sets of passages are integers, with bit i for passage i.

    Args:
        count: number of passages.
        even_counts: False: where they are even there is no edge, so that edges are proofs.

    Source: tournament graphs as in arXiv 2602.05448.
    """

    def __init__(self, count: int, *, even_counts: bool = True) -> None:
        self._count = count
        self._even_counts = even_counts
        # For each passage, how much more often it stood before another than behind it.
        self._balance: list[dict[int, int]] = [{} for _ in range(count)]
        self._won: list[set[int]] = [set() for _ in range(count)]
        self._lost: list[set[int]] = [set() for _ in range(count)]
        self._places = [0.0] * count
        self._windows = [0] * count
        self.better = [0] * count
        """The set of those that beat each passage, after ``settle``."""
        self.worse = [0] * count
        """The set of those that each passage beats, after ``settle``."""
        self.losses = [0] * count
        """How many are better than each, its own tier left out, after ``settle``: its place, or above it."""

    def observe(self, passages: Sequence[int], order: Sequence[int], decided: int) -> None:
        """Add a window's order: each of the first ``decided`` beats all behind it; the rest are level.

        Args:
            passages: those shown.
            order: positions in ``passages``, best first.
            decided: how many of them the model chose.
        """
        ranked = [passages[place] for place in order]
        for winner, place in zip(ranked, places(len(ranked), decided), strict=True):
            self._places[winner] += place / max(1, len(ranked) - 1)
            self._windows[winner] += 1
        for place, winner in enumerate(ranked[:decided]):
            for loser in ranked[place + 1 :]:
                self._win(winner, loser)

    def _win(self, winner: int, loser: int) -> None:
        balance = self._balance[winner].get(loser, 0) + 1
        self._balance[winner][loser], self._balance[loser][winner] = balance, -balance
        if balance >= 0:
            self._won[loser].discard(winner)
            self._lost[winner].discard(loser)
        if balance > 0 or (balance == 0 and self._even_counts):
            self._won[winner].add(loser)
            self._lost[loser].add(winner)

    def settle(self) -> None:
        """Carry wins over, after the last ``observe``."""
        best_first = self.best_first()
        self.worse = _reached(self._won, best_first[::-1])
        self.better = _reached(self._lost, best_first)
        both = zip(self.better, self.worse, strict=True)
        self.losses = [(better & ~worse).bit_count() for better, worse in both]

    def is_settled(self, passage: int) -> bool:
        """Whether all others are known to be better, worse or of the same tier."""
        known = self.better[passage] | self.worse[passage] | 1 << passage
        return known.bit_count() == self._count

    def tier(self, passage: int) -> int:
        """The passages that beat this one and are beaten by it, with itself."""
        return self.better[passage] & self.worse[passage] | 1 << passage

    def best_first(self) -> list[int]:
        """All passages, fewest losses first; then by their mean place in their windows; then as they came."""

        def key(one: int) -> tuple[int, float, int]:
            return self.losses[one], self._places[one] / max(1, self._windows[one]), one

        return sorted(range(self._count), key=key)


def _reached(edges: Sequence[set[int]], order: Sequence[int]) -> list[int]:
    """For every passage the set of those that its edges lead to, in any number of steps.

    Goes through the passages in ``order`` until nothing changes: twice, if edges lead to earlier ones.
    """
    reached = [0] * len(edges)
    with_edges = [one for one in order if edges[one]]
    is_news = True
    while is_news:
        is_news = False
        for one in with_edges:
            found = reached[one]
            for other in edges[one]:
                found |= reached[other] | 1 << other
            if found != reached[one]:
                reached[one], is_news = found, True
    return reached
