"""RequestAdmission: the bound, and the advice when to come back."""

from __future__ import annotations

import contextlib

import pytest

from dear_serving.errors import Overloaded, RateLimited
from dear_serving.gateway import request_admission as module
from dear_serving.gateway.request_admission import RequestAdmission
from dear_serving.tenancy.tenants import Tenant


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands until the test moves it: one number, in seconds."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_the_bound_holds_and_places_come_back() -> None:
    admission = RequestAdmission(2)
    with admission.permit(Tenant()), admission.permit(Tenant()):
        with pytest.raises(Overloaded, match="2 requests are in flight"), admission.permit(Tenant()):
            pass
        assert admission.in_flight == 2
    with admission.permit(Tenant()):
        assert admission.in_flight == 1


def test_a_place_comes_back_when_the_work_fails() -> None:
    admission = RequestAdmission(1)
    with contextlib.suppress(RuntimeError), admission.permit(Tenant()):
        raise RuntimeError
    assert admission.in_flight == 0


def test_retry_after_is_the_work_ahead_over_the_measured_rate(clock: list[float]) -> None:
    admission = RequestAdmission(8)
    with contextlib.ExitStack() as held:
        for _ in range(8):
            held.enter_context(admission.permit(Tenant()))
        assert admission.retry_after_s() == 1  # nothing measured yet
        admission._max_in_flight = 100
        for _ in range(6):  # one request done every two seconds
            with admission.permit(Tenant()):
                clock[0] += 2
        assert admission.in_flight == 8
        assert admission.retry_after_s() == 16


def test_retry_after_stays_between_a_second_and_a_minute(clock: list[float]) -> None:
    admission = RequestAdmission(1000)
    with contextlib.ExitStack() as held:
        for _ in range(500):
            held.enter_context(admission.permit(Tenant()))
        for _ in range(3):
            with admission.permit(Tenant()):
                clock[0] += 30
        assert admission.retry_after_s() == 60


def test_an_idle_gap_says_nothing_of_the_rate(clock: list[float]) -> None:
    admission = RequestAdmission(10)
    for _ in range(3):
        with admission.permit(Tenant()):
            clock[0] += 0.01
        clock[0] += 1000
    assert admission.retry_after_s() == 1


def test_a_tenant_leaves_places_to_others() -> None:
    admission = RequestAdmission(32)
    hog, other = Tenant("hog"), Tenant("other")
    with contextlib.ExitStack() as held:
        for _ in range(30):  # alone it has nearly all
            held.enter_context(admission.permit(hog))
        with pytest.raises(RateLimited, match="the tenant has 30 requests in flight, and leaves"):
            admission.check(hog)
        with admission.permit(other), admission.permit(other), pytest.raises(Overloaded):
            admission.check(other)
    with admission.permit(other), contextlib.ExitStack() as held:
        for _ in range(24):  # beside others three quarters
            held.enter_context(admission.permit(hog))
        with pytest.raises(RateLimited):
            admission.check(hog)
        admission.check(other)
    assert not admission._of_tenants
    assert not admission._places


def test_a_large_request_takes_several_places_and_always_fits_alone() -> None:
    admission, tenant = RequestAdmission(32), Tenant()
    with admission.permit(tenant, 20 * 256 * 1024):
        assert admission.in_flight == 1
        with pytest.raises(RateLimited), admission.permit(tenant, 10 * 256 * 1024):
            pass
        with admission.permit(tenant, 200_000):
            pass
    with admission.permit(tenant, 10**9), admission.permit(tenant):
        pass
    assert not admission._places


def test_a_body_takes_more_places_as_it_grows() -> None:
    admission, tenant = RequestAdmission(32), Tenant()
    with contextlib.suppress(RateLimited, Overloaded), admission.permit(tenant) as first:
        first.grow(23 * 256 * 1024)
        with admission.permit(tenant) as second:
            second.grow(256 * 1024)
            second.grow(100)  # it does not shrink
            assert second.places == 2
            second.grow(20 * 256 * 1024)
            pytest.fail("there were no places for it")
    assert admission.in_flight == 0
    assert not admission._places
