"""Preflight: an adapter that vLLM could not serve is refused before an engine starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from dear_serving.adapters.base_files import local_files
from dear_serving.adapters.base_shape import BaseShape
from dear_serving.adapters.preflight import adapter_folder, base_source, check_adapter, check_models, digest
from dear_serving.errors import InvalidAdapterFiles, SettingsError
from dear_serving.settings import Settings

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# Grouped keys and a head size of its own, so that no two projections have the same shape by chance.
BASE_CONFIG = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "vocab_size": 30,
}
SHAPES = {  # inputs, outputs
    "self_attn.q_proj": (12, 16),
    "self_attn.k_proj": (12, 8),
    "self_attn.v_proj": (12, 8),
    "self_attn.o_proj": (16, 12),
    "mlp.gate_proj": (12, 20),
    "mlp.up_proj": (12, 20),
    "mlp.down_proj": (20, 12),
}
ALL_MODULES = [name.partition(".")[2] for name in SHAPES]
RANK = 2
Tensors = dict[str, np.ndarray]


def key_of(layer: int, module: str, side: str) -> str:
    return f"base_model.model.model.layers.{layer}.{module}.lora_{side}.weight"


def good_config() -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": "org/base",
        "r": RANK,
        "lora_alpha": 4,
        "target_modules": ALL_MODULES,
        "bias": "none",
        "modules_to_save": None,
        "use_dora": False,
        "rank_pattern": {},
    }


def good_tensors() -> Tensors:
    tensors: Tensors = {}
    for layer in range(2):
        for module, (inputs, outputs) in SHAPES.items():
            tensors[key_of(layer, module, "A")] = np.zeros((RANK, inputs), np.float16)
            tensors[key_of(layer, module, "B")] = np.zeros((outputs, RANK), np.float32)
    return tensors


def write(folder: Path, config: object = None, tensors: Tensors | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(good_config() if config is None else config))
    save_file(good_tensors() if tensors is None else tensors, folder / WEIGHTS_FILE)
    return folder


@pytest.fixture
def base() -> BaseShape:
    return BaseShape.from_config(BASE_CONFIG)


def refusal(folder: Path, base: BaseShape, file: str) -> str:
    """The message, which has the adapter's name and the file whatever is wrong."""
    with pytest.raises(InvalidAdapterFiles) as failure:
        check_adapter("legal", folder, base, max_rank=16)
    message = failure.value.message
    assert 'adapter "legal"' in message
    assert str(folder / file) in message
    assert "\n" not in message
    return message


def test_a_good_adapter_passes(tmp_path: Path, base: BaseShape) -> None:
    check_adapter("legal", write(tmp_path), base, max_rank=RANK)


def test_an_adapter_may_target_few_modules_and_layers(tmp_path: Path, base: BaseShape) -> None:
    config = good_config() | {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 0.5}
    tensors = {
        key: value
        for key, value in good_tensors().items()
        if "layers.1." in key and ("q_proj" in key or "v_proj" in key)
    }
    check_adapter("legal", write(tmp_path, config, tensors), base, max_rank=16)


@pytest.mark.parametrize("name", ["legal", "medical"])
def test_the_demo_adapters_fit_the_demo_base(name: str) -> None:
    config = json.loads((DEMO / "base" / "config.json").read_text())
    check_adapter(name, DEMO / "adapters" / name, BaseShape.from_config(config), max_rank=16)


WRONG_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "rank over max": ({"r": 17}, "rank 17 is over max_lora_rank 16"),
    "rank as text": ({"r": "16"}, "rank r is '16'"),
    "rank as truth": ({"r": True}, "rank r is True"),
    "rank zero": ({"r": 0}, "rank r is 0"),
    "no rank": ({"r": None}, "rank r is None"),
    "no alpha": ({"lora_alpha": None}, "lora_alpha is None"),
    "alpha as text": ({"lora_alpha": "32"}, "lora_alpha is '32'"),
    "other type": ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    "no type": ({"peft_type": None}, "peft_type is None"),
    "unknown module": ({"target_modules": ["q_proj", "embed_tokens"]}, "target_modules embed_tokens"),
    "modules as a text": ({"target_modules": "all-linear"}, "target_modules is 'all-linear'"),
    "no modules": ({"target_modules": []}, "target_modules is []"),
    "modules of numbers": ({"target_modules": [1]}, "target_modules is [1]"),
    "DoRA": ({"use_dora": True}, "use_dora is not supported"),
    "saved modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
    "rank pattern": ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is not supported"),
    "alpha pattern": ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern is not supported"),
    "bias": ({"bias": "all"}, "bias 'all' is not supported"),
}


@pytest.mark.parametrize(("change", "said"), WRONG_CONFIGS.values(), ids=WRONG_CONFIGS.keys())
def test_refuses_settings_with(change: dict[str, Any], said: str, tmp_path: Path, base: BaseShape) -> None:
    folder = write(tmp_path, good_config() | change)
    assert said in refusal(folder, base, CONFIG_FILE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'"LORA"', "not a JSON object"),
        (None, "No such file"),
    ],
    ids=str,
)
def test_refuses_a_settings_file_that_is(
    content: bytes | None, said: str, tmp_path: Path, base: BaseShape
) -> None:
    folder = write(tmp_path)
    if content is None:
        (folder / CONFIG_FILE).unlink()
    else:
        (folder / CONFIG_FILE).write_bytes(content)
    assert said in refusal(folder, base, CONFIG_FILE)


Q0A, Q0B = key_of(0, "self_attn.q_proj", "A"), key_of(0, "self_attn.q_proj", "B")
half = np.float16
WRONG_TENSORS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "wrong rank": (
        lambda t: t.update({Q0A: np.zeros((4, 12), half)}),
        f"tensor {Q0A} has shape (4, 12), the base model needs (2, 12)",
    ),
    "wrong inputs": (lambda t: t.update({Q0A: np.zeros((2, 16), half)}), "has shape (2, 16)"),
    "sides swapped": (lambda t: t.update({Q0B: np.zeros((2, 16), half)}), "needs (16, 2)"),
    "one dimension": (lambda t: t.update({Q0B: np.zeros((32,), half)}), "has shape (32,)"),
    "missing B": (lambda t: t.pop(Q0B), "lora_B of q_proj in layer 0 is missing"),
    "missing A": (lambda t: t.pop(Q0A), "lora_A of q_proj in layer 0 is missing"),
    "integers": (lambda t: t.update({Q0A: np.zeros((2, 12), np.int64)}), "has type I64"),
    "doubles": (lambda t: t.update({Q0A: np.zeros((2, 12), np.float64)}), "has type F64"),
    "embeddings": (
        lambda t: t.update({"base_model.model.model.embed_tokens.weight": np.zeros((9, 12), half)}),
        "unexpected tensor base_model.model.model.embed_tokens.weight",
    ),
    "bias tensors": (
        lambda t: t.update({Q0B.replace("weight", "bias"): np.zeros((16,), half)}),
        "unexpected tensor",
    ),
    "DoRA magnitudes": (
        lambda t: t.update({Q0A.replace("lora_A.weight", "lora_magnitude_vector"): np.zeros(16, half)}),
        "unexpected tensor",
    ),
    "a module in the wrong block": (
        lambda t: t.update(
            {
                key_of(0, "mlp.q_proj", "A"): np.zeros((2, 12), half),
                key_of(0, "mlp.q_proj", "B"): np.zeros((16, 2), half),
            }
        ),
        "unexpected tensor",
    ),
    "a layer beyond the base": (
        lambda t: t.update(
            {
                key_of(7, "mlp.up_proj", "A"): np.zeros((2, 12), half),
                key_of(7, "mlp.up_proj", "B"): np.zeros((20, 2), half),
            }
        ),
        "has tensors for layer 7, the base model has 2 layers",
    ),
    "nothing": (lambda t: t.clear(), "holds no tensors"),
}


@pytest.mark.parametrize(("change", "said"), WRONG_TENSORS.values(), ids=WRONG_TENSORS.keys())
def test_refuses_weights_with(
    change: Callable[[Tensors], object], said: str, tmp_path: Path, base: BaseShape
) -> None:
    tensors = good_tensors()
    change(tensors)
    assert said in refusal(write(tmp_path, tensors=tensors), base, WEIGHTS_FILE)


def with_output_layer(folder: Path, vocabulary: int = 30, sides: str = "AB") -> Path:
    shapes = {"A": (RANK, 12), "B": (vocabulary, RANK)}
    output = {f"base_model.model.lm_head.lora_{side}.weight": np.zeros(shapes[side], half) for side in sides}
    return write(
        folder, good_config() | {"target_modules": [*ALL_MODULES, "lm_head"]}, good_tensors() | output
    )


def test_the_output_layer_may_be_a_target(tmp_path: Path, base: BaseShape) -> None:
    assert check_adapter("legal", with_output_layer(tmp_path / "legal"), base, 16) == RANK
    other = with_output_layer(tmp_path / "other", vocabulary=31)
    assert "has shape (31, 2), the base model needs (30, 2)" in refusal(other, base, WEIGHTS_FILE)
    half_of_it = with_output_layer(tmp_path / "half", sides="A")
    assert "lora_B of lm_head in layer 0 is missing" in refusal(half_of_it, base, WEIGHTS_FILE)


def test_refuses_tensors_of_no_target_module(tmp_path: Path, base: BaseShape) -> None:
    folder = write(tmp_path, good_config() | {"target_modules": ALL_MODULES[1:]})
    message = refusal(folder, base, WEIGHTS_FILE)
    assert "q_proj" in message
    assert "is of no target module" in message


@pytest.mark.parametrize("keep", [0, 4, 100, -1], ids=lambda keep: f"cut at {keep}")
def test_refuses_a_truncated_file(keep: int, tmp_path: Path, base: BaseShape) -> None:
    file = write(tmp_path) / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:keep])
    assert "not a readable safetensors file" in refusal(tmp_path, base, WEIGHTS_FILE)


def test_refuses_pickled_weights_without_opening_them(tmp_path: Path, base: BaseShape) -> None:
    folder = write(tmp_path)
    (folder / WEIGHTS_FILE).rename(folder / "adapter_model.bin")
    message = refusal(folder, base, WEIGHTS_FILE)
    assert "weights must be safetensors, found adapter_model.bin" in message
    (folder / "adapter_model.bin").unlink()
    assert "weights must be safetensors (" in refusal(folder, base, WEIGHTS_FILE)


# Folders.


def settings_of(root: Path, path: str = "legal", **model: Any) -> Settings:
    return Settings.model_validate(
        {
            "model": {"id": "base", **model},
            "adapters": {"root": root, "serve": [{"name": "legal", "path": path}]},
            "engine": {"engine_kwargs": {"max_model_len": 512}},
        }
    )


def folder_of(settings: Settings) -> Path:
    return adapter_folder(settings, settings.adapters.serve[0])


def test_adapters_are_found_under_their_root(tmp_path: Path) -> None:
    folder = write(tmp_path / "adapters" / "law" / "v1")
    (tmp_path / "adapters" / "latest").symlink_to(folder)
    root = tmp_path / "adapters"
    for path in ("law/v1", "law/../law/v1", "latest", str(folder)):
        assert folder_of(settings_of(root, path)) == folder


@pytest.mark.parametrize("path", ["../outside", "x/../../outside", "{outside}", "/etc", "link"])
def test_a_path_out_of_the_root_is_refused(path: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "adapters", write(tmp_path / "outside")
    root.mkdir()
    (root / "link").symlink_to(outside)
    path = path.format(outside=outside)
    with pytest.raises(InvalidAdapterFiles, match=r'^adapter "legal": .* is outside ') as failure:
        folder_of(settings_of(root, path))
    assert path in failure.value.message


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_file_that_links_out_of_the_root_is_refused(name: str, tmp_path: Path) -> None:
    outside, folder = write(tmp_path / "outside"), write(tmp_path / "adapters" / "legal")
    (folder / name).unlink()
    (folder / name).symlink_to(outside / name)
    with pytest.raises(InvalidAdapterFiles, match=f'^adapter "legal": {name} links outside '):
        folder_of(settings_of(tmp_path / "adapters"))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("legal", "file"):
        with pytest.raises(InvalidAdapterFiles, match=f'^adapter "legal": no such folder .*{path}$'):
            folder_of(settings_of(tmp_path, path))


# The base model.


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A folder with a good base and a good adapter."""
    write(tmp_path / "adapters" / "legal")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(BASE_CONFIG))
    return tmp_path


def test_models_that_fit_pass(whole: Path) -> None:
    check_models(settings_of(whole / "adapters", source=str(whole / "base")))


def test_the_base_is_what_the_adapter_names_where_the_setting_is_silent(whole: Path) -> None:
    adapter = whole / "adapters" / "legal"
    named = good_config() | {"base_model_name_or_path": str(whole / "base")}
    write(adapter, named)
    silent = settings_of(whole / "adapters")
    assert base_source(silent) == str(whole / "base")
    check_models(silent)
    assert base_source(settings_of(whole / "adapters", source="org/other")) == "org/other"


@pytest.mark.parametrize("value", [None, "", 7])
def test_an_adapter_that_names_no_base_needs_the_setting(value: object, whole: Path) -> None:
    write(whole / "adapters" / "legal", good_config() | {"base_model_name_or_path": value})
    with pytest.raises(InvalidAdapterFiles, match=r'adapter "legal" does not name .* set model\.source'):
        base_source(settings_of(whole / "adapters"))


def test_a_missing_base_folder_is_named(whole: Path) -> None:
    with pytest.raises(SettingsError, match=r"^model\.source: no such folder .*/nowhere$"):
        check_models(settings_of(whole / "adapters", source=str(whole / "nowhere")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "no readable config.json"),
        ("[]", "is not a model's"),
        ('{"hidden_size": 12}', "has no 'intermediate_size'"),
        (json.dumps(BASE_CONFIG | {"head_dim": None, "num_attention_heads": "4"}), "is not a model's"),
    ],
)
def test_a_base_without_a_usable_config_is_named(content: str | None, said: str, whole: Path) -> None:
    file = whole / "base" / "config.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(SettingsError, match=r"^model\.source: ") as failure:
        check_models(settings_of(whole / "adapters", source=str(whole / "base")))
    assert said in failure.value.message
    assert str(whole / "base") in failure.value.message


def test_a_wrong_adapter_or_template_is_found_before_start(whole: Path) -> None:
    source = str(whole / "base")
    with pytest.raises(SettingsError, match='no prompt template "none"'):
        check_models(settings_of(whole / "adapters", source=source, template="none"))
    write(whole / "adapters" / "legal", good_config() | {"r": 64})
    with pytest.raises(InvalidAdapterFiles, match="rank 64 is over max_lora_rank 16"):
        check_models(settings_of(whole / "adapters", source=source))


@pytest.mark.parametrize(
    ("change", "projections"),
    [
        ({}, {"q_proj": (12, 16), "k_proj": (12, 8), "o_proj": (16, 12), "down_proj": (20, 12)}),
        ({"head_dim": None}, {"q_proj": (12, 12), "k_proj": (12, 6), "o_proj": (12, 12)}),
        ({"num_key_value_heads": None}, {"q_proj": (12, 16), "v_proj": (12, 16)}),
    ],
)
def test_shapes_follow_from_the_config(
    change: dict[str, None], projections: dict[str, tuple[int, int]]
) -> None:
    shape = BaseShape.from_config(BASE_CONFIG | change)
    assert shape.layers == 2
    assert projections.items() <= shape.projections.items()


# Revisions.


def test_a_digest_changes_with_weights_and_with_settings_alone(tmp_path: Path) -> None:
    first = digest(write(tmp_path / "a"))
    assert len(first) == 64
    assert set(first) <= set("0123456789abcdef")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert digest(tmp_path / "copy") == first
    tensors = good_tensors()
    tensors[Q0A][0, 0] = 1
    assert digest(write(tmp_path / "weights", tensors=tensors)) != first
    assert digest(write(tmp_path / "alpha", good_config() | {"lora_alpha": 5})) != first


# A base model in an object store, or on the hub.


def put(url: str, *files: Path) -> None:
    for file in files:
        filesystem, path = fsspec.core.url_to_fs(f"{url}/{file.name}")
        filesystem.put_file(str(file), path)


def test_a_base_in_a_bucket_passes_and_its_shapes_are_checked(whole: Path, s3: str) -> None:
    source = f"{s3}models/base"
    put(source, whole / "base" / "config.json")
    check_models(settings_of(whole / "adapters", source=source))
    put(source, DEMO / "base" / "config.json")
    with pytest.raises(InvalidAdapterFiles, match="the base model needs"):
        check_models(settings_of(whole / "adapters", source=f"{source}/"))


def test_a_base_that_is_not_in_its_bucket_is_named(whole: Path, s3: str) -> None:
    with pytest.raises(SettingsError, match=rf"^model\.source: {s3}base has no config\.json$"):
        check_models(settings_of(whole / "adapters", source=f"{s3}base"))


def test_a_bucket_that_does_not_answer_is_named(whole: Path, unreachable_s3: str) -> None:
    said = rf"^model\.source: {unreachable_s3}base/config\.json cannot be read \(\w+\)$"
    with pytest.raises(SettingsError, match=said):
        check_models(settings_of(whole / "adapters", source=f"{unreachable_s3}base"))


@pytest.mark.parametrize(
    ("source", "said"), [("gs://bucket/base", "gcsfs"), ("nonsense://bucket/base", "nonsense")]
)
def test_a_url_without_its_driver_says_what_to_install(source: str, said: str, whole: Path) -> None:
    with pytest.raises(SettingsError, match=rf"^model\.source: .*{said}"):
        check_models(settings_of(whole / "adapters", source=source))


def test_the_small_files_of_a_base_in_a_bucket_are_copied_for_a_while(s3: str) -> None:
    base = DEMO / "base"
    put(f"{s3}base", *(file for file in base.iterdir() if file.name != "config.json"))
    with local_files(f"{s3}base") as folder:
        copied = {file.name for file in Path(folder).iterdir()}
    assert copied == {"generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert not Path(folder).exists()
    with local_files(str(base)) as folder:
        assert folder == str(base)
