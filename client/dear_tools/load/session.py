"""A load test at a terminal: shows progress, writes the report, and prints a summary."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dear_tools.exits import FAILED, MISSED, ToolError
from dear_tools.load import figures, report
from dear_tools.load.capacity import Search, Step, find_capacity
from dear_tools.load.generator import Generator
from dear_tools.load.live import LiveView
from dear_tools.load.loadtest import LoadTest, raise_file_limit, run
from dear_tools.load.records import Record
from dear_tools.load.schedule import Schedule


class Session:
    """One command: ``run`` or ``find_capacity``, then its results.

    Args:
        seed: for the report.
        out: folder of the report.
    """

    def __init__(self, test: LoadTest, schedule: Schedule, seed: int, out: Path) -> None:
        self._test = test
        self._schedule = schedule
        self._seed = seed
        self._out = out
        self._steps: list[Step] = []
        self._console = Console(stderr=True)

    def run(self) -> None:
        """Run the load, and write the report.

        Raises:
            ToolError: there are no more lists, the first requests fail as all others would (see is_fatal), or
                the report cannot be written.
        """
        where = report.environment()
        raise_file_limit()
        with LiveView(self._console) as view:
            view.begin(self._test.terms.base_url)
            self._outcome = asyncio.run(run(self._test, self._schedule, view, watch=_Watch(view)))
        self._write(where)

    def find_capacity(self) -> None:
        """Look for the highest rate that holds, and write the report. Raises as ``run`` does."""
        where = report.environment()
        raise_file_limit()
        stage = self._schedule.stages[0]
        search = Search(stage.start, stage.duration_s, self._schedule.arrivals, self._schedule.warmup_s)
        with LiveView(self._console) as view:
            asyncio.run(self._search(search, view))
        held = [step for step in self._steps if step.held]
        best = max(held, key=lambda step: step.rate) if held else self._steps[-1]
        self._outcome = best.outcome
        self._write(where)

    def show(self) -> None:
        """Print the summary on stdout."""
        console = Console()
        summary = self._outcome.summary

        def say(line: str, style: str | None = None) -> None:
            console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

        if self._steps:
            rate = report.capacity_of(self._steps)
            if rate is None:
                say(f"No rate tried held {summary.objective}; the last of them:", "bold")
            else:
                held = f"{figures.number(rate)} requests/s, the highest rate tried that held"
                say(f"Capacity: {held} {summary.objective}. Of that run:", "bold")
        for name, value in figures.overview(summary):
            say(f"{name}: {value}")
        console.print(_table(figures.latencies(summary)))
        for message, count in summary.messages.items():
            say(f"{figures.times(count)}: {message}")
        for warning in report.warnings(self._outcome, self._steps):
            say(warning, "yellow")
        say(f"report: {self._out / 'report.html'} (also report.md, report.json)")

    def exit_code(self, *, is_asked: bool) -> int:
        """The exit code; ``is_asked``: whether the objective was given, rather than the default."""
        summary = self._outcome.summary
        if not summary.results.get("ok"):
            return FAILED
        missed = is_asked and not summary.objective_met
        if self._steps:
            missed = report.capacity_of(self._steps) is None
        return MISSED if missed or summary.results.get("invalid") else 0

    async def _search(self, search: Search, view: LiveView) -> None:
        view.begin(f"{search.first_rate:.4g} requests/s")
        async for step in find_capacity(self._test, search, view, _Watch(view)):
            self._steps.append(step)
            self._console.print(_said(step), highlight=False, markup=False, soft_wrap=True)
            rate = search.next_rate([(one.rate, one.held) for one in self._steps])
            view.begin("" if rate is None else f"{rate:.4g} requests/s")

    def _write(self, where: dict[str, Any]) -> None:
        self.data = report.content(_command(), self._settings(), self._outcome, self._steps, where)
        report.write(self._out, self.data, self._outcome, self._test.objective, self._steps)

    def _settings(self) -> dict[str, Any]:
        test, mix = self._test, self._test.mix
        return {
            "url": test.terms.base_url,
            "models": _described(mix.models, mix.model_weights),
            "tenants": _described([tenant.name for tenant in mix.tenants], mix.tenant_weights),
            **test.lists.describe(),
            "options": test.options or "the server's defaults",
            "attempts": test.terms.retry.attempts,
            "timeout_s": test.terms.timeout.answer_s,
            "seed": self._seed,
        }


class _Watch:
    """Shows each record; ends the test where nothing was answered and every other request would fail alike.

    Refusals, timeouts and lost connections end nothing: they are what a load test measures.
    """

    def __init__(self, view: LiveView) -> None:
        self._view = view
        self._is_working = False

    def __call__(self, record: Record, generator: Generator) -> None:
        self._view.observe(record)
        self._is_working |= record.result == "ok"
        if record.is_fatal and record.result == "failed" and not self._is_working:
            raise ToolError(record.message or "the first request failed")


def _table(rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in ("p50", "p90", "p95", "p99", "longest"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _said(step: Step) -> str:
    """A rate that was tried, as a line."""
    summary = step.outcome.summary
    end = "broke, ended early" if step.end == "cut" else step.end
    latency = summary.latency
    took = "" if latency is None else f", p95 {figures.ms(latency.p95_ms)}"
    others = sorted((result, count) for result, count in summary.results.items() if result != "ok")
    failed = "".join(f", {count:,} {result}" for result, count in others)
    return f"{step.rate:.4g} requests/s: {end}, {figures.share(summary.good_share)} good{took}{failed}"


def _described(names: Sequence[str], weights: Sequence[float]) -> str:
    if len(names) == 1:
        return names[0] or "the server's default"
    shares = [weight / sum(weights) for weight in weights]
    return ", ".join(f"{name} {share:.1%}" for name, share in zip(names, shares, strict=True))


def _command() -> str:
    """The command line, without keys."""
    typed = sys.argv[1:]
    for index, word in enumerate(typed):
        if word == "--api-key" and index + 1 < len(typed):
            typed[index + 1] = "..."
        elif word.startswith("--api-key="):
            typed[index] = "--api-key=..."
    return shlex.join(["dear", *typed])
