"""What the benchmarks' server reads from /metrics."""

from __future__ import annotations

from benchmarks.server import parse_decoder, parse_metrics

METRICS = """\
# HELP dear_requests_total Requests answered.
# TYPE dear_requests_total counter
dear_requests_total{route="/v2/rerank",status="200"} 3.0
dear_requests_total{route="/v2/rerank",status="400"} 1.0
# HELP vllm:iteration_tokens_total Tokens per engine step.
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="dear-tiny"} 4.0
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf",model_name="dear-tiny"} 5.0
vllm:iteration_tokens_total_count{engine="0",model_name="dear-tiny"} 5.0
vllm:iteration_tokens_total_sum{engine="0",model_name="dear-tiny"} 644.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0"} 0.25
"""


def test_samples_are_summed_over_their_labels() -> None:
    assert parse_metrics(METRICS) == {
        "dear_requests_total": 4.0,
        "vllm:iteration_tokens_total_count": 5.0,
        "vllm:iteration_tokens_total_sum": 644.0,
        "vllm:kv_cache_usage_perc": 0.25,
    }


def test_the_decoder_is_the_state_that_is_set() -> None:
    states = {"drafted": 0, "resumable": 0, "ordinary": 1}
    lines = [f'dear_decoder{{dear_decoder="{state}"}} {value}.0' for state, value in states.items()]
    text = "\n".join(["# TYPE dear_decoder gauge", *lines, ""])
    assert parse_decoder(text) == "ordinary"
    assert parse_decoder(METRICS) == ""
