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
        field: of the passages, such as ``documents`` or ``texts``.

    Raises:
        PayloadTooLarge: over ``max_documents``.
    """
    passages = data.get(field)
    if isinstance(passages, list) and len(passages) > max_documents:
        raise PayloadTooLarge(f"{field}: {len(passages)} are over the limit of {max_documents}", param=field)


def check_texts(task: RankTask, passages: str, query: str, limits: LimitSettings) -> None:
    """Refuse what is empty or too long, naming the field: ``passages`` and ``query`` are the body's names.

    Raises:
        InvalidRequest: no passages, or a blank query.
        PayloadTooLarge: a text is over its limit.
    """
    if not task.passages:
        raise InvalidRequest(f"{passages}: at least one is needed", param=passages)
    if not task.query.strip():
        raise InvalidRequest(f"{query}: may not be blank", param=query)
    _check_chars(query, task.query, limits.max_query_chars)
    _check_chars("instruction", task.instruction or "", limits.max_instruction_chars)
    for position, text in enumerate(task.passages):
        if len(text) > limits.max_document_chars:
            _check_chars(f"{passages}.{position}", text, limits.max_document_chars)


def _check_chars(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise PayloadTooLarge(f"{field}: {len(text)} characters are over the limit of {limit}", param=field)
