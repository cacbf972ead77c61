"""The product as a cluster: a head, two workers with a gateway and an engine each, PostgreSQL and Redis."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from benchmarks.chaos.machines import Machine, wait_for
from benchmarks.server import CPU_CONFIG, ROOT
from dear_client import Client

VLLM = "VLLM::"
ENGINE_CORE = "VLLM::EngineCore"
ENGINE = "ray::ServeReplica:dear:Engine"
GATEWAY = "ray::ServeReplica:dear:Gateway"
PROXY = "ray::ProxyActor"
TITLES = (ENGINE_CORE, ENGINE, GATEWAY, PROXY)
"""How the processes of a worker call themselves."""

TENANTS = {"quiet": None, "flooding": 300}
"""Tenants and their limits, requests a minute."""

ADMIN_KEY = "chaos-admin-key"
PORT = 8000
RAY_FOLDER = Path("/tmp/ray")

_RAY_PORT, _DATABASE_PORT, _RAY_REDIS_PORT, _LIMITS_REDIS_PORT = 6379, 5432, 6380, 6381
_STORE_BYTES = 80 * 1024 * 1024
_RESTART_S = 3.0  # a machine that ended by itself comes back after so long, as under Kubernetes
_START_S = 600.0
_BIN = Path(sys.executable).parent
_NEXT_FIELDS = "    gateway: str\n    cost: int\n    since_s: float = 0.0\n"


class Cluster:
    """All machines, and what runs on them.

    ``target`` is the worker that faults hit, ``restarts`` names machines that ended by themselves and were
    started again, ``notes`` is what faults have to say, ``keys`` has a key of each tenant.

    Args:
        scratch: a folder for everything that it writes.
    """

    def __init__(self, scratch: Path) -> None:
        RAY_FOLDER.mkdir(exist_ok=True)  # each machine mounts its own on it
        scratch.mkdir(parents=True)
        scratch.chmod(0o755)
        self.scratch = scratch
        self.head = Machine("head", 10, scratch, RAY_FOLDER)
        self.workers = (
            Machine("worker1", 11, scratch, RAY_FOLDER),
            Machine("worker2", 12, scratch, RAY_FOLDER),
        )
        self.database = Machine("db", 20, scratch)
        self.ray_redis = Machine("redis1", 21, scratch)
        self.limits_redis = Machine("redis2", 22, scratch)
        self.store = scratch / "store"
        self.status = Status(self)
        self.target = self.workers[0]
        self.restarts: list[str] = []
        self.notes: list[str] = []
        self.keys: dict[str, str] = {}
        self._release = ROOT
        self._settings = self._make_settings()
        self._commands: dict[str, tuple[list[str], dict[str, str]]] = {}
        self._kept_down: set[str] = set()
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    @property
    def machines(self) -> tuple[Machine, ...]:
        """Every machine; the one that others need comes first."""
        return (self.database, self.ray_redis, self.limits_redis, self.head, *self.workers)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where callers reach the gateways: a proxy on each worker."""
        return tuple(f"http://{worker.address}:{PORT}" for worker in self.workers)

    def start(self) -> None:
        """Start everything, and return when both engines and both gateways run."""
        self._start_database()
        self._start_redis(self.ray_redis, _RAY_REDIS_PORT)
        self._start_redis(self.limits_redis, _LIMITS_REDIS_PORT)
        wait_for(self._database_answers, 60, "PostgreSQL", 0.5)
        self._keeper.start()
        self._start_ray()
        self.deploy()
        self.status.start()
        wait_for(lambda: self.is_whole, _START_S, "whole cluster", 1.0)
        with Client(self.urls[0], admin_key=ADMIN_KEY) as client:
            for tenant, limit in TENANTS.items():
                client.admin.create_tenant(tenant, requests_per_minute=limit)
                self.keys[tenant] = client.admin.create_key(tenant).key or ""

    def deploy(self, part: str = "", setting: str = "", value: object = None) -> None:
        """Hand Serve the application, as ``serve deploy`` does, with one setting changed for good."""
        settings = self._settings
        if part:
            settings.setdefault(part, {})[setting] = value
        application = {
            "name": "dear",
            "route_prefix": "/",
            "import_path": "dear_serving.app:build",
            "args": {"settings": settings},
            "runtime_env": {"env_vars": {"PYTHONPATH": _python_path(self._release)}},
            # One of each a machine: what ends together is no spare.
            "deployments": [
                {"name": "Engine", "placement_group_bundles": [{"CPU": 1, "engine": 1}]},
                {"name": "Gateway", "max_replicas_per_node": 1},
            ],
        }
        serve = {
            "proxy_location": "EveryNode",
            "http_options": {"host": "0.0.0.0", "port": PORT},
            "logging_config": {"enable_access_log": False},
            "applications": [application],
        }
        deployed = self.scratch / "serve.yaml"
        deployed.write_text(yaml.safe_dump(serve), encoding="utf-8")
        # Without a dashboard, whose ten processes two cores cannot spare: the same call, made by a driver.
        command = [
            str(_BIN / "serve"),
            "run",
            "--non-blocking",
            "--address",
            self._ray_address,
            str(deployed),
        ]
        done = subprocess.run(
            self.head.inside(command),
            env=os.environ | self._environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"serve run ended with {done.returncode}: {done.stderr[-2000:]}")

    def release(self) -> None:
        """Deploy the next release."""
        self._release = self.scratch / "next"
        make_next_release(self._release)
        self.deploy()

    def of_next_release(self, title: str) -> int:
        """How many processes of ``title`` run the next release's code."""
        count = 0
        for process in self.find(title):
            with contextlib.suppress(psutil.NoSuchProcess):
                count += process.environ().get("PYTHONPATH", "").startswith(str(self._release))
        return count

    @property
    def is_whole(self) -> bool:
        """Whether everything runs that should, by Serve's own count and by the processes."""
        return (
            self.status.running() == {"application": "RUNNING", "Engine": 2, "Gateway": 2}
            and all(len(self.find(title)) >= len(self.workers) for title in TITLES)
            and all(map(_is_healthy, self.urls))
        )

    def keep_down(self, machine: Machine) -> None:
        """Kill a machine that stays down until ``bring_back``."""
        self._kept_down.add(machine.name)
        machine.kill()

    def bring_back(self, machine: Machine) -> None:
        """Start a machine that was kept down, with an empty disk unless it is a database."""
        machine.start(*self._commands[machine.name])
        self._kept_down.discard(machine.name)

    def find(self, title: str, machine: Machine | None = None) -> list[psutil.Process]:
        """Processes whose command line begins with ``title``, on one machine or on every worker."""
        found = []
        for place in self.workers if machine is None else (machine,):
            for process in place.processes():
                try:
                    if (process.cmdline() or [""])[0].startswith(title):
                        found.append(process)
                except psutil.NoSuchProcess:
                    continue
        return found

    @contextmanager
    def aiming(self) -> Iterator[None]:
        """Aim at the worker whose engine works most inside: a spare that dies proves nothing."""
        before_s = [self._engine_s(worker) for worker in self.workers]
        yield
        used_s = [self._engine_s(worker) - s for worker, s in zip(self.workers, before_s, strict=True)]
        self.target = self.workers[used_s.index(max(used_s))]

    def _engine_s(self, worker: Machine) -> float:
        """CPU seconds that a worker's engine has used so far."""
        times = [process.cpu_times() for process in self.find(VLLM, worker)]
        return sum(one.user + one.system for one in times)

    def stop(self) -> None:
        """End everything."""
        self._closing.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self.status.stop()
        for machine in reversed(self.machines):
            machine.kill()

    def _run_on(
        self, machine: Machine, command: list[str], environment: dict[str, str] | None = None
    ) -> None:
        self._commands[machine.name] = (command, environment or {})
        machine.start(command, environment or {})

    def _keep(self) -> None:
        """Start machines again that ended by themselves."""
        while not self._closing.wait(_RESTART_S):
            for machine in self.machines:
                if machine.starts and not machine.runs and machine.name not in self._kept_down:
                    self.restarts.append(machine.name)
                    machine.kill()
                    machine.start(*self._commands[machine.name])

    def _start_ray(self) -> None:
        ray = [str(_BIN / "ray"), "start", "--block", "--disable-usage-stats", "--include-log-monitor=False"]
        ray += ["--object-store-memory", str(_STORE_BYTES)]
        head = [*ray, "--head", "--port", str(_RAY_PORT), "--node-ip-address", self.head.address]
        # Like a head under KubeRay: nothing but Ray's own is placed on it.
        head += ["--num-cpus", "0", "--include-dashboard=False"]
        fault_tolerant = {
            "RAY_REDIS_ADDRESS": f"{self.ray_redis.address}:{_RAY_REDIS_PORT}",
            "RAY_external_storage_namespace": "chaos",
        }
        environment = self._environment()
        self._run_on(self.head, head, environment | fault_tolerant)
        wait_for(lambda: _has_started(self.head), 240, "head")
        for worker in self.workers:
            joined = [*ray, "--address", self._ray_address, "--num-cpus", "2", "--resources", '{"engine": 1}']
            self._run_on(worker, [*joined, "--node-ip-address", worker.address], environment)
        wait_for(lambda: all(map(_has_started, self.workers)), 240, "workers")

    @property
    def _ray_address(self) -> str:
        return f"{self.head.address}:{_RAY_PORT}"

    def _environment(self) -> dict[str, str]:
        """Variables of every process of Ray, as README and runtime.py have them."""
        return {
            "PYTHONPATH": _python_path(ROOT),
            "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",  # the network is the harness's own
            "RAY_SERVE_PROXY_USE_GRPC": "1",
            "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(256 * 1024 * 1024),
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "dear_serving.http.proxy.middlewares",
            "RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK": "0",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "RAY_worker_niceness": "0",  # other programs of this machine are no part of the cluster
            # KubeRay's value: workers wait as long for a head that comes back.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "DEAR_ADMIN_KEY": ADMIN_KEY,
            "HF_HUB_OFFLINE": "1",
        }

    def _make_settings(self) -> dict[str, Any]:
        """configs/cpu.yaml for two machines: keys are needed, registry and limits are shared."""
        settings: dict[str, Any] = yaml.safe_load(CPU_CONFIG.read_text(encoding="utf-8"))
        settings["model"]["source"] = str(CPU_CONFIG.parent / "demo" / "base")
        settings["adapters"] |= {
            "root": str(CPU_CONFIG.parent / "demo" / "adapters"),
            "store": str(self.store),
            "store_is_shared": True,
            "cache": str(RAY_FOLDER / "cache"),  # each machine's own
        }
        settings["engine"] |= {"replicas": 2}
        settings["gateway"] = {"replicas": 2, "cpus": 0.1}
        where = f"{self.database.address}:{_DATABASE_PORT}"
        settings["registry"] = {"url": f"postgresql+psycopg://postgres@{where}/postgres"}
        settings["tenancy"] = {"limits_url": f"redis://{self.limits_redis.address}:{_LIMITS_REDIS_PORT}/0"}
        settings["http"] = {"host": "0.0.0.0", "port": PORT}
        return settings

    def _start_database(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        data = self.scratch / "postgres"
        data.mkdir()
        shutil.chown(data, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]  # it refuses to run as root
        make = [*as_user, str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"]
        subprocess.run(make, check=True, capture_output=True, cwd=data)
        with (data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
            rules.write("host all all samenet trust\n")
        command = [*as_user, str(programs / "postgres"), "-D", str(data), "-p", str(_DATABASE_PORT)]
        self._run_on(self.database, [*command, "-h", self.database.address, "-k", str(data), "-F"])

    def _database_answers(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(host=self.database.address, user="postgres", connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _start_redis(self, machine: Machine, port: int) -> None:
        folder = self.scratch / f"{machine.name}-data"
        folder.mkdir()
        command = ["redis-server", "--port", str(port), "--bind", machine.address, "--dir", str(folder)]
        self._run_on(machine, [*command, "--protected-mode", "no", "--appendonly", "yes", "--save", ""])


class Status:
    """What Serve says runs, from a process on the head that asks it every second."""

    _FRESH_S = 6.0

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._last: dict[str, object] | None = None
        self._at_s = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """End; the process ends with the head."""
        self._closing.set()

    def running(self) -> dict[str, object] | None:
        """Running replicas of each deployment; None if Serve has not said so lately."""
        return self._last if time.monotonic() - self._at_s < self._FRESH_S else None

    def _follow(self) -> None:
        cluster = self._cluster
        while not self._closing.wait(1.0):
            if not cluster.head.runs:
                continue
            try:
                command = cluster.head.inside([sys.executable, "-m", "benchmarks.chaos.watch"])
            except (psutil.NoSuchProcess, IndexError):
                continue
            environment = os.environ | cluster._environment() | {"RAY_ADDRESS": cluster._ray_address}
            with (cluster.scratch / "watch.log").open("ab") as errors:
                watcher = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors)
            assert watcher.stdout is not None
            for line in watcher.stdout:
                if line.startswith(b"{"):  # Ray says something there too, now and then
                    self._last, self._at_s = json.loads(line), time.monotonic()
            watcher.wait()


def _python_path(release: Path) -> str:
    return os.pathsep.join(map(str, (release / "serving", release / "client", ROOT)))


def make_next_release(folder: Path) -> None:
    """Write a copy of the code that is newer, and whose gateways and engines send a field more."""
    for part in ("serving", "client"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    package = folder / "serving" / "dear_serving"
    _replace(package / "__init__.py", '__version__ = "', '__version__ = "1')
    fields = "    gateway: str\n    cost: int\n"
    _replace(package / "protocol.py", fields, fields + "    since_s: float = 0.0\n")


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    if old not in text:
        raise RuntimeError(f"{path}: no {old!r}")
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def _has_started(node: Machine) -> bool:
    """Whether Ray says that it runs. (On a busy machine a start may fail, and is repeated.)"""
    return "Ray runtime started" in node.log.read_text(encoding="utf-8", errors="replace")


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/healthz", timeout=1.0).status_code == 200
    except httpx.HTTPError:
        return False
