"""Fuzz one target with Atheris: ``python -m tests.fuzz TARGET [options of libFuzzer]``.

A fault ends it with the input in a file ``crash-...`` in the current folder, and exit code 77.
"""

from __future__ import annotations

import contextlib
import re
import sys

import atheris

with atheris.instrument_imports(include=["dear_serving.http", "dear_serving.openai", "dear_serving.ranking"]):
    from dear_serving.errors import RequestError
    from dear_serving.http.body import parse_as
    from dear_serving.http.dialects.parse import parse_rerank
    from dear_serving.http.dialects.table import PATHS
    from dear_serving.openai.bodies import ChatBody, CompletionBody
    from dear_serving.ranking.neutralise import neutralise
    from dear_serving.ranking.permutation import parse_permutation

_IDENTIFIER = re.compile(r"\[\s*\d+\s*\]")


def rerank(data: bytes) -> None:
    """A body of the rerank routes: read in each path's dialects, or refused with one of our errors."""
    for names in dict.fromkeys(tuple(one.name for one in dialects) for dialects in PATHS.values()):
        with contextlib.suppress(RequestError):
            parse_rerank(names, True, 1000, 10_000, data)


def openai(data: bytes) -> None:
    """A body of OpenAI's routes: what is taken can be sent to the engine and is taken again."""
    for model in (ChatBody, CompletionBody):
        try:
            body = parse_as(model, data)
        except RequestError:
            continue
        again = model.model_validate(body.for_engine(16))
        if again.for_engine(16) != body.for_engine(16):
            raise AssertionError("what the engine gets is not what it would get from that")


def permutation(data: bytes) -> None:
    """A model's answer: always a permutation of the window."""
    provider = atheris.FuzzedDataProvider(data)
    count, first = provider.ConsumeIntInRange(1, 128), provider.ConsumeIntInRange(0, 1)
    found = parse_permutation(provider.ConsumeUnicode(4096), count, first_identifier=first)
    if sorted(found.order) != list(range(count)):
        raise AssertionError(f"no permutation of {count}: {found.order}")


def passage(data: bytes) -> None:
    """A passage as it goes into a prompt: one line, without identifiers, and the same when cleaned again."""
    safe = neutralise(atheris.FuzzedDataProvider(data).ConsumeUnicode(4096))
    if _IDENTIFIER.search(safe) or len(safe.splitlines()) > 1 or neutralise(safe) != safe:
        raise AssertionError(repr(safe))


TARGETS = {function.__name__: function for function in (rerank, openai, permutation, passage)}


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz {{{','.join(TARGETS)}}} [-max_total_time=60]")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
