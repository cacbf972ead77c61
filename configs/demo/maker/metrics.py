"""How good an order is: pairwise accuracy and nDCG@10."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pair_counts(order: Sequence[int], relevance: Sequence[int]) -> tuple[int, int]:
    """(pairs ordered rightly, pairs) over all pairs of passages with different relevance."""
    place = {position: rank for rank, position in enumerate(order)}
    pairs = [
        (better, worse)
        for better in range(len(relevance))
        for worse in range(len(relevance))
        if relevance[better] > relevance[worse]
    ]
    return sum(place[better] < place[worse] for better, worse in pairs), len(pairs)


def ndcg_at_10(order: Sequence[int], relevance: Sequence[int]) -> float:
    """nDCG@10; a passage's gain is how many relevance levels of its list lie below its own."""
    levels = {value: level for level, value in enumerate(sorted(set(relevance)))}
    gains = [levels[relevance[position]] for position in order]
    best = _dcg(sorted(gains, reverse=True))
    return _dcg(gains) / best if best else 1.0


def _dcg(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains[:10]))
