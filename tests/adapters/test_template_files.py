"""load_template: the user's folder first, then the server's own; a wrong file is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from dear_serving.adapters.template_files import load_template
from dear_serving.errors import SettingsError
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.types import RankTask

OWN = """\
source: this test
first_identifier: 1
max_passage_chars: 10
text:
  opening: "Query: {query}\\n"
  passage: "({i}) {text}"
  separator: " "
  closing: "\\nOrder of {num}:"
"""


def write(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / f"{name}.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize("name", ["plain", "chat"])
def test_templates_that_come_with_the_server(name: str, tmp_path: Path) -> None:
    template = load_template(name, None)
    assert template.name == name
    assert template.source.startswith("https://")
    assert load_template(name, tmp_path) == template


def test_the_users_folder_comes_first(tmp_path: Path) -> None:
    write(tmp_path, "plain", OWN)
    assert load_template("plain", tmp_path).source == "this test"


def test_a_template_of_ones_own_works_to_the_prompt(tmp_path: Path, tokenizer: BaseTokenizer) -> None:
    write(tmp_path, "own", OWN)
    builder = PromptBuilder(load_template("own", tmp_path), tokenizer, 512)
    prompts = builder.prepare(RankTask("the light bulb", ["Edison, 1879", "coffee"]))
    ids = prompts.window((1, 0))
    expected = "Query: the light bulb\n(1) coffee (2) Edison, 18\nOrder of 2:"
    assert tokenizer.decode(ids) == f"<|begin_of_text|>{expected}"
    assert ids[1:] == tokenizer.encode_template(expected)
    assert prompts.warnings() == ('1 passage cut to 10 characters by template "own"',)


def test_an_answer_and_a_reasoning_of_ones_own_work_to_the_prompt(
    tmp_path: Path, tokenizer: BaseTokenizer
) -> None:
    own = OWN + (
        'answer:\n  opening: "("\n  separator: "), ("\n'
        'reasoning:\n  closing: "\\nThink of {num}:"\n  end: ["So:"]\n  opening: " So: ("\n'
    )
    write(tmp_path, "own", own)
    builder = PromptBuilder(load_template("own", tmp_path), tokenizer, 1024)
    answer = builder.answer
    first, second = answer.identifiers[:2]
    assert tokenizer.decode([*answer.opening, *first, *answer.separator, *second]) == "(1), (2"
    task = RankTask("the light bulb", ["Edison", "coffee"], reasoning=True)
    ids = [*builder.prepare(task).window((0, 1)), *builder.after_reasoning("Well. \n", "So:")]
    assert tokenizer.decode(ids).endswith("(1) Edison (2) coffee\nThink of 2:Well. So: (")


@pytest.mark.parametrize("name", ["nosuch", "../plain", "templates/plain", "", "plain.yaml"])
def test_a_name_without_a_template_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path.parent, "plain", OWN)
    with pytest.raises(SettingsError) as failure:
        load_template(name, tmp_path)
    for said in (f'"{name}"', str(tmp_path), "chat", "plain"):
        assert said in failure.value.message


def test_an_unknown_name_lists_what_the_server_has() -> None:
    with pytest.raises(
        SettingsError, match=r'no prompt template "x" in the server.* chat, dear-pointwise, plain, '
    ):
        load_template("x", None)


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "not YAML": ("text: [", "not valid YAML"),
    "not UTF-8": (b"source: \xff", "not valid YAML"),
    "a date that is none": ("source: 2001-99-99", "not valid YAML"),
    "a list": ("- source", "does not hold a mapping"),
    "empty": ("", "does not hold a mapping"),
    "missing placeholder": (OWN.replace("{text}", ""), "`passage` needs {text} once"),
    "missing query": (OWN.replace("{query}", ""), "needs {query}"),
    "extra key": (OWN + "temperature: 1\n", "temperature: unknown setting"),
    "extra key within": (OWN + '  middle: ""\n', "text.middle: unknown setting"),
    "missing key": (OWN.replace("source: this test\n", ""), "source: Field required"),
    "wrong type": (OWN.replace("max_passage_chars: 10", "max_passage_chars: ten"), "max_passage_chars:"),
    "a key that is no text": (OWN + "1: 2\n", "1: "),
    "an answer without separator": (OWN + 'answer:\n  separator: ""\n', "answer.separator:"),
    "extra key in the answer": (OWN + "answer:\n  close: x\n", "answer.close: unknown setting"),
    "extra key in the reasoning": (
        OWN + "reasoning:\n  closing: x\n  ends: [y]\n",
        "reasoning.ends: unknown",
    ),
    "reasoning turns for a text": (
        OWN + "reasoning:\n  closing:\n    - {role: user, content: x}\n",
        "`reasoning.closing` has to be text",
    ),
}


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_wrong_file_is_named_in_one_line(content: str | bytes, said: str, tmp_path: Path) -> None:
    file = write(tmp_path, "own", content)
    with pytest.raises(SettingsError) as failure:
        load_template("own", tmp_path)
    message = failure.value.message
    assert message.startswith(str(file))
    assert said in message
    assert "\n" not in message
