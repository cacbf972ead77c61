"""The store of adapters' files: in a folder, and on an S3 server that runs here."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import fsspec
import pytest

from dear_serving.adapters.preflight import CONFIG_FILE, FILES, WEIGHTS_FILE, digest
from dear_serving.adapters.store import Store
from dear_serving.errors import SettingsError, StoreUnavailable
from tests.support.adapters import tiny_adapter


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store that is empty."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue('s3')}adapters/"


@pytest.fixture
def store(url: str) -> Store:
    return Store(url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_adapter(tmp_path / "source")


@pytest.fixture
def name(folder: Path) -> str:
    return digest(folder)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """A folder for copies, in which nothing else stays whatever was done."""
    cache = tmp_path / "cache"
    yield cache
    assert not list(cache.glob(".*"))


def kept_in(url: str) -> tuple[Any, str]:
    """The store's filesystem, and its folder there."""
    files, root = fsspec.core.url_to_fs(url)
    return files, str(root).rstrip("/")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def damage(
    url: str, name: str, file: str = WEIGHTS_FILE, change: Callable[[bytes], bytes] = bytes.upper
) -> None:
    files, root = kept_in(url)
    path = f"{root}/{name}/{file}"
    before = files.cat_file(path)
    assert change(before) != before
    files.pipe_file(path, change(before))


def test_what_was_put_is_fetched(store: Store, url: str, folder: Path, name: str, cache: Path) -> None:
    (folder / "README.md").write_text("not a part of it")
    store.put(folder, name)
    copy = Store(url).fetch(name, cache)
    assert copy == cache / name
    assert bytes_of(copy) == {file: (folder / file).read_bytes() for file in FILES}
    files, root = kept_in(url)
    assert sorted(Path(path).name for path in files.ls(f"{root}/{name}", detail=False)) == sorted(FILES)


def test_copies_are_timed_and_a_cached_one_is_none(url: str, folder: Path, name: str, cache: Path) -> None:
    told: list[tuple[str, bool]] = []
    store = Store(url, lambda operation, seconds, is_ok: told.append((operation, is_ok)))
    with pytest.raises(StoreUnavailable):
        store.fetch(name, cache)
    store.put(folder, name)
    store.fetch(name, cache)
    store.fetch(name, cache)
    assert told == [("read", False), ("write", True), ("read", True)]


def test_what_is_there_is_not_written_again(
    store: Store, url: str, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **more: object) -> NoReturn:
        raise AssertionError("written")

    store.put(folder, name)
    files, _ = kept_in(url)
    with monkeypatch.context() as patched:
        patched.setattr(files, "put_file", fail)
        store.put(folder, name)
        with pytest.raises(StoreUnavailable, match=r"cannot be written now \(AssertionError\)"):
            store.put(folder, "f" * 64)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("left", [0, 5, -1])
def test_a_half_written_copy_is_written_again(
    file: str, left: int, store: Store, url: str, folder: Path, name: str, cache: Path
) -> None:
    store.put(folder, name)
    damage(url, name, file, lambda data: data[:left])
    with pytest.raises(StoreUnavailable, match="damaged"):
        store.fetch(name, cache)
    store.put(folder, name)
    assert bytes_of(store.fetch(name, cache)) == bytes_of(folder)


@pytest.mark.parametrize("file", FILES)
def test_a_copy_that_lacks_a_file_is_written_again(
    file: str, store: Store, url: str, folder: Path, name: str, cache: Path
) -> None:
    store.put(folder, name)
    files, root = kept_in(url)
    files.rm_file(f"{root}/{name}/{file}")
    with pytest.raises(StoreUnavailable, match="is missing"):
        store.fetch(name, cache)
    store.put(folder, name)
    assert bytes_of(store.fetch(name, cache)) == bytes_of(folder)


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_copy_is_not_fetched(
    file: str, store: Store, url: str, folder: Path, name: str, cache: Path
) -> None:
    store.put(folder, name)
    damage(url, name, file)
    with pytest.raises(StoreUnavailable, match=f"the store's copy of {name[:12]} is damaged"):
        store.fetch(name, cache)
    assert list(cache.iterdir()) == []


def test_what_is_not_there_is_not_fetched(store: Store, name: str, cache: Path) -> None:
    with pytest.raises(StoreUnavailable, match="is missing"):
        store.fetch(name, cache)
    assert not cache.exists() or list(cache.iterdir()) == []


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_damaged_local_copy_is_fetched_anew(
    file: str, content: bytes, store: Store, folder: Path, name: str, cache: Path
) -> None:
    store.put(folder, name)
    (store.fetch(name, cache) / file).write_bytes(content)
    assert bytes_of(store.fetch(name, cache)) == bytes_of(folder)


@pytest.mark.parametrize("file", FILES)
def test_a_local_copy_that_lost_a_file_is_fetched_anew(
    file: str, store: Store, folder: Path, name: str, cache: Path
) -> None:
    store.put(folder, name)
    (store.fetch(name, cache) / file).unlink()
    assert bytes_of(store.fetch(name, cache)) == bytes_of(folder)


def test_an_empty_local_folder_is_filled(store: Store, folder: Path, name: str, cache: Path) -> None:
    store.put(folder, name)
    (cache / name).mkdir(parents=True)
    assert bytes_of(store.fetch(name, cache)) == bytes_of(folder)


def test_what_was_fetched_before_needs_no_store(
    store: Store, url: str, folder: Path, name: str, cache: Path
) -> None:
    store.put(folder, name)
    copy = store.fetch(name, cache)
    files, root = kept_in(url)
    files.rm(f"{root}/{name}", recursive=True)
    assert Store(url).fetch(name, cache) == copy
    (copy / CONFIG_FILE).write_text("{}")
    with pytest.raises(StoreUnavailable, match="missing"):
        store.fetch(name, cache)


def test_many_fetch_at_once(store: Store, folder: Path, name: str, cache: Path) -> None:
    store.put(folder, name)
    together = threading.Barrier(8)

    def fetch(_: int) -> Path:
        together.wait()
        return store.fetch(name, cache)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(fetch, range(8))) == {cache / name}
    assert [copy.name for copy in cache.iterdir()] == [name]
    assert bytes_of(cache / name) == bytes_of(folder)


def test_many_put_at_once(store: Store, folder: Path, name: str, cache: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.put(folder, name), range(8)))
    assert bytes_of(store.fetch(name, cache)) == bytes_of(folder)


@pytest.mark.parametrize(
    "url",
    ["nonsense://bucket/adapters", "gcs://bucket/adapters"],
    ids=["unknown", "no driver"],
)
def test_a_store_that_nobody_can_open_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^adapters\.store: "):
        Store(url)


def test_a_folder_that_cannot_be_written_is_unavailable(
    tmp_path: Path, folder: Path, name: str, cache: Path
) -> None:
    (tmp_path / "file").touch()
    store = Store(str(tmp_path / "file" / "store"))
    with pytest.raises(StoreUnavailable, match=r"cannot be written now \(NotADirectoryError\)"):
        store.put(folder, name)
    with pytest.raises(StoreUnavailable, match=r"cannot be read"):
        store.fetch(name, cache)


@pytest.mark.integration
def test_a_server_that_does_not_answer_is_said_soon(
    unreachable_s3: str, folder: Path, name: str, cache: Path
) -> None:
    store, since_s = Store(unreachable_s3), time.monotonic()
    with pytest.raises(StoreUnavailable, match="cannot be written now") as failure:
        store.put(folder, name)
    assert failure.value.retry_after_s == 5.0
    with pytest.raises(StoreUnavailable, match="cannot be read now"):
        store.fetch(name, cache)
    assert time.monotonic() - since_s < 5


@pytest.mark.integration
def test_a_bucket_that_is_not_there_is_unavailable(s3: str, folder: Path, name: str, cache: Path) -> None:
    store = Store("s3://nowhere-at-all/adapters")
    with pytest.raises(StoreUnavailable):
        store.fetch(name, cache)
    shutil.rmtree(folder)
    with pytest.raises(StoreUnavailable):
        store.put(folder, name)


def test_the_folders_that_it_makes_are_its_owners_alone(tmp_path: Path, folder: Path, name: str) -> None:
    before = os.umask(0o022)
    try:
        store = Store(str(tmp_path / "store"))
        store.put(folder, name)
        store.fetch(name, tmp_path / "cache")
    finally:
        os.umask(before)
    made = [stat.S_IMODE((tmp_path / one).stat().st_mode) for one in ("store", "cache")]
    assert made == [0o700, 0o700]
