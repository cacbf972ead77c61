"""A rerank body of any dialect, from its bytes; runs in the worker process if the body is large."""

from __future__ import annotations

from dear_serving.gateway.worker_process import Buffer
from dear_serving.http.body import parse_object, validate
from dear_serving.http.dialects.documents import RerankBody, ranked_fields
from dear_serving.http.dialects.limits import check_count
from dear_serving.http.dialects.tei import TeiBody


def parse_rerank(max_documents: int, may_be_tei: bool, body: Buffer) -> RerankBody | TeiBody:
    """The body in its dialect: TEI's has ``texts`` and no ``documents``.

    Raises:
        InvalidRequest: see parse_object and validate.
        PayloadTooLarge: over ``max_documents``.
    """
    data = parse_object(body)
    if may_be_tei and "texts" in data and data.get("documents") is None:
        check_count(data, "texts", max_documents)
        return validate(TeiBody, data)
    check_count(data, "documents", max_documents)
    found = validate(RerankBody, data)
    return found if found.return_documents else ranked_fields(found)
