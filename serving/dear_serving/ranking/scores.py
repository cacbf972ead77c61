"""Relevance scores of a listwise order: what can honestly be said in a number."""

from __future__ import annotations

import math
from collections.abc import Sequence

FIRST_STEP = "first_step"
"""Score type: from the probabilities with which passages are named first."""

RANK = "rank"
"""Score type: from the place in the order alone."""

_RANK_SHARE = 0.01


class Scores:
    """Gathers first-step log probabilities over the windows of one task.

    A passage's **prominence** in a window of w passages is p / (p + 1/w), p being the probability that the
    model names it first, among the window's identifiers: one half where it is named as often as by chance.
    Over several windows the log-odds are averaged.

    Args:
        count: passages of the task.
    """

    def __init__(self, count: int) -> None:
        self._log_odds = [0.0] * count
        self._looks = [0] * count
        self.score_type = RANK

    def copy(self) -> Scores:
        """Another one that knows the same windows."""
        other = Scores(len(self._looks))
        other._log_odds, other._looks = self._log_odds.copy(), self._looks.copy()
        other.score_type = self.score_type
        return other

    def observe(self, passages: Sequence[int], log_probs: Sequence[float]) -> None:
        """Take in the first-step log probabilities of a window that showed ``passages``, one each.

        The score type is FIRST_STEP from now on.
        """
        self.score_type = FIRST_STEP
        most = max(log_probs)
        log_sum = most + math.log(sum(math.exp(one - most) for one in log_probs))
        for passage, log_prob in zip(passages, log_probs, strict=True):
            self._log_odds[passage] += log_prob - log_sum + math.log(len(passages))
            self._looks[passage] += 1

    def along(self, head: Sequence[int]) -> tuple[float, ...]:
        """Scores of the best ``len(head)`` passages, best first: in (0, 1], strictly falling.

        RANK: ``1 - rank / count``. FIRST_STEP: 99 parts of the smallest prominence down to each rank (no
        passage scores over one ranked before it; one that no window showed stands as the one before) and 1
        part of the RANK score. So a score depends on the order down to its rank alone, and can be told as
        ranks are decided.
        """
        count = len(self._looks)
        digits = max(6, len(str(count)) + 3)
        scores: list[float] = []
        lowest = 1.0
        for rank, passage in enumerate(head):
            score = by_rank = 1 - rank / count
            if self.score_type == FIRST_STEP:
                if self._looks[passage]:
                    log_odds = self._log_odds[passage] / self._looks[passage]
                    lowest = min(lowest, 1 / (1 + math.exp(min(700.0, -log_odds))))
                score = (1 - _RANK_SHARE) * lowest + _RANK_SHARE * by_rank
            scores.append(round(score, digits))
        return tuple(scores)
