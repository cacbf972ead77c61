"""The run as a whole, without a server: what is skipped, what fails, what is stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from benchmarks import __main__ as command
from benchmarks import context as context_module
from benchmarks.context import Context, Skipped
from benchmarks.server import ROOT


class FakeServer:
    """Counts starts and stops."""

    events: ClassVar[list[str]] = []

    def __init__(self, config: Path, log: Path) -> None:
        self.config = config

    def start(self) -> None:
        self.events.append(f"start {self.config.stem}")

    def stop(self) -> None:
        self.events.append(f"stop {self.config.stem}")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to servers."""
    monkeypatch.setattr(context_module, "Server", FakeServer)
    monkeypatch.setattr(FakeServer, "events", [])
    return FakeServer.events


def a_module(run: Any) -> ModuleType:
    module = ModuleType("pretended")
    vars(module).update(
        TITLE="A title",
        run=run,
        steps=lambda quick: 1,
        tables=lambda result: [],
        claims=lambda result: [],
        plot=lambda result, folder: [],
    )
    return module


def run_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, modules: dict[str, ModuleType | None]
) -> tuple[int, str]:
    """Exit code and report of a run over these modules."""
    monkeypatch.setattr(command, "MODULES", tuple(modules))
    monkeypatch.setattr(command, "_module", modules.__getitem__)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", ",".join(modules), "--out", str(tmp_path)])
    code = command.main()
    report = tmp_path / "report.md"
    return code, report.read_text() if report.is_file() else ""


def test_the_server_is_shared_until_other_settings_are_wanted(events: list[str], tmp_path: Path) -> None:
    context = Context(True, 0, tmp_path, lambda text: None)
    assert context.server(Path("a.yaml")) is context.server(Path("a.yaml"))
    context.server(Path("b.yaml"))
    context.stop_server()
    context.stop_server()
    assert events == ["start a", "stop a", "start b", "stop b"]


def test_a_missing_module_and_a_missing_input_are_skipped(
    events: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lacks_data(context: Context) -> dict[str, Any]:
        raise Skipped("no candidates at hand")

    code, report = run_with(monkeypatch, tmp_path, {"gone": None, "poor": a_module(lacks_data)})
    assert code == 0
    assert "Skipped: its module is not there." in report
    assert "Skipped: no candidates at hand." in report


def test_a_failure_stops_the_server_and_leaves_the_others(
    events: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(context: Context) -> dict[str, Any]:
        context.server(Path("a.yaml"))
        raise RuntimeError("no answer")

    def works(context: Context) -> dict[str, Any]:
        context.server(Path("a.yaml"))
        return {}

    code, report = run_with(monkeypatch, tmp_path, {"bad": a_module(fails), "good": a_module(works)})
    assert code == 1
    assert "Failed: RuntimeError: no answer." in report
    assert events == ["start a", "stop a", "start a", "stop a"]


def test_ctrl_c_stops_the_server_and_writes_nothing(
    events: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders = []

    def interrupted(context: Context) -> dict[str, Any]:
        folders.append(context.scratch)
        context.server(Path("a.yaml"))
        raise KeyboardInterrupt

    code, report = run_with(monkeypatch, tmp_path, {"one": a_module(interrupted)})
    assert (code, report) == (130, "")
    assert events == ["start a", "stop a"]
    assert not folders[0].exists()


def test_an_unknown_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "decode,nonsense"])
    with pytest.raises(SystemExit):
        command.main()
    assert "no benchmark nonsense" in capsys.readouterr().err


def test_names_run_in_the_order_that_shares_the_server() -> None:
    assert command._names("adapters, decode") == ("decode", "adapters")


def test_results_hold_no_folder_of_this_machine(tmp_path: Path) -> None:
    found = {"command": ["--model", f"{tmp_path}/merged", f"{ROOT}/configs/demo/base"], "passages": 20}
    assert command._relative(found, tmp_path) == {
        "command": ["--model", "SCRATCH/merged", "configs/demo/base"],
        "passages": 20,
    }
