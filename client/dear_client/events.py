"""A ranking as server-sent events: from lines to ranks. No I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dear_client.calls import read_ranking
from dear_client.errors import ConnectionFailed, UnexpectedReply, server_error
from dear_client.models import Document, RankedDocument, Ranking


class Ranks:
    """Reads the events of one request: a ``rank`` each, then the ``ranking`` with everything.

    Args:
        documents: those of the request, in its order.
        url: where they come from, for errors; so is ``request_id``.
    """

    def __init__(self, documents: Sequence[Document], url: str, request_id: str) -> None:
        self._ranking: Ranking | None = None
        self._documents = documents
        self._url = url
        self._request_id = request_id
        self._event = ""

    def feed(self, line: str) -> RankedDocument | None:
        """Take a line of the stream; the next rank, where the line completes one.

        Raises:
            ServerError: the server gave up after it had begun.
            UnexpectedReply: a line that is no such event.
        """
        if line.startswith("event:"):
            self._event = line[6:].strip()
        if not line.startswith("data:") or (text := line[5:].strip()) == "[DONE]":
            return None
        event, self._event = self._event, ""
        try:
            data: dict[str, Any] = json.loads(text)
            if event == "error":
                raise server_error(500, data, request_id=self._request_id)
            if event == "ranking":
                count = len(data["results"])
                self._ranking = read_ranking(data, self._documents, count, self._request_id)
            if event == "rank":
                return RankedDocument.model_validate({**data, "document": self._documents[data["index"]]})
        except (ValueError, TypeError, KeyError, IndexError):
            raise UnexpectedReply(
                f"{self._url}: the stream has an event that cannot be read: {text[:80]}",
                request_id=self._request_id,
            ) from None
        return None

    @property
    def ranking(self) -> Ranking:
        """The whole ranking, after the last rank.

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
