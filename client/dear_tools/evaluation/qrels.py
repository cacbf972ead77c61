"""Judgements: which document is how relevant to which query."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from dear_tools.evaluation.lines import numbered_lines
from dear_tools.exits import ToolError

Qrels: TypeAlias = dict[str, dict[str, int]]
"""Grades by query id and document id; what is not in it counts as 0."""

_BEIR_HEADER = ["query-id", "corpus-id", "score"]


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
