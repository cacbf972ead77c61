"""Callers' grammars: compiled beside the gateway, within a time, before an engine gets them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator

import pytest

from dear_serving.errors import InvalidRequest
from dear_serving.gateway.grammar_check import GrammarCheck
from dear_serving.gateway.state import GatewayState
from dear_serving.openai.fields import GrammarKind
from dear_serving.settings import Settings
from tests.conftest import client_of

pytestmark = [pytest.mark.attack, pytest.mark.integration]

# Minutes to compile.
SLOW: list[tuple[GrammarKind, str]] = [
    ("regex", "(a|b)*" * 2000 + "c{1,1000}"),
    ("grammar", "root ::= " + " | ".join(f'("a"{{1,{n}}} "b")*' for n in range(2, 900)) + ' "c"{1,100000}'),
]


@pytest.fixture(scope="module")
def source(settings: Settings) -> str:
    assert settings.model.source is not None
    return settings.model.source


@pytest.fixture(scope="module")
def check(source: str) -> Iterator[GrammarCheck]:
    made = GrammarCheck(source, 2.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", "[a-z]{2,5}( yes| no)"),
        ("grammar", 'root ::= "yes" | "no" root'),
        (
            "structural_tag",
            json.dumps({"type": "structural_tag", "format": {"type": "const_string", "value": "yes"}}),
        ),
    ],
)
async def test_what_compiles_in_time_is_taken(check: GrammarCheck, kind: GrammarKind, text: str) -> None:
    await check.check("acme", kind, text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("regex", "(a"), ("grammar", "root ::= missing"), ("structural_tag", "{"), ("regex", "\ud800")],
)
async def test_what_is_wrong_is_named(check: GrammarCheck, kind: GrammarKind, text: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^structured_outputs\.{kind}: .") as refused:
        await check.check("acme", kind, text)
    assert refused.value.param == f"structured_outputs.{kind}"
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(("kind", "text"), SLOW)
async def test_what_takes_too_long_is_refused_in_time(
    check: GrammarCheck, kind: GrammarKind, text: str
) -> None:
    await check.check("acme", "regex", "a")  # the process has started
    since_s = time.monotonic()
    with pytest.raises(InvalidRequest, match=r"takes over 2 s, or too much memory, to compile"):
        await check.check("acme", kind, text)
    assert time.monotonic() - since_s < 20
    await check.check("acme", "regex", "a")


async def test_a_server_takes_them_by_its_setting_alone(gateway: GatewayState, check: GrammarCheck) -> None:
    opened = dataclasses.replace(gateway, openai=dataclasses.replace(gateway.openai, grammars=check))
    text, path = {"prompt": "a", "max_tokens": 4}, "/v1/completions"
    async with client_of(gateway) as http, client_of(opened) as http_opened:
        for regex, statuses in (("a+", (400, 200)), (SLOW[0][1], (400, 400))):
            body = text | {"structured_outputs": {"regex": regex}}
            replies = [await one.post(path, json=body) for one in (http, http_opened)]
            assert tuple(reply.status_code for reply in replies) == statuses
            for reply in replies:
                if reply.status_code == 400:
                    assert reply.json()["error"]["param"] == "structured_outputs.regex"
