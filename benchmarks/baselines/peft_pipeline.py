"""The model card's own pipeline, loaded once in a child process that ranks lists when told.

Follows "Complete Reranking Pipeline" on the card of DeAR-8B-Reranker-Listwise-LoRA-v1:
AutoPeftModelForCausalLM, one query after another, greedy generate, its prompt and its parser. It differs in
this: as many new tokens as a whole order takes, where the card allows 50 (13 passages); torch.inference_mode
instead of no_grad; the first GPU, if there is one, instead of a device_map; the tokenizer of the base model,
since the demo adapters carry none.

As published the adapter stays apart from the base model ("unmerged"); PEFT then keeps its matrices in float32
and the base in bfloat16. "merged" is the same after merge_and_unload, all in bfloat16.

The child speaks lines of JSON: it writes {"ready": {...}}, reads {"variant", "tasks": [{"query",
"passages"}]} or {"save_merged": FOLDER}, and writes one object for each line it reads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self, TextIO

from benchmarks.baselines.card import MAX_PROMPT_TOKENS, answer_tokens, card_prompt, card_ranking
from benchmarks.baselines.child import Child
from benchmarks.baselines.ranking import Ranking, Run
from dear_tools.load.lists import List

Variant = Literal["unmerged", "merged"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


class PeftPipeline(Child):
    """The pipeline's process, seen from outside."""

    def __init__(self, adapter: Path, log: Path) -> None:
        super().__init__("benchmarks.baselines.peft_pipeline", ["--adapter", str(adapter)], log, talks=True)

    def wait_until_ready(self) -> dict[str, Any]:
        """What the child says of itself (versions, threads, types) once both variants are loaded."""
        return dict(self._read()["ready"])

    def rank(self, variant: Variant, lists: Sequence[List]) -> Run:
        """Rank lists one after another."""
        reply = self._ask({"variant": variant, "tasks": [asdict(one) for one in lists]})
        return Run(tuple(Ranking.from_json(one) for one in reply["rankings"]), reply["wall_s"])

    def save_merged(self, folder: Path) -> None:
        """Write the merged variant's model to ``folder``, tokenizer included."""
        self._ask({"save_merged": str(folder)})

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        self.check_alive()
        self.input.write(json.dumps(command) + "\n")
        self.input.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self.output.readline()
        if not line:
            raise self.failed("ended")
        return dict(json.loads(line))


class CardReranker:
    """The card's ListwiseLoRAReranker, one variant of it, in the child."""

    def __init__(self, adapter: Path, base: Path, merged: bool) -> None:
        import torch
        from peft import AutoPeftModelForCausalLM
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(base, use_fast=True)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        model = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.bfloat16)
        self.model = model.merge_and_unload() if merged else model
        self.model.eval()
        if torch.cuda.is_available():
            self.model.to("cuda")

    @classmethod
    def of(cls, adapter: Path, variant: Variant) -> Self:
        """The variant, over the base model that the adapter's settings name (from the current folder)."""
        base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
        return cls(adapter, Path(base), variant == "merged")

    def rerank(self, query: str, passages: Sequence[str]) -> Ranking:
        """One list, as the card's rerank()."""
        import torch

        started_s = time.perf_counter()
        prompt = card_prompt(query, passages)
        inputs = self.tokenizer(prompt, return_tensors="pt", truncation=True, max_length=MAX_PROMPT_TOKENS)
        inputs = inputs.to(self.model.device)
        prompt_tokens = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            outputs = self.model.generate(
                **inputs,
                max_new_tokens=answer_tokens(len(passages)),
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        written = outputs[0][prompt_tokens:]
        text = self.tokenizer.decode(written, skip_special_tokens=True)
        positions, decided = card_ranking(text, len(passages))
        return Ranking(
            positions=tuple(positions),
            decided=decided,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(written),
            latency_s=time.perf_counter() - started_s,
        )


def main() -> None:
    """The child: load both variants, then answer line by line until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", type=Path, required=True)
    adapter: Path = parser.parse_args().adapter
    # Our lines alone go to standard output; whatever a library says there goes to the log.
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    rerankers = {variant: CardReranker.of(adapter, variant) for variant in ("unmerged", "merged")}
    _write(lines, {"ready": _described(rerankers["unmerged"])})
    for line in sys.stdin:
        command = json.loads(line)
        if "save_merged" in command:
            reply = _save(rerankers["merged"], Path(command["save_merged"]))
        else:
            reply = _rank(rerankers[command["variant"]], command["tasks"])
        _write(lines, reply)


def _rank(reranker: CardReranker, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    started_s = time.perf_counter()
    rankings = [reranker.rerank(task["query"], task["passages"]) for task in tasks]
    return {"wall_s": time.perf_counter() - started_s, "rankings": [asdict(ranking) for ranking in rankings]}


def _save(reranker: CardReranker, folder: Path) -> dict[str, Any]:
    reranker.model.save_pretrained(folder)
    for name in TOKENIZER_FILES:  # as they are: saving them anew may change them
        shutil.copy(Path(reranker.tokenizer.name_or_path) / name, folder)
    return {"saved": str(folder)}


def _described(reranker: CardReranker) -> dict[str, Any]:
    import peft
    import torch
    import transformers

    types = {str(weights.dtype) for weights in reranker.model.parameters()}
    return {
        "peft": peft.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "dtypes": sorted(types),
    }


def _write(lines: TextIO, reply: dict[str, Any]) -> None:
    lines.write(json.dumps(reply) + "\n")
    lines.flush()


if __name__ == "__main__":
    main()
