"""Relevance scores for a listwise order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

FIRST_STEP = "first_step"
"""Score type: computed from the probability that each passage is named first."""

RANK = "rank"
"""Score type: computed from the rank only."""

POINTWISE = "pointwise"
"""Score type: computed from the first stage's probability that each passage is relevant."""

_RANK_SHARE = 0.01


class Scores:
    """Collects first-step log probabilities over the windows of one task.

    A passage's **prominence** in a window of w passages is p / (p + 1/w), where p is the probability, among
    the window's identifiers, that the model names the passage first. It is 0.5 if p is the chance level 1/w.
    Over several windows the log-odds are averaged.

    Args:
        count: number of passages in the task.
    """

    def __init__(self, count: int) -> None:
        self._log_odds = [0.0] * count
        self._looks = [0] * count
        self._alone: dict[int, float] = {}
        self.score_type = RANK

    def copy(self) -> Scores:
        """A copy with the same windows."""
        other = Scores(len(self._looks))
        other._log_odds, other._looks = self._log_odds.copy(), self._looks.copy()
        other._alone, other.score_type = self._alone, self.score_type
        return other

    def observe_alone(self, probabilities: Mapping[int, float]) -> None:
        """Add the first stage's probabilities, by passage; POINTWISE until a window is observed."""
        self._alone = dict(probabilities)
        if self.score_type == RANK:
            self.score_type = POINTWISE

    def observe(self, passages: Sequence[int], log_probs: Sequence[float]) -> None:
        """Add a window's first-step log probabilities, one per passage in ``passages``.

        From then on the score type is FIRST_STEP.
        """
        self.score_type = FIRST_STEP
        highest = max(log_probs)
        log_sum = highest + math.log(sum(math.exp(log_prob - highest) for log_prob in log_probs))
        for passage, log_prob in zip(passages, log_probs, strict=True):
            self._log_odds[passage] += log_prob - log_sum + math.log(len(passages))
            self._looks[passage] += 1

    def along(self, head: Sequence[int]) -> tuple[float, ...]:
        """Scores of the best ``len(head)`` passages, best first: in (0, 1], strictly falling.

        RANK: ``1 - rank / count``. FIRST_STEP: 0.99 times the smallest prominence up to this rank, plus 0.01
        times the RANK score. So no passage scores higher than one ranked before it, and a passage that no
        window showed takes the prominence of the one before. POINTWISE: the same with the first stage's
        probability in place of the prominence. A score depends only on the order up to its rank, so it can be
        reported while later ranks are still undecided.
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
                    lowest = min(lowest, probability_of(log_odds))
            elif self.score_type == POINTWISE:
                lowest = min(lowest, self._alone.get(passage, lowest))
            if self.score_type != RANK:
                score = (1 - _RANK_SHARE) * lowest + _RANK_SHARE * by_rank
            scores.append(round(score, digits))
        return tuple(scores)


def probability_of(log_odds: float) -> float:
    """The probability with these log odds, natural."""
    return 1 / (1 + math.exp(min(700.0, -log_odds)))
