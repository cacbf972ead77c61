"""Writes dashboard.json and alerts.yaml beside this file: python -m configs.observability."""

from __future__ import annotations

from pathlib import Path

from configs.observability import alerts, dashboard

FOLDER = Path(__file__).parent


def main() -> None:
    """The command."""
    (FOLDER / "dashboard.json").write_text(dashboard.to_json(), encoding="utf-8")
    (FOLDER / "alerts.yaml").write_text(alerts.to_yaml(), encoding="utf-8")


if __name__ == "__main__":
    main()
