"""Where adapters' files are kept, by the digest of what is in them: a folder, or any fsspec URL."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dear_serving.adapters.preflight import CONFIG_FILE, FILES, WEIGHTS_FILE, digest, digest_of
from dear_serving.errors import SettingsError, StoreUnavailable

UNFINISHED = ".unfinished-"
"""Prefix of folders, inside a cache, of copies that are being made or checked."""

_RETRY_AFTER_S = 5.0


class Store:
    """Content-addressed: ``ROOT/DIGEST/FILE``, written once and never changed. Methods block.

    Args:
        url: a folder, or a URL that fsspec knows, such as ``s3://bucket/adapters``.

    Raises:
        SettingsError: fsspec does not know the URL's scheme, or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            filesystem, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise SettingsError(f"adapters.store: {error}") from None
        self._files: Any = filesystem
        self._root = str(root).rstrip("/")
        self._local = isinstance(filesystem, LocalFileSystem)

    def put(self, folder: Path, name: str) -> None:
        """Keep an adapter's files under ``name``, their digest; nothing to do where they are kept already.

        Raises:
            StoreUnavailable: it cannot be written; what was half written is written again the next time.
        """
        target = f"{self._root}/{name}"
        with _translated("cannot be written"):
            if self._holds(target, name):
                return
            self._files.makedirs(target, exist_ok=True)
            for file in FILES:
                self._files.put_file(str(folder / file), f"{target}/{file}")
                if self._local:
                    _to_disk(Path(target) / file)
            if self._local:
                _to_disk(Path(target))

    def fetch(self, name: str, cache: Path) -> Path:
        """A local copy, whole and checked against its digest; made at most once on a machine.

        Args:
            cache: folder that holds the copies.

        Raises:
            StoreUnavailable: it is not there, cannot be read, or is not what was put.
        """
        kept = cache / name
        if _is_whole(kept):
            return kept
        with _translated("cannot be copied"):
            cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=cache) as unfinished:
            copy = Path(unfinished) / name
            copy.mkdir()
            with _translated("cannot be read"):
                for file in FILES:
                    self._files.get_file(f"{self._root}/{name}/{file}", str(copy / file))
            if digest(copy) != name:
                raise StoreUnavailable(f"the store's copy of {name[:12]} is damaged")
            with _alone(cache):
                if not _is_whole(kept):  # else another process of this machine was first
                    with contextlib.suppress(FileNotFoundError):
                        kept.rename(Path(unfinished) / "damaged")
                    copy.rename(kept)
        return kept

    def _holds(self, target: str, name: str) -> bool:
        """Whether it is there, and whole."""
        try:
            with (
                self._files.open(f"{target}/{WEIGHTS_FILE}", "rb") as weights,
                self._files.open(f"{target}/{CONFIG_FILE}", "rb") as config,
            ):
                return digest_of(weights, config) == name
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process or thread of this machine is in this block for the folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_whole(folder: Path) -> bool:
    try:
        return digest(folder) == folder.name
    except OSError:
        return False


@contextlib.contextmanager
def _translated(said: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise StoreUnavailable(f"the store {said}: a file is missing", retry_after_s=_RETRY_AFTER_S) from None
    except Exception as error:  # what a remote filesystem raises is its own
        kind = type(error).__name__
        raise StoreUnavailable(f"the store {said} now ({kind})", retry_after_s=_RETRY_AFTER_S) from error


def _to_disk(path: Path) -> None:
    """Have a file, or the names in a folder, outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
