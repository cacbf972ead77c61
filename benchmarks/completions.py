"""Lists sent to /v1/completions, for what goes past /v2/rerank: dear_client has no such call."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import aiohttp

from dear_tools.load.lists import List
from dear_tools.load.mix import Tenant
from dear_tools.load.records import Record

_ANSWER_S = 300.0


class Completions:
    """Sends lists as prompts. Open it with ``async with``.

    Args:
        url: the server's.
        body_of: a list's request, but for its ``model``.
        on_text: called with each list and the text that came back.
    """

    def __init__(
        self,
        url: str,
        body_of: Callable[[List], dict[str, Any]],
        on_text: Callable[[List, str], object] = lambda asked, text: None,
    ) -> None:
        self._url = f"{url}/v1/completions"
        self._body_of = body_of
        self._on_text = on_text

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(
        self, tenant: Tenant, model: str, asked: List, intended_s: float, start_s: float
    ) -> Record:
        """See dear_tools.load.sender.Sender; the engine's own time is not known.

        Raises:
            aiohttp.ClientError: the server refused, or is not there.
        """
        sent_s = time.perf_counter() - start_s
        body = {"model": model, "temperature": 0, **self._body_of(asked)}
        async with self._session.post(self._url, json=body, raise_for_status=True) as response:
            reply = await response.json()
        done_s = time.perf_counter() - start_s
        self._on_text(asked, reply["choices"][0]["text"])
        return Record(
            intended_s,
            sent_s,
            done_s,
            tenant.name,
            model,
            "ok",
            len(asked.passages),
            status=200,
            prompt_tokens=reply["usage"]["prompt_tokens"],
            completion_tokens=reply["usage"]["completion_tokens"],
            windows=1,
        )
