"""The dashboard and the alerts: as they are made from the metrics, and as Prometheus understands them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from configs.observability import alerts, dashboard
from configs.observability.names import OWN, VLLM, exported, named
from tests.conftest import ROOT

FOLDER = ROOT / "configs" / "observability"
PAGE = (ROOT / "serving" / "OPERATIONS.md").read_text(encoding="utf-8")
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (prometheus)"
)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    """All PromQL of the dashboard."""
    board = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def test_the_files_are_those_that_are_made_now() -> None:
    message = "run python -m configs.observability (make dashboard)"
    assert (FOLDER / "dashboard.json").read_text(encoding="utf-8") == dashboard.to_json(), message
    assert (FOLDER / "alerts.yaml").read_text(encoding="utf-8") == alerts.to_yaml(), message


def test_the_dashboard_shows_every_metric_of_ours_and_names_no_other() -> None:
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named(expressions())}
    assert shown == {exported(name) for name in OWN | VLLM}
    for name in named(rule["expr"] for rule in rules()):
        assert re.sub(r"_(bucket|sum|count)$", "", name) in shown


def test_a_metric_that_nobody_declares_cannot_be_named() -> None:
    with pytest.raises(KeyError):
        exported("dear_requests")


def test_every_panel_has_its_place_and_says_what_it_shows() -> None:
    panels = [
        one for one in json.loads((FOLDER / "dashboard.json").read_text())["panels"] if one["type"] != "row"
    ]
    places = [tuple(one["gridPos"][side] for side in "xywh") for one in panels]
    assert len(set(places)) == len(places)
    assert all(x + w <= 24 for x, _, w, _ in places)
    assert all(one["description"] or one["title"] == "Gateways" for one in panels)


def test_the_latency_objective_is_a_bucket_that_is_counted() -> None:
    from dear_serving.metrics import Metrics

    metrics = Metrics()
    metrics.request_seconds.labels("/v2/rerank", "served").observe(1.0)
    samples = next(one for one in metrics.registry.collect() if one.name == "dear_request_seconds").samples
    assert str(alerts.LATENCY_S) in {one.labels.get("le") for one in samples}


def test_every_alert_leads_to_a_section_that_exists() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    fired = [rule for rule in rules() if "alert" in rule]
    assert len(fired) > 8
    for rule in fired:
        file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (file, anchor in anchors) == ("serving/OPERATIONS.md", True), rule["alert"]


@promtool
@pytest.mark.parametrize(
    "arguments", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")]
)
def test_promtool_understands_the_rules_and_they_fire_when_they_should(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_promtool_understands_where_to_scrape() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yaml"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried() -> None:
    tried = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text(encoding="utf-8"))["tests"]
    fired = {one["alertname"] for test in tried for one in test["alert_rule_test"] if one.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}
