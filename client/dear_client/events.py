"""A ranking as server-sent events: from bytes to ranks. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from dear_client.calls import read_ranking
from dear_client.errors import (
    ClientError,
    ConnectionFailed,
    InvalidRanking,
    UnexpectedReply,
    server_error,
)
from dear_client.models import Document, RankedDocument, Ranking


class Ranks:
    """Reads the events of one request: a ``rank`` each, then the ``ranking`` with everything.

    Args:
        documents: those of the request, in its order.
        top_n: as in the request.
        url: where they come from, for errors; so is ``request_id``.
    """

    def __init__(self, documents: Sequence[Document], top_n: int | None, url: str, request_id: str) -> None:
        self._ranking: Ranking | None = None
        self._documents = documents
        self._top_n = top_n
        self._url = url
        self._request_id = request_id
        self._rest = b""
        self._event = ""
        self._told: list[int] = []

    def feed(self, data: bytes) -> Iterator[RankedDocument]:
        """Take the next bytes of the stream; yields the ranks that they complete.

        Raises:
            ServerError: the server gave up after it had begun.
            UnexpectedReply: a line that is no such event.
        """
        # Lines end where JSON has no character of its own: U+2028 and the like are part of a text.
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"event:"):
                self._event = line[6:].decode("utf-8", "replace").strip()
            elif line.startswith(b"data:") and (text := line[5:].strip()) != b"[DONE]":
                event, self._event = self._event, ""
                if (rank := self._read(event, text)) is not None:
                    yield rank

    def _read(self, event: str, text: bytes) -> RankedDocument | None:
        try:
            data: dict[str, Any] = json.loads(text)
            match event:
                case "rank":
                    return self._rank(data)
                case "ranking":
                    self._ranking = self._whole(data)
                case "error":
                    raise server_error(None, data)
        except ClientError as error:
            error.request_id = self._request_id
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            shown = text[:80].decode("utf-8", "replace")
            raise UnexpectedReply(
                f"{self._url}: the stream has an event that cannot be read: {shown}",
                request_id=self._request_id,
            ) from None
        return None

    def _rank(self, data: dict[str, Any]) -> RankedDocument:
        index = data["index"]
        if not 0 <= index < len(self._documents):
            raise IndexError
        self._told.append(index)
        return RankedDocument.model_validate({**data, "document": self._documents[index]})

    def _whole(self, data: dict[str, Any]) -> Ranking:
        try:
            ranking = read_ranking(data, self._documents, self._top_n, self._request_id)
        except UnexpectedReply as error:
            raise type(error)(f"{self._url}: {error.message}") from None
        if list(ranking.order) != self._told:
            raise InvalidRanking(f"{self._url}: the stream's ranks are not those of its ranking")
        return ranking

    @property
    def are_whole(self) -> bool:
        """Whether everything has come."""
        return self._ranking is not None

    @property
    def ranking(self) -> Ranking:
        """The whole ranking, once all ranks were read.

        Raises:
            ConnectionFailed: the stream has not come to it, or ended before.
        """
        if self._ranking is None:
            raise self.stopped("ended the stream")
        return self._ranking

    def stopped(self, what: str) -> ConnectionFailed:
        """The error of a stream that stopped before its end."""
        return ConnectionFailed(
            f"{self._url} {what} before the ranking was whole", request_id=self._request_id
        )
