"""The path through an answer: which tokens are settled, and where the model has to choose."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A step only the model can take: after ``append``, which of the ``allowed`` tokens.

    ``depth`` counts the tokens of the identifier that are settled, ``decided`` holds the positions ranked
    so far, best first.
    """

    append: list[int]
    allowed: list[int]
    depth: int
    decided: tuple[int, ...]


AnswerPath = Generator[TokenChoice, int, tuple[int, ...]]


def answer_path(identifiers: Sequence[Sequence[int]], separator: Sequence[int], needed: int) -> AnswerPath:
    """The choices that lead to the best ``needed`` identifiers; sent the token chosen at each.

    An identifier of several tokens takes a choice at every token that others share a beginning with; the
    separator's first token ends an identifier that another one continues. What is settled is appended.
    One-token identifiers take one choice each, and the last one left none.

    Args:
        identifiers: tokens of each position's identifier; none may be empty or equal another.
        separator: tokens between an identifier and the next, at least one, not the beginning of any
            identifier's continuation.
        needed: how many to rank, in ``range(0, len(identifiers) + 1)``.

    Returns:
        The positions ranked, best first: ``needed`` of them, all when one less is needed.
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
