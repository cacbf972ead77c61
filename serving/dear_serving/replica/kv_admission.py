"""Limits the requests that are in the engine at once."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from dear_serving.protocol import TEXT_SHARE

PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class _Room:
    """Places in the batch, and KV cache blocks."""

    open: int
    blocks: int

    def fits(self, room: _Room) -> bool:
        return self.open <= room.open and self.blocks <= room.blocks

    def __add__(self, other: _Room) -> _Room:
        return _Room(self.open + other.open, self.blocks + other.blocks)

    def __sub__(self, other: _Room) -> _Room:
        return _Room(self.open - other.open, self.blocks - other.blocks)


@dataclass(order=True, slots=True)
class _Waiter:
    turn_s: float
    number: int
    room: _Room = field(compare=False)
    is_text: bool = field(compare=False)
    admitted: asyncio.Future[None] = field(compare=False)


class KvAdmission:
    """Holds requests back until the engine's batch and KV cache have room for prompt and answer.

    vLLM preempts a running request if the cache is full, and computes it anew. It cannot preempt a resumable
    one that waits for its next chunk: if these need more blocks than exist, they wait for each other forever.
    Waiting requests are admitted by arrival; a priority moves a request forward (negative) or back by up to
    PATIENCE_S, so that none waits for ever behind those of a better priority. Texts have at most three
    quarters of places and blocks, since they can last long: windows find room beside them.

    Args:
        max_open: maximum requests at once, >= 1.
        blocks: KV cache blocks that they share.
        block_size: tokens per block, >= 1; where groups differ, the smallest.
        groups: KV cache groups of the model, >= 1. Each takes blocks of its own for the same tokens, out of
            the same ``blocks``. Groups with larger blocks or a sliding window take fewer than is reserved.
    """

    def __init__(self, *, max_open: int, blocks: int, block_size: int, groups: int = 1) -> None:
        self._all = self._left = _Room(max_open, blocks)
        self._most_texts = self._texts_left = _Room(
            max(1, int(max_open * TEXT_SHARE)), max(1, int(blocks * TEXT_SHARE))
        )
        self._block_size = block_size
        self._groups = groups
        self._windows: list[_Waiter] = []
        self._texts: list[_Waiter] = []
        self._arrivals = itertools.count()

    @asynccontextmanager
    async def hold(
        self, tokens: int, priority: int, sequences: int = 1, *, is_text: bool = False
    ) -> AsyncIterator[None]:
        """Reserve room until the block ends, at most all there is.

        Args:
            tokens: of all sequences, prompt and answer.
            priority: as in GenerationRequest.
            sequences: places in the batch.
            is_text: a free text, not a window.
        """
        each = -(-tokens // sequences)
        blocks = self._groups * sequences * (-(-each // self._block_size) + 1)
        most = self._most_texts if is_text else self._all
        room = _Room(min(sequences, most.open), min(blocks, most.blocks))
        turn_s = time.monotonic() + PATIENCE_S * priority / (1 + abs(priority))
        waiter = _Waiter(
            turn_s, next(self._arrivals), room, is_text, asyncio.get_running_loop().create_future()
        )
        heapq.heappush(self._texts if is_text else self._windows, waiter)
        self._admit()
        try:
            await waiter.admitted
            yield
        finally:
            if waiter.admitted.done() and not waiter.admitted.cancelled():
                self._left += room
                if is_text:
                    self._texts_left += room
            waiter.admitted.cancel()
            self._admit()

    def _admit(self) -> None:
        """Admit by turn while there is room; only a text that waits for other texts is overtaken."""
        while (waiter := self._next()) is not None:
            heapq.heappop(self._texts if waiter.is_text else self._windows)
            self._left -= waiter.room
            if waiter.is_text:
                self._texts_left -= waiter.room
            waiter.admitted.set_result(None)

    def _next(self) -> _Waiter | None:
        for waiting in (self._windows, self._texts):
            while waiting and waiting[0].admitted.cancelled():
                heapq.heappop(waiting)
        for waiter in sorted(waiting[0] for waiting in (self._windows, self._texts) if waiting):
            if waiter.is_text and not waiter.room.fits(self._texts_left):
                continue
            return waiter if waiter.room.fits(self._left) else None
        return None
