"""Where candidates and judgements come from, as the command line names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dear_tools.evaluation.irds import load_irds
from dear_tools.evaluation.qrels import Qrels, load_qrels
from dear_tools.evaluation.rankgpt import load_rankgpt
from dear_tools.evaluation.topics import Topic
from dear_tools.evaluation.trec import load_beir, load_trec
from dear_tools.exits import ToolError


@dataclass(frozen=True, slots=True)
class Loaded:
    """Topics and judgements before they are joined."""

    name: str
    topics: tuple[Topic, ...]
    qrels: Qrels
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Files or names: one of ``candidates``, ``beir``, ``irds``, or ``run`` with ``queries`` and ``corpus``.

    ``run`` is what ``beir`` needs beside the folder, and what ``irds`` takes in place of its own candidates;
    ``qrels`` stands in place of those that these two bring.
    """

    candidates: Path | None = None
    qrels: Path | None = None
    run: Path | None = None
    queries: Path | None = None
    corpus: Path | None = None
    beir: Path | None = None
    irds: str | None = None

    def problem(self) -> str | None:
        """What is wrong with the combination; None where nothing is."""
        given = [name for name in ("candidates", "beir", "irds") if getattr(self, name) is not None]
        texts = self.queries is not None or self.corpus is not None
        if len(given) > 1:
            return f"--{given[0]} and --{given[1]} cannot go together"
        if not given and self.run is None:
            return "give --candidates, --run, --beir, --irds or --preset"
        if given and texts:
            return f"--queries and --corpus go with --run, not with --{given[0]}"
        if self.candidates is not None and self.run is not None:
            return "--candidates and --run cannot go together; to compare two runs, use --against"
        if self.beir is not None and self.run is None:
            return "--beir needs --run, the first stage's candidates"
        if not given and (self.queries is None or self.corpus is None):
            return "--run needs --queries and --corpus, the texts"
        if self.qrels is None and self.beir is None and self.irds is None:
            return "--qrels is missing"
        return None

    def load(self, depth: int) -> Loaded:
        """Read it all; the texts of the first ``depth`` candidates at least.

        Raises:
            ToolError: one sentence about the file that is wrong.
        """
        judged: Qrels | None = None
        if self.candidates is not None:
            name = self.candidates.stem
            topics, warnings = load_rankgpt(self.candidates)
        elif self.irds is not None:
            name = self.irds.replace("/", "-")
            topics, judged, warnings = load_irds(self.irds, self.run, depth)
        elif self.beir is not None and self.run is not None:
            name = self.beir.resolve().name
            topics, judged, warnings = load_beir(self.beir, self.run, depth)
        elif self.run is not None and self.queries is not None and self.corpus is not None:
            name = self.run.stem
            topics, warnings = load_trec(self.run, self.queries, self.corpus, depth)
        else:
            raise ToolError(self.problem() or "nothing to evaluate")
        if self.qrels is not None:
            judged = load_qrels(self.qrels)
        if judged is None:
            raise ToolError("--qrels is missing")
        return Loaded(name, topics, judged, warnings)
