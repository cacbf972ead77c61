"""Limits of one rerank request."""

from __future__ import annotations

from typing import Any

from dear_serving.errors import InvalidRequest, PayloadTooLarge
from dear_serving.settings import LimitSettings
from dear_serving.types import RankTask


def check_count(data: dict[str, Any], field: str, max_documents: int) -> None:
    """Refuse too many passages before each of them is looked at.

    Args:
        data: the body.
        field: of the passages, ``documents`` or ``texts``.

    Raises:
        PayloadTooLarge: over ``max_documents``.
    """
    passages = data.get(field)
    if isinstance(passages, list) and len(passages) > max_documents:
        raise PayloadTooLarge(f"{field}: {len(passages)} are over the limit of {max_documents}", param=field)


def check_texts(task: RankTask, field: str, limits: LimitSettings) -> None:
    """Refuse what is empty or too long, naming the field (``field`` as in ``check_count``).

    Raises:
        InvalidRequest: no passages, or a blank query.
        PayloadTooLarge: a text is over its limit.
    """
    if not task.passages:
        raise InvalidRequest(f"{field}: at least one is needed", param=field)
    if not task.query.strip():
        raise InvalidRequest("query: may not be blank", param="query")
    if len(task.query) > limits.max_query_chars:
        raise PayloadTooLarge(
            f"query: {len(task.query)} characters are over the limit of {limits.max_query_chars}",
            param="query",
        )
    for position, text in enumerate(task.passages):
        if len(text) > limits.max_document_chars:
            raise PayloadTooLarge(
                f"{field}.{position}: {len(text)} characters are over the limit of "
                f"{limits.max_document_chars}",
                param=f"{field}.{position}",
            )
