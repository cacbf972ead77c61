"""What is said of the replicas, from what they report and what the gateways see."""

from __future__ import annotations

from collections.abc import Mapping

from dear_serving.adapters.heartbeats import Alive, GatewayHeartbeat, ReplicaHeartbeat
from dear_serving.gateway.engine_replicas import Seen
from dear_serving.gateway.fleet import GatewayReport, Replica, replicas_of


def report(id: str, engines: Mapping[str, Seen], *, ends: bool = False) -> GatewayReport:
    return GatewayReport(id, ends, in_flight=2, cost=500, engines=engines)


def engines(*found: Replica) -> dict[str, Replica]:
    return {one.id: one for one in found if one.role == "engine"}


def test_gateways_are_those_that_answer_and_those_that_report() -> None:
    alive = Alive([GatewayHeartbeat("b", 7, 7), GatewayHeartbeat("c", 6, 6)], [])
    found = replicas_of(alive, 7, [report("b", {}), report("a", {}, ends=True)])
    assert found == [
        Replica("a", "gateway", "ending", 2, 500, None),
        Replica("b", "gateway", "serving", 2, 500, True),
        Replica("c", "gateway", "silent", None, None, False),
    ]


def test_an_engine_has_what_it_reports_and_the_calls_of_all_gateways() -> None:
    alive = Alive([], [ReplicaHeartbeat("e", 7, {"legal@1": None, "bad@1": "vLLM does not load it"})])
    reports = [report("a", {"e": Seen("serving", 3)}), report("b", {"e": Seen("serving", 1)})]
    assert engines(*replicas_of(alive, 7, reports)) == {
        "e": Replica(
            "e",
            "engine",
            "serving",
            4,
            None,
            True,
            {"legal@1": None, "bad@1": "vLLM does not load it"},
            {"a": "serving", "b": "serving"},
        )
    }


def test_engines_of_a_first_stage_have_their_own_role_and_report_nothing() -> None:
    alive = Alive([], [ReplicaHeartbeat("e", 7, {})])
    reports = [
        GatewayReport(name, False, 0, 0, {"e": Seen("serving")}, {"s": Seen(sight, 2)})
        for name, sight in (("a", "serving"), ("b", "silent"))
    ]
    found = [one for one in replicas_of(alive, 7, reports) if one.role != "gateway"]
    assert [(one.role, one.id) for one in found] == [("engine", "e"), ("first_stage", "s")]
    seen_by = {"a": "serving", "b": "silent"}
    assert found[1] == Replica("s", "first_stage", "silent", 4, None, None, {}, seen_by)


def test_an_engine_is_as_the_gateway_sees_it_that_sees_the_worst() -> None:
    reports = [
        report("a", {"x": Seen("serving"), "y": Seen("silent"), "z": Seen("serving")}),
        report("b", {"x": Seen("left_out"), "y": Seen("serving"), "z": Seen("ended")}),
    ]
    found = engines(*replicas_of(Alive([], []), 7, reports))
    assert {name: one.state for name, one in found.items()} == {
        "x": "left_out",
        "y": "silent",
        "z": "ended",
    }
    assert found["x"].seen_by == {"a": "serving", "b": "left_out"}


def test_an_engine_that_no_gateway_knows_of_starts() -> None:
    alive = Alive([], [ReplicaHeartbeat("new", 6, {})])
    found = engines(*replicas_of(alive, 7, [report("a", {})]))["new"]
    assert (found.state, found.load, found.is_current) == ("starting", None, False)


def test_engines_without_adapters_report_nothing_and_are_shown_all_the_same() -> None:
    found = engines(*replicas_of(Alive([], []), 7, [report("a", {"e": Seen("serving", 1)})]))["e"]
    assert (found.state, found.load, found.is_current, found.revisions) == ("serving", 1, None, {})
