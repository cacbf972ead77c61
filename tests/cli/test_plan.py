"""``dear plan``: its arithmetic against figures worked out by hand, what it refuses, and its pages."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from dear_serving.adapters.template_files import load_template
from dear_serving.cli.main import app
from dear_serving.errors import SettingsError
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.sizing.engine import Engine
from dear_serving.sizing.figures import load_figures
from dear_serving.sizing.fleet import gpus_for, latency_s, utilisation_within
from dear_serving.sizing.measured import read_report
from dear_serving.sizing.model import QUANTISATIONS, load_model, model_of
from dear_serving.sizing.workload import WordTokenizer, Workload, english, english_task, workload
from dear_tools.exits import ToolError
from tests.conftest import ROOT

FIGURES = load_figures()
LLAMA = load_model("llama-3.1-8b")
BF16, INT8, FP8, AWQ = QUANTISATIONS.values()
DEMO = ROOT / "configs" / "demo" / "base"
REPORT = ROOT / "benchmarks" / "results" / "load" / "capacity" / "report.json"

# Twenty passages in 1,400 tokens of prompt, as the comments in configs/ have them.
TWENTY = Workload("single", "", 1, 1, 20, 20, 1400, 1480, 4.0)


def engine(gpu: str = "a100-80", quantisation: Any = BF16, slots: int = 8) -> Engine:
    return Engine(
        FIGURES.gpu(gpu),
        LLAMA,
        quantisation,
        16,
        slots,
        FIGURES.efficiency,
        FIGURES.host,
        FIGURES.engine,
        FIGURES.engine.max_model_len,
    )


def dear(*arguments: str) -> Any:
    """``dear plan``: its output, or the error that ends the command with one sentence."""
    result = CliRunner().invoke(app, ["plan", *arguments])
    if isinstance(result.exception, SettingsError | ToolError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.output) if "--json" in arguments else result.output


def test_an_8b_in_bfloat16_has_the_bytes_that_its_files_have() -> None:
    assert LLAMA.weight_bytes(BF16) == pytest.approx(16.06e9, rel=1e-3)  # the hub's model-0000*.safetensors
    assert LLAMA.read_bytes(BF16) == pytest.approx(15.0e9, rel=1e-2)
    assert LLAMA.cache_bytes_a_token == 131_072
    assert LLAMA.flop_a_token == pytest.approx(14e9, rel=1e-2)
    assert LLAMA.adapter_bytes(16) == pytest.approx(84e6, rel=1e-2)


@pytest.mark.parametrize(("quantisation", "gigabytes"), [(INT8, 9.1), (FP8, 9.1), (AWQ, 5.7)])
def test_a_quantised_8b_has_the_bytes_that_published_ones_have(quantisation: Any, gigabytes: float) -> None:
    assert LLAMA.weight_bytes(quantisation) / 1e9 == pytest.approx(gigabytes, abs=0.1)


def test_the_tiny_models_bytes_are_those_of_its_file() -> None:
    file = DEMO / "model.safetensors"
    assert load_model(str(DEMO)).weight_bytes(BF16) == pytest.approx(file.stat().st_size, rel=0.01)


def test_memory_adds_up_to_the_share_that_vllm_takes() -> None:
    memory = engine().memory
    assert memory.usable == 72e9
    assert memory.weights + memory.adapters + memory.working + memory.cache == pytest.approx(72e9)
    assert memory.adapters == pytest.approx(0.67e9, rel=1e-2)
    assert memory.cache_tokens == int(memory.cache / 131_072)
    # configs/a100.yaml: about 400,000 tokens.
    assert memory.cache_tokens == pytest.approx(400_000, rel=0.05)


def test_the_floor_is_the_prompt_computed_and_the_weights_read_once_a_pass() -> None:
    one = engine(slots=0)
    prompt_s = 1400 * 14e9 / (0.5 * 312e12)
    pass_s = 15e9 / (0.8 * 2039e9)
    assert one.floor_s(TWENTY) == pytest.approx(prompt_s + 0.57 * 20 * pass_s, rel=0.03)
    assert 0.20 < one.floor_s(TWENTY) < 0.28
    assert engine().floor_s(TWENTY) > one.floor_s(TWENTY)  # adapters are computed too


def test_a_request_alone_takes_the_host_besides() -> None:
    one = engine()
    host_s = 0.57 * 20 * 2.62e-3 + 1400 * 1.8e-7 + 17.5e-3
    caches_s = 0.57 * 20 * (84e6 + 1480 * 131_072) / (0.8 * 2039e9)
    assert one.alone_s(TWENTY) == pytest.approx(one.floor_s(TWENTY) + host_s + caches_s, rel=1e-3)


def test_a_full_engine_does_its_prompts_one_after_another_and_shares_its_passes() -> None:
    one = engine()
    assert one.batch(TWENTY) == 128
    shared_s = 0.57 * 20 * one.pass_s(TWENTY, 128) / 128
    assert one.busy_s(TWENTY) == pytest.approx(one.prompts_s(TWENTY) + shared_s + 1400 * 1.8e-7)
    # The cache of a small card bounds how many windows share a pass.
    assert engine("a10g").batch(TWENTY) == engine("a10g").memory.cache_tokens // 1480 < 12


@pytest.mark.parametrize(("name", "requests_s"), [("A100-80", 6.8), ("H100", 20.3), ("H200", 20.4)])
def test_a_full_engine_does_what_the_step_model_did(name: str, requests_s: float) -> None:
    # benchmarks/results/report.md, 64 callers, k=7: vLLM's own scheduler with a modelled GPU.
    found = 1 / engine(name, slots=0).busy_s(TWENTY)
    assert found == pytest.approx(requests_s, rel=0.15)


@pytest.mark.parametrize(
    ("gpu", "rate", "p95_s"),
    [("a100-80", 5, 1.03), ("h100", 5, 0.21), ("h100", 10, 0.29), ("h200", 10, 0.27)],
)
def test_the_queue_is_as_long_as_in_the_step_model(gpu: str, rate: float, p95_s: float) -> None:
    one = engine(gpu, slots=0)
    busy_s = one.busy_s(TWENTY)
    alone_s = one.alone_s(TWENTY) - one.host.request_s  # the step model has no gateway
    found = latency_s(alone_s, busy_s, rate * busy_s, 0.95)
    assert 0.8 * p95_s < found < 1.5 * p95_s


def test_a_wait_is_that_of_one_server_in_the_textbook() -> None:
    assert latency_s(1.0, 0.5, 0.04, 0.95) == 1.0  # more than 95 of 100 find it idle
    assert latency_s(1.0, 0.5, 0.8, 0.95) == pytest.approx(1.0 + 0.5 / 0.2 * math.log(0.8 / 0.05))
    assert utilisation_within(1.0, 0.5, 0.95, 1.0 + 0.5 / 0.5 * math.log(10), 0.7) == pytest.approx(0.5)
    assert utilisation_within(1.0, 0.5, 0.95, 100.0, 0.7) == 0.7
    assert utilisation_within(1.0, 0.5, 0.95, 0.99, 0.7) == 0.0
    assert (gpus_for(200, 4.0), gpus_for(201, 4.0), gpus_for(0.1, 4.0)) == (50, 51, 1)


def test_a_card_without_such_products_unpacks_the_weights() -> None:
    a100, l40s = (engine(gpu, FP8, slots=0) for gpu in ("a100-80", "l40s"))
    assert a100.flop_s == engine("a100-80").flop_s
    assert l40s.flop_s == pytest.approx(2 * engine("l40s").flop_s, rel=0.02)
    assert a100.read_s() < engine("a100-80").read_s()  # but they are fewer bytes


def test_a_request_is_planned_as_a_gateway_plans_it(tokenizer: BaseTokenizer) -> None:
    plain = load_template("plain", None)
    one = workload(english_task(20, 40, 6), plain, tokenizer, 4096)
    assert (one.strategy, one.windows, one.rounds, one.choices) == ("single", 1, 1, 20)
    task = english_task(20, 40, 6)
    text = plain.render(task.query, task.passages, tokenizer.render_chat)
    assert one.tokens == pytest.approx(len(tokenizer.encode_template(text)), rel=0.02)
    hundred = workload(english_task(100, 40, 6, strategy="sliding"), plain, tokenizer, 4096)
    assert (hundred.windows, hundred.rounds, hundred.widest) == (9, 9, 20)
    five = workload(english_task(20, 40, 6, top_n=5), plain, tokenizer, 4096)
    assert (five.choices, five.tokens) == (5, one.tokens)


@pytest.mark.integration
def test_a_very_long_list_is_planned_within_the_servers_budget() -> None:
    plain = load_template("plain", None)
    found = workload(english_task(1000, 60, 6), plain, WordTokenizer(1.3), 8192)
    assert found.strategy == "joint"
    long = workload(english_task(10_000, 300, 6), load_template("chat", None), WordTokenizer(1.3), 8192)
    assert long.strategy == "funnel"
    assert long.tokens <= 2_000_000
    assert any("were not read" in note for note in long.notes)


def test_passages_that_do_not_fit_are_cut_as_the_server_cuts_them(tokenizer: BaseTokenizer) -> None:
    chat = load_template("chat", None)
    found = workload(english_task(20, 300, 6), chat, tokenizer, 2048)
    assert found.window_tokens <= 2048
    assert "20 passages cut to fit the model's 2048 tokens" in found.notes
    with pytest.raises(SettingsError, match=r"20 passages in one window do not fit the model's 256 tokens"):
        workload(english_task(20, 300, 6), chat, tokenizer, 256)


def test_words_have_the_stated_tokens_without_a_tokenizer() -> None:
    assert len(WordTokenizer(1.3).encode("a passage of ten words, which is what we count.")) == 13
    found = workload(english_task(20, 60, 6), load_template("plain", None), WordTokenizer(1.3), 8192)
    assert found.tokens == pytest.approx(1400, rel=0.15)  # configs/: the plain prompt of 20 passages
    assert english(3, start=1) == "listwise reranker reads"


def test_the_output_says_what_a_platform_team_asks() -> None:
    said = dear("--gpu", "a100-80", "--rate", "200", "--passages", "20", "--words", "60")
    for part in (
        "16.1 GB weights",
        "131,072 bytes",
        "latency floor",
        "50% of 312 TFLOP/s",
        "80% of 2,039 GB/s",
    ):
        assert part in said
    assert re.search(r"200 requests/s +\d+ GPUs, one of them spare \(N\+1\)", said)
    assert len(said.splitlines()) <= 40
    assert max(map(len, said.splitlines())) <= 120


def test_json_has_the_same_figures() -> None:
    found = dear("--gpu", "H100", "--rate", "50", "--json")
    chosen = found["chosen"]
    assert (chosen["gpu"], chosen["quantization"]) == ("H100", "bf16")
    assert chosen["gpus"] == math.ceil(50 / chosen["requests_s"]) + 1
    assert {one["gpu"] for one in found["others"]} == {"H100", "A100-40", "L40S", "A10G"}
    assert found["assumed"]["efficiency"] == FIGURES.efficiency.model_dump()


def test_a_models_folder_is_read_with_its_tokenizer() -> None:
    said = dear("--model", str(DEMO), "--gpu", "a10g")
    assert "counted by the tokenizer of base" in said
    assert "words x 2" in dear("--model", str(DEMO), "--gpu", "a10g", "--tokens-a-word", "2")


def test_a_quantised_folder_is_planned_as_it_is(tmp_path: Path) -> None:
    config = json.loads((DEMO / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert dear("--model", str(tmp_path), "--json")["chosen"]["quantization"] == "awq"
    assert (
        dear("--model", str(tmp_path), "--quantization", "int8", "--json")["chosen"]["quantization"] == "int8"
    )


def test_fewer_ranks_and_fewer_passes_take_fewer_gpus() -> None:
    def gpus(*arguments: str) -> int:
        return int(dear("--rate", "200", "--json", *arguments)["chosen"]["gpus"])

    assert gpus("--top-n", "5") < gpus() < gpus("--passes-a-passage", "1.5")
    assert gpus("--slots", "0") < gpus() < gpus("--passages", "60")


def test_measured_factors_make_the_plan_say_what_was_measured() -> None:
    def work_of(count: int, options: dict[str, Any]) -> Workload:
        task = english_task(count, 40, 6, **options)
        return workload(task, load_template("plain", None), WordTokenizer(1.3), 8192)

    measured = read_report(REPORT)
    report = json.loads(REPORT.read_text())
    assert measured.passages == 20
    assert measured.requests_s == max(step["ok_per_s"] for step in report["capacity"]["steps"])
    one = measured.apply(engine(), 1, work_of)
    # As the report's requests were: with their tokens, the engine does what the server did.
    prompts = round(measured.tokens - 80)
    theirs = Workload("single", "", 1, 1, 20, 20, prompts, prompts + 80, 4.0)
    assert 1 / one.busy_s(theirs) == pytest.approx(measured.requests_s, rel=1e-3)
    assert one.alone_s(theirs) == pytest.approx(measured.alone_s, rel=1e-3)
    # The same rate of two engines is half as much of each.
    assert measured.apply(engine(), 2, work_of).slowness == pytest.approx(2 * one.slowness)
    said = dear("--measured", str(REPORT.parent), "--objective", "p95<60s")
    assert re.search(
        r"^Calculated, not measured, but for your report: a full engine takes \d\.\d\d times", said, re.M
    )


def config_without(*fields: str, **more: object) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((DEMO / "config.json").read_text())
    return {name: value for name, value in config.items() if name not in fields} | more


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--gpu", "b200"),
            r"--gpu: 'b200' is not known; known are a100-40, a100-80, h100, h200, l40s, a10g",
        ),
        (("--rate", "0"), "--rate: 0 is no rate"),
        (("--rate", "-3"), "--rate: -3 is no rate"),
        (("--rate", "nan"), "--rate: nan is no rate"),
        (("--rate", "inf"), "--rate: inf is no rate"),
        (("--rate", "1e9"), r"would take .* A100-80; 10,000 of them reach"),
        (
            ("--objective", "p95<50ms"),
            r"p95<50ms cannot be kept by any number of A100-80: a request alone takes 0\.\d\d s, its latency "
            r"floor is 0\.\d\d s",
        ),
        (("--objective", "soon"), "'soon' is no objective such as p95<2s"),
        (("--model", "no/such"), "--model: no such folder no/such"),
        (("--model", "configs"), "--model: configs has no config.json"),
        (("--rank", "0"), "--rank: 0 is no rank"),
        (("--rank", "-4"), "--rank: -4 is no rank"),
        (("--passages", "1"), "--passages: 1 is not from 2 to 10,000"),
        (("--passages", "50000"), "--passages: 50000 is not from 2 to 10,000"),
        (("--words", "0"), "--words and --top-n: at least 1"),
        (("--strategy", "best"), "--strategy: 'best' is not known; known are auto, single"),
        (
            ("--strategy", "single", "--passages", "200"),
            "200 passages in one window are over the limit of 128",
        ),
        (("--template", "none"), 'no prompt template "none"'),
        (("--quantization", "int3"), "--quantization: 'int3' is not known; known are bf16, int8, fp8, awq"),
        (
            ("--max-model-len", "200000"),
            "--max-model-len: 200,000 is over the 131,072 tokens of llama-3.1-8b",
        ),
        (("--max-model-len", "256"), "20 passages in one window do not fit the model's 256 tokens"),
        (
            ("--gpu", "a10g", "--max-model-len", "32768"),
            "does not fit A10G: .* the cache holds 14,258 tokens where max_model_len is 32,768; int8 W8A8, "
            "fp8, 4-bit AWQ would fit or take A100-40, A100-80, H100, H200, L40S",
        ),
        (("--table", "--measured", "x"), "--table: it is computed for every GPU"),
        (("--passes-a-passage", "0"), "--passes-a-passage: 0 is not over 0"),
        (("--tokens-a-word", "-1"), "--tokens-a-word: -1 is not over 0"),
        (("--measured", "no/report.json"), "--measured: cannot read no/report.json: no such file"),
        (("--measured", "configs/cpu.yaml"), "--measured: configs/cpu.yaml is not JSON"),
        (
            ("--measured", "configs/openapi.json"),
            "--measured: configs/openapi.json is not a report of dear load: settings: Field required",
        ),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(
    arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises((SettingsError, ToolError), match=said) as error:
        dear(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ([], "is not a JSON object"),
        (config_without("hidden_size", "vocab_size"), "it has no hidden_size, vocab_size"),
        ({"n_embd": 768, "n_layer": 12}, "it has no hidden_size, intermediate_size, num_attention_heads"),
        (config_without(architectures=["BertForMaskedLM"]), "is of a BertForMaskedLM, not of a decoder"),
        (config_without(num_local_experts=8), "num_local_experts: mixtures of experts are not planned for"),
        (config_without(hidden_size="wide"), "hidden_size is 'wide', not a positive whole number"),
        (config_without(num_key_value_heads=0), "num_key_value_heads is 0, not a positive whole number"),
        (config_without(quantization_config={"quant_method": "hqq"}), "'hqq' is not planned for"),
    ],
)
def test_what_is_no_llama_is_named(config: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        model_of("folder", config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"capacity": None, "schedule": {"kind": "open", "stages": ["15s@7"]}},
            "measure with dear load --find-capacity",
        ),
        ({"summary": {"requests": "many"}}, "is not a report of dear load: summary.requests"),
        (
            {"settings": {"words": "9", "options": {"scoring": "generate"}}},
            "options that are not planned: scoring: unknown setting",
        ),
    ],
)
def test_a_report_that_says_nothing_of_the_limit_is_refused(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    report = json.loads(REPORT.read_text())
    for part, value in change.items():
        report[part] = report[part] | value if isinstance(value, dict) else value
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(SettingsError, match=said):
        read_report(tmp_path)


def test_the_assumed_settings_are_those_of_the_gpu_configurations() -> None:
    given = yaml.safe_load((ROOT / "configs" / "a100.yaml").read_text())["engine"]["engine_kwargs"]
    settings = FIGURES.engine
    assert settings.memory_share == given["gpu_memory_utilization"]
    assert settings.max_num_seqs == given["max_num_seqs"]
    assert settings.max_model_len == given["max_model_len"]


def test_every_card_has_a_source() -> None:
    assert list(FIGURES.gpus) == ["a100-40", "a100-80", "h100", "h200", "l40s", "a10g"]
    assert all(name in dear("--help") for name in FIGURES.gpus)
    assert all("data sheet" in gpu.source for gpu in FIGURES.gpus.values())


def test_the_readmes_table_is_what_the_command_prints() -> None:
    readme = (ROOT / "README.md").read_text()
    (command,) = re.findall(r"^\.venv/bin/dear plan (--table.*)$", readme, re.MULTILINE)
    shown = re.findall(r"^\| GPU \|.*\n(?:\|.*\n)+", readme, re.MULTILINE)
    assert shown == [dear(*shlex.split(command))]


def test_the_runbooks_plan_is_what_the_command_prints() -> None:
    page = (ROOT / "serving" / "OPERATIONS.md").read_text()
    (block,) = re.findall(r"^```console\n\$ dear plan (.*?)^```$", page, re.MULTILINE | re.DOTALL)
    command, _, shown = block.partition("\n")
    assert shown == dear(*shlex.split(command))
