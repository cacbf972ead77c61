"""Ranking done by the client of a plain completion server: text prompt, free greedy text, a pattern."""

from __future__ import annotations

import time
from collections.abc import Sequence

import httpx

from benchmarks.baselines.card import answer_tokens, card_prompt, card_ranking
from benchmarks.baselines.ranking import Ranking


async def rank_by_completion(
    http: httpx.AsyncClient, model: str, query: str, passages: Sequence[str]
) -> Ranking:
    """Rank one list over ``POST /v1/completions`` of ``http``'s server, with the card's prompt and parser.

    Raises:
        httpx.HTTPError: the server did not answer, or not with 200.
    """
    started_s = time.perf_counter()
    reply = await http.post(
        "/v1/completions",
        json={
            "model": model,
            "prompt": card_prompt(query, passages),
            "temperature": 0,
            "max_tokens": answer_tokens(len(passages)),
        },
    )
    reply.raise_for_status()
    body = reply.json()
    positions, decided = card_ranking(body["choices"][0]["text"], len(passages))
    return Ranking(
        positions=tuple(positions),
        decided=decided,
        prompt_tokens=body["usage"]["prompt_tokens"],
        completion_tokens=body["usage"]["completion_tokens"],
        latency_s=time.perf_counter() - started_s,
    )
