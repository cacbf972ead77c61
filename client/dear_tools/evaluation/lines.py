"""Files read line by line: texts may be larger than memory, and an error names file and line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dear_tools.exits import ToolError

_NAMED = 3


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


def named(ids: Iterable[str]) -> str:
    """The first few of many ids, and how many more there are."""
    every = list(ids)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """``1 query``, ``2 queries``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def queries(count: int) -> str:
    """``1 query``, ``2 queries``."""
    return counted(count, "query", "queries")
