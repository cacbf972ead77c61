"""Intake: what may come in from folders and URLs, and that what was checked is what is kept."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dear_serving.adapters.base_shape import BaseShape
from dear_serving.adapters.intake import Intake
from dear_serving.adapters.preflight import CONFIG_FILE, FILES, WEIGHTS_FILE, digest
from dear_serving.adapters.store import Store
from dear_serving.errors import InvalidAdapterFiles, StoreUnavailable
from tests.conftest import ROOT
from tests.support.adapters import Tensors, header_of, write_tensors, write_with_header

DEMO = ROOT / "configs" / "demo"
BASE = BaseShape.from_config(json.loads((DEMO / "base" / "config.json").read_text()))
Change = Callable[[Path], object]


class Place:
    """A folder with the demo's adapters, and all that intake works with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "adapters"
        self.scratch = folder / "scratch"
        self.store = folder / "store"
        for name in ("legal", "medical"):
            shutil.copytree(DEMO / "adapters" / name, self.root / name)

    def intake(self, **given: Any) -> Intake:
        default: dict[str, Any] = {
            "root": self.root,
            "sources": (),
            "scratch": self.scratch,
            "base": BASE,
            "max_rank": 16,
            "store": Store(str(self.store)),
        }
        return Intake(**default | given)

    def kept(self) -> list[str]:
        return sorted(one.name for one in self.store.iterdir()) if self.store.exists() else []

    def refusal(self, source: str = "legal", **given: Any) -> str:
        """The message of an intake that leaves nothing behind."""
        with pytest.raises(InvalidAdapterFiles) as failure:
            self.intake(**given).take("legal", source)
        message = failure.value.message
        assert message.startswith('adapter "legal": ')
        assert "\n" not in message
        assert self.kept() == []
        assert list(self.scratch.iterdir()) == []
        return message


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def check_kept(place: Place, source: Path, store: Store | None = None) -> None:
    """The store has the files of ``source``, and nothing was left in the scratch folder."""
    copy = (store or Store(str(place.store))).fetch(digest(source), place.folder / "copies")
    for file in FILES:
        assert (copy / file).read_bytes() == (source / file).read_bytes()
    assert list(place.scratch.iterdir()) == []


# What is taken in.


@pytest.mark.parametrize("name", ["legal", "medical"])
@pytest.mark.parametrize("source", ["{name}", "./{name}/", "{root}/{name}", "legal/../{name}"])
def test_a_folder_inside_the_root_is_taken_in(name: str, source: str, place: Place) -> None:
    content = place.intake().take(name, source.format(name=name, root=place.root))
    folder = DEMO / "adapters" / name
    assert (content.digest, content.rank) == (digest(folder), 16)
    assert content.size_bytes == sum((folder / file).stat().st_size for file in FILES)
    assert place.kept() == [content.digest]
    check_kept(place, folder)


def test_links_inside_the_root_are_followed(place: Place) -> None:
    (place.root / "latest").symlink_to("legal")
    (place.root / "mixed").mkdir()
    for file in FILES:
        (place.root / "mixed" / file).symlink_to(place.root / "legal" / file)
    for source in ("latest", "mixed"):
        assert place.intake().take("law", source).digest == digest(place.root / "legal")


def test_a_root_that_is_a_link_itself_is_followed(place: Place) -> None:
    (place.folder / "link").symlink_to(place.root)
    content = place.intake(root=place.folder / "link").take("legal", str(place.folder / "link" / "legal"))
    assert place.kept() == [content.digest]


def test_an_adapter_that_is_kept_already_is_taken_in_again(place: Place) -> None:
    first = place.intake().take("legal", "legal")
    assert place.intake().take("other", "legal") == first
    assert place.kept() == [first.digest]


def upload(folder: Path, url: str) -> None:
    files, path = fsspec.core.url_to_fs(url)
    for file in folder.iterdir():
        files.pipe_file(f"{path}/{file.name}", file.read_bytes())


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.integration
def test_a_url_under_a_source_is_taken_in(slash: str, place: Place, s3: str) -> None:
    upload(place.root / "legal", f"{s3}models/legal")
    store = Store(f"{s3}store")
    intake = place.intake(sources=("s3://other/", f"{s3}models/"), store=store)
    content = intake.take("legal", f"{s3}models/legal{slash}")
    assert (content.digest, content.rank) == (digest(DEMO / "adapters" / "legal"), 16)
    check_kept(place, DEMO / "adapters" / "legal", store)


def test_what_is_checked_is_what_is_kept(place: Place) -> None:
    class Meddling(Store):
        """Between the check and the copy, somebody writes to where the adapter came from."""

        def put(self, folder: Path, name: str) -> None:
            for file in FILES:
                (place.root / "legal" / file).write_bytes(b"something else")
            super().put(folder, name)

    content = place.intake(store=Meddling(str(place.store))).take("legal", "legal")
    assert content.digest == digest(DEMO / "adapters" / "legal")
    check_kept(place, DEMO / "adapters" / "legal")


def test_a_source_that_changes_later_changes_nothing(place: Place) -> None:
    place.intake().take("legal", "legal")
    shutil.rmtree(place.root / "legal")
    check_kept(place, DEMO / "adapters" / "legal")


def test_a_store_that_cannot_be_written_is_no_fault_of_the_adapter(place: Place) -> None:
    place.store.touch()
    with pytest.raises(StoreUnavailable):
        place.intake().take("legal", "legal")
    assert list(place.scratch.iterdir()) == []


# Where it may not come from.


@pytest.mark.parametrize(
    "source",
    ["..", "../adapters-not", "legal/../../outside", "{outside}", "/etc", "/", "linked", "linked/sub/.."],
)
def test_a_folder_outside_the_root_is_refused(source: str, place: Place) -> None:
    outside = place.folder / "outside"
    shutil.copytree(DEMO / "adapters" / "legal", outside)
    (outside / "sub").mkdir()
    shutil.copytree(outside, place.folder / "adapters-not")
    (place.root / "linked").symlink_to(outside)
    source = source.format(outside=outside)
    message = place.refusal(source)
    assert "leads outside the folder that adapters come from" in message
    assert source in message


@pytest.mark.parametrize("file", FILES)
def test_a_file_outside_the_root_is_refused(file: str, place: Place) -> None:
    shutil.copytree(DEMO / "adapters" / "legal", place.folder / "outside")
    (place.root / "legal" / file).unlink()
    (place.root / "legal" / file).symlink_to("../../outside/" + file)
    assert "leads outside" in place.refusal()


@pytest.mark.parametrize("source", ["nowhere", "legal/nowhere", "a\x00b", "circle", "circle/legal", "file"])
def test_what_is_no_folder_is_refused(source: str, place: Place) -> None:
    (place.root / "circle").symlink_to("circle")
    (place.root / "file").touch()
    assert "no such folder" in place.refusal(source)


@pytest.mark.parametrize("source", ["x" * 300, "\ud800"], ids=["long", "surrogate"])
def test_what_no_folder_can_be_called_is_refused(source: str, place: Place) -> None:
    assert "no such folder" in place.refusal(source)


@pytest.mark.parametrize(
    "source",
    [
        "s3://other/legal",
        "s3://models-not/legal",
        "s3://models/../other/legal",
        "s3://models/..",
        "http://127.0.0.1:9/legal",
        "file:///etc",
        "S3://models/legal",
        "://models/legal",
        " s3://models/legal",
    ],
)
def test_a_url_under_no_source_is_refused(source: str, place: Place) -> None:
    for sources in (("s3://models/",), ()):
        assert "is not under one of adapters.sources" in place.refusal(source, sources=sources)


@pytest.mark.integration
def test_a_url_under_a_source_that_holds_nothing_is_refused(place: Place, s3: str) -> None:
    assert "No such file" in place.refusal(f"{s3}legal", sources=(s3,))
    upload(place.root / "legal", f"{s3}legal")
    files, path = fsspec.core.url_to_fs(f"{s3}legal")
    files.rm_file(f"{path}/{WEIGHTS_FILE}")
    assert "weights must be safetensors" in place.refusal(f"{s3}legal", sources=(s3,))


def test_a_file_over_the_most_is_not_downloaded(place: Place, s3: str) -> None:
    files, path = fsspec.core.url_to_fs(f"{s3}legal")
    files.pipe_file(f"{path}/{CONFIG_FILE}", b" " * ((1 << 20) + 1))
    assert "1,048,577 bytes" in place.refusal(f"{s3}legal", sources=(s3,))


def test_a_server_that_does_not_answer_is_said(place: Place, unreachable_s3: str) -> None:
    source = f"{unreachable_s3}legal"
    message = place.refusal(source, sources=(unreachable_s3,))
    assert f"{source} cannot be read (EndpointConnectionError)" in message


def test_a_file_that_goes_while_it_is_read_is_said(place: Place) -> None:
    class Going(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise FileNotFoundError

    class Vanishing(MemoryFileSystem):  # type: ignore[misc]
        """Knows how large its files are, and has none of them when they are read."""

        protocol = "vanishing"

        def size(self, path: str) -> int:
            return 100

        def _open(self, path: str, *given: object, **more: object) -> io.BytesIO:
            return Going()

    fsspec.register_implementation("vanishing", Vanishing, clobber=True)
    place.refusal("vanishing://models/legal", sources=("vanishing://models/",))


# What is no adapter.


def tamper_offsets(folder: Path) -> None:
    """One tensor is said to lie beyond the end of the file."""
    header, data = header_of(folder / WEIGHTS_FILE)
    tensor = next(value for key, value in header.items() if key != "__metadata__")
    tensor["data_offsets"] = [place + len(data) for place in tensor["data_offsets"]]
    write_with_header(folder / WEIGHTS_FILE, header, data)


def overlap(folder: Path) -> None:
    """Two tensors are said to lie in one place."""
    header, data = header_of(folder / WEIGHTS_FILE)
    first, second = [value for key, value in header.items() if key != "__metadata__"][:2]
    second["data_offsets"] = first["data_offsets"]
    write_with_header(folder / WEIGHTS_FILE, header, data)


def resize(folder: Path, hidden: int) -> None:
    """As trained on a base model of another width."""

    def wider(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(hidden if side == 256 else side for side in shape)

    tensors = demo_tensors(folder, "F16")
    sized = {key: (kind, wider(shape)) for key, (kind, shape, _) in tensors.items()}
    write_tensors(
        folder / WEIGHTS_FILE,
        {key: (kind, shape, bytes(2 * shape[0] * shape[1])) for key, (kind, shape) in sized.items()},
    )


def config(**changes: object) -> Change:
    def change(folder: Path) -> None:
        file = folder / CONFIG_FILE
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def written(file: str, content: bytes) -> Change:
    return lambda folder: (folder / file).write_bytes(content)


def cut(file: str, left: int) -> Change:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:left])


def gone(*files: str) -> Change:
    def change(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return change


def instead(file: str, make: Change) -> Change:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return change


def pickled(folder: Path) -> None:
    (folder / WEIGHTS_FILE).rename(folder / "adapter_model.bin")


def sparse(file: str) -> Change:
    return lambda folder: os.truncate(folder / file, 10 << 30)


WRONG: dict[str, tuple[Change, str]] = {
    "no settings": (gone(CONFIG_FILE), "No such file"),
    "no weights": (gone(WEIGHTS_FILE), "weights must be safetensors"),
    "nothing": (gone(*FILES), "No such file"),
    "pickled weights": (pickled, "weights must be safetensors, found adapter_model.bin"),
    "truncated weights": (cut(WEIGHTS_FILE, -1), "not a readable safetensors file"),
    "a truncated header": (cut(WEIGHTS_FILE, 100), "not a readable safetensors file"),
    "empty weights": (written(WEIGHTS_FILE, b""), "not a readable safetensors file"),
    "garbage weights": (written(WEIGHTS_FILE, b"\xff" * 5000), "not a readable safetensors file"),
    "a pickle by another name": (written(WEIGHTS_FILE, b"\x80\x04K\x01."), "not a readable safetensors file"),
    "offsets beyond the file": (tamper_offsets, "not a readable safetensors file"),
    "tensors over each other": (overlap, "not a readable safetensors file"),
    "another base's shapes": (lambda folder: resize(folder, 128), "the base model needs"),
    "a rank over the highest": (config(r=32), "rank 32 is over max_lora_rank 16"),
    "a rank that is not the tensors'": (config(r=8), "the base model needs"),
    "10 GB of weights": (sparse(WEIGHTS_FILE), "10,737,418,240 bytes, the most that can be served here are"),
    "10 GB of settings": (sparse(CONFIG_FILE), "10,737,418,240 bytes, the most that can be served here are"),
    "deep settings": (written(CONFIG_FILE, b"[" * 200_000 + b"]" * 200_000), "not valid JSON"),
    "settings of garbage": (written(CONFIG_FILE, b"\xff\xfe\x00"), "not valid JSON"),
    "settings that are a list": (written(CONFIG_FILE, b"[]"), "not a JSON object"),
    "a huge number": (written(CONFIG_FILE, b'{"r": ' + b"9" * 10_000 + b"}"), "not valid JSON"),
    "an alpha that is no number": (config(lora_alpha=float("nan")), "lora_alpha"),
    "an alpha without an end": (config(lora_alpha=float("inf")), "lora_alpha"),
    "a pipe for settings": (instead(CONFIG_FILE, os.mkfifo), "not a file"),
    "a pipe for weights": (instead(WEIGHTS_FILE, os.mkfifo), "not a file"),
    "a folder for settings": (instead(CONFIG_FILE, Path.mkdir), "not a file"),
    "a folder for weights": (instead(WEIGHTS_FILE, Path.mkdir), "not a file"),
    "a link that leads nowhere": (
        instead(CONFIG_FILE, lambda path: path.symlink_to("nowhere")),
        "No such file",
    ),
    "a link to itself": (
        instead(WEIGHTS_FILE, lambda path: path.symlink_to(WEIGHTS_FILE)),
        "no such folder",
    ),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG.keys())
def test_refuses_an_adapter_with(change: Change, said: str, place: Place) -> None:
    change(place.root / "legal")
    since_s = time.monotonic()
    message = place.refusal()
    assert time.monotonic() - since_s < 1
    assert said in message
    assert "legal" in message.removeprefix('adapter "legal"')
    assert str(place.scratch) not in message


def test_an_adapter_of_another_hub_model_is_refused(place: Place) -> None:
    base = BaseShape(BASE.layers, BASE.projections, hub_ids=("org/base",))
    for trained_on in ("org/base", "Org/Base", "/folder/base", "base", None):
        config(base_model_name_or_path=trained_on)(place.root / "legal")
        place.intake(base=base).take("legal", "legal")
    shutil.rmtree(place.store)
    config(base_model_name_or_path="org/other")(place.root / "legal")
    assert "it was trained on org/other, the base model here is org/base" in place.refusal(base=base)
    config(base_model_name_or_path="org/other")(place.root / "legal")
    place.intake().take("legal", "legal")


def demo_tensors(folder: Path, kind: str) -> Tensors:
    """Zeros of the shapes that an adapter's tensors have."""
    width = {"F32": 4, "F16": 2, "BF16": 2}[kind]
    header, _ = header_of(folder / WEIGHTS_FILE)
    return {
        key: (kind, tuple(value["shape"]), bytes(width * value["shape"][0] * value["shape"][1]))
        for key, value in header.items()
        if key != "__metadata__"
    }


def bits(value: float, kind: str) -> bytes:
    """A number as it lies in a file, BF16 being the first half of F32."""
    if kind == "BF16":
        return np.float32(value).tobytes()[2:]
    return np.array(value, np.float32 if kind == "F32" else np.float16).tobytes()


def with_number(folder: Path, number: bytes, kind: str, tensor: int, at_end: bool) -> str:
    """Have one number among the zeros; returns its tensor's name."""
    tensors = dict(demo_tensors(folder, kind))
    key = list(tensors)[tensor]
    _, shape, zeros = tensors[key]
    rest = zeros[len(number) :]
    tensors[key] = (kind, shape, rest + number if at_end else number + rest)
    write_tensors(folder / WEIGHTS_FILE, tensors)
    return key


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf], ids=["nan", "-nan", "inf", "-inf"])
@pytest.mark.parametrize(("tensor", "at_end"), [(0, False), (-1, True)], ids=["first", "last"])
def test_what_is_no_finite_number_is_refused(
    kind: str, value: float, tensor: int, at_end: bool, place: Place
) -> None:
    key = with_number(place.root / "legal", bits(value, kind), kind, tensor, at_end)
    assert f"tensor {key} holds what is no finite number" in place.refusal()


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("F32", np.finfo(np.float32).max.tobytes()),
        ("F32", np.finfo(np.float32).smallest_subnormal.tobytes()),
        ("F16", np.finfo(np.float16).min.tobytes()),
        ("BF16", b"\x7f\x7f"),
        ("BF16", b"\x7f\xff"),
    ],
)
def test_the_largest_and_smallest_numbers_are_taken_in(kind: str, number: bytes, place: Place) -> None:
    with_number(place.root / "legal", number, kind, 3, at_end=True)
    place.intake().take("legal", "legal")


def test_a_disk_that_takes_no_copy_is_the_servers_fault_and_said(place: Place) -> None:
    taking = place.intake()
    if place.scratch.is_dir():
        place.scratch.rmdir()
    place.scratch.write_text("a file where the folder was")
    with pytest.raises(StoreUnavailable, match="no copy can be made for the store"):
        taking.take("legal", "legal")
    assert place.kept() == []
