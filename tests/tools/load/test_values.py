"""What is said of a load in a few characters: lengths, objectives, tenants and models with their weights."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_tools.exits import ToolError
from dear_tools.load.lengths import Lengths, parse_lengths
from dear_tools.load.mix import Mix, Tenant, parse_tenant, parse_weighted, zipf
from dear_tools.load.objective import Objective, parse_objective

KEY = "dear_0123456789ab_a-very-secret-key"


# --- lengths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20", Lengths("even", 20, 20)),
        ("5-100", Lengths("even", 5, 100)),
        (" 5 - 100 ", Lengths("even", 5, 100)),
        ("20~0.5", Lengths("lognormal", 20, 20, 0.5)),
        ("1~0", Lengths("lognormal", 1, 1, 0.0)),
        ("7~.25", Lengths("lognormal", 7, 7, 0.25)),
    ],
)
def test_lengths_are_read_and_written_the_same(text: str, expected: Lengths) -> None:
    assert parse_lengths(text) == expected
    assert parse_lengths(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no length such as 20, 5-100 or 20~0.5"),
        ("many", "'many' is no length such as 20, 5-100 or 20~0.5"),
        ("2.5", "'2.5' is no length such as 20, 5-100 or 20~0.5"),
        ("-3", "'-3' is no length such as 20, 5-100 or 20~0.5"),
        ("20~", "'20~' is no length such as 20, 5-100 or 20~0.5"),
        ("0", "'0': lengths begin at 1 and rise"),
        ("0~1", "'0~1': lengths begin at 1 and rise"),
        ("9-5", "'9-5': lengths begin at 1 and rise"),
        ("20~4", "'20~4': a sigma of at most 3 is needed, 0.5 is usual"),
        ("20~900", "'20~900': a sigma of at most 3 is needed, 0.5 is usual"),
    ],
)
def test_what_is_no_length_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ToolError) as raised:
        parse_lengths(text)
    assert str(raised.value) == sentence


def test_even_lengths_are_equally_often_each() -> None:
    source, lengths = random.Random(0), parse_lengths("3-6")
    counts = Counter(lengths.draw(source) for _ in range(4000))
    assert set(counts) == {3, 4, 5, 6}
    assert all(count == pytest.approx(1000, abs=100) for count in counts.values())


def test_lognormal_lengths_have_their_median_and_spread_and_are_never_0() -> None:
    source = random.Random(0)
    drawn = [parse_lengths("20~0.5").draw(source) for _ in range(4000)]
    assert statistics.median(drawn) == pytest.approx(20, abs=1)
    within = sum(20 / 1.65 <= one <= 20 * 1.65 for one in drawn) / len(drawn)
    assert within == pytest.approx(0.68, abs=0.03)
    assert min(parse_lengths("1~3").draw(source) for _ in range(4000)) == 1


# --- objectives -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "percent", "limit_s"),
    [("p95<2s", 95, 2), ("p99.9<800ms", 99.9, 0.8), (" p50 < 1m ", 50, 60), ("p9<3", 9, 3)],
)
def test_an_objective_is_read(text: str, percent: float, limit_s: float) -> None:
    found = parse_objective(text)
    assert (found.percent, found.limit_s) == (percent, limit_s)
    assert parse_objective(str(found)) == found


@pytest.mark.parametrize(
    "text", ["", "2s", "p100<2s", "p0<2s", "p0.0<1s", "p95>2s", "p95<=2s", "95<2s", "p95", "p95<soon"]
)
def test_what_is_no_objective_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ToolError) as raised:
        parse_objective(text)
    assert str(raised.value) == f"{text!r} is no objective such as p95<2s or p99<800ms"


@given(tenths=st.integers(1, 999), total=st.integers(1, 100_000), off=st.integers(-2, 2))
def test_an_objective_is_met_from_exactly_its_share_on(tenths: int, total: int, off: int) -> None:
    share = Fraction(tenths, 1000)
    good = max(0, min(total, int(share * total) + off))
    assert Objective(tenths / 10, 1.0).is_met(good, total) == (good >= share * total)


def test_no_objective_is_met_by_nothing() -> None:
    assert not Objective(95, 1.0).is_met(0, 0)


# --- tenants and models -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("legal", ("legal", 1)),
        ("legal=3", ("legal", 3)),
        ("legal=.5", ("legal", 0.5)),
        ("org/model-8b:v1=2.5", ("org/model-8b:v1", 2.5)),
        ("ein name", ("ein name", 1)),
        ("a\nb", ("a\nb", 1)),
    ],
)
def test_a_name_may_have_a_weight(text: str, expected: tuple[str, float]) -> None:
    assert parse_weighted(text) == expected


@pytest.mark.parametrize(
    "text", ["", "=", "=3", "legal=", "legal=0", "legal=-1", "legal=much", "legal=1=2", f"legal={'9' * 400}"]
)
def test_a_name_without_letters_or_a_weight_not_above_0_is_refused(text: str) -> None:
    with pytest.raises(ToolError) as raised:
        parse_weighted(text)
    assert str(raised.value) == f"{text!r}: NAME or NAME=WEIGHT with a weight above 0 is needed"


def test_a_tenant_has_its_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEY", KEY)
    assert parse_tenant("acme:ACME_KEY=2") == (Tenant("acme", KEY), 2)
    assert parse_tenant("acme:ACME_KEY")[1] == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("acme", "'acme': NAME:VARIABLE is needed, the environment variable that holds the key"),
        (":A", "':A': NAME:VARIABLE is needed, the environment variable that holds the key"),
        ("acme:", "'acme:': NAME:VARIABLE is needed, the environment variable that holds the key"),
        ("acme:NOT_THERE", "tenant 'acme': the environment variable NOT_THERE is not set"),
        ("acme:EMPTY=3", "tenant 'acme': the environment variable EMPTY is not set"),
        ("acme:A=0", "'acme:A=0': NAME or NAME=WEIGHT with a weight above 0 is needed"),
    ],
)
def test_a_tenant_without_a_key_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(ToolError) as raised:
        parse_tenant(text)
    assert str(raised.value) == sentence


def test_a_tenants_key_is_not_shown() -> None:
    mix = Mix((Tenant("acme", KEY),), (1.0,), ("legal",), (1.0,))
    assert KEY not in f"{mix!r} {mix} {mix.tenants[0]!r}"
    assert "acme" in repr(mix)


@pytest.mark.parametrize(
    ("weights", "exponent", "expected"),
    [([1, 1, 1], 0, [1, 1, 1]), ([1, 1, 1, 1], 1, [1, 1 / 2, 1 / 3, 1 / 4]), ([2, 4], 2, [2, 1])],
)
def test_zipf_divides_each_weight_by_its_rank_to_the_power(
    weights: list[float], exponent: float, expected: list[float]
) -> None:
    assert zipf(weights, exponent) == pytest.approx(expected)


def test_tenants_and_models_are_drawn_by_weight_and_independently() -> None:
    tenants = (Tenant("a", None), Tenant("b", None))
    mix = Mix(tenants, (3.0, 1.0), ("x", "y", "z"), zipf([1, 1, 1], 1.0))
    source = random.Random(0)
    drawn = [(tenant.name, model) for tenant, model in (mix.draw(source) for _ in range(11_000))]
    counts = Counter(drawn)
    for tenant, share in (("a", 0.75), ("b", 0.25)):
        for model, part in (("x", 6 / 11), ("y", 3 / 11), ("z", 2 / 11)):
            expected = 11_000 * share * part
            assert counts[tenant, model] == pytest.approx(expected, abs=4 * expected**0.5)
