"""Strategy ``auto`` under load, in simulation: a gateway's own choice before an engine of fixed speed.

Callers send lists one after another, all at the same time. The engine reads a fixed number of prompt tokens
a second, shared evenly by the requests in it (processor sharing), and a round takes half a second at least.
What is simulated is the policy: Busyness, and choose by cost; tokens are those of the simulated lists.
"""

from __future__ import annotations

from typing import Any

from benchmarks.simulation import PASSAGE_TOKENS, SHAPE, WINDOW_TOKENS
from dear_serving.gateway.busyness import Busyness
from dear_serving.ranking.strategies.auto import choose, cost_of
from dear_serving.ranking.strategies.latency import LatencyModel
from dear_serving.settings import RankingSettings

TOKENS_A_SECOND = 20_000
CALLERS = (1, 2, 4, 8, 16, 32)
_ROUND_S, _STEP_S, _END_S, _WARM_S = 0.5, 0.02, 400.0, 50.0


def simulate() -> dict[str, Any]:
    """Lists a second and their strategies, by how many callers send at once, with load and without."""
    busy_s = RankingSettings().busy_s
    return {
        "busy_s": busy_s,
        "tokens_a_second": TOKENS_A_SECOND,
        "callers": [
            {"callers": callers, "by_load": _run(callers, busy_s), "today": _run(callers, None)}
            for callers in CALLERS
        ],
    }


def _run(callers: int, busy_s: float | None) -> dict[str, Any]:
    left: list[float] = []  # prompt tokens of the requests in the engine
    least: list[float] = []  # when each may end at the earliest, for its rounds
    busy = Busyness(lambda: sum(left) / TOKENS_A_SECOND, busy_s)
    done, chosen, now_s = 0, {"joint": 0, "blitz": 0}, 0.0
    while now_s < _END_S:
        while len(left) < callers:
            name, _, looks = choose(SHAPE, None, LatencyModel(), is_busy=busy())
            cost = cost_of(name, SHAPE, looks=looks)
            left.append(WINDOW_TOKENS * cost.calls + PASSAGE_TOKENS * cost.shown)
            least.append(now_s + _ROUND_S * cost.rounds)
            chosen[name] += 1
        now_s += _STEP_S
        working = sum(tokens > 0 for tokens in left)
        each = TOKENS_A_SECOND * _STEP_S / max(1, working)
        left = [max(0.0, tokens - each) for tokens in left]
        ended = [tokens == 0 and now_s >= ends_s for tokens, ends_s in zip(left, least, strict=True)]
        done += sum(ended) if now_s > _WARM_S else 0
        least = [ends_s for ends_s, is_over in zip(least, ended, strict=True) if not is_over]
        left = [tokens for tokens, is_over in zip(left, ended, strict=True) if not is_over]
    return {"lists_a_second": done / (_END_S - _WARM_S), "blitz": chosen["blitz"] / sum(chosen.values())}
