"""Handles a rerank request from its task to its ranking."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field, replace
from functools import partial

from cachetools import LRUCache

from dear_serving import logs, tracing
from dear_serving.errors import InvalidRequest
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.catalog import ServedModel
from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.fair_threads import FairThreads, Inline, TenantThreads
from dear_serving.gateway.first_stage import FirstStage, PassageScorer, Scoring
from dear_serving.gateway.ranker import Ranker
from dear_serving.gateway.tenant_engine import admit
from dear_serving.gateway.token_admission import TokenAdmission
from dear_serving.gateway.window_ranker import WindowRanker, expected_cost
from dear_serving.metrics import Metrics
from dear_serving.protocol import Engine
from dear_serving.ranking.parts import Parts, split_documents
from dear_serving.ranking.plan import RankingPlan, check_stages, plan_ranking, within_budget
from dear_serving.ranking.prompts import PromptBuilder, TaskPrompts
from dear_serving.ranking.strategies import FIRST_STAGE
from dear_serving.ranking.strategies.latency import LatencyModel
from dear_serving.settings import RankingSettings
from dear_serving.types import OnProgress, Order, Ranking, RankTask

_MOST_MODELS = 1024
# Smaller tasks run on the event loop, which they block for less than 10 ms: a thread costs 0.15 ms a job.
# Reading takes 5 ms for these characters, and 32 windows of four times as many take 10 ms.
_INLINE_CHARS, _INLINE_WINDOWS = 16_384, 32
_INLINE_PASSAGES = 200  # a plan of so many takes 10 ms at most
_SAMPLE_CHARS = 20_000  # of the longest document: how many characters a token has


@dataclass(frozen=True, slots=True)
class RerankService:
    """Ranks the tasks of all callers on the engines.

    Args:
        engine: decodes windows.
        builders: returns the prompt builder of a template; raises SettingsError for an unknown template.
        queue: shares the engines among tenants.
        admission: admits or refuses work by its tokens.
        metrics: counts requests and rankings.
        defaults: default window and step.
        max_windows: most windows of one request.
        max_prompt_tokens: most prompt tokens of one request; its tenant and itself may say fewer.
        threads: read and rank large tasks, off the event loop.
        is_busy: whether the engines have more work than they get done soon.
        latencies: recent round times of each model, by its public name.
        first_stage: scores passages for strategies that begin with that; None: there is none.
    """

    engine: Engine
    builders: Callable[[str], PromptBuilder]
    queue: FairQueue
    admission: TokenAdmission
    metrics: Metrics
    defaults: RankingSettings
    max_windows: int
    max_prompt_tokens: int
    threads: FairThreads
    is_busy: Callable[[], bool] = lambda: False
    latencies: MutableMapping[str, LatencyModel] = field(default_factory=lambda: LRUCache(_MOST_MODELS))
    first_stage: FirstStage | None = None

    async def rank(self, task: RankTask, caller: Caller, on_progress: OnProgress | None = None) -> Ranking:
        """Rank a task: find its model, plan, admit, run the windows.

        Args:
            task: the task with all its options.
            caller: the tenant whose budget and queue are used.
            on_progress: called with the best ranks as they are decided, if the strategy allows it.

        Raises:
            UnknownModel: the caller may use no model of that name.
            InvalidRequest: the options contradict each other or do not fit the model.
            Overloaded, RateLimited, PayloadTooLarge: see TokenAdmission.admit.
            DeadlineExceeded, EngineUnavailable: see Ranker.rank.
        """
        began_s = time.monotonic()
        model = caller.find(task.model)
        logs.note(model=model.name, revision=model.revision, documents=len(task.passages))
        builder = self.builders(model.template)
        task = check_stages(
            task,
            has_first_stage=self.first_stage is not None,
            is_pointwise=builder.template.is_pointwise,
        )
        scoring = None
        if task.strategy in FIRST_STAGE:
            scoring = Scoring(model, builder)
            if self.first_stage is not None and not builder.template.is_pointwise:
                scoring = self.first_stage.scoring(caller)
            if task.strategy == "pointwise":
                model, builder = scoring.model, scoring.builder
                logs.note(revision=model.revision)
        _check_reasoning(task, model, builder)
        if task.long_documents == "cut":
            return await self._rank(task, caller, on_progress, model, builder, scoring, began_s)
        threads = TenantThreads(self.threads, caller.tenant.id)
        parts = await threads.run(_split, task, builder, self.defaults.window_size)
        told = on_progress and parts.on_progress(on_progress)
        ranking = await self._rank(parts.task, caller, told, model, builder, scoring, began_s, parts.best)
        return parts.to_documents(ranking)

    async def _rank(
        self,
        task: RankTask,
        caller: Caller,
        on_progress: OnProgress | None,
        model: ServedModel,
        builder: PromptBuilder,
        scoring: Scoring | None,
        began_s: float,
        best: Callable[[Order], Order] | None = None,
    ) -> Ranking:
        """Plan, admit, score and run the windows; ``best`` picks the passages whose sureness counts."""
        latency, metrics = self.latencies.setdefault(model.name, LatencyModel()), self.metrics
        asked = (task.max_prompt_tokens, caller.tenant.limits.max_prompt_tokens, self.max_prompt_tokens)
        most_tokens = min(tokens for tokens in asked if tokens is not None)
        preparing = tracing.span("prepare")
        inline, threads = Inline(), TenantThreads(self.threads, caller.tenant.id)
        planner = partial(
            plan_ranking,
            task,
            self.defaults.window_size,
            self.defaults.step,
            self.max_windows,
            latency,
            0 if self.first_stage is None else self.first_stage.depth,
            is_busy=self.is_busy(),
        )
        plan = await (inline if len(task.passages) <= _INLINE_PASSAGES else threads).run(planner)
        least_tokens = builder.least_tokens(plan.widest, plan.cost.calls, reasoning=task.reasoning)
        scorer = None
        if scoring is not None:
            least_tokens += scoring.builder.least_tokens(1, plan.cost.scored)
            scorer = PassageScorer(scoring, task)
        await self.admission.check(caller, least_tokens)
        prompts = builder.prepare(task)
        to_read = [(prompts, plan.widest)] if plan.cost.calls or scorer is None else []
        to_read += [] if scorer is None else [(scorer.prompts, 1)]
        chars = sum(one.chars for one, _ in to_read)
        reader = inline if chars <= _INLINE_CHARS else threads
        is_small = chars <= 4 * _INLINE_CHARS and plan.cost.calls + plan.cost.scored <= _INLINE_WINDOWS
        runner = inline if is_small else threads
        for one, widest in to_read:
            for batch in one.batches():
                await reader.run(one.read, batch, widest)
        expected = partial(_prompt_tokens, prompts, scorer)
        plan = await runner.run(within_budget, plan, task, most_tokens, expected)
        cost = await runner.run(expected_cost, task, builder, prompts, plan)
        if scorer is not None:
            cost += scorer.expected_cost(plan.cost.scored)
        preparing.end()
        logs.note(strategy=plan.strategy)
        engine = await admit(self, caller, model, "rerank", cost)
        if on_progress is not None:
            on_progress = _timed(on_progress, caller.arrived_s, metrics.first_rank_seconds.observe)
        if scorer is not None:
            own = None if scoring is None else scoring.own
            scorer.engine = engine if own is None else engine.elsewhere(own.client, own.queue)
            scorer.runner = runner
        window_ranker = WindowRanker(engine, builder, model.adapter, task, prompts, runner)
        ranker = Ranker(
            window_ranker, task, caller.request_id, latency.observe, on_progress, caller.arrived_s, scorer
        )
        ranking = await ranker.rank(plan.start(), plan.strategy, plan.reason, began_s)
        if ranker.evidence is not None:
            heads = ranking.order if best is None else best(ranking.order)
            along = partial(ranker.evidence.along, heads, task.needed, proved=best is None)
            ranking = replace(ranking, sureness=await runner.run(along))
        metrics.observe_ranking(caller.tenant.id, model.revision, ranking)
        logs.note(windows=ranking.windows, rounds=ranking.rounds, **ranking.usage.work())
        return replace(
            ranking,
            model=model.name,
            revision=model.revision,
            coverage=plan.coverage(task, ranking.coverage.listwise),
            warnings=ranking.warnings + plan.warnings(most_tokens),
            instruction=prompts.instruction_place,
            first_stage="" if scoring is None else scoring.model.revision,
        )


def _split(task: RankTask, builder: PromptBuilder, window_size: int) -> Parts:
    """The task's long documents in parts, each as long as a prompt shows of a passage."""
    window = 1 if builder.template.is_pointwise else task.window_size or window_size
    tokens = builder.passage_tokens(window, reasoning=task.reasoning, instructed=builder.has_place_for(task))
    tokens = min(tokens, task.max_passage_tokens or tokens)
    longest = max(task.passages, key=len, default="")[:_SAMPLE_CHARS]
    chars = max(1, len(longest) * tokens // max(1, len(builder.tokenizer.encode(longest))))
    template = builder.template
    return split_documents(task, min(chars, template.max_passage_chars or chars), template.max_passage_words)


def _prompt_tokens(prompts: TaskPrompts, scorer: PassageScorer | None, plan: RankingPlan) -> int:
    first = 0 if scorer is None else scorer.expected_tokens(plan.cost.scored)
    if scorer is not None and not plan.cost.calls:
        return first
    return first + prompts.expected_tokens(plan.widest, plan.cost.calls, plan.cost.shown)


def _timed(on_progress: OnProgress, arrived_s: float, observe: Callable[[float], None]) -> OnProgress:
    """The same, which also observes how long after ``arrived_s`` it is called for the first time."""
    is_first = True

    def report(best: Order, scores: tuple[float, ...]) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            observe(time.monotonic() - arrived_s)
        on_progress(best, scores)

    return report


def _check_reasoning(task: RankTask, model: ServedModel, builder: PromptBuilder) -> None:
    """Refuse reasoning with free-text scoring or with a template that has no reasoning form."""
    if not task.reasoning:
        return
    if task.scoring == "generate":
        raise InvalidRequest(
            'dear.reasoning: goes with scoring "permutation" or "first_token", not "generate"',
            param="dear.reasoning",
        )
    if builder.template.reasoning is None:
        raise InvalidRequest(
            f'dear.reasoning: template "{model.template}" of "{model.name}" has no reasoning form',
            param="dear.reasoning",
        )
