"""Makes the demo models: python -m configs.demo.maker.train --seed 0 --out configs/demo

Everything comes from the seed: structure.py writes the base's circuit, plan.py's steps on invented
lists teach the last MLP the answer's format, markers.py writes each listwise adapter's rule and pointwise.py
the first stage's answer. An interrupted run
takes up its last checkpoint when the same command is given again. Minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from rich.logging import RichHandler
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from configs.demo.maker.evaluate import LENGTHS, write_report
from configs.demo.maker.export import lora_config, save_adapter, save_base
from configs.demo.maker.markers import write_markers
from configs.demo.maker.plan import BASE_RUN
from configs.demo.maker.pointwise import NAME, write_answer
from configs.demo.maker.relevance import LEGAL, MEDICAL, Notion
from configs.demo.maker.structure import structured_model
from configs.demo.maker.tokenizer import write_tokenizer
from configs.demo.maker.trainer import Trainer

log = logging.getLogger(__name__)
STAGES = ("base", "adapters", "report")


def train_base(tokenizer: Tokenizer, seed: int, out: Path, work: Path) -> None:
    """Trains the last MLP of the written base, exports the base and notes how it was made."""
    model = structured_model(tokenizer, seed)
    model.requires_grad_(False)
    model.model.layers[-1].mlp.requires_grad_(True)
    trainer = Trainer(model, tokenizer, BASE_RUN, seed)
    for step in trainer.steps(work / "base.pt"):
        log.info("%d of %d steps", step, BASE_RUN.steps)
    save_base(model, out / "base")
    made = {"seed": seed, "steps": BASE_RUN.steps, "seconds": round(trainer.seconds)}
    made["cores"] = os.cpu_count() or 1
    (out / "training.json").write_text(json.dumps(made) + "\n", encoding="utf-8")


def fresh_adapter(seed: int, out: Path) -> PeftModel:
    """The exported base with an adapter that changes nothing yet."""
    torch.manual_seed(seed)
    llama = LlamaForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
    model = get_peft_model(llama, lora_config())
    assert isinstance(model, PeftModel)
    return model


def write_adapters(tokenizer: Tokenizer, notions: tuple[Notion, ...], seed: int, out: Path) -> None:
    """Writes a listwise adapter for each notion, and the pointwise one, and exports them."""
    for notion in notions:
        model = fresh_adapter(seed, out)
        write_markers(model, tokenizer, notion, seed)
        save_adapter(model, out / "adapters" / notion.name)
    model = fresh_adapter(seed, out)
    write_answer(model, tokenizer)
    save_adapter(model, out / "adapters" / NAME)


def main() -> None:
    """Reads the command line and runs the stages asked for, in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("configs/demo"))
    parser.add_argument("--work", type=Path, default=Path("work/demo-model"), help="checkpoints")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--lists", type=int, default=100, help="lists per line of the report")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler()])
    arguments.work.mkdir(parents=True, exist_ok=True)
    write_tokenizer(arguments.work)
    tokenizer = Tokenizer.from_file(str(arguments.work / "tokenizer.json"))
    if "base" in arguments.stages:
        train_base(tokenizer, arguments.seed, arguments.out, arguments.work)
    if "adapters" in arguments.stages:
        write_adapters(tokenizer, (LEGAL, MEDICAL), arguments.seed, arguments.out)
    if "report" in arguments.stages:
        write_report(arguments.out, arguments.lists, LENGTHS)


if __name__ == "__main__":
    main()
