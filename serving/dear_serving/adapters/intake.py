"""Copies an adapter's files from a folder or URL into the store, and checks them."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dear_serving.adapters.base_shape import BaseShape
from dear_serving.adapters.preflight import (
    CONFIG_FILE,
    FILES,
    MAX_CONFIG_BYTES,
    WEIGHTS_FILE,
    check_adapter,
    digest,
)
from dear_serving.adapters.remote_sources import Readable, open_remote
from dear_serving.adapters.revisions import Content
from dear_serving.adapters.store import UNFINISHED, Store
from dear_serving.errors import InvalidAdapterFiles, StoreUnavailable
from dear_serving.settings import Settings

_CHUNK_BYTES = 1 << 20


def intake(settings: Settings, base: BaseShape, store: Store | None = None) -> Intake:
    """Build the intake from settings, on a store that is open already or on its own."""
    adapters = settings.adapters
    return Intake(
        root=adapters.root,
        sources=adapters.sources,
        scratch=adapters.cache,
        base=base,
        max_rank=settings.engine.max_lora_rank,
        store=store or Store(adapters.store),
    )


class Intake:
    """Copies an adapter's files, checks the copy and stores this copy. Methods block.

    Args:
        root: folder that must contain local sources, after links are resolved.
        sources: allowed URL prefixes, each with a slash at its end.
        scratch: folder for copies that are being checked.
        base: shapes of the base model.
        max_rank: the engine's max_lora_rank.
        store: where the checked files are stored.
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
        """Check an adapter's files and store them.

        Args:
            name: public name, for messages.
            source: a folder inside ``root``, relative to it or absolute, or a URL under one of ``sources``.

        Raises:
            InvalidAdapterFiles: the folder is missing or not allowed, or its files cannot be served.
            StoreUnavailable: the store, or this machine's disk, cannot be written now.
        """
        try:
            return self._take(name, source)
        except OSError as error:  # for example a full disk, or no permission
            raise StoreUnavailable(f"no copy can be made for the store: {error.strerror}") from error

    def _take(self, name: str, source: str) -> Content:
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=self._scratch) as scratch:
            folder = Path(scratch)
            for file in (CONFIG_FILE, WEIGHTS_FILE):
                self._copy(name, source, file, folder)
            rank = check_adapter(name, folder, self._base, self._max_rank, shown=source)
            content_digest = digest(folder)
            self._store.put(folder, content_digest)
            return Content(content_digest, rank, sum((folder / file).stat().st_size for file in FILES))

    def _copy(self, name: str, source: str, file: str, folder: Path) -> None:
        max_bytes = MAX_CONFIG_BYTES if file == CONFIG_FILE else self._base.most_bytes(self._max_rank)
        with self._open(name, source, file) as (original, size):
            if original is None:
                return  # check_adapter reports missing files
            if size > max_bytes:
                raise InvalidAdapterFiles(
                    f'adapter "{name}": {size:,} bytes, the most that can be served here are {max_bytes:,} '
                    f"({source}/{file})"
                )
            with (folder / file).open("wb") as copy:
                left = size
                while left and (chunk := original.read(min(left, _CHUNK_BYTES))):
                    left -= copy.write(chunk)

    @contextmanager
    def _open(self, name: str, source: str, file: str) -> Iterator[tuple[Readable | None, int]]:
        """The open file and its size in bytes; (None, 0) if there is no such file."""
        if "://" in source:
            with open_remote(name, source, file, self._sources) as opened:
                yield opened
            return
        path = self._inside(name, source, file)
        try:
            # Non-blocking, because opening a pipe instead of a file would wait forever.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            other = sorted(found.name for found in path.parent.glob("adapter_model.*"))
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
        with os.fdopen(handle, "rb") as original:
            yield original, status.st_size

    def _inside(self, name: str, source: str, file: str) -> Path:
        try:
            folder = (self._root / source).resolve()
            path = (folder / file).resolve()
            is_folder = folder.is_dir()
        except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL in the name
            raise InvalidAdapterFiles(f'adapter "{name}": no such folder {source!r}') from None
        if not folder.is_relative_to(self._root) or not path.is_relative_to(self._root):
            raise InvalidAdapterFiles(
                f'adapter "{name}": {source} leads outside the folder that adapters come from'
            )
        if not is_folder:
            raise InvalidAdapterFiles(f'adapter "{name}": no such folder {source!r}')
        return path
