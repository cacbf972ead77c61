"""How many guesses a window's drafts hold: what they save against what they cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dear_serving.inside_vllm.permutation_grammar import Guess

CONFIG = "dear_drafts"
"""Key in vLLM's additional_config; its value holds the fields of ``DraftPolicy``."""

_MEMORY = 0.95
_PROBE = 8
_MOST_GUESSES = 64
_FIRST_CHANCE = 0.7


@dataclass(frozen=True, slots=True)
class DraftPolicy:
    """When to guess.

    A guess saves a pass if it holds, and costs an identifier and a separator in the step. Up to
    ``free_tokens`` a step takes as long as with one token, since it waits for the weights. There a window's
    next guess needs a chance of ``free_chance`` to hold, with all before it; above, ``paid_chance``.
    ``uniform`` fills drafts up to full length while they are free: full CUDA graphs are recorded for that
    length alone.
    """

    free_tokens: int = 256
    free_chance: float = 0.2
    paid_chance: float = 0.6
    uniform: bool = False

    @classmethod
    def of(cls, additional_config: Mapping[str, Any]) -> DraftPolicy:
        """The policy in vLLM's additional_config."""
        return cls(**additional_config.get(CONFIG, {}))


class Acceptance:
    """How often guesses held lately, for each adapter and place in the order.

    Places are grouped: 0, 1, 2-3, 4-7 and so on positions ranked before. A place without guesses has the
    chance of a good reranker's.
    """

    def __init__(self) -> None:
        self._chances: dict[tuple[int, int], float] = defaultdict(lambda: _FIRST_CHANCE)
        self._unlikely = 0

    def learn(self, adapter: int, guess: Guess) -> None:
        """Move the place's chance a step towards what happened."""
        place = (adapter, guess.decided.bit_length())
        self._chances[place] = _MEMORY * self._chances[place] + (1 - _MEMORY) * guess.held

    def guesses(self, adapter: int, decided: int, least: float) -> int:
        """How many guesses in a row hold with a chance of at least ``least``, after ``decided`` positions.

        Where not even one does, every _PROBE-th answer is one, so that the place keeps being measured.
        """
        count, chance = 0, 1.0
        while count < _MOST_GUESSES:
            chance *= self._chances.get((adapter, (decided + count).bit_length()), _FIRST_CHANCE)
            if chance < least:
                break
            count += 1
        if not count:
            self._unlikely += 1
            return int(self._unlikely % _PROBE == 0)
        return count
