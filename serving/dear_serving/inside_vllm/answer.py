"""The answer to a window as a state machine over tokens: what may follow, and which position that ranks.

One machine serves every way of decoding: inside the engine it gives the masks and the drafts, outside it
reads the tokens that come back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

Tokens = tuple[int, ...]

WINDOW = "dear_window"
"""Key in SamplingParams.extra_args that makes a request a window; see ``window_arguments``."""


def window_arguments(
    identifiers: Sequence[Sequence[int]], separator: Sequence[int], needed: int
) -> dict[str, Any]:
    """The extra_args of a window's request, as plain lists, which vLLM's message format needs."""
    return {WINDOW: [[list(tokens) for tokens in identifiers], list(separator), needed]}


@dataclass(frozen=True, slots=True)
class _State:
    """Between two tokens: positions ranked, tokens that must follow, else the identifiers that still fit.

    ``depth`` tokens of the identifier are there; ``chosen`` tokens of the whole answer were no forced ones.
    """

    decided: tuple[int, ...]
    forced: Tokens
    fitting: tuple[int, ...]
    depth: int
    chosen: int


class Answer:
    """The answer ``[4] > [1] > [0]``, token by token, from its first identifier to the last one needed.

    The model chooses where the remaining identifiers differ; every other token is forced. If one identifier
    is the beginning of another, the separator's first token ends it. A position is decided by the token that
    tells it from all others. The last identifier left is implied.

    Args:
        identifiers: tokens of each position's identifier: not empty, all different.
        separator: tokens between two identifiers, at least one. With identifiers (1) and (1, 2) it must not
            begin with 2.
        needed: how many positions to rank, at least 1.

    Raises:
        ValueError: an argument breaks these rules; the machine could not tell two answers apart.
    """

    __slots__ = ("_needed", "_past", "_state", "_tail", "_words")

    def __init__(self, identifiers: Sequence[Sequence[int]], separator: Sequence[int], needed: int) -> None:
        if not separator or not identifiers or not all(identifiers):
            raise ValueError("a window needs identifiers, and tokens in each of them and in the separator")
        self._words = [(*tokens, separator[0]) for tokens in identifiers]
        self._tail = tuple(separator[1:])
        if not _prefix_free(self._words):
            raise ValueError(
                "the identifiers and the separator are no prefix code: two answers look the same"
            )
        self._needed = min(needed, max(1, len(identifiers) - 1))
        self._past: list[_State] = []
        everyone = tuple(range(len(identifiers)))
        decided = everyone if len(everyone) == 1 else ()
        self._state = _State(decided, (), everyone, 0, 0)

    @property
    def decided(self) -> tuple[int, ...]:
        """The positions ranked so far, best first. If only one more is left, it follows by itself."""
        decided = self._state.decided
        if len(decided) == len(self._words) - 1:
            return (*decided, *set(range(len(self._words))).difference(decided))
        return decided

    @property
    def chosen(self) -> int:
        """How many tokens of the answer were real choices."""
        return self._state.chosen

    @property
    def done(self) -> bool:
        """Whether enough is ranked; no token is allowed any more."""
        return len(self._state.decided) >= self._needed

    @property
    def choices(self) -> tuple[int, ...]:
        """The positions between which the next token chooses; empty if it is forced or nothing follows."""
        state = self._state
        return () if state.forced or self.done else state.fitting

    def token_of(self, position: int) -> int:
        """The next token if ``position``, one of ``choices``, comes next."""
        return self._words[position][self._state.depth]

    def allowed(self) -> list[int]:
        """The tokens that may follow, in the order of their positions; one if it is forced."""
        if self.done:
            return []
        state = self._state
        if state.forced:
            return [state.forced[0]]
        return list(dict.fromkeys(self._words[position][state.depth] for position in state.fitting))

    def advance(self, token: int) -> bool:
        """Append a token; False, with nothing changed, if it may not follow."""
        state = self._state
        if self.done:
            return False
        if state.forced:
            if token != state.forced[0]:
                return False
            after = replace(state, forced=state.forced[1:])
        else:
            fitting = tuple(one for one in state.fitting if self._words[one][state.depth] == token)
            if not fitting:
                return False
            real = len({self._words[one][state.depth] for one in state.fitting}) > 1
            after = _State(state.decided, (), fitting, state.depth + 1, state.chosen + real)
            if len(fitting) == 1:
                after = self._decide(fitting[0], after)
        self._past.append(state)
        self._state = after
        return True

    def forced_tokens(self) -> list[int]:
        """Append the tokens up to the next real choice, and return them."""
        tokens: list[int] = []
        while len(allowed := self.allowed()) == 1:
            self.advance(allowed[0])
            tokens += allowed
        return tokens

    def rollback(self, tokens: int) -> None:
        """Take the last tokens back."""
        if tokens:
            self._state = self._past[-tokens]
            del self._past[-tokens:]

    def _decide(self, position: int, state: _State) -> _State:
        decided = (*state.decided, position)
        left = tuple(one for one in range(len(self._words)) if one not in decided)
        return _State(decided, self._words[position][state.depth :] + self._tail, left, 0, state.chosen)


def _prefix_free(words: Sequence[Tokens]) -> bool:
    """Whether no word begins with another; after sorting, only neighbours can."""
    ordered = sorted(words)
    return all(after[: len(before)] != before for before, after in itertools.pairwise(ordered))
