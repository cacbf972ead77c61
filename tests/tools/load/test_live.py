"""What is shown while a load test runs."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from dear_tools.load import live
from dear_tools.load.generator import Progress
from dear_tools.load.live import LiveView
from tests.tools.load.runs import made, schedule


class At:
    """A generator at some time of its run."""

    def __init__(self, elapsed_s: float, *, is_stopped: bool = False) -> None:
        self.elapsed_s = elapsed_s
        self.is_stopped = is_stopped
        self.progress = Progress(sent=12, done=9, behind_s=0.004)


def shown(*, terminal: bool, title: str = "http://server", generators: tuple[At, ...], **load: Any) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=200)
    with LiveView(console) as view:
        view.begin(title)
        for n in range(10):
            view.observe(made(4 + n / 10, 0.1))
        view.observe(made(5.0, 0.01, "refused"))
        for generator in generators:
            view.update(generator, schedule(**load))
    return output.getvalue()


def test_a_terminal_sees_how_it_goes() -> None:
    text = shown(terminal=True, generators=(At(6.0),), rate="0:50", duration_s=20.0, warmup_s=1.0)
    words = " ".join(re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text).split())
    assert "http://server" in words
    assert "time requests/s asked answers/s p50 p95 in flight ok refused behind" in words
    assert "5 of 20 s 12.5 2.0 100 ms 100 ms 3 10 1 4 ms" in words


def test_what_is_asked_for_is_not_shown_when_only_answers_are_waited_for() -> None:
    said = shown(terminal=True, generators=(At(30.0),), rate="50", duration_s=20.0)
    assert "last answers" in said
    assert "asked" not in said


@pytest.mark.parametrize(
    ("generator", "said"),
    [
        (At(0.5), "warm-up"),
        (At(3.0), "2 of 20 s"),
        (At(22.0), "last answers"),
        (At(3.0, is_stopped=True), "last answers"),
    ],
)
def test_the_time_is_that_of_the_load_without_its_warm_up(generator: At, said: str) -> None:
    text = shown(terminal=True, generators=(generator,), callers="4", duration_s=20.0, warmup_s=1.0)
    assert said in text


def test_a_title_is_no_markup() -> None:
    assert "[red]x[/red]" in shown(
        terminal=True, title="[red]x[/red]", generators=(At(3.0),), callers="4", duration_s=20.0
    )


def test_elsewhere_it_is_a_line_now_and_then_without_control_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    monkeypatch.setattr(live.time, "monotonic", lambda: now_s)
    output = io.StringIO()
    view = LiveView(Console(file=output, force_terminal=False, width=40))
    with view:
        view.begin("http://server")
        for second in range(1, 26):
            now_s = 100.0 + second
            view.update(At(float(second)), schedule(callers="4", duration_s=60.0))
    lines = output.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("http://server: time ") for line in lines)
    assert "\x1b" not in output.getvalue()


def test_another_run_begins_with_nothing_of_the_last() -> None:
    output = io.StringIO()
    with LiveView(Console(file=output, force_terminal=True, width=200)) as view:
        view.begin("one")
        view.observe(made(0.0, 0.1, "failed"))
        view.begin("two")
        view.update(At(3.0), schedule(callers="4", duration_s=20.0))
    assert "failed" not in output.getvalue()
