"""A base in W8A8 under a bfloat16 adapter, through the whole server, beside the bfloat16 base."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path

import pytest
import yaml
from scipy.stats import kendalltau

from configs.demo.maker.lists import ListShape, ranking_lists
from configs.demo.maker.relevance import BASE
from dear_client import Client
from tests.conftest import CPU_CONFIG, ROOT
from tests.e2e.conftest import Server
from tests.support.quantised import quantise

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]

LISTS = 50
logger = logging.getLogger(__name__)


def test_a_quantised_base_orders_almost_as_its_original(server: Server, tmp_path: Path) -> None:
    config = yaml.safe_load(CPU_CONFIG.read_text())
    config["model"]["source"] = str(quantise(ROOT / "configs" / "demo" / "base", tmp_path / "base"))
    config["adapters"]["root"] = f"{ROOT}/configs/demo/adapters"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    lists = list(islice(ranking_lists(0, ListShape(20, 20), True, BASE), LISTS))
    with (
        Server(tmp_path / "config.yaml", tmp_path / "output.log") as quantised,
        Client(server.url) as plain,
        Client(quantised.url) as rounded,
    ):
        for model in ("dear-tiny", "legal", "medical"):
            orders = [
                [client.rerank(one.query, one.passages, model=model).order for one in lists]
                for client in (plain, rounded)
            ]
            taus = [kendalltau(_ranks(a), _ranks(b)).statistic for a, b in zip(*orders, strict=True)]
            equal = sum(a == b for a, b in zip(*orders, strict=True))
            first = sum(a[0] == b[0] for a, b in zip(*orders, strict=True))
            logger.info(
                "%s: tau %.3f mean, %.3f least; of %d lists %d have the same first, %d the same order",
                *(model, sum(taus) / LISTS, min(taus), LISTS, first, equal),
            )
            assert sum(taus) / LISTS > 0.9
            assert min(taus) > 0.6


def _ranks(order: tuple[int, ...]) -> list[int]:
    """Each passage's rank."""
    return sorted(range(len(order)), key=order.__getitem__)
