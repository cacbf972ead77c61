"""A base in W8A8 under a bfloat16 adapter, through the whole server, beside the bfloat16 base."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
import yaml
from scipy.stats import kendalltau

from configs.demo.maker.lists import ListShape, RankingList, ranking_lists
from configs.demo.maker.metrics import pair_counts
from configs.demo.maker.relevance import BASE, LEGAL, MEDICAL
from dear_client import Client
from tests.conftest import CPU_CONFIG, ROOT
from tests.e2e.conftest import Server
from tests.support.quantised import quantise

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]

LISTS = 50
logger = logging.getLogger(__name__)


def test_a_quantised_base_serves_adapters(server: Server, tmp_path: Path) -> None:
    """The tiny model feels every rounding: on such lists bfloat16 itself has a tau of 0.9 to float32, W8A8
    computed by torch has 0.62. So the bounds tell a quantised model from a broken one, no more.
    """
    config = yaml.safe_load(CPU_CONFIG.read_text())
    config["model"]["source"] = str(quantise(ROOT / "configs" / "demo" / "base", tmp_path / "base"))
    config["adapters"]["root"] = f"{ROOT}/configs/demo/adapters"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with (
        Server(tmp_path / "config.yaml", tmp_path / "output.log") as quantised,
        Client(server.url) as plain,
        Client(quantised.url) as rounded,
    ):
        for model, notion in (("dear-tiny", BASE), ("legal", LEGAL), ("medical", MEDICAL)):
            lists = list(islice(ranking_lists(0, ListShape(20, 20), True, notion), LISTS))
            orders = [
                [client.rerank(one.query, one.passages, model=model).order for one in lists]
                for client in (plain, rounded)
            ]
            tau = (
                sum(kendalltau(_ranks(a), _ranks(b)).statistic for a, b in zip(*orders, strict=True)) / LISTS
            )
            before, after = (_right_pairs(found, lists) for found in orders)
            logger.info("%s: tau %.3f; pairs in the right order %.3f, %.3f", model, tau, before, after)
            assert tau > 0.4
            assert after > 0.75


def _right_pairs(orders: Sequence[tuple[int, ...]], lists: Sequence[RankingList]) -> float:
    """The share of pairs of passages with different relevance that are in the right order."""
    counts = [pair_counts(order, one.relevance) for order, one in zip(orders, lists, strict=True)]
    return sum(right for right, _ in counts) / sum(pairs for _, pairs in counts)


def _ranks(order: tuple[int, ...]) -> list[int]:
    """Each passage's rank."""
    return sorted(range(len(order)), key=order.__getitem__)
