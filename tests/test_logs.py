"""Lines of gateway and engine: their fields, and what is in none."""

from __future__ import annotations

import io
import logging
from typing import Any, Literal

import pytest

from dear_serving import logs
from dear_serving.errors import InvalidRequest
from tests.support.lines import written

MARK = "the text of a caller"


def test_a_request_is_one_line_of_json() -> None:
    facts = {"request_id": "r", "route": "/v2/rerank"}
    with written() as stream:
        with logs.About(facts):
            logs.note(tenant="t", documents=20, strategy=None)
            logging.getLogger("dear_serving.gateway.peers").warning("Redis does not answer")
        logs.write("request", facts | {"status": 200, "total_ms": 12.34567})
        logging.getLogger("dear_serving.gateway.peers").info("Redis answers")
    during, request, after = stream.lines()
    assert (
        during.items() >= {"level": "warning", "request_id": "r", "message": "Redis does not answer"}.items()
    )
    assert request["time"].endswith("Z")
    del request["time"]
    assert request == {
        "level": "info",
        "process": "gateway",
        "logger": "dear_serving.requests",
        "message": "request",
        "request_id": "r",
        "route": "/v2/rerank",
        "tenant": "t",
        "documents": 20,
        "status": 200,
        "total_ms": 12.346,
    }
    assert "request_id" not in after


def test_text_is_one_line_a_request_too() -> None:
    with written("text", "engine") as stream:
        logs.write("engine call", {"request_id": "r", "error": None})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("INFO engine engine call request_id=r")


def test_lines_a_request_can_be_turned_off() -> None:
    with written(requests=False) as stream:
        logs.write("request", {"request_id": "r"})
        logging.getLogger("dear_serving.gateway.peers").info("Redis answers")
    (line,) = stream.lines()
    assert line["message"] == "Redis answers"


def test_a_stream_that_is_closed_costs_no_request() -> None:
    with written() as stream:
        stream.close()
        logs.write("request", {"request_id": "r"})


def test_nothing_is_noted_where_no_request_is_answered() -> None:
    logs.note(tenant="t")
    facts: dict[str, Any] = {"request_id": "r"}
    with logs.About(facts):
        pass
    logs.note(tenant="t")
    assert facts == {"request_id": "r"}


def raised() -> BaseException:
    try:
        try:
            raise KeyError(MARK)
        except KeyError as error:
            raise ValueError(MARK) from error
    except ValueError as error:
        return error


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_exception_of_a_request_has_its_places_and_no_message(form: Literal["text", "json"]) -> None:
    with written(form) as stream:
        with logs.About({"request_id": "r"}):
            logging.getLogger("dear_serving.http.errors").error("unexpected error", exc_info=raised())
        said = stream.getvalue()
        assert MARK not in said
        assert all(part in said for part in ("KeyError", "ValueError", "test_logs.py", "raised"))
        logging.getLogger("dear_serving.adapters").error("a round failed", exc_info=raised())
        assert MARK in stream.getvalue()  # of no request


def test_serves_tracebacks_have_no_message_and_those_that_a_caller_is_told_none() -> None:
    serves, said = logging.Logger("ray.serve"), io.StringIO()
    serves.addHandler(logging.StreamHandler(said))
    serves.addFilter(logs.keep_texts_out)
    serves.error("Request failed.", exc_info=InvalidRequest(MARK))
    assert said.getvalue() == ""
    serves.error("Request %s failed.", 5, exc_info=raised())
    serves.error("another")
    assert MARK not in said.getvalue()
    assert said.getvalue().startswith("Request 5 failed.\n")
    assert "ValueError" in said.getvalue()
    assert said.getvalue().endswith("another\n")
