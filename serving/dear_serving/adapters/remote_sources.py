"""Opens an adapter's files at a URL, if the URL is inside of an allowed source."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import unquote

import fsspec

from dear_serving.errors import InvalidAdapterFiles

if TYPE_CHECKING:
    import aiohttp

_MAX_DECODINGS = 8


class Readable(Protocol):
    """A file that is read from its start to its end."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        ...


@contextmanager
def open_remote(
    name: str, source: str, file: str, allowed: tuple[str, ...]
) -> Iterator[tuple[Readable | None, int]]:
    """The open file and its size in bytes; (None, 0) if there is no such file.

    Args:
        name: the adapter's public name, for messages.
        source: the URL of the adapter's folder.
        file: a file of that folder.
        allowed: URL prefixes, each with a slash at its end.

    Raises:
        InvalidAdapterFiles: the URL is not inside of an allowed one, redirects, or cannot be read.
    """
    url = source.rstrip("/")
    if not any(_is_inside(url, prefix) for prefix in allowed):
        raise InvalidAdapterFiles(f'adapter "{name}": {source} is not under one of adapters.sources')
    options = {"get_client": _without_redirects} if url.startswith(("http://", "https://")) else {}
    with contextlib.ExitStack() as opened:
        try:
            files, path = fsspec.core.url_to_fs(f"{url}/{file}", **options)
            size = int(files.size(path))
            original = _RemoteFile(opened.enter_context(files.open(path, "rb")), name, source)
        except FileNotFoundError as error:
            if isinstance(error.__cause__, _Redirected):  # fsspec finds no file where it gets no answer
                raise _unreadable(name, source, error.__cause__) from error
            yield None, 0
            return
        except Exception as error:  # remote filesystems raise errors of their own kinds
            raise _unreadable(name, source, error) from error
        yield original, size


def _is_inside(url: str, prefix: str) -> bool:
    """Whether a URL names something inside of a prefix, for every reader of URLs on the way to the file.

    Clients and servers decode ``%2e``, take a backslash for a slash and drop control characters, so the path
    is looked at in every decoding. Queries, fragments and fsspec's chains (``::``) are no folders.
    """
    path = url.removeprefix(prefix)
    if path == url:
        return False
    for _ in range(_MAX_DECODINGS):
        segments = path.replace("\\", "/").split("/")
        if not path.isprintable() or "::" in path or {".", ".."} & set(segments) or {"?", "#"} & set(path):
            return False
        try:
            decoded = unquote(path, errors="strict")
        except UnicodeDecodeError:  # some servers read two bytes that are no UTF-8 as a dot
            return False
        if decoded == path:
            return True
        path = decoded
    return False


class _Redirected(Exception):
    """A server answered with a redirect, which may lead to any other host."""


async def _without_redirects(**options: Any) -> aiohttp.ClientSession:
    """The HTTP client that fsspec uses here."""
    import aiohttp

    async def refuse(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> Any:
        response = await handler(request)
        if 300 <= response.status < 400:
            response.close()
            raise _Redirected
        return response

    return aiohttp.ClientSession(middlewares=(refuse,), **options)


class _RemoteFile:
    """A remote file; errors while reading it are raised as InvalidAdapterFiles."""

    def __init__(self, file: BinaryIO, name: str, source: str) -> None:
        self._file = file
        self._name = name
        self._source = source

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:  # remote filesystems raise errors of their own kinds
            raise _unreadable(self._name, self._source, error) from error


def _unreadable(name: str, source: str, error: BaseException) -> InvalidAdapterFiles:
    if isinstance(error, _Redirected):
        return InvalidAdapterFiles(f'adapter "{name}": {source} redirects, and redirects are not followed')
    return InvalidAdapterFiles(f'adapter "{name}": {source} cannot be read ({type(error).__name__})')
