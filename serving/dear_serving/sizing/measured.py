"""What a report of ``dear load`` says of a server: how long its work takes, against what was calculated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dear_serving.errors import SettingsError
from dear_serving.settings import describe
from dear_serving.sizing.engine import Engine
from dear_serving.sizing.workload import Workload
from dear_serving.types import StrategyName

_Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Spread(BaseModel):
    p50_ms: _Rate


class _Options(BaseModel):
    """Those of a request that a plan takes into account."""

    model_config = ConfigDict(extra="forbid")

    top_n: Annotated[int, Field(ge=1)] | None = None
    strategy: StrategyName = "auto"
    window_size: Annotated[int, Field(ge=2)] | None = None
    step: Annotated[int, Field(ge=1)] | None = None


class _Settings(BaseModel):
    words: str = ""
    options: dict[str, Any] | str = ""


class _Schedule(BaseModel):
    kind: str
    stages: tuple[str, ...]


class _Summary(BaseModel):
    requests: int
    ok_per_s: _Rate
    passages_per_s: _Rate
    tokens_per_s: _Rate
    windows_per_request: _Rate
    latency: _Spread | None


class _Step(BaseModel):
    rate: _Rate
    held: bool
    ok_per_s: _Rate
    latency: _Spread | None


class _Capacity(BaseModel):
    requests_per_s: _Rate | None
    steps: tuple[_Step, ...]


class _Report(BaseModel):
    settings: _Settings
    schedule: _Schedule
    summary: _Summary
    capacity: _Capacity | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured server.

    Args:
        requests_s: the most it answered, of all its engines together.
        passages: of a request, on average; ``tokens`` of its prompts and answers.
        alone_s: median latency at the lowest rate of a search, None where there was none.
        options: of the requests, such as ``top_n``.
    """

    requests_s: float
    passages: int
    tokens: float
    alone_s: float | None
    options: dict[str, Any]

    def apply(
        self, engine: Engine, engines: int, work_of: Callable[[int, dict[str, Any]], Workload]
    ) -> Engine:
        """The engine with the factors by which it was slower (or faster) than calculated.

        Args:
            engines: how many were measured.
            work_of: the workload of so many passages, with these options.

        Raises:
            SettingsError: such requests do not fit the engine.
        """
        work = work_of(self.passages, self.options)
        answers = work.choices * work.tokens_a_choice
        tokens = max(1, round(self.tokens - answers))
        work = replace(work, tokens=tokens, window_tokens=max(1, round(tokens / work.windows + answers)))
        if not engine.batch(work):
            raise SettingsError(
                f"--measured: its prompts of {tokens:,} tokens are longer than this engine's cache; "
                "was it another model or GPU?"
            )
        slowness = engines / self.requests_s / engine.busy_s(work)
        delay = slowness if self.alone_s is None else self.alone_s / engine.alone_s(work)
        return engine.measured(slowness, delay)


def read_report(path: Path) -> Measured:
    """The report.json of a ``dear load``, or the folder it is in.

    Raises:
        SettingsError: it cannot be read, is something else, or says nothing of a server's limit.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        report = _Report.model_validate(json.loads(file.read_bytes()))
    except OSError as error:
        raise SettingsError(
            f"--measured: cannot read {file}: {(error.strerror or str(error)).lower()}"
        ) from None
    except ValidationError as error:
        first = describe(error).partition("; ")[0]
        raise SettingsError(f"--measured: {file} is not a report of dear load: {first}") from None
    except (ValueError, RecursionError):
        raise SettingsError(
            f"--measured: {file} is not JSON; the report.json of dear load is meant"
        ) from None
    summary, capacity = report.summary, report.capacity
    if not summary.ok_per_s or summary.passages_per_s < 2 * summary.ok_per_s:
        raise SettingsError(f"--measured: in {file} no list of two passages was ranked")
    if capacity is None and report.schedule.kind != "closed":
        raise SettingsError(
            f"--measured: {file} does not say how much the server can do: measure with "
            "dear load --find-capacity, or with enough --callers to fill it"
        )
    requests_s, alone_s = summary.ok_per_s, None
    if capacity is not None:
        requests_s = max((step.ok_per_s for step in capacity.steps), default=0.0)
        slowest = min(capacity.steps, key=lambda step: step.rate, default=None)
        if slowest is not None and slowest.held and slowest.latency is not None:
            alone_s = slowest.latency.p50_ms / 1e3
    if not requests_s:
        raise SettingsError(f"--measured: in {file} nothing was answered at any rate")
    given = report.settings.options
    try:
        options = _Options.model_validate(given if isinstance(given, dict) else {}).model_dump()
    except ValidationError as error:
        raise SettingsError(
            f"--measured: {file} has options that are not planned: {describe(error)}"
        ) from None
    return Measured(
        requests_s=requests_s,
        passages=round(summary.passages_per_s / summary.ok_per_s),
        tokens=summary.tokens_per_s / summary.ok_per_s,
        alone_s=alone_s,
        options=options,
    )
