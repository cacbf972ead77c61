"""Windows under vLLM's real scheduler, with a stub in place of the model runner."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stub_ways import RESUMABLE
from tests.support.schedules import Schedule, check, play, schedules

pytestmark = pytest.mark.integration

KINDS = [(False, 1), (False, 2), (True, 2)]
"""Whether steps are scheduled ahead, and the model runner: CPUs, and GPUs without and with async scheduling."""


@pytest.mark.hypothesis
@pytest.mark.parametrize(("ahead", "runner"), KINDS)
@given(data=st.data())
def test_whatever_comes_every_window_gets_its_order(data: st.DataObject, ahead: bool, runner: int) -> None:
    schedule = data.draw(schedules(ahead=ahead, runner=runner))
    check(schedule, play(schedule, RESUMABLE), RESUMABLE)


@pytest.mark.hypothesis
@pytest.mark.parametrize(("ahead", "runner"), KINDS)
@given(data=st.data())
def test_a_token_that_is_not_allowed_ends_its_window_alone(
    data: st.DataObject, ahead: bool, runner: int
) -> None:
    schedule = data.draw(schedules(ahead=ahead, runner=runner, faults=True))
    check(schedule, play(schedule, RESUMABLE), RESUMABLE)
