"""Measures the exported base and adapters, in bf16 as they are served, and writes the report.

python -m configs.demo.maker.evaluate --demo configs/demo
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.logging import RichHandler
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import LlamaForCausalLM

from configs.demo.maker import pointwise
from configs.demo.maker.decoding import Decoder, parse_answer
from configs.demo.maker.lists import ListShape, RankingList, ranking_lists
from configs.demo.maker.metrics import ndcg_at_10, pair_counts
from configs.demo.maker.plan import BASE_RUN
from configs.demo.maker.prompts import PROMPTS
from configs.demo.maker.relevance import BASE, NOTIONS, Notion
from dear_serving.cli.demo import EXAMPLES

log = logging.getLogger(__name__)
EVALUATION_SEED = 1_000_003  # never a training seed
LENGTHS = (3, 5, 10, 20)
BATCH = 20
LIGHT_BULB = (EXAMPLES[0].query, EXAMPLES[0].passages)  # the model card's example


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: figures are means over `lists` lists, shares from 0 to 1."""

    adapter: str
    template: str
    words: str
    passages: int
    lists: int
    tokens: int
    pairwise: float
    ndcg_at_10: float
    first_step_pairwise: float
    free_pairwise: float
    free_ndcg_at_10: float
    well_formed: float


def measure(
    decoder: Decoder, notion: Notion, template: str, held_out: bool, passages: int, lists: int
) -> Row:
    """Both ways of decoding on seeded lists of one length."""
    shape = ListShape(passages, passages, max_query_words=12, max_passage_words=50)
    items = list(islice(ranking_lists(EVALUATION_SEED, shape, held_out, notion), lists))
    totals = dict.fromkeys(("right", "pairs", "first", "free", "ndcg", "free_ndcg", "formed"), 0.0)
    tokens = 0
    for start in range(0, lists, BATCH):
        batch = items[start : start + BATCH]
        prompts = [PROMPTS[template](item.query, item.passages) for item in batch]
        tokens += sum(len(decoder.tokenizer.encode(prompt.text).ids) for prompt in prompts)
        orders, scores = decoder.permutations(prompts, passages)
        first = scores.argsort(1, descending=True).tolist()
        answers = decoder.answers(prompts, passages)
        for item, order, scored, text in zip(batch, orders, first, answers, strict=True):
            free, formed = parse_answer(text, prompts[0].first_identifier, passages)
            _add(totals, item, order, scored, free)
            totals["formed"] += formed
    return Row(
        notion.name,
        template,
        "held out" if held_out else "trained",
        passages,
        lists,
        round(tokens / lists),
        round(totals["right"] / totals["pairs"], 4),
        round(totals["ndcg"] / lists, 4),
        round(totals["first"] / totals["pairs"], 4),
        round(totals["free"] / totals["pairs"], 4),
        round(totals["free_ndcg"] / lists, 4),
        round(totals["formed"] / lists, 4),
    )


def _add(
    totals: dict[str, float], item: RankingList, order: list[int], first: list[int], free: list[int]
) -> None:
    right, pairs = pair_counts(order, item.relevance)
    totals["right"] += right
    totals["pairs"] += pairs
    totals["first"] += pair_counts(first, item.relevance)[0]
    totals["free"] += pair_counts(free, item.relevance)[0]
    totals["ndcg"] += ndcg_at_10(order, item.relevance)
    totals["free_ndcg"] += ndcg_at_10(free, item.relevance)


def load(demo: Path, adapter: str) -> Decoder:
    """The base in bf16, with an adapter unless it is "base"."""
    model: Any = LlamaForCausalLM.from_pretrained(demo / "base", dtype=torch.bfloat16)
    if adapter != BASE.name:
        model = PeftModel.from_pretrained(model, str(demo / "adapters" / adapter))
    model.eval()
    return Decoder(model, Tokenizer.from_file(str(demo / "base" / "tokenizer.json")))


def measure_pointwise(decoder: Decoder, held_out: bool, passages: int, lists: int) -> dict[str, Any]:
    """The first stage's scores on seeded lists of one length."""
    shape = ListShape(passages, passages, max_query_words=12, max_passage_words=50)
    right = pairs = ndcg = 0.0
    for item in islice(ranking_lists(EVALUATION_SEED, shape, held_out, BASE), lists):
        scores = pointwise.log_odds(decoder.model, decoder.tokenizer, item.query, item.passages)
        order = sorted(range(passages), key=lambda place: -scores[place])
        found, of = pair_counts(order, item.relevance)
        right, pairs, ndcg = right + found, pairs + of, ndcg + ndcg_at_10(order, item.relevance)
    return {
        "words": "held out" if held_out else "trained",
        "passages": passages,
        "lists": lists,
        "pairwise": round(right / pairs, 4),
        "ndcg_at_10": round(ndcg / lists, 4),
    }


def light_bulb(decoder: Decoder, template: str) -> str:
    """The order of the model card's example, permutation decoding."""
    prompt = PROMPTS[template](*LIGHT_BULB)
    order = decoder.permutations([prompt], len(LIGHT_BULB[1]))[0][0]
    return " > ".join(f"[{position + prompt.first_identifier}]" for position in order)


def evaluate(demo: Path, lists: int, lengths: tuple[int, ...]) -> dict[str, Any]:
    """The whole report."""
    began = time.monotonic()
    rows: list[Row] = []
    examples: dict[str, str] = {}
    for notion in NOTIONS.values():
        decoder = load(demo, notion.name)
        templates = ("plain", "chat") if notion is BASE else (notion.template,)
        cases = [
            (template, held_out, length)
            for template in templates
            for held_out in ((False, True) if template == notion.template else (True,))
            for length in lengths
            if template == "plain" or length <= 10 or (held_out and notion.template == "chat")
        ]
        for template, held_out, length in tqdm(cases, desc=notion.name):
            rows.append(measure(decoder, notion, template, held_out, length, lists))
            log.info("%s", rows[-1])
        examples[notion.name] = light_bulb(decoder, notion.template)
    decoder = load(demo, pointwise.NAME)
    first_stage = [
        measure_pointwise(decoder, held_out, length, lists)
        for held_out in (False, True)
        for length in tqdm(lengths, desc=pointwise.NAME)
    ]
    training = demo / "training.json"
    return {
        "evaluation_seed": EVALUATION_SEED,
        "dtype": "bfloat16",
        "steps": BASE_RUN.steps,
        "training": json.loads(training.read_text()) if training.exists() else None,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "tokenizers")}
        | {"python": platform.python_version()},
        "evaluation_seconds": round(time.monotonic() - began),
        "light_bulb": examples,
        "rows": [asdict(row) for row in rows],
        "first_stage": first_stage,
    }


def markdown(report: dict[str, Any]) -> str:
    """The report as a page for people."""
    heads: tuple[str, ...] = (
        "adapter",
        "prompt",
        "words",
        "passages",
        "lists",
        "tokens",
        "pairwise",
        "nDCG@10",
    )
    heads += ("first step", "free pairwise", "free nDCG@10", "well formed")
    lines = [
        "# What the demo models measure",
        "",
        "Invented lists (configs/demo/maker/lists.py), bf16, greedy. Pairwise: share of the pairs of"
        " different relevance in the right order, permutation decoding; first step: the same from the"
        ' logits at the first "[" alone; free: greedy text, parsed. Held out: words no training list'
        " showed. Tokens: mean length of a prompt. nDCG@10: a passage's gain is how many relevance"
        " levels of its list lie below its own.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
    ]
    for row in report["rows"]:
        shown = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]
        lines.append("| " + " | ".join(shown) + " |")
    lines += [
        "",
        "The adapter `pointwise`: each passage scored by the log odds of yes after the template yes-no.",
        "",
        "| words | passages | lists | pairwise | nDCG@10 |",
        "|" + " --- |" * 5,
    ]
    for row in report["first_stage"]:
        shown = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]
        lines.append("| " + " | ".join(shown) + " |")
    lines += ["", "The model card's light-bulb example:", ""]
    lines += [f"- {name}: {order}" for name, order in report["light_bulb"].items()]
    kept = ("steps", "training", "versions", "dtype", "evaluation_seed", "evaluation_seconds")
    lines += ["", "```json", json.dumps({key: report[key] for key in kept}, indent=2), "```", ""]
    return "\n".join(lines)


def write_report(demo: Path, lists: int, lengths: tuple[int, ...]) -> None:
    """Measures and writes report.json and report.md beside the models."""
    report = evaluate(demo, lists, lengths)
    (demo / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (demo / "report.md").write_text(markdown(report), encoding="utf-8")


def main() -> None:
    """Reads the command line, measures, writes report.json and report.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("configs/demo"))
    parser.add_argument("--lists", type=int, default=100)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler()])
    write_report(arguments.demo, arguments.lists, tuple(arguments.lengths))


if __name__ == "__main__":
    main()
