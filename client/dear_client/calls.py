"""Every call of the API as a value: the request's body, and what its reply means. No I/O."""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, Unpack
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from dear_client.errors import InvalidCall, InvalidRanking, UnexpectedReply
from dear_client.exchange import Call, Reply, current_trace, new_request_id, read_object
from dear_client.models import Document, Model, Ranking
from dear_client.options import RerankOptions, check_options

M = TypeVar("M", bound=BaseModel)

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_PLACES = {
    "model": "model",
    "top_n": "top_n",
    "rank_fields": "rank_fields",
    "max_passage_tokens": "max_tokens_per_doc",
    "priority": "priority",
}
"""Options with a field of their own in the body. Every other option goes into its ``dear``."""


class Calls:
    """The calls of a client.

    Args:
        model: ranks where a call names no other.
    """

    def __init__(self, model: str | None = None) -> None:
        self._model = model

    def rerank(
        self, query: str, documents: Sequence[Document], **options: Unpack[RerankOptions]
    ) -> Call[Ranking]:
        """Rank documents by how well they answer a query.

        Args:
            query: what is looked for.
            documents: texts, or objects with a ``text``. Only the text is sent; the object itself is in
                ``RankedDocument.document``.
            options: those of RerankOptions:
                {options}.

        Returns:
            The documents, best first.

        Raises:
            InvalidCall: a document without a text, an unknown option, or an invalid value.
            ClientError: see ``dear_client.errors``.
        """
        documents = _listed("documents", documents)
        body = rerank_body(query, documents, self._model, options)
        request_id = _id(options)

        def read(reply: Reply) -> Ranking:
            return read_ranking(read_object(reply), documents, options.get("top_n"), request_id)

        return Call("POST", "/v2/rerank", read, body, request_id=request_id, trace=_trace(options))

    def stream(
        self, query: str, documents: Sequence[Document], **options: Unpack[RerankOptions]
    ) -> tuple[Call[None], list[Document]]:
        """As ``rerank``, its ranks as events. Returns the documents beside the call: events name indices."""
        documents = _listed("documents", documents)
        body = rerank_body(query, documents, self._model, options)
        body["dear"] = body.get("dear", {}) | {"stream": True}
        call = Call("POST", "/v2/rerank", _check_events, body, request_id=_id(options), trace=_trace(options))
        return call, documents

    def models(self) -> Call[list[Model]]:
        """The models that the caller may use: the base model and adapters."""
        return Call("GET", "/v1/models", lambda reply: read_list(Model, reply)[0])

    def health(self) -> Call[None]:
        """Return if the server's HTTP side is up, whether or not an engine can answer; else raise."""
        return Call("GET", "/health", _check_object)

    def ready(self) -> Call[None]:
        """Return if an engine can answer; else raise, after the client's retries."""
        return Call("GET", "/ready", _check_object)


if Calls.rerank.__doc__:  # absent with python -OO
    _names = textwrap.fill(", ".join(RerankOptions.__annotations__), 90).replace("\n", f"\n{' ' * 16}")
    Calls.rerank.__doc__ = Calls.rerank.__doc__.replace("{options}", _names)


def rerank_body(
    query: str, documents: Sequence[Document], model: str | None, options: RerankOptions
) -> dict[str, Any]:
    """The body of POST /v2/rerank.

    Raises:
        InvalidCall: a document without a text, an unknown option, or one of another type.
    """
    check_options(options)
    if not isinstance(query, str):
        raise InvalidCall(f"query: a text is needed, not {type(query).__name__}")
    given = options.get("rank_fields")
    fields = None if given is None else _listed("rank_fields", given)
    values: dict[str, Any] = {**options, "model": options.get("model") or model, "rank_fields": fields}
    values.pop("request_id", None)
    values.pop("traceparent", None)
    deadline_s = values.pop("deadline_s", None)
    if deadline_s is not None:
        if not 0 < deadline_s < math.inf:
            raise InvalidCall(f"deadline_s: {deadline_s} is not above 0")
        values["deadline_ms"] = max(1, round(deadline_s * 1e3))
    body: dict[str, Any] = {
        "query": query,
        "documents": [_sent(document, fields, index) for index, document in enumerate(documents)],
    }
    dear: dict[str, Any] = {}
    for name, value in values.items():
        if value is not None:
            place = body if name in _PLACES else dear
            place[_PLACES.get(name, name)] = value
    return body | {"dear": dear} if dear else body


def _listed(name: str, value: object) -> list[Any]:
    """The value as a list; a text, though iterable, is refused."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidCall(f"{name}: a list is needed, not {type(value).__name__}")
    return list(value)


def _sent(document: object, fields: Sequence[str] | None, index: int) -> Any:
    """What is sent of a document: only what it is ranked by."""
    if isinstance(document, str):
        return document
    if not isinstance(document, Mapping):
        raise InvalidCall(f"documents.{index}: a text or an object is needed, not {type(document).__name__}")
    if fields is not None:
        return {name: document[name] for name in fields if name in document}
    text = document.get("text")
    if not isinstance(text, str):
        raise InvalidCall(f'documents.{index}: the object has no "text"')
    return text


def _id(options: RerankOptions) -> str:
    given = options.get("request_id")
    if given is not None and not _REQUEST_ID.fullmatch(given):
        raise InvalidCall(f"request_id: 1 to 128 letters, digits and . : _ - are needed, not {given!r}")
    return given or new_request_id()


def _trace(options: RerankOptions) -> Mapping[str, str]:
    given = options.get("traceparent")
    if given is None:
        return current_trace()
    if not _TRACEPARENT.fullmatch(given):
        raise InvalidCall(f"traceparent: 00-<32 hex digits>-<16>-<2> is needed, not {given!r}")
    return {"traceparent": given}


def read_ranking(
    data: Mapping[str, Any], documents: Sequence[Document], top_n: int | None, request_id: str | None = None
) -> Ranking:
    """The ranking in a reply, its documents put back.

    Raises:
        UnexpectedReply: it is no ranking.
        InvalidRanking: it is none of these documents: an index twice or outside, too few or too many, or
            scores that rise.
    """
    results = data.get("results")
    if not isinstance(results, list):
        raise UnexpectedReply('the reply has no "results"')
    try:
        meta = data.get("meta") or {}
        ranking = Ranking.model_validate(
            {
                "id": data.get("id"),
                "model": data.get("model"),
                "results": [{**one, "document": documents[one["index"]]} for one in results],
                "usage": data.get("usage") or {},
                "warnings": meta.get("warnings") or (),
                "details": meta.get("dear"),
                "request_id": request_id,
            }
        )
    except IndexError:
        raise InvalidRanking(f"the reply ranks a document that is none of the {len(documents)}") from None
    except (ValidationError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UnexpectedReply(
            f"the reply is no ranking of {len(documents)} documents: {_first(error)}"
        ) from None
    _check_order(ranking, len(documents), top_n)
    return ranking


def _check_order(ranking: Ranking, count: int, top_n: int | None) -> None:
    order = ranking.order
    if any(index < 0 for index in order) or len(set(order)) < len(order):
        raise InvalidRanking(f"the reply's order is no permutation of {count} documents: {list(order)}")
    wanted = min(top_n or count, count)
    if len(order) != wanted:
        raise InvalidRanking(f"the reply ranks {len(order)} documents instead of {wanted}")
    scores = [result.relevance_score for result in ranking.results]
    if any(not later <= earlier for earlier, later in itertools.pairwise(scores)):
        raise InvalidRanking("the reply's scores rise along its order")


def read_model(kind: type[M], reply: Reply) -> M:
    """A reply that is one object.

    Raises:
        UnexpectedReply: it is another.
    """
    return _validated(kind, read_object(reply))


def read_list(kind: type[M], reply: Reply) -> tuple[list[M], str | None]:
    """A reply that is a list or a page of one, and where the next page begins.

    Raises:
        UnexpectedReply: it is none, or of other objects.
    """
    body = read_object(reply)
    data = body.get("data")
    if not isinstance(data, list):
        raise UnexpectedReply('the reply has no "data"')
    following = body.get("next")
    return [_validated(kind, one) for one in data], following if isinstance(following, str) else None


def _validated(kind: type[M], value: object) -> M:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise UnexpectedReply(f"the reply is no {kind.__name__.lower()}: {_first(error)}") from None


def _first(error: Exception) -> str:
    """What is wrong, in a few words."""
    if isinstance(error, ValidationError):
        one = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
    return f"{type(error).__name__}: {error}"


def _check_object(reply: Reply) -> None:
    read_object(reply)


def _check_events(reply: Reply) -> None:
    if reply.media_type != "text/event-stream":
        raise UnexpectedReply(f"answered with {reply.media_type or 'no content type'} instead of a stream")


def path_of(*parts: str) -> str:
    """A path of these parts, whatever characters they have.

    Raises:
        InvalidCall: a part that would make it another path.
    """
    for part in parts:
        if part in ("", ".", ".."):
            raise InvalidCall(f"nothing can have the name {part!r}")
    return "".join(f"/{quote(part, safe='')}" for part in parts)
