"""The path through an answer: which tokens are fixed, and where the model has to choose."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A choice for the model: one of the ``allowed`` tokens, after the tokens in ``append``.

    ``depth`` is the number of tokens of the current identifier that are fixed; ``decided`` holds the
    positions ranked so far, best first.
    """

    append: list[int]
    allowed: list[int]
    depth: int
    decided: tuple[int, ...]


AnswerPath = Generator[TokenChoice, int, tuple[int, ...]]


def answer_path(identifiers: Sequence[Sequence[int]], separator: Sequence[int], needed: int) -> AnswerPath:
    """Yield the choices that lead to the best ``needed`` identifiers; send back each chosen token.

    A choice is yielded for each token at which the remaining identifiers differ; tokens that follow without
    a choice are appended. If one identifier is the beginning of another, the separator's first token ends it.
    A one-token identifier needs one choice; the last identifier left needs none.

    Args:
        identifiers: tokens of each position's identifier; not empty, all different.
        separator: tokens between two identifiers, at least one. With identifiers (1) and (1, 2) it must not
            start with 2.
        needed: how many positions to rank, in ``range(0, len(identifiers) + 1)``.

    Returns:
        The ranked positions, best first: ``needed`` of them, or all if only one more is left.
    """
    left = {position: (*tokens, separator[0]) for position, tokens in enumerate(identifiers)}
    decided: list[int] = []
    append: list[int] = []
    while left and len(decided) < needed:
        fitting, depth = left, 0
        while len(fitting) > 1:
            allowed = list(dict.fromkeys(tokens[depth] for tokens in fitting.values()))
            if len(allowed) == 1:
                token = allowed[0]
            else:
                token = yield TokenChoice(append, allowed, depth, tuple(decided))
                append = []
            append.append(token)
            fitting = {at: tokens for at, tokens in fitting.items() if tokens[depth] == token}
            depth += 1
        ((position, tokens),) = fitting.items()
        append += [*tokens[depth:], *separator[1:]]
        del left[position]
        decided.append(position)
    if len(left) == 1:
        decided += left
    return tuple(decided)
