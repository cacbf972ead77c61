"""What every benchmark is given: how long it may take, a seed, a folder, progress and a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.server import Server
from benchmarks.target import Target


class Skipped(Exception):
    """A benchmark cannot run here, for want of data or of a program; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a benchmark runs in.

    ``quick`` is a smoke run: the same code, a few seconds of measuring. ``scratch`` is a temporary folder.
    ``advance(text)`` moves the progress bar by one step, once a step is measured; ``show(text)`` says what is
    being done without moving it. ``steps(quick)`` of a benchmark's module counts its advance() calls.
    ``target`` is the model that is measured.
    """

    quick: bool
    seed: int
    scratch: Path
    advance: Callable[[str], None]
    show: Callable[[str], None] = lambda text: None
    target: Target = field(default_factory=Target)
    _running: list[Server] = field(default_factory=list)

    def server(self, config: Path | None = None) -> Server:
        """The server with these settings (None: the target's): the one that runs, if it has them, else that
        one is stopped first.

        Benchmarks that follow each other share it, so leave it running and its registry as you found it.

        Raises:
            StartupError: it did not start.
        """
        config = config or self.target.config
        if self._running and self._running[0].config == config:
            return self._running[0]
        self.stop_server()
        self.show(f"starting the server with {config.name}")
        server = Server(config, self.scratch / f"{config.stem}.log")
        server.start()
        self._running.append(server)
        return server

    def stop_server(self) -> None:
        """Stop the shared server, if one runs. Call it before starting another engine on this machine."""
        while self._running:
            self.show("stopping the server")
            self._running.pop().stop()
