"""What a report holds, from answers made by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from dear_client import Repairs
from dear_tools.evaluation.collection import Candidate, Collection, Topic, collect
from dear_tools.evaluation.measures import default_measures, measured, parse_measures
from dear_tools.evaluation.presets import Published
from dear_tools.evaluation.render import as_markdown, table
from dear_tools.evaluation.report import Report, as_json, cost_of, orders_of, ranked_orders, report_on
from dear_tools.evaluation.results import QueryResult
from dear_tools.exits import ToolError


def topic(name: str, *documents: str) -> Topic:
    return Topic(name, f"query {name}", tuple(Candidate(one, f"text of {one}") for one in documents))


TOPICS = [topic("q1", "a", "b", "c"), topic("q2", "d", "e", "f")]
QRELS = {"q1": {"c": 2, "b": 1}, "q2": {"d": 1, "x": 2}}
COLLECTION = collect("made-up", TOPICS, QRELS, depth=100)


def answer(query: str, *documents: str, **more: Any) -> QueryResult:
    ranked = tuple((one, 1 - place / 10) for place, one in enumerate(documents))
    return QueryResult(query=query, ranked=ranked, **{"repairs": Repairs(), "windows": 1, **more})


GOOD = [
    answer("q1", "c", "b", "a", prompt_tokens=100, completion_tokens=10, wall_ms=100.0, revision="m@1"),
    answer("q2", "e", "d", "f", prompt_tokens=50, completion_tokens=20, wall_ms=300.0, revision="m@1"),
]


def report(answers: list[QueryResult] = GOOD, collection: Collection = COLLECTION, **more: Any) -> Report:
    measures = parse_measures(more.pop("measures", default_measures(collection.depth)), 1)
    return report_on(collection, answers, more.pop("settings", {}), measures=measures, **more)


class TestCollection:
    def test_judged_topics_are_cut_to_the_depth(self) -> None:
        found = collect("made-up", TOPICS, QRELS, depth=2)
        assert [one.order for one in found.topics] == [("a", "b"), ("d", "e")]
        assert found.depth == 2
        assert found.warnings == ()
        assert found.digest != COLLECTION.digest

    def test_topics_without_judgements_are_left_out_and_named(self) -> None:
        found = collect("made-up", [*TOPICS, topic("q3", "g")], QRELS, depth=100)
        assert [one.id for one in found.topics] == ["q1", "q2"]
        assert found.warnings == ("1 query of made-up without judgements are left out: q3",)

    def test_judged_queries_without_candidates_count_as_zero_and_are_named(self) -> None:
        found = collect("made-up", TOPICS, {**QRELS, "q9": {"z": 1}, "q8": {"y": 1}}, depth=100)
        assert list(found.qrels) == ["q1", "q2", "q9", "q8"]
        assert found.warnings == (
            "2 queries judged and without candidates count as zero, as in the published figures "
            "(trec_eval -c): q9, q8",
        )
        with_them, without = report(collection=found), report()
        assert with_them.rows is not None
        assert without.rows is not None
        assert with_them.rows[0].comparison.after == without.rows[0].comparison.after / 2
        assert with_them.queries == 4

    def test_no_judged_query_at_all_is_an_error_with_both_sides(self) -> None:
        with pytest.raises(ToolError) as error:
            collect("made-up", TOPICS, {"7": {"a": 1}, "8": {"a": 1}}, depth=100)
        assert str(error.value) == (
            "none of the 2 queries of made-up has judgements: ranked q1, q2; judged 7, 8"
        )

    def test_a_limit_takes_the_first_and_says_so(self) -> None:
        found = collect("made-up", TOPICS, QRELS, depth=100, limit=1)
        assert [one.id for one in found.topics] == ["q1"]
        assert list(found.qrels) == ["q1"]
        assert found.warnings == ("only the first 1 of 2 queries: no mean here is a collection's",)
        assert found.digest == COLLECTION.digest

    def test_an_empty_text_is_ranked_and_named(self) -> None:
        found = collect("made-up", [Topic("q1", "x", (Candidate("a", " "),))], QRELS, depth=100)
        assert "1 query with candidates whose text is empty: q1" in found.warnings


class TestMeasures:
    def test_values_by_hand(self) -> None:
        values = measured(parse_measures(default_measures(3), 1), QRELS, {"q1": ("c", "b"), "q2": ("e", "d")})
        gain = {2: 2.0, 1: 1.0}
        ideal = gain[2] + gain[1] / math.log2(3)
        assert values["nDCG@10"] == pytest.approx({"q1": 1.0, "q2": gain[1] / math.log2(3) / ideal})
        assert values["AP"] == pytest.approx({"q1": 1.0, "q2": 0.25})
        assert values["R@3"] == pytest.approx({"q1": 1.0, "q2": 0.5})

    def test_a_query_without_an_order_is_zero(self) -> None:
        assert measured(parse_measures(["nDCG@5"], 1), QRELS, {"q1": ("c",)})["nDCG@5"]["q2"] == 0.0

    def test_the_lowest_relevant_grade_goes_to_measures_with_two_grades(self) -> None:
        names = [str(one) for one in parse_measures(["nDCG@10", "AP", "R(rel=3)@5", "MAP"], 2)]
        assert names == ["nDCG@10", "AP(rel=2)", "R(rel=3)@5"]
        assert [str(one) for one in parse_measures(["AP"], 1)] == ["AP"]

    @pytest.mark.parametrize("name", ["nDGC@10", "nDCG@", "nDCG@10(", "", "@10"])
    def test_what_is_no_measure_is_named(self, name: str) -> None:
        with pytest.raises(ToolError) as error:
            parse_measures([name], 1)
        assert str(error.value) == (f"{name!r} is no measure of ir-measures, such as nDCG@10, AP or R@100")

    def test_a_measure_without_a_provider_is_one_sentence(self) -> None:
        with pytest.raises(ToolError, match=r"^ir-measures cannot compute alpha_nDCG@10: \S"):
            measured(parse_measures(["alpha_nDCG@10"], 1), QRELS, {})


class TestOrders:
    def test_valid_is_whole_and_unrepaired(self) -> None:
        answers = [
            answer("q1", "c", "b", "a"),
            answer("q2", "d", "e", "f", repairs=Repairs(missing=2, repeated=1)),
        ]
        found = orders_of(answers, TOPICS, None)
        assert (found.answered, found.valid, found.valid_rate) == (2, 1, 0.5)
        assert (found.identical, found.identical_rate) == (1, 0.5)
        assert found.repairs == {"repeated": 1, "missing": 2, "out_of_range": 0, "unparseable": 0}

    @pytest.mark.parametrize(
        ("documents", "top_n", "valid"),
        [
            (("c", "b", "a"), None, 1),
            (("c", "b"), 2, 1),
            (("c", "b", "a"), 10, 1),
            (("c", "b"), None, 0),
            (("c", "c", "a"), None, 0),
            (("c", "b", "z"), None, 0),
        ],
    )
    def test_whole_is_as_many_as_asked_for(
        self, documents: tuple[str, ...], top_n: int | None, valid: int
    ) -> None:
        assert orders_of([answer("q1", *documents)], TOPICS, top_n).valid == valid

    def test_identity_looks_at_the_ranked_head_only(self) -> None:
        assert orders_of([answer("q1", "a", "b")], TOPICS, 2).identical == 1
        assert orders_of([answer("q1", "b", "a")], TOPICS, 2).identical == 0

    def test_a_server_that_tells_of_no_repairs_is_not_said_to_make_none(self) -> None:
        assert orders_of([answer("q1", "c", "b", "a", repairs=None)], TOPICS, None).repairs is None


class TestCost:
    def test_sums_and_quantiles(self) -> None:
        cost = cost_of(GOOD, 0.5)
        assert (cost.calls, cost.windows) == (2, 2)
        assert (cost.prompt_tokens, cost.completion_tokens, cost.tokens_per_query) == (150, 30, 90.0)
        assert (cost.wall_ms_median, cost.wall_ms_p95, cost.wall_s_added) == (200.0, 290.0, 0.4)
        assert cost.elapsed_s == 0.5

    def test_windows_that_a_server_keeps_to_itself_are_not_counted(self) -> None:
        assert cost_of([GOOD[0], answer("q2", "d", windows=None)], None).windows is None


class TestReport:
    def test_rows_compare_with_the_first_stage(self) -> None:
        found = report()
        assert found.rows is not None
        row = {one.measure: one for one in found.rows}["nDCG@1"]
        assert (row.first_stage, row.comparison.before, row.comparison.after) == (0.25, 0.25, 0.5)
        assert (row.comparison.better, row.comparison.equal, row.comparison.worse) == (1, 0, 1)
        assert found.per_query is not None
        assert found.per_query["q1"]["nDCG@1"] == (0.0, 1.0)
        assert found.per_query["q2"]["nDCG@1"] == (0.5, 0.0)
        assert found.against == "first stage"
        assert found.answered_by == ("m@1",)

    def test_or_with_another_run(self) -> None:
        found = report(against=("other.trec", {"q1": ("c", "b"), "q2": ("x",)}))
        assert found.rows is not None
        row = {one.measure: one for one in found.rows}["nDCG@1"]
        assert (row.first_stage, row.comparison.before, row.comparison.after) == (0.25, 1.0, 0.5)
        page = as_markdown(found)
        assert "| measure | first stage | other.trec | this run | difference |" in page
        assert "| nDCG@1 | 25.00 | 100.00 | 50.00 | -50.00 |" in page

    def test_p_values_are_adjusted_over_the_measures(self) -> None:
        found = report()
        assert found.rows is not None
        raw = [row.comparison.p_randomisation for row in found.rows]
        assert [row.p_holm for row in found.rows] == [min(1.0, max(p, 1.0)) for p in raw]

    def test_a_failed_query_takes_the_means_away_and_says_so_first(self) -> None:
        failed = QueryResult(query="q2", error="AnswerTimeout: no answer within 1 s")
        found = report([GOOD[0], failed])
        assert found.rows is None
        assert found.per_query is None
        assert found.orders is not None
        assert found.orders.answered == 1
        page = as_markdown(found).splitlines()
        assert page[2] == (
            "**No means:** 1 of 2 queries failed, so there are no means; the same command tries them again "
            "(query q2: AnswerTimeout: no answer within 1 s)."
        )
        assert "- q2: AnswerTimeout: no answer within 1 s" in page
        assert not any(line.startswith("| nDCG") for line in page)
        assert json.loads(as_json(found))["rows"] is None

    def test_all_failed_is_a_report_too(self) -> None:
        failed = [QueryResult(query=name, error="x: y") for name in ("q1", "q2")]
        found = report(failed)
        assert (found.rows, found.orders, found.cost) == (None, None, None)
        assert "2 of 2 queries failed" in as_markdown(found)

    def test_the_json_is_the_report(self) -> None:
        value = json.loads(as_json(report(elapsed_s=1.25)))
        assert value["name"] == "made-up"
        assert value["rows"][0]["measure"] == "nDCG@1"
        assert value["rows"][0]["comparison"]["after"] == 0.5
        assert value["cost"]["elapsed_s"] == 1.25
        assert value["per_query"]["q2"]["nDCG@1"] == [0.5, 0.0]
        assert json.loads(as_json([report(), report()]))[1]["queries"] == 2

    def test_an_order_that_was_known_has_no_cost(self) -> None:
        assert report(has_cost=False).cost is None
        assert "## Cost" not in as_markdown(report(has_cost=False))

    def test_warnings_of_the_server_and_of_several_revisions_are_told(self) -> None:
        answers = [
            GOOD[0].model_copy(update={"warnings": ("47 passages cut",)}),
            GOOD[1].model_copy(update={"revision": "m@2", "repairs": None}),
        ]
        assert report(answers).warnings == (
            "the answers come from 2 revisions: m@1, m@2",
            "the server warned about 1 query; about q1: 47 passages cut",
            "of 1 answer the server does not say what it repaired",
        )

    def test_published_figures_stand_beside_ours(self) -> None:
        about: dict[str, Any] = {"source": "a paper", "comparable": True, "why": "same"}
        published = [
            Published(system="A", measures=("nDCG@1",), value=75.6, **about),
            Published(system="B", measures=("nDCG@1", "R@3"), value=40.0, **about),
            Published(system="C", measures=("nDCG@1",), value=50.0, of_first_stage=True, **about),
            Published(system="D", measures=("P@5",), value=50.0, **about),
        ]
        found = report(published=published)
        recall = (1.0 + 0.5) / 2
        assert [one.ours for one in found.published] == pytest.approx(
            [50.0, 100 * (0.5 + recall) / 2, 25.0, None]
        )
        page = as_markdown(found)
        assert "| A | nDCG@1 | 75.60 | 50.00 | yes | same | a paper |" in page
        assert "| D | P@5 | 50.00 | - | yes | same | a paper |" in page

    def test_what_was_not_ranked_follows_as_the_first_stage_has_it(self) -> None:
        answers = [answer("q1", "c"), answer("q2", "e", "d", "f")]
        assert ranked_orders(COLLECTION, answers) == {"q1": ("c", "a", "b"), "q2": ("e", "d", "f")}

    def test_the_page_has_no_texts(self) -> None:
        assert "text of" not in as_markdown(report()) + as_json(report())
        assert "query q1" not in as_markdown(report())


def test_a_cell_cannot_break_a_table() -> None:
    assert list(table(["a"], [["x|y"]]))[-1] == r"| x\|y |"
