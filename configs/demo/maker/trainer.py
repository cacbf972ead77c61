"""One training run with checkpoints: the batch of a step depends on the seed and the step alone."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaForCausalLM

from configs.demo.maker.lists import ListShape, ranking_lists
from configs.demo.maker.losses import Probes, batch_losses
from configs.demo.maker.plan import Run, Stage
from configs.demo.maker.samples import Sample, make_sample

log = logging.getLogger(__name__)
CHECKPOINT_STEPS = 50
MAX_GRADIENT_NORM = 1.0


def draw_batch(tokenizer: Tokenizer, run: Run, stage: Stage, seed: int, step: int) -> list[Sample]:
    """Samples of one list length and one template, padded size about the stage's batch_tokens."""
    rng = random.Random(f"{seed}/{run.notion.name}/{step}")
    count = rng.randint(stage.shape.min_passages, stage.shape.max_passages)
    template = run.notion.template
    if rng.random() < run.other_template_share:
        template = "chat" if template == "plain" else "plain"
    if template == "chat":
        count = min(count, 12)
    shape = ListShape(
        count,
        count,
        stage.shape.max_query_words,
        stage.shape.max_passage_words,
        stage.shape.mean_passage_words,
    )
    lists = ranking_lists(rng.getrandbits(48), shape, False, run.notion)
    samples = [make_sample(tokenizer, next(lists), template, rng)]
    width = len(samples[0].tokens)
    while (len(samples) + 1) * width < stage.batch_tokens:
        samples.append(make_sample(tokenizer, next(lists), template, rng))
        width = max(width, len(samples[-1].tokens))
    return samples


class Trainer:
    """Trains what of a model requires gradients, from the last checkpoint if there is one."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: Tokenizer, run: Run, seed: int) -> None:
        self.model, self.tokenizer, self.run, self.seed = model, tokenizer, run, seed
        self.probes = Probes()
        self.numbers = torch.tensor([tokenizer.token_to_id(str(number)) for number in range(101)])
        trained = [p for p in model.parameters() if p.requires_grad]
        parameters = [*trained, *self.probes.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=run.peak_rate, weight_decay=0.0)
        self.parameters = parameters
        self.step = 0
        self.seconds = 0.0

    def state(self) -> dict[str, Tensor]:
        """The trained parameters by name."""
        return {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}

    def save(self, path: Path) -> None:
        """Writes a checkpoint, whole or not at all."""
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "model": self.state(),
                "probes": self.probes.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
            },
            partial,
        )
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Takes up a checkpoint if the file exists."""
        if not path.exists():
            return
        saved = torch.load(path, weights_only=True)
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in saved["model"].items():
                parameters[name].copy_(value)
        self.probes.load_state_dict(saved["probes"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        log.info("resuming %s at step %d", self.run.notion.name, self.step)

    def steps(self, checkpoint: Path) -> Iterator[int]:
        """Trains to the end of the run, yielding after each checkpoint with the steps done."""
        self.load(checkpoint)
        self.model.train()
        name = self.run.notion.name
        bar = tqdm(total=self.run.steps, initial=self.step, desc=name, mininterval=10)
        recent: list[float] = []
        while self.step < self.run.steps:
            began = bar.format_dict["elapsed"]
            recent = [*recent[-199:], self.train_step()]
            self.step += 1
            bar.update()
            self.seconds += bar.format_dict["elapsed"] - began
            if self.step % CHECKPOINT_STEPS == 0 or self.step == self.run.steps:
                self.save(checkpoint)
                mean = sum(recent) / len(recent)
                log.info("%s step %d: first-step pairwise %.4f", name, self.step, mean)
                yield self.step
        bar.close()

    def train_step(self) -> float:
        """One batch; returns the share of pairs that the first "["'s logits ordered rightly."""
        stage = self.run.stage_at(self.step)
        samples = draw_batch(self.tokenizer, self.run, stage, self.seed, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.rate_at(self.step)
        with torch.autocast("cpu", torch.bfloat16):
            losses = batch_losses(self.model, self.probes, samples, self.numbers)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total().backward()
        nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        self.optimizer.step()
        if self.step % 20 == 0:
            parts = (losses.token, losses.order, losses.match, losses.count)
            shown = " ".join(f"{float(part.detach()):.3f}" for part in parts)
            log.debug("step %d token/order/match/count %s", self.step, shown)
        return losses.pairwise_accuracy
