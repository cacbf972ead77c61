"""TREC's files: runs, an order of documents a query; and judgements (qrels), BEIR's form of them too."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias

from dear_tools.exits import ToolError
from dear_tools.files import numbered_lines, write_whole
from dear_tools.wording import counted, queries

Qrels: TypeAlias = dict[str, dict[str, int]]
"""Grades by query id and document id; what is not in it counts as 0."""

_BEIR_HEADER = ["query-id", "corpus-id", "score"]


@dataclass(frozen=True, slots=True)
class Run:
    """A run's orders by query id, best document first; ``warnings`` say what in the file was ambiguous."""

    orders: Mapping[str, tuple[str, ...]]
    warnings: tuple[str, ...] = ()


class _Row(NamedTuple):
    score: float
    rank: int
    line: int
    document: str


def read_run(path: Path) -> Run:
    """A run of lines ``query Q0 document rank score tag``, in any order.

    As in trec_eval the scores decide. Where two are equal the rank column decides, then the file's order,
    and a warning says what trec_eval would do: it puts the document first whose id is the greater text.

    Raises:
        ToolError: the file cannot be read, has no line, or one that is malformed or repeats a document.
    """
    rows: defaultdict[str, list[_Row]] = defaultdict(list)
    for query, row in _rows(path):
        rows[query].append(row)
    if not rows:
        raise ToolError(f"{path} has no lines")
    for found in rows.values():
        found.sort(key=lambda row: (-row.score, row.rank, row.line))
    orders = {query: tuple(row.document for row in found) for query, found in rows.items()}
    return Run(orders, tuple(_ambiguities(path.name, rows)))


def write_run(path: Path, orders: Mapping[str, Sequence[str]], tag: str) -> None:
    """Write ``run_text`` whole.

    Raises:
        ToolError: an id has white space in it, or the file cannot be written.
    """
    write_whole(path, run_text(orders, tag))


def run_text(orders: Mapping[str, Sequence[str]], tag: str) -> str:
    """The lines of a run; its scores fall strictly, by 1, so that trec_eval keeps the order.

    Raises:
        ToolError: an id has white space in it.
    """
    lines = []
    for query, order in orders.items():
        check_token(query, "query id")
        for index, document in enumerate(order):
            check_token(document, f"query {query}: document id")
            lines.append(f"{query} Q0 {document} {index + 1} {len(order) - index} {tag}\n")
    return "".join(lines)


def _rows(path: Path) -> Iterator[tuple[str, _Row]]:
    first_lines: dict[tuple[str, str], int] = {}
    for number, line in numbered_lines(path):
        fields = line.split()
        if len(fields) != 6:
            raise ToolError(
                f"{path}:{number}: a line of a run has 6 fields (query Q0 document rank score tag), "
                f"this one {len(fields)}"
            )
        query, _, document, rank, score, _ = fields
        try:
            row = _Row(float(score), int(rank), number, document)
        except ValueError:
            raise ToolError(f"{path}:{number}: rank {rank!r} or score {score!r} is no number") from None
        if not math.isfinite(row.score):
            raise ToolError(f"{path}:{number}: score {score!r} is not finite")
        if (query, document) in first_lines:
            raise ToolError(
                f"{path}:{number}: query {query} has document {document} twice, "
                f"the first time on line {first_lines[query, document]}"
            )
        first_lines[query, document] = number
        yield query, row


def _ambiguities(name: str, rows: Mapping[str, Sequence[_Row]]) -> Iterator[str]:
    ties = [(query, a, b) for query, found in rows.items() for a, b in pairwise(found) if a.score == b.score]
    if ties:
        query, first, second = ties[0]
        decider = "the rank column" if first.rank != second.rank else "the file's order"
        ahead = max(first.document, second.document)
        yield (
            f"{name}: query {query} gives {first.document} and {second.document} the same score; "
            f"{decider} puts {first.document} first, and trec_eval would put {ahead} first "
            f"({counted(len(ties), 'tie')} in {queries(len({query for query, _, _ in ties}))})"
        )
    for query, found in rows.items():
        for a, b in pairwise(found):
            if a.score > b.score and a.rank > b.rank:
                yield (
                    f"{name}: query {query} ranks {b.document} before {a.document} though it scores lower; "
                    "the scores decide, as in trec_eval"
                )
                return


def load_qrels(path: Path) -> Qrels:
    """Judgements as TREC has them, ``query 0 document grade``, or BEIR, three columns under their header.

    Raises:
        ToolError: the file cannot be read, has no judgement, a malformed line, or two grades for a document.
    """
    qrels: Qrels = {}
    is_beir = False
    for number, line in numbered_lines(path):
        fields = line.split()
        if not qrels and fields == _BEIR_HEADER:
            is_beir = True
            continue
        if len(fields) != (3 if is_beir else 4):
            shape = "query document grade" if is_beir else "query 0 document grade"
            raise ToolError(f"{path}:{number}: a judgement is {shape!r}, this line has {len(fields)} fields")
        query, document, grade = fields[0], fields[-2], fields[-1]
        try:
            judged = int(grade)
        except ValueError:
            raise ToolError(f"{path}:{number}: grade {grade!r} is no whole number") from None
        if qrels.setdefault(query, {}).setdefault(document, judged) != judged:
            raise ToolError(f"{path}:{number}: query {query} has two grades for document {document}")
    if not qrels:
        raise ToolError(f"{path} has no judgements")
    return qrels


def check_token(value: str, what: str) -> None:
    """Refuse an id that the columns of a TREC file cannot hold.

    Raises:
        ToolError: it is empty or has white space in it.
    """
    if len(value.split()) != 1 or value != value.strip():
        raise ToolError(f"{what} {value!r} is empty or has a space, which no TREC file can hold")
