"""Templates: the strings the adapters were trained with, to the byte."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dear_serving.adapters.template_files import load_template
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.ranking.template import Template, render_without_chat_template
from dear_serving.types import RankTask

QUERY = "When did Thomas Edison invent the light bulb?"
PASSAGES = [
    "Lightning strike at Seoul National University",
    "Thomas Edison tried to invent a device for car but failed",
    "Coffee is good for diet",
    "KEPCO fixes light problems",
    "Thomas Edison invented the light bulb in 1879",
]
SIZES = [1, 2, 5, 20]


def passages_of(count: int) -> list[str]:
    return (PASSAGES * 4)[:count]


def card_prompt(query: str, documents: list[str]) -> str:
    """create_prompt of the model card, word for word."""
    doc_list = "\n".join([f"[{i}] {doc[:300]}" for i, doc in enumerate(documents)])
    return f"""I will provide you with {len(documents)} passages, each indicated by a number identifier [].
Rank the passages based on their relevance to the search query: {query}.

{doc_list}

Search Query: {query}.
Rank the passages above based on their relevance to the search query. Output the ranking as a list of numbers."""  # noqa: E501


CHAT_CLOSING = (
    "Search Query: {query}.\n"
    "Rank the {num} passages above based on their relevance to the search query. "
    "The passages should be listed in descending order using identifiers.\n"
    "Please follow the steps below:\n"
    "Step 1. List the information requirements to answer the query.\n"
    "Step 2. For each requirement, find the passages containing that information.\n"
    "Step 3. Rank passages that best cover clear and diverse information. Include all passages.\n"
    "Output format strictly: [2] > [1] > [3] ... Only output the ranking using identifiers; "
    "no explanations."
)


def chat_turns(query: str, documents: list[str]) -> list[tuple[str, str]]:
    """The turns of DeAR's listwise_rerank/prompts.py."""
    num = len(documents)
    turns = [
        ("system", "You are RankLLM, an assistant that ranks passages by relevance to the query."),
        (
            "user",
            f"I will provide you with {num} passages, each indicated by number identifier [].\n"
            f"Rank the passages based on their relevance to query: {query}.",
        ),
        ("assistant", "Okay, please provide the passages."),
    ]
    for i, document in enumerate(documents, start=1):
        turns += [("user", f"[{i}] {document}"), ("assistant", f"Received passage [{i}].")]
    return [*turns, ("user", CHAT_CLOSING.format(query=query, num=num))]


def llama3_text(turns: list[tuple[str, str]]) -> str:
    """Llama 3's chat format, generation prompt added."""
    body = "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>" for role, content in turns
    )
    return f"<|begin_of_text|>{body}<|start_header_id|>assistant<|end_header_id|>\n\n"


@pytest.mark.parametrize("count", SIZES)
def test_plain_is_the_cards_prompt(count: int, demo: BaseTokenizer) -> None:
    template = load_template("plain", None)
    expected = card_prompt(QUERY, passages_of(count))
    assert template.render(QUERY, passages_of(count), demo.render_chat) == expected
    prompt = PromptBuilder(template, demo, 4096).prepare(RankTask(QUERY, passages_of(count)))
    assert demo.decode(prompt.window(range(count))).removeprefix("<|begin_of_text|>") == (expected)


@pytest.mark.parametrize("count", SIZES)
def test_chat_is_the_authors_turns_in_llama_3s_format(count: int, demo: BaseTokenizer) -> None:
    template = load_template("chat", None)
    expected = llama3_text(chat_turns(QUERY, passages_of(count)))
    assert template.render(QUERY, passages_of(count), demo.render_chat) == expected
    prompt = PromptBuilder(template, demo, 4096).prepare(RankTask(QUERY, passages_of(count)))
    assert demo.decode(prompt.window(range(count))) == expected


@pytest.mark.parametrize("count", SIZES)
def test_chat_is_plain_lines_without_a_chat_template(
    count: int, without_chat_template: BaseTokenizer
) -> None:
    turns = chat_turns(QUERY, passages_of(count))
    expected = "\n".join(f"[{role.upper()}] {content}" for role, content in turns)
    template = load_template("chat", None)
    rendered = template.render(QUERY, passages_of(count), without_chat_template.render_chat)
    assert rendered == expected


def test_lines_without_a_chat_template_name_the_roles() -> None:
    turns = [{"role": role, "content": role[0]} for role in ("system", "user", "assistant")]
    assert render_without_chat_template(turns) == "[SYSTEM] s\n[USER] u\n[ASSISTANT] a"


# Reasoning.

PLAIN_REASONING = (
    "\n\nSearch Query: {query}.\n"
    "Rank the passages above based on their relevance to the search query. "
    "Explain your reasoning step by step, "
    'then write "### Final Reranking:" and the ranking as a list of numbers.'
)


@pytest.mark.parametrize("count", SIZES)
def test_plains_reasoning_form_changes_the_closing_alone(count: int, demo: BaseTokenizer) -> None:
    template = load_template("plain", None)
    passages = passages_of(count)
    before, _, _ = card_prompt(QUERY, passages).rpartition("\n\nSearch Query:")
    rendered = template.render(QUERY, passages, demo.render_chat, reasoning=True)
    assert rendered == before + PLAIN_REASONING.format(query=QUERY)


@pytest.mark.parametrize("count", SIZES)
def test_chats_reasoning_form_is_the_training_closing_without_its_last_sentence(
    count: int, demo: BaseTokenizer
) -> None:
    closing = CHAT_CLOSING.removesuffix(" Only output the ranking using identifiers; no explanations.")
    assert closing != CHAT_CLOSING
    turns = [*chat_turns(QUERY, passages_of(count))[:-1], ("user", closing.format(query=QUERY, num=count))]
    template = load_template("chat", None)
    rendered = template.render(QUERY, passages_of(count), demo.render_chat, reasoning=True)
    assert rendered == llama3_text(turns)


@pytest.mark.parametrize("name", ["plain", "chat"])
def test_reasoning_ends_in_the_marker_of_the_training_answers(name: str) -> None:
    form = load_template(name, None).reasoning
    assert form is not None
    assert form.end == ("### Final Reranking:", "</think>")
    assert form.opening == "\n\n### Final Reranking: ["


@pytest.mark.parametrize("name", ["plain", "chat"])
def test_a_ranking_is_bracketed_numbers_with_an_arrow_between_them(name: str) -> None:
    form = load_template(name, None).answer
    assert (form.opening, form.separator) == ("[", "] > [")


def test_a_template_without_a_reasoning_form_closes_as_ever(demo: BaseTokenizer) -> None:
    template = load_template("plain", None).model_copy(update={"reasoning": None})
    assert template.render(QUERY, PASSAGES, demo.render_chat, reasoning=True) == card_prompt(QUERY, PASSAGES)


@pytest.mark.parametrize(("length", "kept"), [(0, 0), (299, 299), (300, 300), (301, 300), (5000, 300)])
def test_plain_cuts_passages_to_300_characters(length: int, kept: int) -> None:
    template = load_template("plain", None)
    assert template.cut(template.normalise("ü" * length)) == "ü" * kept


def test_plain_leaves_white_space_alone() -> None:
    assert load_template("plain", None).normalise("  a   b ") == "  a   b "


@pytest.mark.parametrize(("words", "kept"), [(1, 1), (299, 299), (300, 300), (301, 300), (5000, 300)])
def test_chat_cuts_passages_to_300_words(words: int, kept: int) -> None:
    template = load_template("chat", None)
    passage = template.normalise("\n ".join(f"w{n}" for n in range(words)))
    assert template.cut(passage) == " ".join(f"w{n}" for n in range(kept))


@pytest.mark.parametrize(
    ("passage", "normalised"),
    [
        ("Title: Content: Edison", "Edison"),
        ("Title: Edison Content: bulb", "Title: Edison Content: bulb"),
        ("a Title: Content: b", "a b"),
        ("  a \t b\n\nc\u00a0d ", "a b c d"),
        ("   ", ""),
    ],
)
def test_chat_removes_empty_titles_and_joins_white_space(passage: str, normalised: str) -> None:
    assert load_template("chat", None).normalise(passage) == normalised


def test_only_placeholders_are_filled_in() -> None:
    template = Template.model_validate(
        {
            "name": "json",
            "source": "this test",
            "first_identifier": 1,
            "text": {
                "opening": '{"n": {num}, "q": "{query}"} {other} {}\n',
                "passage": "<{i}|{text}|{i}>",
                "separator": ";",
                "closing": "\n{num} {query}",
            },
        }
    )
    assert template.render("{num}", ["{i}", "{query}"], lambda _: "") == (
        '{"n": 2, "q": "{num}"} {other} {}\n<1|{i}|1>;<2|{query}|2>\n2 {num}'
    )


TEXT = {"opening": "{query}", "passage": "[{i}] {text}", "closing": "Rank."}
TURN = [{"role": "user", "content": "[{i}] {text} {query}"}]
INCOMPLETE = {
    "no form": {},
    "both forms": {"text": TEXT, "chat": {"opening": TURN, "passage": TURN, "closing": TURN}},
    "passage without text": {"text": TEXT | {"passage": "[{i}]"}},
    "passage with text twice": {"text": TEXT | {"passage": "[{i}] {text} {text}"}},
    "passage without identifier": {"text": TEXT | {"passage": "{text}"}},
    "no query": {"text": TEXT | {"opening": ""}},
    "text in the closing": {"text": TEXT | {"closing": "{text}"}},
    "unknown role": {"chat": {"opening": [], "passage": TURN, "closing": [{"role": "tool"}]}},
    "unknown key": {"text": TEXT, "temperature": 0.5},
    "identifiers from 2": {"text": TEXT, "first_identifier": 2},
    "no characters": {"text": TEXT, "max_passage_chars": 0},
    "no source": {"text": TEXT, "source": ""},
    "no separator in the answer": {"text": TEXT, "answer": {"separator": ""}},
    "an unknown key in the answer": {"text": TEXT, "answer": {"closing": "]"}},
    "reasoning without a closing": {"text": TEXT, "reasoning": {}},
    "reasoning that nothing ends": {"text": TEXT, "reasoning": {"closing": "Think.", "end": []}},
    "reasoning that leads nowhere": {"text": TEXT, "reasoning": {"closing": "Think.", "opening": ""}},
    "reasoning turns for a text": {"text": TEXT, "reasoning": {"closing": TURN}},
    "reasoning text for turns": {
        "chat": {"opening": TURN, "passage": TURN, "closing": TURN},
        "reasoning": {"closing": "Think."},
    },
}


@pytest.mark.parametrize("change", INCOMPLETE.values(), ids=INCOMPLETE.keys())
def test_refuses_a_template_with(change: dict[str, object]) -> None:
    good = {"name": "own", "source": "this test", "first_identifier": 0}
    Template.model_validate(good | {"text": TEXT})
    with pytest.raises(ValidationError):
        Template.model_validate(good | change)


QWEN3_CARD = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {doc}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""The card of Qwen3-Reranker: prefix, format_instruction and suffix."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3-reranker", QWEN3_CARD),
        ("bge-reranker", "{query}</s></s>{doc}</s>"),
        ("dear-pointwise", "<|begin_of_text|>query: {query}<|begin_of_text|>document:  {doc}"),
    ],
)
def test_pointwise_templates_are_their_models_input(name: str, expected: str) -> None:
    template = load_template(name, None)
    assert template.is_pointwise
    prompt = template.render(QUERY, [PASSAGES[4]], render_without_chat_template)
    assert prompt == expected.replace("{query}", QUERY).replace("{doc}", PASSAGES[4])
