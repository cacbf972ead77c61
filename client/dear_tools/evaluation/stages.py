"""The two stages of a server, compared: its first stage alone, all passages listwise, and the cascade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import typer

from dear_client import RerankOptions
from dear_tools.evaluation.render import p_value, points, print_table
from dear_tools.evaluation.report import Report, Row

LISTWISE = "listwise"

_ALONE = ("passes", "reasoning", "scoring", "window_size", "step", "cascade_depth")
"""Options of windows, which the first stage has none of."""


def stage_options(options: RerankOptions) -> dict[str, RerankOptions]:
    """The options of each stage, by its name, the listwise one first; the others are held to it."""
    given = {name: value for name, value in options.items() if value is not None}
    return {
        LISTWISE: cast(RerankOptions, {key: given[key] for key in given if key != "cascade_depth"}),
        "pointwise": cast(
            RerankOptions,
            {key: given[key] for key in given if key not in _ALONE} | {"strategy": "pointwise"},
        ),
        "cascade": cast(RerankOptions, given | {"strategy": "cascade"}),
    }


def show_stages(reports: Sequence[Report]) -> None:
    """A line a stage: nDCG@10 (else the last measure), its paired difference, tokens and windows a query."""
    listwise = reports[0]
    lines = []
    for report in reports:
        cost, queries = report.cost, max(1, report.queries)
        row = _main(report.rows or ())
        is_paired = row is not None and report is not listwise and report.against == LISTWISE
        lines.append(
            [
                report.name.rpartition(", ")[2],
                "-" if row is None else row.measure,
                "-" if row is None else points(row.comparison.after),
                f"{100 * row.comparison.difference:+.2f}" if row is not None and is_paired else "-",
                _interval(row) if row is not None and is_paired else "-",
                p_value(row.comparison.p_randomisation) if row is not None and is_paired else "-",
                "-" if cost is None else f"{cost.tokens_per_query:,.0f}",
                _share(report, listwise),
                "-" if cost is None or cost.windows is None else f"{cost.windows / queries:.1f}",
            ]
        )
    typer.echo()
    columns = ["stage", "measure", "value", "against listwise", "95% interval", "p", "tokens a query"]
    print_table([*columns, "of listwise", "windows a query"], lines)


def _main(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.measure == "nDCG@10"), rows[-1] if rows else None)


def _interval(row: Row) -> str:
    return f"{100 * row.comparison.low:+.2f} to {100 * row.comparison.high:+.2f}"


def _share(report: Report, listwise: Report) -> str:
    """Its tokens over those of the listwise ranking."""
    if report.cost is None or listwise.cost is None or not listwise.cost.tokens_per_query:
        return "-"
    return f"{report.cost.tokens_per_query / listwise.cost.tokens_per_query:.2f}"
