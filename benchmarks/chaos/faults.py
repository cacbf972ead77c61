"""What is broken, and how it is mended."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import psutil

from benchmarks.chaos.callers import Callers, Load
from benchmarks.chaos.cluster import ENGINE, ENGINE_CORE, GATEWAY, PROXY, TENANTS, VLLM, Cluster
from benchmarks.chaos.machines import Machine, wait_for


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: ``breaking`` is broken between its start and its end, which ``lasts_s`` are apart."""

    name: str
    title: str
    lasts_s: float
    breaking: Callable[[Cluster], AbstractContextManager[None]]
    is_usual: bool = True


@contextmanager
def _killed(cluster: Cluster, title: str) -> Iterator[None]:
    """SIGKILL to one process on one worker; what starts it again is the product, Ray or Serve."""
    found = cluster.find(title, cluster.target)
    if not found:
        raise RuntimeError(f"no process {title} on {cluster.target.name}")
    for process in found[:1]:
        process.kill()
    yield


@contextmanager
def _down(cluster: Cluster, machine: Machine) -> Iterator[None]:
    cluster.keep_down(machine)
    try:
        yield
    finally:
        cluster.bring_back(machine)


@contextmanager
def _frozen(machine: Machine) -> Iterator[None]:
    """Every process of a machine stopped: connections stay open, and nothing is answered."""
    for process in machine.processes():
        process.suspend()
    try:
        yield
    finally:
        for process in machine.processes():
            process.resume()


@contextmanager
def _unplugged(machine: Machine) -> Iterator[None]:
    machine.plug(False)
    try:
        yield
    finally:
        machine.plug(True)


@contextmanager
def _parted(one: Machine, other: Machine) -> Iterator[None]:
    one.part(other, True)
    try:
        yield
    finally:
        one.part(other, False)


@contextmanager
def _slowed(cluster: Cluster) -> Iterator[None]:
    """One engine gets a tenth of the time: its processes are stopped for 90 ms of each 100."""
    found = cluster.find(VLLM, cluster.target)
    if not found:
        raise RuntimeError(f"no process {VLLM} on {cluster.target.name}")
    done = threading.Event()

    def pulse() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while not done.is_set():
                for number, rest_s in ((signal.SIGSTOP, 0.09), (signal.SIGCONT, 0.01)):
                    for process in found:
                        process.send_signal(number)
                    done.wait(rest_s)
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _moved_away(cluster: Cluster) -> Iterator[None]:
    away = cluster.store.with_name("store-away")
    cluster.store.rename(away)
    try:
        yield
    finally:
        if cluster.store.exists():  # made anew, empty, by what looked for it
            cluster.store.rename(cluster.store.with_name("store-made-anew"))
        away.rename(cluster.store)


@contextmanager
def _redeployed(cluster: Cluster, part: str, setting: str, value: int) -> Iterator[None]:
    """A changed settings file: Serve replaces replicas, one after the other."""
    cluster.deploy(part, setting, value)
    yield


@contextmanager
def _released(cluster: Cluster) -> Iterator[None]:
    """Other code: Serve replaces every replica, and until the last one the releases talk to each other."""
    cluster.release()
    yield
    wait_for(lambda: all(cluster.of_next_release(title) == 2 for title in (ENGINE, GATEWAY)), 400, "release")
    cluster.notes.append("both gateways and both engines are of the next release")


@contextmanager
def _flooded(cluster: Cluster) -> Iterator[None]:
    """Another tenant calls eight times as often as its limit, through both gateways."""
    limit = TENANTS["flooding"]
    assert limit is not None
    callers = Callers("bare", 8, cluster.keys["flooding"], pace_s=60.0 / limit)
    with Load(cluster.urls, [callers]) as flood:
        yield
        answers = flood.answers()
    taken, refused = sum(a.is_ok for a in answers), sum(a.cause.startswith("429") for a in answers)
    cluster.notes.append(f"the other tenant: {taken} of {limit} a minute taken, {refused} refused with 429")


FAULTS = (
    Fault("engine-core", "vLLM's EngineCore killed", 0, lambda c: _killed(c, ENGINE_CORE)),
    Fault("engine-replica", "engine replica killed", 0, lambda c: _killed(c, ENGINE)),
    Fault("gateway", "gateway replica killed", 0, lambda c: _killed(c, GATEWAY)),
    Fault("proxy", "Serve's proxy killed", 0, lambda c: _killed(c, PROXY)),
    Fault("worker", "worker node lost for 15 s", 15, lambda c: _down(c, c.target)),
    Fault("head", "head node lost for 15 s", 15, lambda c: _down(c, c.head)),
    Fault("database-stop", "PostgreSQL's machine lost for 60 s", 60, lambda c: _down(c, c.database)),
    Fault("database-hang", "PostgreSQL frozen for 15 s", 15, lambda c: _frozen(c.database)),
    Fault("redis-limits", "Redis of the limits lost for 15 s", 15, lambda c: _down(c, c.limits_redis)),
    Fault(
        "redis-limits-hang",
        "Redis of the limits frozen for 20 s",
        20,
        lambda c: _frozen(c.limits_redis),
        is_usual=False,
    ),
    Fault("redis-ray", "Redis of Ray's head lost for 20 s", 20, lambda c: _down(c, c.ray_redis)),
    Fault("store", "adapter store gone for 10 s", 10, _moved_away),
    Fault("link-head", "worker and head parted for 10 s", 10, lambda c: _parted(c.target, c.head)),
    Fault("link", "worker cut off from all for 10 s", 10, lambda c: _unplugged(c.target), is_usual=False),
    Fault("slow-engine", "engine ten times slower for 15 s", 15, _slowed),
    # The next release goes the same way.
    Fault(
        "upgrade-settings",
        "a changed setting deployed",
        0,
        lambda c: _redeployed(c, "limits", "max_documents", 500),
        is_usual=False,
    ),
    Fault("upgrade-release", "the next release deployed", 0, _released),
    Fault("flood", "another tenant calls eight times its limit for 60 s", 60, _flooded),
)
