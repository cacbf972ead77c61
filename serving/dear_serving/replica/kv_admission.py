"""Limits the requests that are in the engine at once."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PATIENCE_S = 2.0


class KvAdmission:
    """Holds requests back until the engine's batch and KV cache have room for prompt and answer.

    vLLM preempts a running request if the cache is full, and computes it anew. It cannot preempt a resumable
    one that waits for its next chunk: if these need more blocks than exist, they wait for each other forever.
    Waiting requests are admitted by arrival; a priority moves a request forward (negative) or back by up to
    PATIENCE_S, so that none waits for ever behind those of a better priority.

    Args:
        max_open: maximum requests at once, >= 1.
        blocks: KV cache blocks that they share.
        block_size: tokens per block, >= 1; where groups differ, the smallest.
        groups: KV cache groups of the model, >= 1. Each takes blocks of its own for the same tokens, out of
            the same ``blocks``. Groups with larger blocks or a sliding window take fewer than is reserved.
    """

    def __init__(self, *, max_open: int, blocks: int, block_size: int, groups: int = 1) -> None:
        self._open_left = max_open
        self._blocks = self._blocks_left = blocks
        self._block_size = block_size
        self._groups = groups
        self._waiting: list[tuple[float, int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @asynccontextmanager
    async def hold(self, tokens: int, priority: int) -> AsyncIterator[None]:
        """Reserve room for ``tokens`` (prompt and answer), at most the whole cache, until the block ends."""
        blocks = min(self._blocks, self._groups * (-(-tokens // self._block_size) + 1))
        admitted = asyncio.get_running_loop().create_future()
        turn_s = time.monotonic() + PATIENCE_S * priority / (1 + abs(priority))
        heapq.heappush(self._waiting, (turn_s, next(self._arrivals), blocks, admitted))
        self._admit()
        try:
            await admitted
            yield
        finally:
            if admitted.done() and not admitted.cancelled():
                self._open_left += 1
                self._blocks_left += blocks
            admitted.cancel()
            self._admit()

    def _admit(self) -> None:
        """Admit from the front while there is room; none overtakes a large request at the front."""
        while self._waiting:
            _, _, blocks, admitted = self._waiting[0]
            if not admitted.cancelled():
                if not self._open_left or blocks > self._blocks_left:
                    return
                self._open_left -= 1
                self._blocks_left -= blocks
                admitted.set_result(None)
            heapq.heappop(self._waiting)
