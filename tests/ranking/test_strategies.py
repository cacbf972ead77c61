"""Each strategy: its windows, its cost and what it finds."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dear_serving.ranking.strategies import (
    ADAPTIVE,
    STRATEGIES,
    blitz,
    deepen,
    funnel,
    joint,
    merge2,
    sliding,
    tourrank,
)
from dear_serving.ranking.strategies.blitz import most_calls
from dear_serving.ranking.strategies.cost import Cost, cost
from dear_serving.ranking.windows import Batch, Sizes, Window
from tests.ranking.oracles import as_shown, by, noisy, play, sizes_of_lists

SEEDS = st.integers(0, 1000)


def test_strategies_are_found_by_their_public_names() -> None:
    assert list(STRATEGIES) == [
        "single",
        "sliding",
        "merge2",
        "joint",
        "tourrank",
        "funnel",
        "blitz",
        "deepen",
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("single", Cost(calls=1, rounds=1, shown=100, lone_rounds=1, needed=10)),
        ("sliding", Cost(calls=9, rounds=9, shown=180, lone_rounds=9, needed=90)),
        ("merge2", Cost(calls=6, rounds=2, shown=120, lone_rounds=1, needed=30)),
        ("joint", Cost(calls=15, rounds=1, shown=300, lone_rounds=0, needed=150)),
        ("tourrank", Cost(calls=13, rounds=5, shown=185, lone_rounds=3, needed=95)),
        ("blitz", Cost(calls=7, rounds=3, shown=135, lone_rounds=2, needed=75)),
        ("deepen", Cost(calls=10, rounds=10, shown=190, lone_rounds=10, needed=100)),
    ],
)
def test_a_hundred_passages_cost_what_the_papers_say(name: str, expected: Cost) -> None:
    assert cost(STRATEGIES[name](Sizes(100, 20, 10, 10))) == expected


@given(sizes_of_lists())
def test_single_takes_one_call(sizes: Sizes) -> None:
    calls = int(sizes.count > 1)
    assert cost(STRATEGIES["single"](sizes)) == Cost(
        calls, calls, calls * sizes.count, calls, calls * sizes.top_n
    )


@pytest.mark.parametrize(("top_n", "needed"), [(1, 1), (10, 10), (100, 100)])
def test_single_needs_what_is_asked_for(top_n: int, needed: int) -> None:
    _, (batch,) = play(STRATEGIES["single"](Sizes(100, 20, 10, top_n)), as_shown)
    assert [window.needed for window in batch.windows] == [needed]


# sliding


@given(sizes_of_lists())
def test_sliding_takes_the_calls_it_says(sizes: Sizes) -> None:
    _, batches = play(sliding(sizes), as_shown)
    calls = 0 if sizes.count < 2 else 1 + max(0, math.ceil((sizes.count - sizes.window) / sizes.step))
    assert [len(batch.windows) for batch in batches] == [1] * calls


@given(sizes_of_lists(), st.randoms(use_true_random=False))
def test_sliding_brings_what_the_windows_overlap_by_to_the_head(sizes: Sizes, random: object) -> None:
    truth = list(range(sizes.count))
    random.shuffle(truth)
    order, _ = play(sliding(sizes), by(truth))
    sure = sizes.count if sizes.count <= sizes.window else sizes.window - sizes.step
    assert list(order[:sure]) == truth[:sure]


def test_sliding_ranks_the_head_when_step_does_not_divide() -> None:
    truth = list(range(25))[::-1]
    order, batches = play(sliding(Sizes(25, 20, 10, 25)), by(truth))
    assert [batch.windows[0].passages[0] for batch in batches] == [5, 0]
    assert set(range(5)) <= set(batches[1].windows[0].passages)
    assert list(order[:10]) == truth[:10]


def test_sliding_moves_from_the_last_passages_to_the_first() -> None:
    order, batches = play(sliding(Sizes(6, 4, 2, 6)), by([5, 4, 3, 2, 1, 0]))
    shown = [[window.passages for window in batch.windows] for batch in batches]
    assert shown == [[(2, 3, 4, 5)], [(0, 1, 5, 4)]]
    assert order == (5, 4, 1, 0, 3, 2)


@pytest.mark.parametrize(
    ("sizes", "needed"),
    [
        (Sizes(100, 20, 10, 1), [10] * 8 + [1]),
        (Sizes(100, 20, 10, 10), [10] * 9),
        (Sizes(100, 20, 10, 15), [10] * 8 + [15]),
        (Sizes(100, 20, 10, 35), [10] * 6 + [15, 20, 20]),
        (Sizes(100, 20, 10, 100), [20] * 9),
        (Sizes(25, 20, 10, 5), [15, 5]),
        (Sizes(40, 20, 20, 5), [1, 5]),
        (Sizes(7, 20, 10, 5), [5]),
    ],
    ids=str,
)
def test_sliding_needs_what_it_carries_and_what_becomes_final(sizes: Sizes, needed: list[int]) -> None:
    _, batches = play(sliding(sizes), as_shown)
    assert [window.needed for batch in batches for window in batch.windows] == needed


# merge2


def merge2_calls(count: int, window: int) -> list[int]:
    """Calls of each round."""
    if count <= window:
        return [1] if count > 1 else []
    groups = math.ceil(count / window)
    return [min(groups, count // 2), *merge2_calls(groups * max(1, window // groups), window)]


@given(sizes_of_lists(max_count=2000))
def test_merge2_takes_the_calls_and_rounds_it_says(sizes: Sizes) -> None:
    _, batches = play(merge2(sizes), as_shown)
    assert [len(batch.windows) for batch in batches] == merge2_calls(sizes.count, sizes.window)
    rounds = next(rounds for rounds in range(1, 20) if sizes.window**rounds >= sizes.count)
    assert len(batches) == (rounds if sizes.count > 1 else 0)
    if sizes.window < sizes.count <= sizes.window**2 and sizes.window > 2:
        groups = math.ceil(sizes.count / sizes.window)
        assert [len(batch.windows) for batch in batches] == [groups, 1]


def test_merge2_stripes_its_groups_and_shows_the_winners_best_first() -> None:
    truth = [7, 3, 0, 1, 2, 4, 5, 6]
    order, batches = play(merge2(Sizes(8, 4, 2, 8)), by(truth))
    shown = [[window.passages for window in batch.windows] for batch in batches]
    # Each group's best (0 and 7), then each group's second (2 and 3).
    assert shown == [[(0, 2, 4, 6), (1, 3, 5, 7)], [(0, 7, 2, 3)]]
    # Those left behind: third of each group (1 and 4), then fourth (5 and 6).
    assert order == (7, 3, 0, 2, 1, 4, 5, 6)


@given(sizes_of_lists(), st.randoms(use_true_random=False))
def test_merge2_finds_as_many_of_the_best_as_each_group_may_send(sizes: Sizes, random: object) -> None:
    assume(sizes.window < sizes.count <= sizes.window**2)
    truth = list(range(sizes.count))
    random.shuffle(truth)
    order, _ = play(merge2(sizes), by(truth))
    sure = sizes.window // math.ceil(sizes.count / sizes.window)
    assert list(order[:sure]) == truth[:sure]


@pytest.mark.parametrize(
    ("sizes", "needed"),
    [
        (Sizes(100, 20, 10, 10), [[4] * 5, [10]]),
        (Sizes(100, 20, 10, 20), [[4] * 5, [20]]),
        (Sizes(100, 20, 10, 21), [[5] * 5, [20]]),
        (Sizes(100, 20, 10, 26), [[6] * 5, [20]]),
        (Sizes(99, 20, 10, 99), [[20] * 4 + [19], [20]]),
        (Sizes(401, 20, 10, 5), [[1] * 21, [10, 10], [5]]),
    ],
    ids=str,
)
def test_merge2_needs_the_places_and_what_becomes_final(sizes: Sizes, needed: list[list[int]]) -> None:
    _, batches = play(merge2(sizes), as_shown)
    assert [[window.needed for window in batch.windows] for batch in batches] == needed


# tourrank


def tourrank_sizes(count: int, window: int) -> list[list[int]]:
    """The group sizes of each round, written from the rule as it is told."""
    if count < 2:
        return []
    rounds, entrants, groups = [], count, math.ceil(count / window)
    while entrants > window:
        if entrants // groups < 2 or entrants // groups < window // 2:
            groups = math.ceil(entrants / window)
        sizes = [len(range(group, entrants, groups)) for group in range(groups)]
        rounds.append([size for size in sizes if size > 1])
        places = window if entrants <= 3 * window else entrants // 2
        entrants = groups * max(1, places // groups)
    while entrants // 2 > 2:
        rounds.append([entrants])
        entrants //= 2
    return [*rounds, [entrants]]


@given(sizes_of_lists(max_count=2000))
def test_tourrank_plays_the_stages_it_says(sizes: Sizes) -> None:
    _, batches = play(tourrank(sizes), as_shown)
    played = [[len(window.passages) for window in batch.windows] for batch in batches]
    assert played == tourrank_sizes(sizes.count, sizes.window)


@pytest.mark.parametrize(
    ("count", "window", "sizes"),
    [
        (100, 20, [[20] * 5, [10] * 5, [20], [10], [5]]),
        (50, 20, [[17, 17, 16], [18], [9], [4]]),
        (20, 20, [[20], [10], [5]]),
        (21, 20, [[11, 10], [20], [10], [5]]),
        (200, 20, [[20] * 10, [10] * 10, [17, 17, 16], [18], [9], [4]]),
        (3, 2, [[2], [2]]),
        (2, 20, [[2]]),
    ],
)
def test_tourrank_stages(count: int, window: int, sizes: list[list[int]]) -> None:
    _, batches = play(tourrank(Sizes(count, window, 1, 1)), as_shown)
    assert [[len(window.passages) for window in batch.windows] for batch in batches] == sizes


def test_tourrank_orders_by_stages_survived_then_rank_in_the_last_group() -> None:
    # Two groups of six keep two each of one window's four places: 0 2 4 6 8 10 and 1 3 5 7 9 11.
    truth = [10, 8, 6, 11, 9, 4, 7, 0, 1, 2, 3, 5]
    order, batches = play(tourrank(Sizes(12, 6, 3, 12)), by(truth))
    assert [len(batch.windows) for batch in batches] == [2, 1, 1]
    assert batches[1].windows[0].passages == (10, 11, 8, 9, 6, 7)
    assert batches[2].windows[0].passages == (10, 8, 6)
    survivors, second, first = order[:3], order[3:6], order[6:]
    assert survivors == (10, 8, 6)
    assert second == (11, 9, 7)
    assert first == (1, 4, 0, 3, 2, 5)


@pytest.mark.parametrize(
    ("top_n", "needed"),
    [
        (1, [[10] * 5, [4] * 5, [10], [5], [1]]),
        (5, [[10] * 5, [4] * 5, [10], [5], [5]]),
        (10, [[10] * 5, [4] * 5, [10], [10], [5]]),
        (21, [[10] * 5, [5] * 5, [20], [10], [5]]),
        (100, [[20] * 5, [10] * 5, [20], [10], [5]]),
    ],
)
def test_tourrank_needs_those_that_advance_and_what_becomes_final(
    top_n: int, needed: list[list[int]]
) -> None:
    _, batches = play(tourrank(Sizes(100, 20, 10, top_n)), as_shown)
    assert [[window.needed for window in batch.windows] for batch in batches] == needed


# funnel


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (200, Cost(calls=30, rounds=1, shown=600, lone_rounds=0, needed=210)),
        (2_000, Cost(calls=130, rounds=2, shown=2600, lone_rounds=0, needed=310)),
        (10_000, Cost(calls=580, rounds=3, shown=11_600, lone_rounds=0, needed=760)),
    ],
)
def test_funnel_shows_most_passages_once(count: int, expected: Cost) -> None:
    assert cost(funnel(Sizes(count, 20, 10, 1))) == expected


@pytest.mark.parametrize("window", [2, 3, 5, 20])
@given(count=st.integers(2, 3000))
def test_funnel_halves_the_list_each_round(window: int, count: int) -> None:
    _, batches = play(funnel(Sizes(count, window, 1, 1)), as_shown)
    *narrowing, _ = batches
    assert all(window.needed == 1 for batch in narrowing for window in batch.windows)
    assert len(narrowing) <= math.ceil(math.log2(count))


@given(st.integers(0, 1000))
def test_funnel_brings_the_best_of_thousands_to_the_head(seed: int) -> None:
    truth = list(range(5000))
    random.Random(seed).shuffle(truth)
    order, _ = play(funnel(Sizes(5000, 20, 10, 10)), by(truth))
    assert len(set(truth[:10]) & set(order[:200])) >= 9
    assert set(order[:200]) > set(truth[:2])  # at least two of each window stay
    assert len(set(truth[:10]) & set(order[:20])) >= 6  # joint's own


# joint


@given(sizes_of_lists(max_count=500), st.integers(1, 5), st.booleans())
def test_joint_takes_the_calls_and_rounds_it_says(sizes: Sizes, looks: int, final: bool) -> None:
    _, batches = play(joint(sizes, looks=looks, final=final), as_shown)
    if sizes.count <= sizes.window:
        expected = [1] if sizes.count > 1 else []
    else:
        expected = [looks * math.ceil(sizes.count / sizes.window)] + [1] * final
    assert [len(batch.windows) for batch in batches] == expected


@given(sizes_of_lists(max_count=500), st.integers(1, 5))
def test_joint_blocks_are_equal_and_span_the_first_stage_order(sizes: Sizes, looks: int) -> None:
    assume(sizes.count > sizes.window)
    _, (batch,) = play(joint(sizes, looks=looks), as_shown)
    groups = math.ceil(sizes.count / sizes.window)
    for window in batch.windows:
        assert [passage // groups for passage in window.passages] == list(
            range(math.ceil(sizes.count / groups))
        )


@given(sizes_of_lists(max_count=500), st.integers(1, 5))
def test_joint_shows_each_passage_once_a_look_but_for_the_fill_of_the_last_row(
    sizes: Sizes, looks: int
) -> None:
    assume(sizes.count > sizes.window)
    _, (batch,) = play(joint(sizes, looks=looks), as_shown)
    groups = math.ceil(sizes.count / sizes.window)
    full = sizes.count // groups * groups
    for look in range(looks):
        blocks = batch.windows[look * groups : (look + 1) * groups]
        times = Counter(passage for window in blocks for passage in window.passages)
        assert all(times[passage] == 1 for passage in range(full))
        assert all(times[passage] >= 1 for passage in range(full, sizes.count))


@pytest.mark.parametrize("count", [45, 60, 80, 100, 120, 200])
def test_joint_pairs_different_passages_in_different_looks(count: int) -> None:
    _, (batch,) = play(joint(Sizes(count, 20, 10, 10)), as_shown)
    groups = math.ceil(count / 20)
    looks = [
        [set(window.passages) for window in batch.windows[start : start + groups]]
        for start in range(0, 3 * groups, groups)
    ]
    size = math.ceil(count / groups)
    shared = [
        len(block & other)
        for one, another in itertools.combinations(looks, 2)
        for block in one
        for other in another
    ]
    assert max(shared) <= size / groups + size / 3


def test_joint_fills_the_last_row_with_all_of_its_passages() -> None:
    _, (batch,) = play(joint(Sizes(97, 20, 10, 10)), as_shown)
    last = [window.passages[-1] for window in batch.windows]
    assert sorted(last[:5]) == sorted(last[5:10]) == sorted(last[10:]) == [95, 95, 95, 96, 96]


@pytest.mark.parametrize("count", [100, 97])
def test_joint_orders_by_the_share_of_comparisons_won(count: int) -> None:
    truth = [(37 * place) % 101 for place in range(101) if (37 * place) % 101 < count]
    truth.reverse()
    order, (batch,) = play(joint(Sizes(count, 20, 10, count)), by(truth))
    rank = {passage: place for place, passage in enumerate(truth)}
    shares: dict[int, float] = {}
    for one in range(count):
        rivals = [other for window in batch.windows if one in window.passages for other in window.passages]
        won = sum(rank[one] < rank[other] for other in rivals)
        shares[one] = won / sum(one != other for other in rivals)
    assert list(order) == sorted(range(count), key=lambda passage: (-shares[passage], passage))
    assert len(set(order[:10]) & set(truth[:10])) >= 7


@pytest.mark.parametrize(
    ("count", "top_n", "needed"), [(100, 10, 10), (100, 1, 7), (100, 11, 11), (100, 100, 20), (50, 10, 13)]
)
def test_joint_decides_what_the_top_n_takes_of_each_block(count: int, top_n: int, needed: int) -> None:
    _, (batch,) = play(joint(Sizes(count, 20, 10, top_n)), as_shown)
    assert {window.needed for window in batch.windows} == {needed}


def test_joint_counts_those_it_did_not_decide_as_level() -> None:
    # Two blocks of 12, each decides 7 of them and beats the other 5 to the same win, wherever they stand.
    truth = [*range(13, -1, -1), *range(23, 13, -1)]
    order, (batch,) = play(joint(Sizes(24, 12, 6, 1), looks=1), by(truth))
    assert [window.needed for window in batch.windows] == [7, 7]
    assert list(order[14:]) == list(range(14, 24))


def test_joint_final_ranks_the_best_once_more() -> None:
    truth = [(37 * place) % 101 for place in range(101) if (37 * place) % 101 < 100]
    first, _ = play(joint(Sizes(100, 20, 10, 10)), by(truth))
    order, batches = play(joint(Sizes(100, 20, 10, 10), final=True), by(truth))
    (window,) = batches[1].windows
    assert batches[1].leads
    assert (window.passages, window.needed) == (first[:20], 10)
    assert list(order[:10]) == truth[:10]
    assert order[20:] == first[20:]


def test_joint_refuses_no_look() -> None:
    with pytest.raises(ValueError, match="looks must be at least 1, got 0"):
        joint(Sizes(100, 20, 10, 10), looks=0)


# blitz


def spent(batches: list[Batch]) -> tuple[int, int]:
    """Windows, and passages shown in them."""
    windows = [window for batch in batches for window in batch.windows]
    return len(windows), sum(len(window.passages) for window in windows)


@given(sizes_of_lists(), SEEDS, st.integers(1, 3))
def test_blitz_stays_within_its_bounds(sizes: Sizes, seed: int, looks: int) -> None:
    _, batches = play(blitz(sizes, looks=looks), noisy(seed))
    calls, shown = spent(batches)
    if sizes.count <= sizes.window:
        assert calls == (sizes.count > 1)
        return
    groups = math.ceil(sizes.count / sizes.window)
    assert len(batches[0].windows) == min(groups, sizes.count // 2)  # a passage alone needs no window
    assert calls <= most_calls(sizes, looks)
    assert len(batches) <= calls
    assert shown <= sizes.window * calls


@given(sizes_of_lists(), st.randoms(use_true_random=False))
def test_blitz_finds_the_best_if_nothing_contradicts_itself(sizes: Sizes, random: object) -> None:
    assume(sizes.window >= 10)
    truth = list(range(sizes.count))
    random.shuffle(truth)
    order, _ = play(blitz(sizes), by(truth))
    assert list(order[: sizes.top_n]) == truth[: sizes.top_n]


@given(st.integers(0, 1000))
def test_blitz_settles_ten_of_a_hundred_for_less_than_sliding(seed: int) -> None:
    truth = list(range(100))
    random.Random(seed).shuffle(truth)
    for decide in (by(truth), noisy(seed)):
        _, batches = play(blitz(Sizes(100, 20, 10, 10)), decide)
        calls, shown = spent(batches)
        assert 7 <= calls <= 9
        assert 3 <= len(batches) <= 5
        assert shown <= 160  # sliding shows 180


def test_blitz_shows_only_passages_that_may_still_be_among_the_best() -> None:
    # Group 0 of 2 holds the best six, so its fourth to sixth stay open when both groups sent their best.
    truth = [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    order, batches = play(blitz(Sizes(12, 6, 3, 4), looks=1), by(truth))
    shown = [[window.passages for window in batch.windows] for batch in batches]
    assert shown == [[(0, 2, 4, 6, 8, 10), (1, 3, 5, 7, 9, 11)], [(0, 1, 2, 3, 4, 5)], [(1, 6)]]
    assert list(order[:4]) == [0, 2, 4, 6]


def test_blitz_takes_the_mean_of_its_looks_at_the_head() -> None:
    truth = list(range(40))
    looks = iter([(1, 0, 2), (1, 2, 0)])

    def decide(window: Window) -> tuple[int, ...]:
        return next(looks) if len(window.passages) == 3 else tuple(by(truth)(window))

    order, batches = play(blitz(Sizes(40, 20, 10, 2), looks=3), decide)
    assert [window.passages for batch in batches[-2:] for window in batch.windows] == [(0, 1, 2), (0, 1, 2)]
    # Ranks 0 + 1 + 2, 1 + 0 + 0, 2 + 2 + 1 of the passages 0, 1, 2.
    assert order[:3] == (1, 0, 2)


def test_blitz_ends_where_orders_go_in_circles() -> None:
    turn = itertools.count()

    def decide(window: Window) -> tuple[int, ...]:
        size, by_one = len(window.passages), next(turn)
        return tuple((place + by_one) % size for place in range(size))

    for sizes in (Sizes(100, 20, 10, 10), Sizes(90, 3, 1, 90), Sizes(30, 2, 1, 30)):
        order, batches = play(blitz(sizes), decide)
        assert sorted(order) == list(range(sizes.count))
        assert spent(batches)[0] <= most_calls(sizes)


def test_blitz_decides_what_is_asked_for_of_a_list_that_fits_one_window() -> None:
    _, (batch,) = play(blitz(Sizes(20, 20, 10, 5)), as_shown)
    assert batch.leads
    assert [window.needed for window in batch.windows] == [5]


@pytest.mark.parametrize("most", [7, 8, 9])
def test_blitz_stops_where_it_may_take_no_more_windows(most: int) -> None:
    # The best ten are of one group, so that many windows are needed.
    truth = [*range(0, 100, 5), *(one for one in range(100) if one % 5)]
    free = play(blitz(Sizes(100, 20, 10, 10)), by(truth))[1]
    order, batches = play(blitz(Sizes(100, 20, 10, 10), most=most), by(truth))
    assert sorted(order) == list(range(100))
    assert spent(batches)[0] == min(most, spent(free)[0])


def test_blitz_refuses_no_look() -> None:
    with pytest.raises(ValueError, match="looks must be at least 1, got 0"):
        blitz(Sizes(100, 20, 10, 10), looks=0)


# deepen


@given(sizes_of_lists(), SEEDS)
def test_deepen_stays_within_its_bounds(sizes: Sizes, seed: int) -> None:
    order, batches = play(deepen(sizes), noisy(seed))
    calls, shown = spent(batches)
    assert len(batches) == calls
    if sizes.count <= sizes.window:
        assert calls == (sizes.count > 1)
        return
    new = min(sizes.step, sizes.window - 1)
    assert 2 <= calls <= 2 + math.ceil((sizes.count - sizes.window) / new)
    assert shown <= sizes.window * calls
    read = {passage for batch in batches for window in batch.windows for passage in window.passages}
    assert read == set(range(len(read)))
    assert len(read) >= min(sizes.count, 2 * sizes.top_n)
    assert order[len(read) :] == tuple(range(len(read), sizes.count))


@given(sizes_of_lists(), st.randoms(use_true_random=False))
def test_deepen_brings_the_best_of_what_it_read_to_the_head(sizes: Sizes, random: object) -> None:
    assume(sizes.count > 1)
    truth = list(range(sizes.count))
    random.shuffle(truth)
    order, batches = play(deepen(sizes), by(truth))
    read = {passage for batch in batches for window in batch.windows for passage in window.passages}
    assert order[0] == next(passage for passage in truth if passage in read)


def test_deepen_stops_when_two_windows_leave_the_head_alone() -> None:
    _, batches = play(deepen(Sizes(100, 20, 10, 10)), as_shown)
    shown = [window.passages for batch in batches for window in batch.windows]
    head = tuple(range(10))
    assert shown == [tuple(range(20)), (*head, *range(20, 30)), (*head, *range(30, 40)), head]


@pytest.mark.parametrize(("better", "calls"), [(0, 4), (1, 4), (2, 6)])
def test_deepen_goes_on_while_more_than_a_tenth_of_the_head_is_new(better: int, calls: int) -> None:
    # So many of passages 30 to 39, which the third window shows, are the best of all.
    truth = [*range(30, 30 + better), *range(30), *range(30 + better, 100)]
    order, batches = play(deepen(Sizes(100, 20, 10, 10)), by(truth))
    assert len(batches) == calls
    assert set(truth[:10]) == set(order[:10])


def test_deepen_reads_twice_what_is_asked_for() -> None:
    assert len(play(deepen(Sizes(100, 20, 10, 30)), as_shown)[1]) == 6
    assert len(play(deepen(Sizes(100, 20, 10, 100)), as_shown)[1]) == 10


# cost


@given(sizes_of_lists(), st.sampled_from([name for name in STRATEGIES if name not in ADAPTIVE]), SEEDS)
def test_cost_is_what_a_real_run_takes(sizes: Sizes, name: str, seed: int) -> None:
    truth = sorted(range(sizes.count), key=lambda passage: (seed * passage) % 7)
    _, batches = play(STRATEGIES[name](sizes), by(truth))
    windows = [window for batch in batches for window in batch.windows]
    assert cost(STRATEGIES[name](sizes)) == Cost(
        calls=len(windows),
        rounds=len(batches),
        shown=sum(len(window.passages) for window in windows),
        lone_rounds=sum(len(batch.windows) == 1 for batch in batches),
        needed=sum(window.needed for window in windows),
    )
