"""Our server in the background, with its metrics."""

from __future__ import annotations

from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from dear_serving.process.background import BackgroundServer

ROOT = Path(__file__).resolve().parents[1]
CPU_CONFIG = ROOT / "configs" / "cpu.yaml"


class Server(BackgroundServer):
    """A server that a benchmark reads the metrics of."""

    start_timeout_s = 1800.0  # sixteen gigabytes of weights, compiling, and CUDA graphs

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name, such as ``vllm:prompt_tokens_total``, summed over labels."""
        return parse_metrics(self._metrics_text())

    def decoder(self) -> str:
        """How its engine decodes windows: not as the settings say, if that failed its check at start."""
        return parse_decoder(self._metrics_text())

    def _metrics_text(self) -> str:
        response = httpx.get(f"{self.url}/metrics", timeout=30)
        response.raise_for_status()
        return response.text


def parse_decoder(text: str) -> str:
    """The state of ``dear_decoder`` in Prometheus' text format; empty if there is none."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "dear_decoder" and sample.value == 1:
                return str(sample.labels["dear_decoder"])
    return ""


def parse_metrics(text: str) -> dict[str, float]:
    """Samples of Prometheus' text format by name, summed over their labels.

    Histograms give ``NAME_count`` and ``NAME_sum``; ``NAME_bucket`` sums mean nothing and are left out.
    """
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                samples[sample.name] = samples.get(sample.name, 0.0) + sample.value
    return samples
