"""What the suites of adapters share: small adapters, an S3 that runs here, engines that only remember."""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest

from dear_serving.adapters.preflight import CONFIG_FILE, WEIGHTS_FILE, digest
from dear_serving.adapters.revisions import Adapters, Content, Revision
from dear_serving.adapters.store import Store
from dear_serving.errors import AdapterNotLoadable
from dear_serving.registry.database import Database, open_database

TINY_BASE = {
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
"""A base model's config that tiny_adapter fits."""

Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes]]
"""Type, shape and bytes of tensors by name."""


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Engine:
    """Remembers what it is told; ``refuses`` says why it does not load, ``busy`` what it does not unload."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.loaded: dict[str, Path] = {}
        self.refuses: dict[str, str] = {}
        self.busy: set[str] = set()

    async def load(self, revision: str, folder: Path) -> None:
        self.loads.append(revision)
        if revision in self.refuses:
            raise AdapterNotLoadable(self.refuses[revision])
        assert (folder / WEIGHTS_FILE).is_file()
        self.loaded[revision] = folder

    async def unload(self, revision: str) -> bool:
        self.unloads.append(revision)
        if revision in self.busy:
            return False
        del self.loaded[revision]
        return True


class Counting(Adapters):
    """Counts what is read."""

    def __init__(self, database: Database, capacity: int) -> None:
        super().__init__(database, capacity)
        self.reads: list[str] = []

    def version(self) -> int:
        self.reads.append("version")
        return super().version()

    def pointers(self) -> Any:
        self.reads.append("pointers")
        return super().pointers()

    def wanted_on_engines(self) -> Any:
        self.reads.append("wanted_on_engines")
        return super().wanted_on_engines()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A registry of the test's own, on SQLite."""
    opened = open_database(f"sqlite:///{tmp_path / 'registry.db'}")
    yield opened
    opened.close()


@pytest.fixture
def adapters(database: Database) -> Counting:
    return Counting(database, capacity=8)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def add(tmp_path: Path, adapters: Adapters, store: Store) -> Callable[..., Revision]:
    """Keeps an adapter with weights of that value, and registers it."""

    def add(name: str = "legal", value: int = 1, *, activate: bool = False) -> Revision:
        folder = tiny_adapter(tmp_path / "sources" / f"{name}-{value}", value)
        kept = content_of(folder)
        store.put(folder, kept.digest)
        return adapters.register(name, kept, template="plain", activate=activate, actor="test")

    return add


@contextmanager
def away(database: Database, tmp_path: Path) -> Iterator[None]:
    """The file of ``database`` is gone for a while, and what is in its place is none."""
    database.close()
    files = sorted(tmp_path.glob("registry.db*"))
    for file in files:
        file.rename(tmp_path / f"away-{file.name}")
    (tmp_path / "registry.db").mkdir()
    yield
    database.close()
    shutil.rmtree(tmp_path / "registry.db")
    for file in files:
        (tmp_path / f"away-{file.name}").rename(file)


def now(adapters: Adapters, revision: Revision) -> Revision:
    """The revision as it is now."""
    return next(one for one in adapters.get(revision.name).revisions if one.digest == revision.digest)


def content_of(folder: Path) -> Content:
    return Content(digest(folder), rank=1, size_bytes=10)


def tiny_adapter(folder: Path, value: int = 1) -> Path:
    """An adapter of rank 1 for TINY_BASE; another ``value`` makes another revision."""
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"], "bias": "none"}
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    number = value.to_bytes(2, "little")
    tensors = {
        key.format("A"): ("F16", (1, 4), number * 4),
        key.format("B"): ("F16", (4, 1), number * 4),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    write_tensors(folder / WEIGHTS_FILE, tensors)
    return folder


def write_tensors(file: Path, tensors: Tensors) -> None:
    """A safetensors file of any type, BF16 too, which numpy does not know."""
    header: dict[str, object] = {}
    end = 0
    for key, (kind, shape, data) in tensors.items():
        header[key] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    write_with_header(file, header, b"".join(data for _, _, data in tensors.values()))


def write_with_header(file: Path, header: Mapping[str, object], data: bytes) -> None:
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header, and the bytes behind it."""
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server that this session started."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed: no S3 server")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: no S3 client")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"http://{host}:{port}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, with a slash at its end."""
    call_s3_at(s3_server, monkeypatch)
    files, bucket = fsspec.core.url_to_fs(f"s3://bucket-{uuid.uuid4().hex}/")
    files.mkdir(bucket)
    return f"s3://{bucket}/"


@pytest.fixture
def unreachable_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a bucket on a server that does not answer."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: no S3 client")
    call_s3_at("http://127.0.0.1:9", monkeypatch)
    s3fs.S3FileSystem.clear_instance_cache()
    yield "s3://bucket/"
    s3fs.S3FileSystem.clear_instance_cache()


def call_s3_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(variable, value)


def write_classifier(folder: Path, base: Path, rank: int = 8) -> Path:
    """A LoRA with a scalar head on a base model, as PEFT saves it, with seeded random weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    config = LoraConfig(
        task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj", "down_proj"]
    )
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
        elif "score.modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    return folder
