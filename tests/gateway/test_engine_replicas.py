"""Which replicas get calls: by what they say of their load, and by how they answered before."""

from __future__ import annotations

import pytest

from dear_serving.gateway.engine_replicas import Attempt, EngineReplicas, Seen


class World:
    """Replicas on a clock that the test sets."""

    def __init__(self, *names: str) -> None:
        self.now_s = 1000.0
        self.ejections = 0
        self.names = names
        self.replicas = EngineReplicas(lambda: self.now_s, self._on_ejection)
        self.replicas.update(names)

    def _on_ejection(self) -> None:
        self.ejections += 1

    def choosable(self, *tried: str) -> set[str]:
        return set(self.replicas.choosable(self.names, tried))

    def fail(self, name: str, times: int = 3) -> None:
        for _ in range(times):
            self.replicas.failed(name)

    def send(self, name: str) -> Attempt:
        attempt = Attempt()
        self.replicas.assign(attempt, name)
        return attempt


@pytest.fixture
def world() -> World:
    return World("a", "b", "c", "d")


def test_a_load_is_what_the_replica_says_and_what_was_sent_since(world: World) -> None:
    world.replicas.heard("a", 7)
    first = world.send("a")
    assert world.replicas.choosable(["a"]) == {"a": 8}
    world.replicas.heard("a", 8)  # ours included
    assert world.replicas.choosable(["a"]) == {"a": 8}
    world.replicas.finish(first)
    assert world.replicas.choosable(["a"]) == {"a": 7}


def test_a_replica_that_was_not_heard_of_counts_as_the_busiest(world: World) -> None:
    world.replicas.heard("a", 3)
    world.replicas.heard("b", 9)
    assert world.replicas.choosable(world.names) == {"a": 3, "b": 9, "c": 9, "d": 9}
    world.now_s += 60
    world.replicas.heard("a", 3)
    assert world.replicas.choosable(world.names) == {"a": 3, "b": 3, "c": 3, "d": 3}


def test_a_call_that_moves_on_counts_at_its_last_replica(world: World) -> None:
    for name in world.names:
        world.replicas.heard(name, 0)
    attempt = world.send("a")
    world.replicas.assign(attempt, "b")
    assert attempt.tried == {"a", "b"}
    assert world.replicas.choosable(world.names) == {"a": 0, "b": 1, "c": 0, "d": 0}
    world.replicas.finish(attempt)
    assert set(world.replicas.choosable(world.names).values()) == {0}


def test_those_that_were_tried_come_in_only_where_no_other_is_left(world: World) -> None:
    assert world.choosable("a", "b") == {"c", "d"}
    assert world.choosable("a", "b", "c", "d") == {"a", "b", "c", "d"}


def test_three_failures_in_a_row_leave_a_replica_out_for_longer_each_time(world: World) -> None:
    world.fail("a", 2)
    world.replicas.succeeded("a")
    world.fail("a", 2)
    assert "a" in world.choosable()
    for number in range(1, 15):
        world.fail("a")
        assert world.ejections == number
        left_out_s = min(5.0 * number, 60.0)
        world.now_s += left_out_s - 0.1
        assert "a" not in world.choosable()
        world.now_s += 0.2
        assert "a" in world.choosable()
        world.replicas.succeeded("a")
    world.now_s += 3600
    world.fail("a")
    world.now_s += 5.1
    assert "a" in world.choosable()


def test_one_call_at_a_time_tries_a_replica_that_was_left_out(world: World) -> None:
    world.fail("a")
    world.now_s += 6
    attempt = world.send("a")
    assert "a" not in world.choosable()
    world.replicas.finish(attempt)
    world.fail("a", 1)  # the trial failed
    assert world.ejections == 2
    assert "a" not in world.choosable()
    world.now_s += 11
    world.replicas.succeeded("a")
    world.send("a")
    assert "a" in world.choosable()


def test_at_most_half_are_left_out_for_failures(world: World) -> None:
    for name in world.names:
        world.fail(name)
    assert world.choosable() == {"c", "d"}
    lone = World("a")
    lone.fail("a", 30)
    assert lone.choosable() == {"a"}


def test_a_replica_that_does_not_answer_is_left_out_until_it_does(world: World) -> None:
    attempt = world.send("a")
    for _ in range(4):
        world.replicas.unheard("a")
    assert "a" in world.choosable()
    assert not world.replicas.is_lost(attempt)
    world.replicas.unheard("a")
    world.replicas.unheard("a")
    assert "a" not in world.choosable()
    assert not world.replicas.is_lost(attempt)  # no other was heard of: the fault may be this gateway's
    world.replicas.heard("b", 0)
    assert world.replicas.is_lost(attempt)
    assert world.ejections == 1
    world.replicas.heard("a", 1)
    assert "a" in world.choosable()


def test_a_call_is_lost_where_its_replica_is_silent_and_another_one_is_not(world: World) -> None:
    attempt = world.send("a")
    world.replicas.heard("b", 0)
    for _ in range(5):
        world.replicas.unheard("a")
    assert world.replicas.is_lost(attempt)
    for name in world.names[1:]:
        world.replicas.unheard(name)
    assert not world.replicas.is_lost(attempt)
    assert world.choosable() == {"b", "c", "d"}


def test_if_all_are_left_out_all_are_chosen_from(world: World) -> None:
    for name in world.names:
        for _ in range(5):
            world.replicas.unheard(name)
    assert world.choosable() == set(world.names)


def test_a_dead_replica_stays_gone_while_serve_still_lists_it(world: World) -> None:
    attempt = world.send("a")
    world.replicas.gone("a")
    world.replicas.update(world.names)
    assert world.replicas.running == 3
    assert world.replicas.is_lost(attempt)
    assert "a" not in world.choosable()
    assert world.replicas.is_lost(world.send("a"))  # Serve's router sends one there nevertheless
    world.replicas.update(["b", "c", "d", "e"])
    assert world.replicas.running == 4
    assert world.replicas.is_lost(attempt)  # nobody looked between the two


def test_how_many_run_is_unknown_until_serve_has_said_so() -> None:
    replicas = EngineReplicas()
    assert replicas.running is None
    replicas.update([])
    assert replicas.running == 0


def test_a_replica_that_drains_keeps_its_calls_and_gets_no_other(world: World) -> None:
    attempt = world.send("a")
    world.replicas.update(["b", "c", "d"])
    assert world.replicas.open_on("a")
    assert not world.replicas.is_lost(attempt)
    assert not world.replicas.others({"b", "c", "d"})
    world.replicas.finish(attempt)
    assert not world.replicas.open_on("a")


def test_what_is_seen_of_a_replica_is_why_it_gets_calls_or_none(world: World) -> None:
    world.send("a")
    world.fail("b")
    for _ in range(5):
        world.replicas.unheard("c")
    world.replicas.gone("d")
    assert world.replicas.seen() == {
        "a": Seen("serving", 1),
        "b": Seen("left_out"),
        "c": Seen("silent"),
        "d": Seen("ended"),
    }
    world.now_s += 30
    assert world.replicas.seen()["b"] == Seen("left_out")  # one call at a time tries it
    world.replicas.succeeded("b")
    assert world.replicas.seen()["b"] == Seen("serving")


def test_a_replica_that_ended_is_seen_as_ended_for_a_minute(world: World) -> None:
    last = world.send("a")
    world.replicas.update(["c", "d"])
    assert world.replicas.seen() == {
        "a": Seen("ended", 1),
        "b": Seen("ended"),
        "c": Seen("serving"),
        "d": Seen("serving"),
    }
    world.replicas.finish(last)
    world.now_s += 59
    assert world.replicas.seen()["a"] == Seen("ended")
    world.now_s += 2
    assert world.replicas.seen() == {"c": Seen("serving"), "d": Seen("serving")}
    world.replicas.update(["a", "c", "d"])
    assert world.replicas.seen()["a"] == Seen("serving")
