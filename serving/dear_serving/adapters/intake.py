"""Takes an adapter's files from where an administrator says they are into the store, checked on the way."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import fsspec

from dear_serving.adapters.preflight import (
    CONFIG_FILE,
    FILES,
    MAX_CONFIG_BYTES,
    WEIGHTS_FILE,
    BaseShape,
    check_adapter,
    digest,
)
from dear_serving.adapters.revisions import Content
from dear_serving.adapters.store import UNFINISHED, Store
from dear_serving.errors import InvalidAdapterFiles, StoreUnavailable
from dear_serving.settings import Settings

_CHUNK_BYTES = 1 << 20


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def intake(settings: Settings, base: BaseShape) -> Intake:
    """As the settings have it."""
    adapters = settings.adapters
    return Intake(
        root=adapters.root,
        sources=adapters.sources,
        scratch=adapters.cache,
        base=base,
        max_rank=settings.engine.max_lora_rank,
        store=Store(adapters.store),
    )


class Intake:
    """Copies, checks the copy, and keeps the copy: what is checked is what is served. Methods block.

    Args:
        root: folder that local sources have to lie in, links followed.
        sources: URLs, each with a slash at its end, that others have to lie under.
        scratch: folder for copies that are being checked.
        base: shapes of the base model.
        max_rank: the engine's max_lora_rank.
        store: where they are kept.
    """

    def __init__(
        self,
        *,
        root: Path,
        sources: tuple[str, ...],
        scratch: Path,
        base: BaseShape,
        max_rank: int,
        store: Store,
    ) -> None:
        self._root = root.resolve()
        self._sources = sources
        self._scratch = scratch
        self._base = base
        self._max_rank = max_rank
        self._store = store

    def take(self, name: str, source: str) -> Content:
        """Have the store keep the adapter in a folder.

        Args:
            name: public name, for messages.
            source: a folder inside ``root``, relative to it or absolute, or a URL under one of ``sources``.

        Raises:
            InvalidAdapterFiles: no such folder, one that may not be read, or files that cannot be served.
            StoreUnavailable: the store, or this machine's disk, cannot be written now.
        """
        try:
            return self._take(name, source)
        except OSError as error:  # a full disk, a folder that is not ours
            raise StoreUnavailable(f"no copy can be made for the store: {error.strerror}") from error

    def _take(self, name: str, source: str) -> Content:
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=self._scratch) as scratch:
            folder = Path(scratch)
            for file in (CONFIG_FILE, WEIGHTS_FILE):
                self._copy(name, source, file, folder)
            rank = check_adapter(name, folder, self._base, self._max_rank, shown=source)
            found = digest(folder)
            self._store.put(folder, found)
            return Content(found, rank, sum((folder / file).stat().st_size for file in FILES))

    def _copy(self, name: str, source: str, file: str, folder: Path) -> None:
        most = MAX_CONFIG_BYTES if file == CONFIG_FILE else self._base.most_bytes(self._max_rank)
        with self._open(name, source, file) as (given, size):
            if given is None:
                return  # check_adapter says what is missing, or what is there instead
            if size > most:
                raise InvalidAdapterFiles(
                    f'adapter "{name}": {size:,} bytes, the most that can be served here are {most:,} '
                    f"({source}/{file})"
                )
            with (folder / file).open("wb") as copy:
                left = size
                while left and (chunk := given.read(min(left, _CHUNK_BYTES))):
                    left -= copy.write(chunk)

    @contextmanager
    def _open(self, name: str, source: str, file: str) -> Iterator[tuple[_Readable | None, int]]:
        """The file and its size; None where a folder has no such file."""
        if "://" in source:
            with self._open_url(name, source, file) as found:
                yield found
            return
        path = self._inside(name, source, file)
        try:
            # Not blocking: a pipe in a file's place would keep us waiting.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            other = sorted(one.name for one in path.parent.glob("adapter_model.*"))
            if file == WEIGHTS_FILE and other:
                raise InvalidAdapterFiles(
                    f'adapter "{name}": weights must be safetensors, found {", ".join(other)} ({source})'
                ) from None
            yield None, 0
            return
        except OSError as error:
            raise InvalidAdapterFiles(f'adapter "{name}": {error.strerror} ({source}/{file})') from None
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(handle)
            raise InvalidAdapterFiles(f'adapter "{name}": not a file ({source}/{file})')
        with os.fdopen(handle, "rb") as given:
            yield given, status.st_size

    def _inside(self, name: str, source: str, file: str) -> Path:
        try:
            folder = (self._root / source).resolve()
            path = (folder / file).resolve()
            there = folder.is_dir()
        except (OSError, RuntimeError, ValueError):  # links in a circle, a NUL in the name
            raise InvalidAdapterFiles(f'adapter "{name}": no such folder {source!r}') from None
        if not folder.is_relative_to(self._root) or not path.is_relative_to(self._root):
            raise InvalidAdapterFiles(
                f'adapter "{name}": {source} leads outside the folder that adapters come from'
            )
        if not there:
            raise InvalidAdapterFiles(f'adapter "{name}": no such folder {source!r}')
        return path

    @contextmanager
    def _open_url(self, name: str, source: str, file: str) -> Iterator[tuple[_Readable | None, int]]:
        url = source.rstrip("/")
        if not f"{url}/".startswith(self._sources or ("\0",)) or ".." in url.split("/"):
            raise InvalidAdapterFiles(f'adapter "{name}": {source} is not under one of adapters.sources')
        with contextlib.ExitStack() as opened:
            try:
                files, path = fsspec.core.url_to_fs(f"{url}/{file}")
                size = int(files.size(path))
                given = _Given(opened.enter_context(files.open(path, "rb")), name, source)
            except FileNotFoundError:
                yield None, 0
                return
            except Exception as error:  # what a remote filesystem raises is its own
                raise _unreadable(name, source, error) from error
            yield given, size


class _Given:
    """A remote file; what goes wrong while it is read is the source's fault."""

    def __init__(self, file: BinaryIO, name: str, source: str) -> None:
        self._file = file
        self._name = name
        self._source = source

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:  # what a remote filesystem raises is its own
            raise _unreadable(self._name, self._source, error) from error


def _unreadable(name: str, source: str, error: Exception) -> InvalidAdapterFiles:
    return InvalidAdapterFiles(f'adapter "{name}": {source} cannot be read ({type(error).__name__})')
