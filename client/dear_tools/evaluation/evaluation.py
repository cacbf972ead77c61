"""One evaluation from beginning to end: rank what is not yet ranked, measure, and write it down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ir_measures.measures import Measure

from dear_tools.evaluation import calibration
from dear_tools.evaluation.calibration import calibrate
from dear_tools.evaluation.collection import Collection
from dear_tools.evaluation.measures import measured
from dear_tools.evaluation.presets import Published
from dear_tools.evaluation.rankers import Ranker
from dear_tools.evaluation.render import as_markdown, say
from dear_tools.evaluation.report import Report, as_json, ranked_orders, report_on
from dear_tools.evaluation.results import QueryResult, ResultLog
from dear_tools.evaluation.trec import write_run
from dear_tools.exits import ToolError
from dear_tools.files import write_whole
from dear_tools.wording import queries

RUN, REPORT_JSON, REPORT_MD = "run.trec", "report.json", "report.md"
CALIBRATION_JSON, CALIBRATION_PNG = "calibration.json", "calibration.png"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation.

    Args:
        against: another run's name and orders to compare with; else the first stage.
        folder: where answers, run and report are.
        has_cost: whether the ranker asks somebody.
        calibration: whether to compare confidences with the judgements.
    """

    collection: Collection
    ranker: Ranker
    measures: Sequence[Measure]
    folder: Path
    against: tuple[str, Mapping[str, tuple[str, ...]]] | None = None
    published: Sequence[Published] = ()
    has_cost: bool = True
    calibration: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the answers."""
        candidates = {"candidates": self.collection.digest, "depth": self.collection.depth}
        return {**candidates, **self.ranker.settings}

    async def run(self, tell: Callable[[int, int], None], *, restart: bool = False) -> Report:
        """Rank, measure and write. What earlier starts ranked stays; failed queries are retried.

        The run is written only where every query has an answer; the report always.

        Args:
            tell: called with how many queries have an answer and how many failed, first and after each one.
            restart: whether to forget what earlier starts ranked.

        Raises:
            ToolError: the measures, the log or the ranker; nothing but the log is written then.
        """
        # What is wrong with the measures comes out now.
        measured(self.measures, self.collection.qrels, self.collection.first_orders)
        with ResultLog(self.folder, self.settings, restart=restart) as log:
            is_new = not log.answers
            started_s = time.perf_counter()
            await self._rank(log, tell)
            elapsed_s = time.perf_counter() - started_s if is_new else None
        return self._conclude(log.answers, elapsed_s)

    async def _rank(self, log: ResultLog, tell: Callable[[int, int], None]) -> None:
        """Get the answers that are missing, each into the log as it comes."""
        topics = self.collection.topics
        pending = [topic for topic in topics if not _is_ranked(log.answers.get(topic.id))]
        done, failed = len(topics) - len(pending), 0
        tell(done, failed)
        try:
            async with aclosing(self.ranker.rank(pending)) as answers:
                async for answer in answers:
                    if not log.is_open:
                        self._forget_report()
                    log.append(answer)
                    done, failed = done + (answer.error is None), failed + (answer.error is not None)
                    tell(done, failed)
        except ToolError as error:
            raise ToolError(f"{error}; {how_far(done, len(topics))}" if done else str(error)) from None

    def _conclude(self, known: Mapping[str, QueryResult], elapsed_s: float | None) -> Report:
        """Measure and write down."""
        answers = [known[topic.id] for topic in self.collection.topics]
        report = report_on(
            self.collection,
            answers,
            self.settings,
            measures=self.measures,
            against=self.against,
            published=self.published,
            elapsed_s=elapsed_s,
            has_cost=self.has_cost,
        )
        if not report.failed:
            write_run(self.folder / RUN, ranked_orders(self.collection, answers), tag="dear")
        write_whole(self.folder / REPORT_MD, as_markdown(report))
        write_whole(self.folder / REPORT_JSON, as_json(report))
        if self.calibration:
            found = calibrate([answer for answer in answers if answer.error is None], self.collection.qrels)
            write_whole(self.folder / CALIBRATION_JSON, calibration.as_json(found))
            write_whole(self.folder / CALIBRATION_PNG, calibration.reliability_plot(found))
            for line in calibration.lines(found):
                say(line)
        return report

    def _forget_report(self) -> None:
        """Delete the report of an earlier start: it is of other answers."""
        for name in (RUN, REPORT_JSON, REPORT_MD, CALIBRATION_JSON, CALIBRATION_PNG):
            (self.folder / name).unlink(missing_ok=True)


def how_far(done: int, total: int) -> str:
    """The progress of a ranking that ended early, and how to resume it."""
    if not done:
        return "nothing is ranked yet"
    return f"{done} of {queries(total)} are ranked, and the same command goes on from there"


def _is_ranked(answer: QueryResult | None) -> bool:
    return answer is not None and answer.error is None
