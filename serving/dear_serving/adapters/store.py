"""The store of adapters' files, by digest: a folder or any fsspec URL."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dear_serving.adapters.preflight import CONFIG_FILE, FILES, WEIGHTS_FILE, digest, digest_of
from dear_serving.errors import SettingsError, StoreUnavailable

UNFINISHED = ".unfinished-"
"""Prefix of folders inside a cache with copies that are being made or checked."""

_RETRY_AFTER_S = 5.0


class Store:
    """A content-addressed store: ``ROOT/DIGEST/FILE``, written once and never changed. Methods block.

    Args:
        url: a folder, or an fsspec URL such as ``s3://bucket/adapters``.
        observe: called after each copy from (``read``) or to (``write``) the store, with its seconds and
            whether it was made.

    Raises:
        SettingsError: the URL's scheme is unknown to fsspec, or its driver is not installed.
    """

    def __init__(
        self, url: str, observe: Callable[[str, float, bool], None] = lambda operation, seconds, is_ok: None
    ) -> None:
        try:
            filesystem, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise SettingsError(f"adapters.store: {error}") from None
        self._files: Any = filesystem
        self._root = str(root).rstrip("/")
        self._local = isinstance(filesystem, LocalFileSystem)
        self._observe = observe

    @contextlib.contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        began_s, is_ok = time.monotonic(), False
        try:
            yield
            is_ok = True
        finally:
            self._observe(operation, time.monotonic() - began_s, is_ok)

    def put(self, folder: Path, name: str) -> None:
        """Store an adapter's files under their digest ``name``, unless they are stored already.

        Raises:
            StoreUnavailable: the store cannot be written. The next call overwrites incomplete files.
        """
        target = f"{self._root}/{name}"
        with self._timed("write"), _translated("cannot be written"):
            if self._holds(target, name):
                return
            if self._local:
                Path(self._root).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._files.makedirs(target, exist_ok=True)
            for file in FILES:
                self._files.put_file(str(folder / file), f"{target}/{file}")
                if self._local:
                    _to_disk(Path(target) / file)
            if self._local:
                _to_disk(Path(target))

    def fetch(self, name: str, cache: Path) -> Path:
        """A local copy of an adapter's files, checked against their digest.

        Args:
            name: the digest.
            cache: folder for the copies of all processes on this machine.

        Raises:
            StoreUnavailable: the files are missing, damaged, or cannot be read.
        """
        cached = cache / name
        if _is_whole(cached):
            return cached
        with self._timed("read"):
            self._copy(name, cache)
        return cached

    def _copy(self, name: str, cache: Path) -> None:
        cached = cache / name
        with _translated("cannot be copied"):
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if isinstance(self._files, LocalFileSystem) and not self._files.exists(self._root):
            message = "the store cannot be read now: its folder is missing"  # it may not be mounted yet
            raise StoreUnavailable(message, retry_after_s=_RETRY_AFTER_S)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=cache) as unfinished:
            copy = Path(unfinished) / name
            copy.mkdir()
            with _translated("cannot be read"):
                for file in FILES:
                    self._files.get_file(f"{self._root}/{name}/{file}", str(copy / file))
            if digest(copy) != name:
                raise StoreUnavailable(f"the store's copy of {name[:12]} is damaged")
            with _alone(cache):
                if not _is_whole(cached):  # else another process on this machine was faster
                    with contextlib.suppress(FileNotFoundError):
                        cached.rename(Path(unfinished) / "damaged")
                    copy.rename(cached)

    def _holds(self, target: str, name: str) -> bool:
        """Whether the files are stored completely and undamaged."""
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
    """Lock the folder against other processes and threads of this machine."""
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
def _translated(problem: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise StoreUnavailable(f"the store {problem}: a file is missing") from None
    except Exception as error:  # remote filesystems raise errors of their own kinds
        kind = type(error).__name__
        raise StoreUnavailable(f"the store {problem} now ({kind})", retry_after_s=_RETRY_AFTER_S) from error


def _to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
