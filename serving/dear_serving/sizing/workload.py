"""What a request asks of an engine: windows, rounds, prompt tokens, choices."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from dear_serving.errors import InvalidRequest, SettingsError
from dear_serving.ranking.plan import RankingPlan, plan_ranking, within_budget
from dear_serving.ranking.prompts import PromptBuilder, Tokenizer
from dear_serving.ranking.strategies.latency import LatencyModel
from dear_serving.ranking.template import Template, render_without_chat_template
from dear_serving.settings import LimitSettings, RankingSettings
from dear_serving.types import RankTask, StrategyName

_PIECES = re.compile(r"(?P<word>[A-Za-z']+[.,;:!?]*)|\d{1,3}|\n+|[^\w\s]|\w")


@dataclass(frozen=True, slots=True)
class Workload:
    """A request as an engine sees it.

    Args:
        strategy: its public name, and the ``reason`` it was chosen for.
        windows: of all rounds.
        rounds: one after the other; the windows of a round run together.
        widest: passages of the widest window.
        choices: ranks decided one by one, in all windows.
        tokens: of all prompts.
        window_tokens: of the widest prompt and its answer.
        tokens_a_choice: tokens of an identifier and a separator.
        notes: what the server would warn of: passages that are cut.
    """

    strategy: StrategyName
    reason: str
    windows: int
    rounds: int
    widest: int
    choices: int
    tokens: int
    window_tokens: int
    tokens_a_choice: float
    notes: tuple[str, ...] = ()

    @property
    def windows_a_round(self) -> float:
        """Windows that run together, on average."""
        return self.windows / max(1, self.rounds)

    def passes_a_window(self, passes_a_passage: float) -> float:
        """Forward passes of a window, the prompt's included: at least one."""
        return max(1.0, passes_a_passage * self.choices / max(1, self.windows))


class WordTokenizer:
    """Implements ranking.prompts.Tokenizer without a vocabulary: so many tokens a word, on average, and the
    punctuation behind it. Digits in threes, other signs and line ends are a token each. The ids mean nothing.
    """

    bos_token_id: int | None = 0
    vocabulary: int = 2**31

    def __init__(self, tokens_a_word: float) -> None:
        self._tokens_a_word = tokens_a_word
        self._ids: dict[str, int] = {}

    def render_chat(self, turns: Sequence[dict[str, str]], /) -> str:
        """As for a tokenizer without a chat template."""
        return render_without_chat_template(turns)

    def encode(self, text: str) -> list[int]:
        """See the protocol."""
        ids: list[int] = []
        words = 0
        for piece in _PIECES.finditer(text):
            count = 1
            if piece["word"]:
                count = int((words + 1) * self._tokens_a_word) - int(words * self._tokens_a_word)
                words += 1
            ids += [self._ids.setdefault(piece.group(), len(self._ids) + 1)] * count
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """See the protocol."""
        return [self.encode(text) for text in texts]

    def encode_cut(self, text: str, max_tokens: int) -> list[int]:
        """See the protocol."""
        return self.encode(text)[:max_tokens]

    def encode_template(self, text: str) -> list[int]:
        """See the protocol."""
        return self.encode(text)


def english(words: int, start: int = 0) -> str:
    """So many words of plain English, from a word of the sample on."""
    text = (resources.files("dear_serving.sizing") / "english.txt").read_text(encoding="utf-8").split()
    return " ".join(itertools.islice(itertools.cycle(text), start % len(text), start % len(text) + words))


def english_task(
    passages: int,
    words: int,
    query_words: int,
    *,
    top_n: int | None = None,
    strategy: StrategyName = "auto",
    window_size: int | None = None,
    step: int | None = None,
) -> RankTask:
    """A request of plain English.

    Raises:
        SettingsError: no passages or words, or more passages than a server takes.
    """
    most = LimitSettings().max_documents
    if not 2 <= passages <= most:
        raise SettingsError(f"--passages: {passages} is not from 2 to {most:,} (limits.max_documents)")
    if words < 1 or (top_n is not None and top_n < 1):
        raise SettingsError("--words and --top-n: at least 1 is needed")
    texts = tuple(english(words, start=7 * number) for number in range(passages))
    return RankTask(
        english(query_words), texts, top_n=top_n, strategy=strategy, window_size=window_size, step=step
    )


def workload(task: RankTask, template: Template, tokenizer: Tokenizer, max_model_len: int) -> Workload:
    """Plan a request as a gateway would, with the default windows and limits, and build its widest prompt.

    Raises:
        SettingsError: a window does not fit the model's length, or there are too many; one sentence.
    """
    windows, limits = RankingSettings(), LimitSettings()
    try:
        plan = plan_ranking(task, windows.window_size, windows.step, limits.max_windows, LatencyModel())
        builder = PromptBuilder(template, tokenizer, max_model_len)
        prompts = builder.prepare(task)

        def expected_tokens(one: RankingPlan) -> int:
            return prompts.expected_tokens(one.widest, one.cost.calls, one.cost.shown)

        plan = within_budget(plan, task, limits.max_prompt_tokens, expected_tokens)
        cost = plan.cost
        shown = (range(start, start + plan.widest) for start in range(0, len(task.passages), plan.widest))
        prompt = max(
            len(prompts.window([one for one in window if one < len(task.passages)])) for window in shown
        )
        expected = expected_tokens(plan)
    except InvalidRequest as error:
        raise SettingsError(f"no server would take this request: {error.message}") from None
    answer = builder.layout(plan.widest).max_new_tokens
    identifiers = builder.answer.identifiers[: max(1, plan.widest)]
    a_choice = len(builder.answer.separator) + sum(map(len, identifiers)) / len(identifiers)
    return Workload(
        strategy=plan.strategy,
        reason=plan.reason,
        windows=cost.calls,
        rounds=cost.rounds,
        widest=plan.widest,
        choices=cost.needed,
        tokens=min(expected, cost.calls * prompt),
        window_tokens=prompt + answer,
        tokens_a_choice=a_choice,
        notes=(*plan.warnings(limits.max_prompt_tokens), *prompts.warnings()),
    )
