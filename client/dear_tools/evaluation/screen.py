"""What ``dear eval`` shows: progress on stderr, a table and a few lines on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as EtaColumn
from rich.table import Table

from dear_tools.evaluation.lines import queries
from dear_tools.evaluation.markdown import (
    cost_lines,
    measure_cells,
    measure_columns,
    order_lines,
    p_value,
    points,
    published_cells,
)
from dear_tools.evaluation.report import Report, Row

_WIDEST = 1000


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal; it is told how many are done and how many failed."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}"),
        TimeElapsedColumn(),
        EtaColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total, failed="")

        def tell(done: int, failed: int) -> None:
            bar.update(task, completed=done, failed=f"{failed} failed" if failed else "")

        yield tell


def say(sentence: str) -> None:
    """One sentence on stderr."""
    typer.echo(f"dear: {sentence}", err=True)


def show(report: Report) -> None:
    """The report's tables and lines, values times 100."""
    typer.echo(f"{report.name}: {queries(report.queries)}, values times 100")
    if report.rows is not None:
        typer.echo()
        _print_table(measure_columns(report), [measure_cells(report, row) for row in report.rows])
        typer.echo()
    for line in order_lines(report.orders) if report.orders else []:
        typer.echo(line)
    for line in cost_lines(report.cost) if report.cost else []:
        typer.echo(line)
    if report.published:
        typer.echo()
        _print_table(
            ["published", "measure", "value", "here", "comparable"],
            [published_cells(one)[:5] for one in report.published],
        )


def show_together(reports: Sequence[Report]) -> None:
    """Several collections in one table, by nDCG@10, or else the last measure that was asked for."""
    found = []
    for report in reports:
        rows = report.rows or ()
        row = next((row for row in rows if row.measure == "nDCG@10"), rows[-1] if rows else None)
        cells = ["-"] * 6 if row is None else _together(report, row)
        found.append([report.name, *cells])
    typer.echo()
    _print_table(["collection", "measure", "first stage", "this run", "difference", "p", "published"], found)


def _together(report: Report, row: Row) -> list[str]:
    comparable = [
        f"{one.published.value:.2f} {one.published.system}"
        for one in report.published
        if one.published.comparable
        and not one.published.of_first_stage
        and one.published.measures == (row.measure,)
    ]
    return [
        row.measure,
        points(row.first_stage),
        points(row.comparison.after),
        f"{100 * row.comparison.difference:+.2f}",
        p_value(row.comparison.p_randomisation),
        "; ".join(comparable) or "-",
    ]


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(head):
        table.add_column(column, no_wrap=True, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    wanted = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
    console.width = max(console.width, wanted)  # a figure is not cut, however narrow the terminal
    console.print(table)
