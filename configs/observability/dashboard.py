"""The Grafana dashboard, made from the metrics that dear_serving.metrics declares."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models.dashboard import Dashboard, DataSourceRef

from configs.observability.names import OWN, VLLM
from configs.observability.panels import ROWS, Panel

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH, _HEIGHT, _SMALL = 8, 7, 4


def build() -> Dashboard:
    """The dashboard."""
    board = (
        builders.Dashboard("dear")
        .uid("dear-serving")
        .description("Listwise reranking: gateways, tenants, adapters, engines.")
        .tags(["dear", "ray", "vllm"])
        .time("now-1h", "now")
        .refresh("30s")
        .with_variable(builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for title, panels in ROWS.items():
        board = board.with_row(builders.Row(title))
        for panel in panels:
            board = board.with_panel(_number_panel(panel) if panel.is_number else _line_panel(panel))
    return board.build()


def to_json() -> str:
    """The dashboard as Grafana imports it."""
    return JSONEncoder(sort_keys=True, indent=2).encode(build()) + "\n"


def _queries(panel: Panel) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery()
        .expr(expression)
        .legend_format(legend or panel.title)
        .ref_id(chr(ord("A") + number))
        for number, (legend, expression) in enumerate(panel.lines.items())
    ]


def _about(panel: Panel) -> str:
    return "\n".join(f"{name}: {(OWN | VLLM)[name]}" for name in panel.about)


def _line_panel(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(_about(panel))
        .datasource(_SOURCE)
        .unit(panel.unit)
        .min(0)
        .line_width(1)
        .fill_opacity(5)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
        .span(_WIDTH)
        .height(_HEIGHT)
    )
    if panel.most is not None:
        made = made.max(panel.most)
    for query in _queries(panel):
        made = made.with_target(query)
    return made


def _number_panel(panel: Panel) -> stat.Panel:
    made = (
        stat.Panel()
        .title(panel.title)
        .description(_about(panel))
        .datasource(_SOURCE)
        .unit(panel.unit)
        .span(_WIDTH)
        .height(_SMALL)
    )
    for query in _queries(panel):
        made = made.with_target(query)
    return made
