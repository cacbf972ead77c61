"""Answer: a choice wherever more than one answer is left, and nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dear_serving.inside_vllm.answer import Answer

SEPARATOR = (90, 91, 92)
ONE_TOKEN = tuple((token,) for token in range(10, 16))
Identifiers = Sequence[Sequence[int]]


class Choice(NamedTuple):
    """A choice: what was appended since the last one, its token first; what is allowed; what is decided."""

    append: list[int]
    allowed: list[int]
    decided: tuple[int, ...]


Pick = Callable[[Choice], int]


def take(
    identifiers: Identifiers, needed: int, pick: Pick, separator: Sequence[int] = SEPARATOR
) -> tuple[tuple[int, ...], list[Choice], list[int]]:
    """The positions decided, the choices put, and the answer's tokens up to the last choice's."""
    answer = Answer(identifiers, separator, needed)
    choices: list[Choice] = []
    tokens: list[int] = []
    append = answer.forced_tokens()
    while not answer.done:
        tokens += append
        choice = Choice(append, answer.allowed(), answer.decided)
        choices.append(choice)
        token = pick(choice)
        assert answer.advance(token)
        append = [token, *answer.forced_tokens()]
        assert answer.chosen == len(choices)
    return answer.decided, choices, [*tokens, token] if choices else []


def last(choice: Choice) -> int:
    return choice.allowed[-1]


def following(tokens: Sequence[int]) -> Pick:
    """Picks these tokens, one a choice."""
    left = list(tokens)
    return lambda choice: left.pop(0)


@pytest.mark.parametrize("count", range(2, 7))
def test_one_token_identifiers_take_a_choice_less_than_there_are(count: int) -> None:
    decided, choices, tokens = take(ONE_TOKEN[:count], count, last)
    assert decided == tuple(reversed(range(count)))
    assert [len(choice.allowed) for choice in choices] == list(range(count, 1, -1))
    assert [choice.append for choice in choices] == [
        [],
        *([10 + count - 1 - rank, *SEPARATOR] for rank in range(count - 2)),
    ]
    assert tokens == [
        token for rank in range(count - 1) for token in (*(SEPARATOR if rank else ()), 10 + count - 1 - rank)
    ]


def test_each_choice_tells_what_is_decided_and_left() -> None:
    _, choices, _ = take(ONE_TOKEN[:4], 4, following([12, 10, 13]))
    assert choices == [
        Choice([], [10, 11, 12, 13], ()),
        Choice([12, 90, 91, 92], [10, 11, 13], (2,)),
        Choice([10, 90, 91, 92], [11, 13], (2, 0)),
    ]


@pytest.mark.parametrize(
    ("needed", "choices", "decided"),
    [(1, 1, (5,)), (3, 3, (5, 4, 3)), (5, 5, (5, 4, 3, 2, 1, 0)), (6, 5, (5, 4, 3, 2, 1, 0))],
)
def test_it_ends_when_enough_is_decided_and_the_last_one_is_implied(
    needed: int, choices: int, decided: tuple[int, ...]
) -> None:
    found, put, _ = take(ONE_TOKEN, needed, last)
    assert (found, len(put)) == (decided, choices)


@pytest.mark.parametrize("identifier", [(7,), (7, 8, 9)])
def test_one_identifier_leaves_nothing_to_choose(identifier: tuple[int, ...]) -> None:
    assert take([identifier], 1, last) == ((0,), [], [])
    assert not Answer([identifier], SEPARATOR, 1).advance(7)


@pytest.mark.parametrize(
    ("identifiers", "separator"),
    [
        (((1,), (1, 2)), (2, 90)),  # "1" and the separator look like "12"
        (((1,), (1,)), (90,)),
        (((1, 90), (1,)), (90, 91)),
        (((1,), ()), (90,)),
        (((1,), (2,)), ()),
        ((), (90,)),
    ],
)
def test_answers_that_cannot_be_told_apart_are_refused(
    identifiers: Identifiers, separator: Sequence[int]
) -> None:
    with pytest.raises(ValueError, match=r"prefix code|needs identifiers"):
        Answer(identifiers, separator, 1)


def test_a_token_that_may_not_follow_changes_nothing() -> None:
    answer = Answer(ONE_TOKEN, SEPARATOR, 6)
    assert not answer.advance(90)
    assert answer.advance(12)
    for wrong in (12, 10, 91, -1, 10**9):
        assert not answer.advance(wrong)
    assert (answer.decided, answer.allowed()) == ((2,), [90])


# "1", "2" and "12", a token a digit.
DIGITS = ((1,), (2,), (1, 2))


def test_an_identifier_that_another_continues_ends_with_the_separators_first_token() -> None:
    decided, choices, tokens = take(DIGITS, 3, following([1, 90, 2]))
    assert decided == (0, 1, 2)
    assert choices == [
        Choice([], [1, 2], ()),
        Choice([1], [90, 2], ()),
        Choice([90, 91, 92], [2, 1], (0,)),  # what is left of the separator that was begun
    ]
    assert tokens == [1, 90, 91, 92, 2]


def test_the_longer_of_two_identifiers_with_one_beginning_can_be_chosen() -> None:
    decided, choices, tokens = take(DIGITS, 3, following([1, 2, 1]))
    assert decided == (2, 0, 1)
    assert choices[2] == Choice([2, 90, 91, 92], [1, 2], (2,))
    assert tokens == [1, 2, 90, 91, 92, 1]


def test_a_prefix_is_no_choice_once_the_other_is_ranked() -> None:
    decided, choices, _ = take(DIGITS, 3, following([1, 2, 2]))
    assert decided == (2, 1, 0)
    assert len(choices) == 3  # "1" is settled when "12" is gone


def test_a_beginning_that_all_share_is_appended() -> None:
    identifiers = ((5, 1), (5, 2), (5, 3))
    decided, choices, tokens = take(identifiers, 3, following([3, 1]))
    assert decided == (2, 0, 1)
    assert choices == [
        Choice([5], [1, 2, 3], ()),
        Choice([3, 90, 91, 92, 5], [1, 2], (2,)),
    ]
    assert tokens == [5, 3, 90, 91, 92, 5, 1]


def test_a_separator_of_one_token_that_was_chosen_is_not_appended_again() -> None:
    _, choices, tokens = take(DIGITS, 3, following([1, 90, 1]), separator=(90,))
    assert choices[2] == Choice([90], [2, 1], (0,))
    assert tokens == [1, 90, 1]


def test_the_end_of_an_identifier_settled_early_is_appended() -> None:
    identifiers = ((1, 7, 8), (2, 9), (3,))
    decided, choices, _ = take(identifiers, 2, following([1, 2]))
    assert decided == (0, 1, 2)
    assert choices[1].append == [1, 7, 8, 90, 91, 92]


# Against all answers there are.


def answers(identifiers: Identifiers, separator: Sequence[int]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Every whole answer, ended by the separator's first token, by its order."""
    found = {}
    for order in itertools.permutations(range(len(identifiers))):
        parts = [token for place in order for token in (*separator, *identifiers[place])]
        found[order] = (*parts[len(separator) :], separator[0])
    return found


@st.composite
def walks(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], int, list[int], int]:
    """Identifiers of few tokens with much in common, needed, separator and a seed for the choices."""
    one = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
    identifiers = draw(st.lists(one, min_size=1, max_size=5, unique=True))
    needed = draw(st.integers(1, len(identifiers)))
    separator = draw(st.lists(st.sampled_from([90, 91]), min_size=1, max_size=3))
    return identifiers, needed, separator, draw(st.integers(0, 10_000))


@given(given_=walks())
@example(given_=([(1,), (1, 1), (1, 1, 1)], 3, [90], 0))
@example(given_=([(1,), (1, 2), (2,)], 2, [90, 90], 7))
def test_it_chooses_exactly_where_more_than_one_answer_is_left(
    given_: tuple[list[tuple[int, ...]], int, list[int], int],
) -> None:
    identifiers, needed, separator, seed = given_
    decided, choices, tokens = take(
        identifiers,
        needed,
        lambda choice: choice.allowed[(seed + 7 * len(choice.decided)) % len(choice.allowed)],
        separator,
    )
    count = len(identifiers)
    assert len(set(decided)) == len(decided) == (count if needed >= count - 1 else needed)
    assert set(decided) <= set(range(count))

    whole = answers(identifiers, separator)
    order = next(order for order in whole if order[: len(decided)] == decided)
    answer = whole[order]
    assert answer[: len(tokens)] == tuple(tokens)

    # Replay it token by token, up to the end of what is needed.
    starts, ends = [], []
    at = 0
    for place in order:
        starts.append(at)
        ends.append(at + len(identifiers[place]))
        at = ends[-1] + len(separator)
    open_at = []
    for position in range((ends[needed - 1] + 1) if needed else 0):
        possible = {one[position] for one in whole.values() if one[:position] == answer[:position]}
        if len(possible) > 1:
            open_at.append((position, possible))
    assert [set(choice.allowed) for choice in choices] == [possible for _, possible in open_at]
    before = 0
    for choice, (position, possible) in zip(choices, open_at, strict=True):
        assert len(choice.allowed) == len(possible)
        assert choice.append == list(answer[before:position])
        before = position
        rank = max(rank for rank, start in enumerate(starts) if start <= position)
        assert choice.decided == order[:rank]


@given(given_=walks(), back=st.integers(0, 10))
def test_tokens_that_are_taken_back_leave_no_trace(
    given_: tuple[list[tuple[int, ...]], int, list[int], int], back: int
) -> None:
    identifiers, needed, separator, seed = given_
    answer = Answer(identifiers, separator, needed)
    seen = []
    while not answer.done:
        seen.append((answer.allowed(), answer.decided, answer.chosen, answer.choices))
        assert answer.advance(answer.allowed()[seed % len(answer.allowed())])
    back = min(back, len(seen))
    answer.rollback(back)
    if back:
        assert (answer.allowed(), answer.decided, answer.chosen, answer.choices) == seen[-back]
