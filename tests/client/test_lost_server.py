"""A server whose machine is gone without a word: no packet says so, and the client notices all the same."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from benchmarks.chaos.machines import wait_for
from dear_client import ConnectionFailed, Retry, Timeout
from tests.client.conftest import Connect

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="a network needs root and iproute2"
    ),
]

_SILENT = """
import socket, sys, time
listener = socket.create_server(("10.78.0.2", 8000))
held = []
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    while connection.recv(65536).rfind(b"}") < 0:
        pass
    held.append(connection)
    print("asked", flush=True)
"""
_NOWHERE = "02:00:00:00:00:fe"  # nobody has this hardware address


class LostServer:
    """Takes requests on a machine of its own and never answers; ``vanish`` parts it from this one."""

    def __init__(self, folder: Path) -> None:
        self.url = "http://10.78.0.2:8000"
        self._name = f"lost{uuid4().hex[:8]}"
        self._log = folder / "log"
        self._run(f"ip netns add {self._name}")
        self._run(f"ip link add {self._name} type veth peer name eth0 netns {self._name}")
        self._run(f"ip address add 10.78.0.1/24 dev {self._name}")
        self._run(f"ip link set {self._name} up")
        self._run(f"ip -n {self._name} address add 10.78.0.2/24 dev eth0")
        self._run(f"ip -n {self._name} link set eth0 up")
        command = ["ip", "netns", "exec", self._name, "python3", "-c", _SILENT]
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(command, stdout=log)
        wait_for(lambda: "listening" in self._log.read_text(), 30, "the server", 0.1)

    @property
    def asked(self) -> int:
        """Requests that it has read."""
        return self._log.read_text().count("asked")

    def vanish(self) -> None:
        """Lose every packet to it, silently."""
        self._run(f"ip neighbour replace 10.78.0.2 lladdr {_NOWHERE} nud permanent dev {self._name}")

    def close(self) -> None:
        self._server.kill()
        self._server.wait()
        self._run(f"ip link delete {self._name}")
        self._run(f"ip netns delete {self._name}")

    @staticmethod
    def _run(command: str) -> None:
        subprocess.run(command.split(), check=True)


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[LostServer]:
    server = LostServer(tmp_path)
    yield server
    server.close()


async def test_a_machine_that_vanished_is_a_broken_connection_long_before_the_answer_is_late(
    connect: Connect, lost: LostServer
) -> None:
    client = connect(lost.url, retry=Retry(attempts=1), timeout=Timeout(connect_s=30, answer_s=40))
    call = asyncio.ensure_future(client("rerank", "query", ["alpha", "beta"]))
    await asyncio.to_thread(wait_for, lambda: lost.asked == 1, 30, "the request", 0.1)
    lost.vanish()
    vanished_s = time.monotonic()
    with pytest.raises(ConnectionFailed, match="broke before it answered: connection timed out"):
        await call
    assert time.monotonic() - vanished_s < 30
