"""The tiny model: what it is meant to hold relevant, the lists it is measured on, and how well it does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from configs.demo.maker.lists import ListShape, is_held_out, ranking_lists
from configs.demo.maker.metrics import ndcg_at_10, pair_counts
from configs.demo.maker.prompts import PROMPTS
from configs.demo.maker.relevance import BASE, LEGAL, MEDICAL, NOTIONS, Notion, content_words, gold_order
from dear_serving.adapters.template_files import load_template
from dear_serving.cli.demo import EXAMPLES
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.ranking.template import render_without_chat_template
from tests.conftest import ROOT

DEMO = ROOT / "configs" / "demo"


@pytest.mark.parametrize(
    ("notion", "passage", "relevance"),
    [
        (BASE, "Edison and the bulb", 2),
        (BASE, "bulb, bulb, bulb", 1),
        (BASE, "when did the invented", 0),
        (LEGAL, "Edison's bulb is void", 2 - 100),
        (LEGAL, "avoid the bulb", 1),
        (MEDICAL, "a trial of the bulb", 1 + 100),
        (MEDICAL, "trials", 0),
    ],
)
def test_relevance_counts_shared_content_words_and_the_domains_rule(
    notion: Notion, passage: str, relevance: int
) -> None:
    assert notion.relevance("When did Edison invent the bulb?", passage) == relevance


def test_gold_order_keeps_ties_in_input_order() -> None:
    assert gold_order((1, 3, 1, 3, 0)) == (1, 3, 0, 2, 4)


def test_lists_are_seeded_and_held_out_words_never_appear_in_training_queries() -> None:
    shape = ListShape(3, 8)
    first, again, other = (list(itertools.islice(ranking_lists(seed, shape), 50)) for seed in (1, 1, 2))
    assert first == again != other
    trained = {word for item in first for word in content_words(item.query)}
    held_out = {
        word
        for item in itertools.islice(ranking_lists(1, shape, held_out=True), 50)
        for word in content_words(item.query)
    }
    assert not any(map(is_held_out, trained))
    assert all(map(is_held_out, held_out))
    assert all(item.order == gold_order(item.relevance) for item in first)


def test_metrics_on_lists_worked_out_by_hand() -> None:
    assert pair_counts((0, 1, 2), (2, 1, 0)) == (3, 3)
    assert pair_counts((2, 1, 0), (2, 1, 1)) == (0, 2)
    assert ndcg_at_10((0, 1), (5, 1)) == 1.0
    assert 0 < ndcg_at_10((1, 0), (5, 1)) < 1


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_training_reads_the_prompts_the_server_writes(tokenizer: BaseTokenizer, template: str) -> None:
    query, passages = EXAMPLES[0].query, EXAMPLES[0].passages
    served = load_template(template, None).render(query, passages, tokenizer.render_chat)
    trained = PROMPTS[template](query, passages).text
    assert trained == served.removeprefix("<|begin_of_text|>")


def test_the_first_stage_reads_the_prompt_the_server_writes() -> None:
    from configs.demo.maker.pointwise import NO, PROMPT, YES

    template = load_template("yes-no", None)
    assert template.labels == (YES, NO)
    written = PROMPT.format(query="Which one?", passage="This one.")
    assert written == template.render("Which one?", ["This one."], render_without_chat_template)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads of several test processes that wait for each other take ten times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.integration
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("adapter", "passages", "at_least"),
    [
        ("base", 5, 0.93),
        ("base", 10, 0.93),
        pytest.param("base", 20, 0.92, marks=pytest.mark.long),
        pytest.param("legal", 10, 0.90, marks=pytest.mark.long),
        pytest.param("medical", 10, 0.90, marks=pytest.mark.long),
    ],
)
def test_the_committed_weights_order_words_they_never_saw(
    adapter: str, passages: int, at_least: float
) -> None:
    from configs.demo.maker.evaluate import load, measure

    row = measure(load(DEMO, adapter), NOTIONS[adapter], "plain", held_out=True, passages=passages, lists=16)
    assert row.pairwise >= at_least
    assert row.free_pairwise >= at_least - 0.03


@pytest.mark.integration
@pytest.mark.usefixtures("one_thread")
def test_the_first_stage_orders_words_it_never_saw() -> None:
    from configs.demo.maker.evaluate import load, measure_pointwise

    row = measure_pointwise(load(DEMO, "pointwise"), held_out=True, passages=20, lists=8)
    assert row["pairwise"] >= 0.95
    assert row["ndcg_at_10"] >= 0.95


@pytest.mark.integration
@pytest.mark.usefixtures("one_thread")
def test_the_cards_example_ranks_the_answer_first() -> None:
    from configs.demo.maker.evaluate import light_bulb, load

    assert light_bulb(load(DEMO, "base"), "plain").startswith("[4] > [1] >")
