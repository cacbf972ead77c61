"""What a running server shows to other machines and to other users of its own."""

from __future__ import annotations

import ipaddress
import stat
from pathlib import Path

import grpc
import psutil
import pytest

from tests.e2e.conftest import Server

pytestmark = [pytest.mark.attack, pytest.mark.e2e]


def listening(server: Server) -> list[tuple[str, str, int]]:
    """Process, address and port of every TCP socket on which the server's processes listen."""
    return [
        (process.cmdline()[0].strip(), socket.laddr.ip, socket.laddr.port)
        for process in server.descendants()
        for socket in process.net_connections(kind="tcp")
        if socket.status == psutil.CONN_LISTEN
    ]


def is_loopback(address: str) -> bool:
    """127.0.0.1, ::1, or the former as an IPv6 address."""
    return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback


def test_every_socket_is_on_loopback_but_those_in_the_documents(server: Server) -> None:
    found = listening(server)
    assert len(found) > 5
    assert [process for process, address, _ in found if not is_loopback(address)] == []


METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.serve.ASGIService/HandleRequest",
)
"""One of each service behind which a caller could run code."""


@pytest.mark.parametrize(
    "process", ["gcs_server", "ray::ServeReplica:dear:Engine", "ray::ServeReplica:dear:Gateway"]
)
def test_ray_answers_nobody_without_its_token(process: str, server: Server) -> None:
    ports = [port for name, _, port in listening(server) if name.endswith(process)]
    assert ports
    for port in ports:
        codes = set()
        for method in METHODS:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_unary(method, lambda body: body, lambda body: body)
                with pytest.raises(grpc.RpcError) as refusal:
                    call(b"", timeout=10)
            codes.add(refusal.value.code())
        assert codes == {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}


def test_the_token_is_in_nobody_elses_hands(server: Server) -> None:
    environments = [one.environ() for one in server.descendants() if one.name() == "gcs_server"]
    assert [one["RAY_AUTH_MODE"] for one in environments] == ["token"]
    assert stat.S_IMODE((Path.home() / ".ray" / "auth_token").stat().st_mode) == 0o600


def test_logs_registry_and_copies_of_adapters_are_its_owners_alone(server: Server) -> None:
    session = server.ray_logs().parent
    assert stat.S_IMODE(session.parents[1].stat().st_mode) == 0o700
    registry = [file for file in server.log.parent.iterdir() if ".db" in file.name]
    logs = [file for file in session.rglob("*") if file.is_file()]
    assert registry
    assert len(logs) > 10
    assert [str(file) for file in registry + logs if stat.S_IMODE(file.stat().st_mode) & 0o077] == []
