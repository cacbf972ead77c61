"""What windows prove."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dear_serving.ranking.tournament import Tournament

WINDOWS = st.lists(
    st.tuples(st.permutations(range(8)), st.integers(2, 8), st.integers(0, 8)), min_size=1, max_size=6
)


def settled(
    windows: list[tuple[list[int], int, int]], count: int = 8, *, even_counts: bool = True
) -> Tournament:
    """Each window: an order of passages, how many of the first are shown, how many of those decided."""
    tournament = Tournament(count, even_counts=even_counts)
    for ranked, size, decided in windows:
        tournament.observe(ranked[:size], range(size), decided)
    tournament.settle()
    return tournament


@given(WINDOWS, st.booleans())
def test_sets_are_the_closure_of_what_windows_say_more_often(
    windows: list[tuple[list[int], int, int]], even_counts: bool
) -> None:
    balance = dict.fromkeys(itertools.permutations(range(8), 2), 0)
    last = dict(balance)
    for ranked, size, decided in windows:
        for place, other in itertools.combinations(range(size), 2):
            if place < decided:
                pair = ranked[place], ranked[other]
                balance[pair] += 1
                balance[pair[::-1]] -= 1
                last[pair], last[pair[::-1]] = 1, -1
    beats = {
        pair for pair, net in balance.items() if net > 0 or (net == 0 and even_counts and last[pair] > 0)
    }
    for middle, one, other in itertools.product(range(8), repeat=3):
        if {(one, middle), (middle, other)} <= beats:
            beats.add((one, other))
    tournament = settled(windows, even_counts=even_counts)
    for one in range(8):
        assert tournament.worse[one] == sum(1 << other for other in range(8) if (one, other) in beats)
        assert tournament.better[one] == sum(1 << other for other in range(8) if (other, one) in beats)
        known = {other for other in range(8) if {(one, other), (other, one)} & beats} | {one}
        assert tournament.is_settled(one) == (len(known) == 8)
        strict = {other for other in range(8) if (other, one) in beats and (one, other) not in beats}
        assert tournament.losses[one] == len(strict - {one})
    assert sorted(tournament.best_first()) == list(range(8))


def test_wins_carry_over() -> None:
    tournament = settled([([0, 1, 2], 2, 2), ([1, 2, 0], 2, 2)], count=3)
    assert tournament.best_first() == [0, 1, 2]
    assert all(map(tournament.is_settled, range(3)))


def test_those_who_were_not_decided_are_level() -> None:
    tournament = settled([([0, 1, 2], 3, 1)], count=3)
    assert tournament.is_settled(0)
    assert not tournament.is_settled(1)
    assert tournament.losses == [0, 1, 1]


def test_a_circle_is_a_tier() -> None:
    tournament = settled([([0, 1, 2, 3], 2, 2), ([1, 2, 0, 3], 2, 2), ([2, 0, 1, 3], 2, 2)], count=4)
    assert [tournament.tier(passage) for passage in range(4)] == [0b111, 0b111, 0b111, 0b1000]
    assert tournament.losses == [0, 0, 0, 0]


def test_the_last_of_two_that_contradict_counts_unless_only_proofs_do() -> None:
    windows = [([0, 1], 2, 2), ([1, 0], 2, 2)]
    assert settled(windows, count=2).best_first() == [1, 0]
    assert not settled(windows, count=2, even_counts=False).is_settled(0)
    assert settled([*windows, ([0, 1], 2, 2)], count=2, even_counts=False).best_first() == [0, 1]
