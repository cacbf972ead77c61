"""The peers' pure parts: they see the prompt that the server sees, and read answers as the card does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.baselines.burst import Burst
from benchmarks.baselines.card import MAX_PASSAGE_CHARS, answer_tokens, card_prompt, card_ranking
from benchmarks.baselines.child import BaselineFailed, Child
from benchmarks.baselines.family import cpu_seconds, family, frozen
from benchmarks.baselines.ranking import Ranking, agreement, kendall_tau
from benchmarks.baselines.vllm_server import engine_flags
from dear_serving.adapters.template_files import load_template
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.ranking.template import render_without_chat_template
from dear_serving.types import RankTask

TEXTS = ("Residents need a permit, by law.", "A permit is cheap!", "Garden furniture")


def wait_for(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """A signal takes effect when the process is next scheduled."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def ranking(*positions: int, decided: int | None = None) -> Ranking:
    decided = len(positions) if decided is None else decided
    return Ranking(positions, decided, prompt_tokens=100, completion_tokens=11, latency_s=0.5)


@given(st.text(), st.lists(st.text(), min_size=1, max_size=30))
def test_the_cards_prompt_is_the_plain_template_to_the_byte(query: str, passages: list[str]) -> None:
    template = load_template("plain", None)
    cut = [template.cut(template.normalise(passage)) for passage in passages]

    ours = template.render(query, cut, render_without_chat_template)

    assert card_prompt(query, passages).encode("utf-8", "surrogatepass") == ours.encode(
        "utf-8", "surrogatepass"
    )


@pytest.mark.parametrize("texts", [TEXTS, ("word " * 200, *TEXTS)], ids=["short", "cut"])
def test_the_cards_prompt_gives_the_tokens_that_the_server_sends(
    tokenizer: BaseTokenizer, texts: tuple[str, ...]
) -> None:
    builder = PromptBuilder(load_template("plain", None), tokenizer, max_model_len=4096)
    task = RankTask(query="parking permit for residents", passages=texts)
    sent = builder.prepare(task).window(range(len(texts)))

    assert tokenizer.bos_token_id is not None
    assert sent == [tokenizer.bos_token_id, *tokenizer.encode_template(card_prompt(task.query, texts))]


def test_the_card_cuts_passages_by_characters() -> None:
    prompt = card_prompt("q", ["a" * (MAX_PASSAGE_CHARS + 1)])

    assert f"[0] {'a' * MAX_PASSAGE_CHARS}\n\nSearch" in prompt


@pytest.mark.parametrize(
    ("text", "count", "read", "decided"),
    [
        ("[2] > [0] > [1]", 3, [2, 0, 1], 3),
        ("[2] > [0]", 3, [2, 0, 1], 2),  # what is missing follows
        ("[7] > [2]", 3, [2, 0, 1], 1),  # out of range
        ("nothing", 3, [0, 1, 2], 0),
        ("2 > 1 > 0", 3, [0, 1, 2], 0),  # bare numbers are not read
        ("[1] > [1] > [0]", 3, [1, 1, 0], 3),  # no permutation, as on the card
        ("[2] > [1] > [0] > [2] > [1]", 3, [2, 1, 0], 3),
        ("[0]", 0, [], 0),
    ],
)
def test_the_cards_parser(text: str, count: int, read: list[int], decided: int) -> None:
    assert card_ranking(text, count) == (read, decided)


@pytest.mark.parametrize("count", [1, 5, 20, 100])
def test_a_whole_order_has_the_tokens_the_peers_may_write(tokenizer: BaseTokenizer, count: int) -> None:
    answer = " > ".join(f"[{number}]" for number in range(count))

    assert len(tokenizer.encode(answer)) == answer_tokens(count)


@pytest.mark.parametrize(
    ("positions", "decided", "order", "whole"),
    [
        ((2, 0, 1), 3, (2, 0, 1), True),
        ((2, 0, 1), 2, (2, 0, 1), False),  # the text broke off
        ((1, 1, 0), 3, (1, 0, 2), False),
        ((), 0, (), True),
    ],
)
def test_a_ranking_becomes_a_permutation(
    positions: tuple[int, ...], decided: int, order: tuple[int, ...], whole: bool
) -> None:
    assert ranking(*positions, decided=decided).order == order
    assert ranking(*positions, decided=decided).is_whole == whole


@pytest.mark.parametrize(
    ("one", "other", "tau"),
    [((0, 1, 2), (0, 1, 2), 1), ((0, 1, 2), (2, 1, 0), -1), ((0, 1, 2), (1, 0, 2), 1 / 3), ((0,), (0,), 1)],
)
def test_kendall_tau(one: tuple[int, ...], other: tuple[int, ...], tau: float) -> None:
    assert kendall_tau(one, other) == pytest.approx(tau)


@given(st.permutations(range(8)), st.permutations(range(8)))
def test_kendall_tau_is_symmetric_and_bounded(one: list[int], other: list[int]) -> None:
    assert kendall_tau(one, other) == pytest.approx(kendall_tau(other, one))
    assert -1 <= kendall_tau(one, other) <= 1


def test_agreement_counts_lists() -> None:
    found = agreement([(ranking(0, 1, 2), ranking(0, 1, 2)), (ranking(0, 1, 2), ranking(0, 2, 1))])

    assert (found.lists, found.same_order, found.same_first) == (2, 0.5, 1.0)
    assert found.mean_tau == pytest.approx(2 / 3)


def test_agreement_looks_no_further_than_both_decided() -> None:
    found = agreement([(ranking(2, 1, 0), ranking(2, 0, 1, decided=1))])

    assert (found.same_order, found.same_decided) == (0.0, 1.0)


def test_engine_settings_become_flags() -> None:
    settings = {
        "dtype": "bfloat16",
        "max_loras": 2,
        "enforce_eager": True,
        "async": False,
        "x": {"a": 1},
    }

    assert engine_flags(settings) == [
        *("--dtype", "bfloat16", "--max-loras", "2", "--enforce-eager", "--no-async"),
        *("--x", '{"a": 1}'),
    ]


def test_the_peer_gets_none_of_our_classes() -> None:
    settings = {
        "worker_cls": "dear_serving.inside_vllm.cpu_lora.GroupedLoraWorker",
        "speculative_config": {"model": "dear_serving.inside_vllm.drafted_scheduler.NoDrafts"},
        "additional_config": {"dear_drafts": {}},
        "max_loras": 2,
    }

    assert engine_flags(settings) == ["--max-loras", "2"]


def test_a_burst_reports_its_figures() -> None:
    burst = Burst("ours", 2, 4.0, (ranking(0, 1), ranking(1, 1)), foreign_cores=0.0)

    figures = burst.to_json()

    assert figures["lists_per_s"] == 0.5
    assert figures["latency_p50_ms"] == pytest.approx(500)
    assert figures["whole"] == 1


def test_a_child_talks_and_stops(tmp_path: Path) -> None:
    module = "json.tool"  # echoes its input once that ends
    with Child(module, [], tmp_path / "log", talks=True) as child:
        child.check_alive()
        assert cpu_seconds(child.pid) >= 0
        child.input.write("[1]")
        child.input.close()
        assert "1" in child.output.read()

    assert child.process.returncode is not None


def test_the_frozen_use_no_time_and_go_on_afterwards(tmp_path: Path) -> None:
    with Child("timeit", ["-n", "1000000000", "pass"], tmp_path / "log") as child:
        with frozen([child.pid]):
            wait_for(lambda: [one.status() for one in family(child.pid)] == [psutil.STATUS_STOPPED])
        wait_for(lambda: psutil.Process(child.pid).status() != psutil.STATUS_STOPPED)


def test_a_child_that_ended_says_why(tmp_path: Path) -> None:
    with Child("no_such_module", [], tmp_path / "log") as child:
        child.process.wait(30)
        with pytest.raises(BaselineFailed, match="No module named no_such_module"):
            child.check_alive()


def test_children_end_with_their_block(tmp_path: Path) -> None:
    with Child("http.server", ["--bind", "127.0.0.1", "0"], tmp_path / "log") as child:
        assert child.process.poll() is None

    assert child.process.returncode is not None
    assert sys.executable in str(child.process.args)
