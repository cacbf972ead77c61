"""Writes made-up judged lists for ``dear eval``: python -m benchmarks.judged --out FOLDER

The lists are the demo model's, of words that its training held out, so that it is judged on what it can do.
FOLDER gets candidates.json and qrels.txt.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

from configs.demo.maker.lists import ListShape, ranking_lists
from configs.demo.maker.relevance import BASE


def write(folder: Path, lists: int, passages: int, seed: int) -> None:
    """Write so many lists of so many passages."""
    candidates, qrels = [], []
    drawn = ranking_lists(seed, ListShape(passages, passages), held_out=True, notion=BASE)
    for number, one in enumerate(islice(drawn, lists), 1):
        query = f"q{number}"
        hits = []
        for rank, (text, grade) in enumerate(zip(one.passages, one.relevance, strict=True), 1):
            document = f"{query}-{rank}"
            hits.append({"content": text, "qid": query, "docid": document, "rank": rank})
            qrels.append(f"{query} 0 {document} {grade}")
        candidates.append({"query": one.query, "hits": hits})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "candidates.json").write_text(json.dumps(candidates), encoding="utf-8")
    (folder / "qrels.txt").write_text("\n".join(qrels) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lists", type=int, default=60)
    parser.add_argument("--passages", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    write(arguments.out, arguments.lists, arguments.passages, arguments.seed)


if __name__ == "__main__":
    main()
