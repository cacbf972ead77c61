"""A rerank body of any dialect, from its bytes; runs in the worker process if the body is large."""

from __future__ import annotations

from collections.abc import Sequence

from dear_serving.gateway.worker_process import Buffer
from dear_serving.http.body import parse_object, validate
from dear_serving.http.dialects.dialect import Parsed
from dear_serving.http.dialects.limits import check_count
from dear_serving.http.dialects.table import DIALECTS


def parse_rerank(
    names: Sequence[str], has_api_key: bool, max_documents: int, max_chars: int, body: Buffer
) -> Parsed:
    """The body in the first of the dialects ``names`` that claims it; the last one takes every body.

    Args:
        has_api_key: whether the key came in the header ``Api-Key``.
        max_documents: most documents.
        max_chars: most characters of the fields of an object among them.

    Raises:
        InvalidRequest: see parse_object and validate, and the dialect's ``to_task``.
        PayloadTooLarge: over ``max_documents`` or ``max_chars``.
    """
    data = parse_object(body)
    found = (DIALECTS[name] for name in names)
    dialect = next((one for one in found if one.claims(data, has_api_key)), DIALECTS[names[-1]])
    passages = next((one for one in dialect.passages if one in data), dialect.passages[0])
    query = next((one for one in dialect.query if one in data), dialect.query[0])
    check_count(data, passages, max_documents)
    read = validate(dialect.body, data)
    task = dialect.to_task(read, max_chars)
    return Parsed(dialect.name, read.for_reply(), task, dialect.warnings(data, read), passages, query)
