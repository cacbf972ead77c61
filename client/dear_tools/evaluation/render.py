"""A report for people: a Markdown page, and tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from dear_tools.evaluation.report import Beside, Cost, Orders, Report, Row
from dear_tools.wording import queries

MEASURE_COLUMNS = (
    "measure",
    "first stage",
    "against",
    "this run",
    "difference",
    "95% interval",
    "p",
    "p (Holm)",
)
_WIDEST = 1000


def as_markdown(report: Report) -> str:
    """The whole page; values times 100."""
    return "\n".join(_page(report)) + "\n"


def measure_cells(report: Report, row: Row) -> list[str]:
    """A measure's cells, those of MEASURE_COLUMNS; ``against`` only where it is not the first stage."""
    found = row.comparison
    cells = [row.measure, points(row.first_stage)]
    if report.against != report.first_stage:
        cells.append(points(found.before))
    return [
        *cells,
        points(found.after),
        f"{100 * found.difference:+.2f}",
        f"{100 * found.low:+.2f} to {100 * found.high:+.2f}",
        p_value(found.p_randomisation),
        p_value(row.p_holm),
    ]


def measure_columns(report: Report) -> list[str]:
    """The head of the table of measures."""
    names = {"first stage": report.first_stage, "against": report.against}
    columns = [names.get(column, column) for column in MEASURE_COLUMNS]
    return columns if report.against != report.first_stage else [*columns[:1], *columns[2:]]


def points(value: float) -> str:
    """A share times 100."""
    return f"{100 * value:.2f}"


def p_value(value: float | None) -> str:
    """A p value as papers print it; ``-`` where there is none."""
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def failure_sentence(report: Report) -> str:
    """Why there are no means, and how to get them."""
    query, reason = next(iter(report.failed.items()))
    asked = len(report.failed) + (report.orders.answered if report.orders else 0)
    return (
        f"{len(report.failed)} of {queries(asked)} failed, so there are no means; "
        f"the same command tries them again (query {query}: {reason})"
    )


def order_lines(orders: Orders) -> list[str]:
    """Valid and unchanged orders."""
    repairs = orders.repairs or {}
    mended = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in repairs.items() if count)
    return [
        f"valid orders: {orders.valid} of {orders.answered} ({points(orders.valid_rate)}%)"
        + (f"; repaired: {mended}" if mended else ""),
        f"orders as the first stage had them: {orders.identical} of {orders.answered} "
        f"({points(orders.identical_rate)}%)",
    ]


def cost_lines(cost: Cost) -> list[str]:
    """Calls, tokens and time."""
    windows = "" if cost.windows is None else f", {cost.windows:,} windows"
    elapsed = "" if cost.elapsed_s is None else f"; {cost.elapsed_s:,.1f} s from start to end"
    return [
        f"calls: {cost.calls:,}{windows}",
        f"tokens: {cost.prompt_tokens:,} read, {cost.completion_tokens:,} written, "
        f"{cost.tokens_per_query:,.0f} a query",
        f"time a query: median {cost.wall_ms_median / 1e3:.2f} s, "
        f"95th percentile {cost.wall_ms_p95 / 1e3:.2f} s{elapsed}",
    ]


def published_cells(beside: Beside) -> list[str]:
    """A published figure's cells: system, measure, published, ours, comparable, why, source."""
    published = beside.published
    names = published.measures
    return [
        published.system,
        names[0] if len(names) == 1 else f"mean of {', '.join(names)}",
        f"{published.value:.2f}",
        "-" if beside.ours is None else f"{beside.ours:.2f}",
        "yes" if published.comparable else "no",
        published.why,
        published.source,
    ]


def _page(report: Report) -> Iterator[str]:
    yield f"# {report.name}"
    yield ""
    if report.failed:
        yield f"**No means:** {failure_sentence(report)}."
        yield ""
    answered_by = f" Answered by {', '.join(report.answered_by)}." if report.answered_by else ""
    yield f"{queries(report.queries)}, compared with {report.against}; values times 100.{answered_by}"
    yield ""
    yield from (f"- {line}" for line in _settings(report))
    if report.rows is not None:
        yield ""
        yield from table(measure_columns(report), [measure_cells(report, row) for row in report.rows])
        yield ""
        yield "p: randomisation test over queries, two-sided; p (Holm): adjusted for all measures together."
        yield ""
        yield from table(
            ["measure", "better", "equal", "worse", "effect size", "p of the t-test"],
            [_more(row) for row in report.rows],
        )
    for title, lines in (
        ("Orders", order_lines(report.orders) if report.orders else []),
        ("Cost", cost_lines(report.cost) if report.cost else []),
        ("Warnings", list(report.warnings)),
        ("Failed", [f"{query}: {reason}" for query, reason in report.failed.items()]),
    ):
        if lines:
            yield from ("", f"## {title}", "", *(f"- {line}" for line in lines))
    if report.published:
        yield from ("", "## Published", "")
        yield from table(
            ["system", "measure", "published", "here", "comparable", "why", "source"],
            [published_cells(one) for one in report.published],
        )
    if report.per_query is not None:
        yield from ("", "## Per query", "", f"{report.against} → this run", "")
        measures = list(next(iter(report.per_query.values())))
        yield from table(
            ["query", *measures],
            [
                [query, *(f"{points(values[name][0])} → {points(values[name][1])}" for name in measures)]
                for query, values in report.per_query.items()
            ],
        )


def _settings(report: Report) -> Iterator[str]:
    for name, value in report.settings.items():
        if value is not None:
            yield f"{name.replace('_', ' ')}: {value}"


def _more(row: Row) -> list[str]:
    found = row.comparison
    effect = "-" if found.effect_size is None else f"{found.effect_size:+.2f}"
    return [row.measure, str(found.better), str(found.equal), str(found.worse), effect, p_value(found.p_t)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def say(sentence: str) -> None:
    """One sentence on stderr."""
    typer.echo(f"dear: {sentence}", err=True)


def show(report: Report) -> None:
    """The report's tables and lines, values times 100."""
    typer.echo(f"{report.name}: {queries(report.queries)}, values times 100")
    if report.rows is not None:
        typer.echo()
        print_table(measure_columns(report), [measure_cells(report, row) for row in report.rows])
        typer.echo()
    for line in order_lines(report.orders) if report.orders else []:
        typer.echo(line)
    for line in cost_lines(report.cost) if report.cost else []:
        typer.echo(line)
    if report.published:
        typer.echo()
        print_table(
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
    print_table(["collection", "measure", "first stage", "this run", "difference", "p", "published"], found)


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


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on the terminal, the first column to the left."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(head):
        table.add_column(column, no_wrap=True, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    wanted = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
    console.width = max(console.width, wanted)  # a figure is not cut, however narrow the terminal
    console.print(table)
