"""Machines on one machine: each in namespaces of its own (network, processes, mounts), on one bridge.

The harness itself runs in such namespaces. When it ends, for whatever reason, the kernel ends every process
in them and removes the bridge and all links: nothing has to be cleaned up. Linux, as root.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

_NETWORK = "10.77.0"
_BRIDGE = "chaos"
_UNSHARE = (
    *("unshare", "--net", "--pid", "--mount", "--uts"),
    *("--fork", "--kill-child=SIGKILL", "--mount-proc"),
)
_NOWHERE = "02:00:00:00:00:fe"  # nobody has this hardware address
_PR_SET_PDEATHSIG = 1


def run_apart(command: Sequence[str]) -> int:
    """Run a command in namespaces of its own. SIGINT and SIGTERM interrupt it, the second time they end it.

    Returns:
        Its exit code.
    """
    child = subprocess.Popen([*_UNSHARE, *command], start_new_session=True, preexec_fn=_die_with_parent)

    interrupts = 0

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1:
            child.kill()
        for inner in psutil.Process(child.pid).children():
            inner.send_signal(signal.SIGINT)

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return child.wait()
    finally:
        child.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)


def make_network() -> None:
    """Create the bridge; call once, inside ``run_apart``."""
    _run("ip link set lo up")
    _run(f"ip link add {_BRIDGE} type bridge")
    _run(f"ip address add {_NETWORK}.1/24 dev {_BRIDGE}")
    _run(f"ip link set {_BRIDGE} up")


class Machine:
    """A machine that runs one command, and ends with it.

    Args:
        name: of the machine and its link; short.
        number: last part of its address.
        folder: its own files; each start gets a new folder in it, mounted on ``private``.
        private: a path of which it has its own.
    """

    def __init__(self, name: str, number: int, folder: Path, private: Path | None = None) -> None:
        self.name = name
        self.address = f"{_NETWORK}.{number}"
        self.starts = 0
        self._hardware = f"02:00:00:00:00:{number:02x}"
        self._folder = folder
        self._private = private
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the machine; its output goes to a file in its folder."""
        self.starts += 1
        folder = self._folder / f"{self.name}-{self.starts}"
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        steps = [
            f"hostname {self.name}",
            "ip link set lo up",
            "until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done",
        ]
        if self._private is not None:
            steps.append(f"mount --bind {folder} {self._private}")
        steps += [
            f"ip link set eth0 address {self._hardware}",
            f"ip address add {self.address}/24 dev eth0",
            "ip link set eth0 up",
            # The shell stays, as the process with number 1 that collects orphans.
            f"{shlex.join(command)} & wait $!",
        ]
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [*_UNSHARE, "sh", "-c", "\n".join(steps)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                preexec_fn=_die_with_parent,
            )
        outside = Path("/proc/self/ns/net").readlink()
        wait_for(lambda: Path(f"/proc/{self.pid}/ns/net").readlink() != outside, 10, f"{self.name}'s network")
        link = self._link
        _run(f"ip link add {link} type veth peer name eth0 netns {self.pid}")
        _run(f"ip link set {link} master {_BRIDGE} up")

    @property
    def log(self) -> Path:
        """The file with the output of its last start."""
        return self._folder / f"{self.name}-{self.starts}.log"

    @property
    def pid(self) -> int:
        """The process that holds its namespaces, as the harness counts processes."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether its command runs."""
        return self._process is not None and self._process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Every process on it."""
        return psutil.Process(self.pid).children(recursive=True) if self.runs else []

    def kill(self) -> None:
        """End it and everything on it at once, as when the power fails."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        # The link goes with the namespace, a moment later; a new machine needs its name.
        subprocess.run(["ip", "link", "delete", self._link], capture_output=True, check=False)

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that runs a command on this machine."""
        target = psutil.Process(self.pid).children()[0].pid
        return ["nsenter", "-t", str(target), "-n", "-p", "-m", "-u", "--", *command]

    def plug(self, is_in: bool) -> None:
        """Pull its network cable, or put it back."""
        _run(f"ip link set {self._link} {'up' if is_in else 'down'}")

    def part(self, other: Machine, is_apart: bool) -> None:
        """Lose every packet between two machines, silently and both ways; or no longer."""
        for here, there in ((self, other), (other, self)):
            if here.runs:
                address = _NOWHERE if is_apart else there._hardware
                change = f"ip neighbour replace {there.address} lladdr {address} nud permanent dev eth0"
                _run(f"nsenter -t {here.pid} -n {change}")

    @property
    def _link(self) -> str:
        return f"v-{self.name}"


def wait_for(done: Callable[[], object], timeout_s: float, what: str, pause_s: float = 0.1) -> None:
    """Return once ``done`` returns something true.

    Raises:
        TimeoutError: it did not in time; names ``what``.
    """
    deadline_s = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no {what} within {timeout_s:.0f} s")
        time.sleep(pause_s)


def _run(command: str) -> None:
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.strip()}")


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
