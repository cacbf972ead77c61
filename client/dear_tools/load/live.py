"""What a terminal shows while a load test runs."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dear_tools.load.figures import ms
from dear_tools.load.generator import Generator
from dear_tools.load.records import Record
from dear_tools.load.schedule import Schedule, level_at
from dear_tools.load.summary import spread

_LATELY_S = 5.0
_LINE_S = 10.0
_MOST_RECENT = 1000


class LiveView:
    """A table that is rewritten in place on a terminal; elsewhere a line every ten seconds.

    Use it in a ``with``; ``observe`` is to be told of every record.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        # Drawn when there is something new: a thread that draws would take its time from the sending.
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._title = ""
        self._recent: deque[Record] = deque()
        self._results: dict[str, int] = {}
        self._said_s = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def begin(self, title: str) -> None:
        """Another run begins."""
        self._title = title
        self._recent.clear()
        self._results.clear()
        self._said_s = time.monotonic()

    def observe(self, record: Record) -> None:
        """A request is done."""
        self._recent.append(record)
        self._results[record.result] = self._results.get(record.result, 0) + 1

    def update(self, generator: Generator, schedule: Schedule) -> None:
        """See loadtest.View."""
        now_s = generator.elapsed_s
        while self._recent and self._recent[0].done_s < now_s - _LATELY_S:
            self._recent.popleft()
        if self._console.is_terminal:
            self._live.update(self._table(generator, schedule, now_s), refresh=True)
        elif time.monotonic() - self._said_s > _LINE_S:
            self._said_s = time.monotonic()
            line = self._line(generator, schedule, now_s)
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _cells(self, generator: Generator, schedule: Schedule, now_s: float) -> list[tuple[str, str]]:
        ok = [record for record in self._recent if record.result == "ok"]
        latency = spread(record.latency_s for record in ok[-_MOST_RECENT:])
        level = level_at(schedule.with_warmup, now_s)
        counted_s = now_s - schedule.warmup_s
        rate = len(ok) / max(min(counted_s, _LATELY_S), 0.1)
        unit = "requests/s asked" if schedule.kind == "open" else "callers"
        whole_s = schedule.duration_s - schedule.warmup_s
        time_of = f"{counted_s:.0f} of {whole_s:.0f} s" if counted_s >= 0 else "warm-up"
        is_over = generator.is_stopped or counted_s > whole_s
        return [
            ("time", "last answers" if is_over else time_of),
            *([] if is_over else [(unit, f"{level:.4g}")]),
            ("answers/s", f"{rate:.1f}"),
            ("p50", ms(None if latency is None else latency.p50_ms)),
            ("p95", ms(None if latency is None else latency.p95_ms)),
            ("in flight", str(generator.progress.in_flight)),
            *((result, str(count)) for result, count in sorted(self._results.items())),
            ("behind", f"{generator.progress.behind_s * 1e3:.0f} ms"),
        ]

    def _table(self, generator: Generator, schedule: Schedule, now_s: float) -> Table:
        table = Table(title=Text(self._title), title_justify="left", box=None, padding=(0, 2, 0, 0))
        cells = self._cells(generator, schedule, now_s)
        for name, _ in cells:
            table.add_column(name, justify="right")
        table.add_row(*(value for _, value in cells))
        return table

    def _line(self, generator: Generator, schedule: Schedule, now_s: float) -> str:
        cells = self._cells(generator, schedule, now_s)
        return f"{self._title}: " + ", ".join(f"{name} {value}" for name, value in cells)
