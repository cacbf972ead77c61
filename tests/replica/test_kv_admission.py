"""KvAdmission: what may be open in the engine at once, and who comes next."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.replica.kv_admission import KvAdmission

BLOCK = 16


class Holder:
    """One window that holds its place until it is let go."""

    def __init__(
        self,
        sessions: KvAdmission,
        tokens: int = BLOCK,
        priority: int = 0,
        sequences: int = 1,
        is_text: bool = False,
    ) -> None:
        self.inside = asyncio.Event()
        self.leave = asyncio.Event()
        self._holding = sessions.hold(tokens, priority, sequences, is_text=is_text)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._holding:
            self.inside.set()
            await self.leave.wait()

    @property
    def holds(self) -> bool:
        return self.inside.is_set() and not self.task.done()

    async def end(self) -> None:
        self.leave.set()
        await self.task
        await settle()

    async def cancel(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task
        await settle()


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def of(max_open: int = 100, blocks: int = 1000) -> KvAdmission:
    return KvAdmission(max_open=max_open, blocks=blocks, block_size=BLOCK)


async def is_free(sessions: KvAdmission, blocks: int) -> bool:
    """Whether all there is can be had at once."""
    holder = Holder(sessions, blocks * BLOCK)
    await settle()
    free = holder.holds
    await (holder.end() if free else holder.cancel())
    return free


async def test_no_more_are_open_than_may_be() -> None:
    sessions = of(max_open=2)
    holders = [Holder(sessions) for _ in range(4)]
    await settle()
    assert [one.holds for one in holders] == [True, True, False, False]
    await holders[1].end()
    assert [one.holds for one in holders] == [True, False, True, False]
    for one in (holders[0], holders[2], holders[3]):
        await one.end()
    assert await is_free(sessions, 1000)


@pytest.mark.parametrize(
    ("tokens", "fit"),
    [
        (0, 10),
        (1, 5),  # a block for the token and one to spare
        (BLOCK, 5),
        (BLOCK + 1, 3),
        (4 * BLOCK, 2),
        (5 * BLOCK, 1),
    ],
)
async def test_blocks_are_shared_by_the_tokens_asked_for(tokens: int, fit: int) -> None:
    sessions = of(blocks=10)
    holders = [Holder(sessions, tokens) for _ in range(12)]
    await settle()
    assert sum(one.holds for one in holders) == fit
    for one in holders:
        await one.cancel()
    assert await is_free(sessions, 10)


async def test_each_group_of_the_cache_takes_blocks_of_its_own() -> None:
    """A model with two kinds of attention holds every token in two blocks of one pool."""
    sessions = KvAdmission(max_open=100, blocks=12, block_size=BLOCK, groups=2)
    holders = [Holder(sessions, 2 * BLOCK) for _ in range(4)]
    await settle()
    assert sum(one.holds for one in holders) == 2
    for one in holders:
        await one.cancel()
    assert await is_free(sessions, 12)


async def test_windows_find_room_beside_texts() -> None:
    sessions = of(max_open=8)
    texts = [Holder(sessions, is_text=True) for _ in range(20)]
    await settle()
    assert sum(text.holds for text in texts) == 6
    windows = [Holder(sessions) for _ in range(3)]
    await settle()
    assert [window.holds for window in windows] == [True, True, False]
    await texts[0].end()
    assert not windows[2].holds  # the seventh text came before it
    await windows[0].end()
    assert windows[2].holds
    assert sum(text.holds for text in texts) == 6
    for one in [*texts[1:], *windows[1:]]:
        await one.cancel()
    assert await is_free(sessions, 900)


async def test_a_text_of_many_sequences_has_a_place_and_blocks_for_each() -> None:
    sessions = of(max_open=16, blocks=64)
    text = Holder(sessions, 4 * 3 * BLOCK, sequences=4, is_text=True)  # 4 x (3 + 1) of 48 blocks
    others = [Holder(sessions, BLOCK, is_text=True) for _ in range(20)]  # 2 blocks each
    await settle()
    assert text.holds
    assert sum(other.holds for other in others) == 8  # 12 places for texts
    for one in [text, *others]:
        await one.cancel()
    huge = Holder(sessions, 10**6, sequences=1000, is_text=True)
    await settle()
    assert huge.holds


async def test_the_lower_priority_comes_in_first_and_then_the_earlier() -> None:
    sessions = of(max_open=1)
    first = Holder(sessions)
    await settle()
    waiting = [Holder(sessions, priority=priority) for priority in (5, 0, 5, 0, 2)]
    await settle()
    entered = []
    leaving = first
    for _ in waiting:
        await leaving.end()
        (leaving,) = [one for one in waiting if one.holds]
        entered.append(waiting.index(leaving))
    assert entered == [1, 3, 4, 0, 2]
    await leaving.end()


async def test_cancelling_while_waiting_gives_the_turn_to_the_next() -> None:
    sessions = of(max_open=1)
    first, second, third = (Holder(sessions) for _ in range(3))
    await settle()
    await second.cancel()
    assert not third.holds
    await first.end()
    assert third.holds
    await third.end()
    assert await is_free(sessions, 1000)


async def test_cancelling_the_one_that_blocks_the_front_lets_smaller_ones_in() -> None:
    sessions = of(blocks=10)
    first = Holder(sessions, 2 * BLOCK)
    await settle()
    huge, small = Holder(sessions, 100 * BLOCK), Holder(sessions)
    await settle()
    assert not small.holds
    await huge.cancel()
    assert small.holds
    await first.end()
    await small.end()
    assert await is_free(sessions, 10)


async def test_cancelling_while_holding_frees_the_place() -> None:
    sessions = of(max_open=1, blocks=4)
    first, second = Holder(sessions, 3 * BLOCK), Holder(sessions, 3 * BLOCK)
    await settle()
    await first.cancel()
    assert second.holds
    await second.end()
    assert await is_free(sessions, 4)


async def test_cancelling_between_being_let_in_and_going_in_leaks_nothing() -> None:
    sessions = of(max_open=1)
    async with sessions.hold(1, 0):
        second, third = (Holder(sessions) for _ in range(2))
        await settle()
    # Leaving lets the second one in, which has not run since.
    second.task.cancel()
    await settle()
    assert second.task.cancelled()
    assert not second.inside.is_set()
    assert third.holds
    await third.end()
    assert await is_free(sessions, 1000)


async def test_an_error_inside_frees_the_place_and_is_raised() -> None:
    sessions = of(max_open=1)
    with pytest.raises(ZeroDivisionError):
        async with sessions.hold(1, 0):
            raise ZeroDivisionError
    assert await is_free(sessions, 1000)


async def test_a_window_larger_than_all_waits_for_all_and_is_not_starved() -> None:
    sessions = of(blocks=10)
    small = [Holder(sessions, 2 * BLOCK) for _ in range(3)]  # 9 blocks
    await settle()
    huge = Holder(sessions, 10_000 * BLOCK)
    later = [Holder(sessions) for _ in range(3)]
    await settle()
    for one in small:
        assert not huge.holds
        assert not any(other.holds for other in later)  # there would be room: it is not overtaken
        await one.end()
    assert huge.holds
    assert not any(other.holds for other in later)
    await huge.end()
    assert all(other.holds for other in later)
    for one in later:
        await one.end()
    assert await is_free(sessions, 10)


async def test_a_free_place_is_had_at_once() -> None:
    sessions = of()
    async with asyncio.timeout(0):
        async with sessions.hold(1, 0):
            pass


@given(
    max_open=st.integers(1, 4),
    blocks=st.integers(1, 12),
    windows=st.lists(
        st.tuples(st.integers(1, 20 * BLOCK), st.integers(0, 2), st.sampled_from(["end", "cancel"])),
        max_size=20,
    ),
    seed=st.integers(0, 1000),
)
def test_bounds_hold_and_everything_comes_back(
    max_open: int, blocks: int, windows: list[tuple[int, int, str]], seed: int
) -> None:
    async def run() -> None:
        sessions, generator = of(max_open, blocks), random.Random(seed)
        holders: list[Holder] = []
        sizes: dict[Holder, int] = {}
        fate: dict[Holder, str] = {}

        def check() -> None:
            inside = [one for one in holders if one.holds]
            assert len(inside) <= max_open
            assert sum(sizes[one] for one in inside) <= blocks

        async def leave() -> None:
            ending = [one for one in holders if one.holds or fate[one] == "cancel"]
            one = generator.choice(ending)
            await (one.end() if fate[one] == "end" else one.cancel())
            holders.remove(one)
            check()

        for tokens, priority, end in windows:
            one = Holder(sessions, tokens, priority)
            sizes[one], fate[one] = min(blocks, -(-tokens // BLOCK) + 1), end
            holders.append(one)
            await settle()
            check()
            assert any(other.holds for other in holders)
            if generator.random() < 0.4:
                await leave()
        while holders:
            assert any(one.holds for one in holders)  # never stuck
            await leave()
        assert await is_free(sessions, blocks)

    asyncio.run(run())


async def test_the_worst_priority_waits_a_bounded_time_behind_better_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dear_serving.replica.kv_admission.PATIENCE_S", 0.05)
    admission = of(max_open=1)
    running = Holder(admission)
    await settle()
    last = Holder(admission, priority=2**63)
    await asyncio.sleep(0.12)
    better = [Holder(admission, priority=-(2**63)) for _ in range(3)]
    await settle()
    await running.end()
    assert last.holds
    await last.end()
    for one in better:
        await one.end()
