"""Starts that fail, and stops at any moment: one sentence, and no process left behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.server import parse_decoder, parse_metrics
from tests.conftest import CPU_CONFIG, ROOT
from tests.e2e.conftest import STOP_TIMEOUT_S, Server, running


def dear(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dear_serving", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def variant(folder: Path, *changes: tuple[str, str]) -> Path:
    """The CPU settings with replaced text, in a folder of its own."""
    text = CPU_CONFIG.read_text().replace("demo/", f"{ROOT}/configs/demo/")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.integration
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("kv_cache_gib", "kv_cache_gigs"), "engine.kv_cache_gigs: unknown setting"),
        (("max_model_len: 4096", "max_model_len: many"), "engine.engine_kwargs: max_model_len"),
        (("demo/base", "demo/nowhere"), "model.source: no such folder"),
        (("path: legal", "path: illegal"), 'adapter "legal": no such folder'),
        (("path: legal", "path: ../base"), 'adapter "legal": ../base is outside'),
        (("path: legal}", "path: legal, template: odd}"), 'no prompt template "odd"'),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1],
)
def test_a_wrong_config_ends_at_once_with_one_sentence(
    tmp_path: Path, change: tuple[str, str], sentence: str
) -> None:
    done = dear("serve", "--config", str(variant(tmp_path, change)))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.integration
def test_a_missing_config_and_a_port_in_use_end_at_once_with_one_sentence() -> None:
    missing = dear("serve", "--config", "nowhere.yaml")
    assert missing.returncode == 1
    assert missing.stderr == "dear: cannot read settings file nowhere.yaml: No such file or directory\n"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = dear("serve", "--port", port)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.integration
def test_help_names_every_command() -> None:
    done = dear("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("serve", "demo"))
    assert all(option in dear("serve", "--help").stdout for option in ("--config", "--host", "--port"))


@pytest.mark.e2e
def test_an_engine_that_cannot_start_ends_with_one_sentence_and_no_process(tmp_path: Path) -> None:
    config = variant(tmp_path, ("dtype: bfloat16", "dtype: complex64"))
    server = Server(config, tmp_path / "output.log")
    server.spawn()
    server.wait_for_line("starting vLLM")
    started = server.descendants()
    assert server.process.wait(120) == 1
    output = server.output()
    assert "dear: cannot start: " in output
    assert "complex64" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert running(started) == []


@pytest.mark.long
@pytest.mark.e2e
def test_an_engine_that_takes_too_long_to_start_ends_with_one_sentence_and_no_process(tmp_path: Path) -> None:
    config = variant(tmp_path, ("  accelerator: cpu", "  accelerator: cpu\n  start_timeout_s: 6"))
    server = Server(config, tmp_path / "output.log")
    server.spawn()
    server.wait_for_line("starting vLLM")
    time.sleep(5)  # until the replica has started vLLM
    started = server.descendants()
    assert server.process.wait(60) == 1
    last = server.output().splitlines()[-1]
    assert "cannot start: " in last
    assert "the engine did not start within 6 s (engine.start_timeout_s)" in last
    assert running(started) == []


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.parametrize("moment", ["starting Ray", "starting vLLM"])
def test_ctrl_c_while_starting_leaves_no_process(tmp_path: Path, moment: str) -> None:
    server = Server(CPU_CONFIG, tmp_path / "output.log")
    server.spawn()
    server.wait_for_line(moment)
    time.sleep(3)
    server.check_stop(signal.SIGINT)


@pytest.mark.e2e
def test_sigterm_stops_a_server_whose_shell_ignores_sigint(tmp_path: Path) -> None:
    server = Server(CPU_CONFIG, tmp_path / "output.log")
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for background jobs
    try:
        server.spawn()
    finally:
        signal.signal(signal.SIGINT, handler)
    server.wait_for_line("starting vLLM")
    server.check_stop(signal.SIGTERM)
    assert "dear: stopping" in server.output()


@pytest.mark.e2e
def test_a_server_process_that_crashes_while_starting_leaves_no_process(tmp_path: Path) -> None:
    server = Server(CPU_CONFIG, tmp_path / "output.log")
    server.spawn()
    server.wait_for_line("starting vLLM")
    time.sleep(6)
    started = server.descendants()
    child = psutil.Process(server.process.pid).children()[0]
    child.kill()
    assert server.process.wait(STOP_TIMEOUT_S) != 0
    assert running(started) == []


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.parametrize("scheduler", ["DyingScheduler", "DyingOfAdapters"])
def test_an_engine_that_dies_of_drafts_goes_on_without_them(tmp_path: Path, scheduler: str) -> None:
    dying = f"scheduler_cls: tests.support.dying_scheduler.{scheduler}"
    path = variant(tmp_path, ("enforce_eager: true", f"enforce_eager: true\n    {dying}"))
    with Server(path, tmp_path / "output.log", {"PYTHONPATH": str(ROOT)}) as server:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            metrics = http.get("/metrics").text
            assert parse_decoder(metrics) == "ordinary"
            assert parse_metrics(metrics)["dear_decoder_self_check_failures_total"] == 1
            body = {"query": "permit", "documents": ["a permit", "no", "another"], "model": "legal"}
            reply = http.post("/v2/rerank", json=body)
            assert reply.status_code == 200
            assert reply.json()["meta"]["dear"]["drafts"] == 0
        server.check_stop()
