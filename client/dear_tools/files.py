"""Reading and writing files so that errors are one sentence, and no file is ever half written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dear_tools.exits import ToolError


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        ToolError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ToolError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError as error:
        raise ToolError(f"{path} is not UTF-8 text (byte {error.start})") from None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, without their ends, counted from 1.

    Only a line feed ends a line: texts may hold every other separator.

    Raises:
        ToolError: the file cannot be read, or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except OSError as error:
        raise ToolError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise ToolError(f"{path} is not UTF-8 text") from None


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its name when all of it is there; until then the old one stays.

    Raises:
        ToolError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritable(path, error) from None
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that at any time the old one or the new one is there whole. Makes its folder.

    Raises:
        ToolError: it cannot be written.
    """
    with written_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _unwritable(path: Path, error: OSError) -> ToolError:
    return ToolError(f"cannot write {path}: {(error.strerror or str(error)).lower()}")
