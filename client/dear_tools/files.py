"""Reading and writing files so that what goes wrong is said in a sentence, and nothing is half there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

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


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that at any time the old one or the new one is there whole. Makes its folder.

    Raises:
        ToolError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ToolError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
