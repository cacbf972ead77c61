"""A test ranking that a revision must pass before it serves requests."""

from __future__ import annotations

import uuid

from dear_serving.gateway.catalog import ServedModel
from dear_serving.gateway.first_stage import PassageScorer, Scoring
from dear_serving.gateway.ranker import Ranker
from dear_serving.gateway.window_ranker import WindowRanker
from dear_serving.protocol import Engine
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.ranking.strategies import STRATEGIES, pointwise
from dear_serving.ranking.windows import Sizes
from dear_serving.types import Ranking, RankTask

_TASK = RankTask(
    query="When was the light bulb invented?",
    passages=(
        "Coffee is good for diet",
        "Thomas Edison invented the light bulb in 1879",
        "KEPCO fixes light problems",
    ),
)


async def rank_canary(engine: Engine, builder: PromptBuilder, adapter: str | None) -> Ranking:
    """Rank three passages with an adapter and its prompt template, as one window or one by one.

    Args:
        engine: an engine that has loaded the adapter.
        builder: builds the adapter's prompts.
        adapter: as in GenerationRequest.

    Raises:
        RequestError: see Ranker.rank.
    """
    count = len(_TASK.passages)
    sizes = Sizes(count, count, count, count)
    window_ranker = WindowRanker(engine, builder, adapter, _TASK)
    request_id = f"canary-{uuid.uuid4().hex}"
    if builder.template.is_pointwise:
        model = ServedModel("canary", adapter, builder.template.name)
        scorer = PassageScorer(Scoring(model, builder), _TASK)
        scorer.engine = engine
        ranker = Ranker(window_ranker, _TASK, request_id, scorer=scorer)
        return await ranker.rank(pointwise(sizes), "pointwise", "canary")
    return await Ranker(window_ranker, _TASK, request_id).rank(
        STRATEGIES["single"](sizes), "single", "canary"
    )
