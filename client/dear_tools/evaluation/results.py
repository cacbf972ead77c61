"""The result of every query, in a file that grows by a line a query, so that a run can resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from pydantic import BaseModel, ConfigDict, ValidationError

from dear_client import Repairs
from dear_tools.exits import ToolError
from dear_tools.files import read_text

FILE = "answers.jsonl"
_FORMAT = 1


class QueryResult(BaseModel):
    """The result of one query.

    Args:
        ranked: ids and scores, best first; as many as were asked for. Empty where ``error`` says why.
        wall_ms: from sending it to the whole reply, tries and waits between them included.
        windows: how many the model read; None where the server does not say.
        repairs: of the model's answers; None where the server does not say.
        revision: the bytes that answered.
        confidences: of each rank, and whether it is ``certified``; empty where they were not asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str
    ranked: tuple[tuple[str, float], ...] = ()
    wall_ms: float = 0.0
    windows: int | None = None
    rounds: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    repairs: Repairs | None = None
    warnings: tuple[str, ...] = ()
    strategy: str | None = None
    model: str | None = None
    revision: str | None = None
    error: str | None = None
    confidences: tuple[float | None, ...] = ()
    certified: tuple[bool, ...] = ()

    @property
    def order(self) -> tuple[str, ...]:
        """Document ids, best first."""
        return tuple(document for document, _ in self.ranked)


class _Header(BaseModel):
    """The first line: what decides the answers."""

    dear_eval: int
    digest: str
    settings: dict[str, Any]


class ResultLog:
    """The answers of a run, in a folder: those of earlier starts, and each new one as it comes.

    Nothing is written before the first answer. A last line without its end, as a kill leaves it, is dropped.

    Args:
        settings: everything that decides answers, as JSON has it.
        restart: whether what is there is replaced.

    Raises:
        ToolError: what is there answers other settings, is no such file, or cannot be read.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        self.path = folder / FILE
        self._settings = dict(settings)
        self._file: TextIO | None = None
        self.answers: dict[str, QueryResult] = {}
        self._kept = "" if restart or not self.path.exists() else self._read()

    @property
    def is_open(self) -> bool:
        """Whether an answer was kept in this start."""
        return self._file is not None

    def append(self, answer: QueryResult) -> None:
        """Keep an answer; it is in the file when this returns.

        Raises:
            ToolError: it cannot be written.
        """
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(_line(answer))
            self._file.flush()
        except OSError as error:
            raise ToolError(f"cannot write {self.path}: {(error.strerror or str(error)).lower()}") from None
        self.answers[answer.query] = answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self) -> TextIO:
        """The file, with its header and whole lines, to be appended to."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._kept:
            header = _Header(dear_eval=_FORMAT, digest=_digest(self._settings), settings=self._settings)
            self._kept = _line(header)
            file = self.path.open("w", encoding="ascii", newline="\n")
            file.write(self._kept)
            return file
        with self.path.open("r+b") as whole:
            whole.truncate(len(self._kept.encode()))
        return self.path.open("a", encoding="ascii", newline="\n")

    def _read(self) -> str:
        """The whole lines that are there, their answers kept."""
        text = read_text(self.path)
        kept = text[: text.rfind("\n") + 1]
        if not kept:  # killed before the header was whole
            return ""
        first, *lines = kept.splitlines()
        try:
            header = _Header.model_validate_json(first)
        except ValidationError:
            raise ToolError(
                f"{self.path} is no log of dear eval; choose another --out, or --restart"
            ) from None
        self._check(header)
        for number, line in enumerate(lines, 2):
            try:
                answer = QueryResult.model_validate_json(line)
            except ValidationError as error:
                reason = error.errors(include_url=False)[0]["msg"].lower()
                raise ToolError(f"{self.path}:{number}: no answer: {reason}; --restart begins anew") from None
            self.answers[answer.query] = answer
        return kept

    def _check(self, header: _Header) -> None:
        if header.dear_eval == _FORMAT and header.digest == _digest(self._settings):
            return
        there, here = header.settings, self._settings
        differing = [
            f"{name} is {_shown(there.get(name))} there and {_shown(here.get(name))} here"
            for name in dict.fromkeys([*here, *there])
            if there.get(name) != here.get(name)
        ]
        what = "; ".join(differing) or "it has another format"
        raise ToolError(
            f"{self.path} answers other settings: {what}; choose another --out, or --restart to begin anew"
        )


def _line(value: BaseModel) -> str:
    """A line of ASCII, so that a torn one is cut between characters."""
    return json.dumps(value.model_dump(mode="json", exclude_defaults=True)) + "\n"


def _digest(settings: Mapping[str, Any]) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()}"


def _shown(value: object) -> str:
    """A setting for a sentence; of a digest its beginning."""
    if value is None:
        return "not set"
    text = str(value)
    return text[:19] if text.startswith("sha256:") else text
