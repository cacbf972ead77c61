"""The settings tree: one line that names the setting, for everything that can be wrong in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dear_serving.errors import SettingsError
from dear_serving.settings import Settings, accepted_api_keys, load_settings
from dear_serving.types import MAX_IDENTIFIERS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GOOD: dict[str, Any] = {
    "model": {"id": "base", "source": "org/model"},
    "adapters": {"serve": [{"name": "legal", "path": "legal"}, {"name": "medical", "path": "med"}]},
    "engine": {"engine_kwargs": {"max_model_len": 4096}},
}


def write(folder: Path, content: dict[str, Any] | str | bytes) -> Path:
    file = folder / "settings.yaml"
    if isinstance(content, dict):
        content = yaml.safe_dump(content)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def refusal(file: Path) -> str:
    with pytest.raises(SettingsError) as failure:
        load_settings(file)
    message = failure.value.message
    assert str(file) in message
    assert "\n" not in message
    return message


def test_the_cpu_default_loads() -> None:
    settings = load_settings(CONFIGS / "cpu.yaml")
    assert settings.model.source == str(CONFIGS / "demo" / "base")
    assert settings.adapters.root == CONFIGS / "demo" / "adapters"
    assert settings.engine.accelerator == "cpu"
    assert set(settings.templates()) == {"dear-tiny", "legal", "medical"}
    assert settings.first_stage_template() is None


def test_the_settings_with_a_first_stage_are_the_default_and_no_more() -> None:
    default, staged = (load_settings(CONFIGS / name).model_dump() for name in ("cpu.yaml", "cascade.yaml"))
    stage, adapters = staged.pop("first_stage"), staged["adapters"]
    assert (stage["model"], stage["depth"]) == ("pointwise", 20)
    *others, own = adapters["serve"]
    assert (own["name"], own["template"], own["shared"]) == ("pointwise", "yes-no", False)
    assert default.pop("first_stage") is None
    assert staged | {"adapters": adapters | {"serve": tuple(others)}} == default


def test_defaults_stand_where_the_file_is_silent(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD))
    assert (settings.ranking.window_size, settings.ranking.step) == (20, 10)
    assert settings.ranking.max_reasoning_tokens == 512
    assert settings.http.host == "127.0.0.1"
    assert settings.default_model is None
    assert settings.engine.max_model_len == 4096
    assert settings.engine.max_lora_rank == 16
    assert settings.templates() == {"base": "plain", "legal": "plain", "medical": "plain"}


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD))
    with pytest.raises(ValueError, match="frozen"):
        setattr(settings.http, "port", 1)  # noqa: B010


def changed(**changes: Any) -> dict[str, Any]:
    """GOOD with whole sections replaced."""
    return GOOD | changes


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown section": (changed(enigne={}), "enigne: unknown setting"),
    "unknown key": (changed(http={"prot": 1}), "http.prot: unknown setting"),
    "unknown key of an adapter": (
        changed(adapters={"serve": [{"name": "a", "path": "a", "rank": 16}]}),
        "adapters.serve.0.rank: unknown setting",
    ),
    "missing section": ({"model": GOOD["model"]}, "engine: Field required"),
    "wrong type": (changed(http={"port": "eight"}), "http.port: Input should be a valid integer"),
    "list for a section": (changed(http=[8000]), "http: Input should be"),
    "a collector that is no URL": (
        changed(tracing={"endpoint": "collector:4318"}),
        "tracing.endpoint: a URL is needed, http://collector:4318",
    ),
    "a collector's password": (
        changed(tracing={"endpoint": "https://user:secret@collector"}),
        "tracing.endpoint: secrets go into the environment",
    ),
    "a collector's port": (
        changed(tracing={"endpoint": "http://collector:many"}),
        "tracing.endpoint: a URL is needed",
    ),
    "a share over one": (
        changed(tracing={"sample_ratio": 2}),
        "tracing.sample_ratio: Input should be less than or equal to 1",
    ),
    "a format of logs": (
        changed(logging={"format": "xml"}),
        "logging.format: Input should be 'text' or 'json'",
    ),
    "port out of range": (changed(http={"port": 70_000}), "http.port: Input should be less than"),
    "an admin port that is the port": (
        changed(http={"port": 8000, "admin_port": 8000}),
        "http: admin_port: 8000 is port already; leave it out to have all on one port",
    ),
    "an admin port in words": (changed(http={"admin_port": "x"}), "http.admin_port: Input should be a valid"),
    "unknown accelerator": (
        changed(engine={"accelerator": "tpu", "engine_kwargs": {"max_model_len": 4096}}),
        "engine.accelerator: Input should be 'cpu' or 'gpu'",
    ),
    "GPU type on the CPU": (
        changed(engine={"accelerator_type": "A100", "engine_kwargs": {"max_model_len": 4096}}),
        "engine: accelerator_type goes with accelerator: gpu",
    ),
    "no engine_kwargs": (changed(engine={}), "engine.engine_kwargs: max_model_len"),
    "no model length": (changed(engine={"engine_kwargs": {}}), "engine.engine_kwargs: max_model_len"),
    "short model length": (
        changed(engine={"engine_kwargs": {"max_model_len": 127}}),
        "engine.engine_kwargs: max_model_len",
    ),
    "model length in words": (
        changed(engine={"engine_kwargs": {"max_model_len": "4k"}}),
        "engine.engine_kwargs: max_model_len",
    ),
    "LoRA rank in words": (
        changed(engine={"engine_kwargs": {"max_model_len": 4096, "max_lora_rank": "high"}}),
        "engine.engine_kwargs: max_lora_rank",
    ),
    "step over window": (
        changed(ranking={"window_size": 10, "step": 11}),
        "ranking: step may not exceed window_size",
    ),
    "default step over a small window": (changed(ranking={"window_size": 5}), "ranking: step may"),
    "window of one": (changed(ranking={"window_size": 1, "step": 1}), "ranking.window_size:"),
    "window over the identifiers": (
        changed(ranking={"window_size": 129}),
        "ranking.window_size: Input should be less than or equal to 128",
    ),
    "step of zero": (changed(ranking={"step": 0}), "ranking.step:"),
    "no room to reason": (changed(ranking={"max_reasoning_tokens": 0}), "ranking.max_reasoning_tokens:"),
    "room to reason in words": (
        changed(ranking={"max_reasoning_tokens": "many"}),
        "ranking.max_reasoning_tokens: Input should be a valid integer",
    ),
    "adapter named twice": (
        changed(adapters={"serve": [{"name": "legal", "path": "a"}, {"name": "legal", "path": "b"}]}),
        'adapters: adapter "legal" is named twice',
    ),
    "adapter named like the base": (
        changed(adapters={"serve": [{"name": "base", "path": "a"}]}),
        'adapter "base" has the base model\'s id',
    ),
    "unknown default model": (
        changed(default_model="leagl"),
        'default_model "leagl" is neither the model nor an adapter',
    ),
    "a first stage that nobody serves": (
        changed(first_stage={"model": "pointwise"}),
        'first_stage.model "pointwise" is neither the model nor one of adapters.serve',
    ),
    "a first stage's source without engines": (
        changed(first_stage={"model": "own", "source": "./own", "template": "yes-no"}),
        "first_stage: source and engine go together",
    ),
    "a first stage's source without a template": (
        changed(
            first_stage={
                "model": "own",
                "source": "./own",
                "engine": {"engine_kwargs": {"max_model_len": 4096}},
            }
        ),
        "first_stage: template is needed with source",
    ),
    "a first stage's source with a name that is taken": (
        changed(
            first_stage={
                "model": "base",
                "source": "x/y",
                "template": "yes-no",
                "engine": {"engine_kwargs": {"max_model_len": 4096}},
            }
        ),
        'first_stage.model "base" is taken',
    ),
    "a first stage that scales": (
        changed(
            first_stage={
                "model": "own",
                "source": "x/y",
                "template": "yes-no",
                "engine": {"engine_kwargs": {"max_model_len": 4096}, "autoscaling": {"max_replicas": 2}},
            }
        ),
        "first_stage: engine.autoscaling: engines of a first stage do not scale",
    ),
    "a first stage without a model": (changed(first_stage={"depth": 5}), "first_stage.model: Field required"),
    "a first stage that keeps nothing": (
        changed(first_stage={"model": "base", "depth": 0}),
        "first_stage.depth: Input should be greater than or equal to 1",
    ),
    "more adapters than have room": (
        changed(adapters={"serve": [{"name": "a", "path": "a"}, {"name": "b", "path": "b"}], "capacity": 1}),
        "adapters: capacity: 2 adapters are configured, room for 1",
    ),
    "a source that is a file": (
        changed(adapters={"sources": ["file:///srv/"]}),
        'adapters.sources: "file:///srv/" is no URL that ends in a slash',
    ),
    "a source without an end": (
        changed(adapters={"sources": ["s3://models"]}),
        'adapters.sources: "s3://models" is no URL that ends in a slash',
    ),
    "limits in something else": (
        changed(tenancy={"limits_url": "postgresql://host"}),
        "tenancy.limits_url: a Redis URL is needed",
    ),
    "nothing names the base model": (changed(model={"id": "base"}, adapters={}), "model.source is needed"),
    "two things at once": (changed(http={"port": 0}, ranking={"step": 0}), "ranking.step:"),
}


@pytest.mark.parametrize(("content", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_setting_is_named_in_one_line(content: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refusal(write(tmp_path, content))


@pytest.mark.parametrize("name", ["", " ", "-x", "a b", "a\n", "ü", "x" * 129, "a@b", "../x"])
def test_names_hold_letters_digits_and_few_marks(name: str, tmp_path: Path) -> None:
    content = changed(adapters={"serve": [{"name": name, "path": "a"}]})
    assert "adapters.serve.0.name:" in refusal(write(tmp_path, content))


@pytest.mark.parametrize("name", ["a", "x" * 128, "org/model-1.0_b", "7b"])
def test_names_that_are_taken(name: str, tmp_path: Path) -> None:
    content = changed(adapters={"serve": [{"name": name, "path": "a"}]}, default_model=name)
    assert load_settings(write(tmp_path, content)).default_model == name


@pytest.mark.parametrize(
    "ranking",
    [
        {"window_size": 2, "step": 1},
        {"window_size": 2, "step": 2},
        {"window_size": MAX_IDENTIFIERS, "step": MAX_IDENTIFIERS},
        {"max_reasoning_tokens": 1},
    ],
    ids=str,
)
def test_windows_and_reasoning_at_their_bounds(ranking: dict[str, int], tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, changed(ranking=ranking)))
    assert settings.ranking.model_dump().items() >= ranking.items()


NO_TREE: dict[str, tuple[str | bytes, str]] = {
    "not YAML": ("model: [", "not valid YAML"),
    "tabs": ("model:\n\tid: x", "not valid YAML"),
    "a date that is none": ("model: 2001-99-99", "not valid YAML"),
    "a Python object": ("model: !!python/object:os.system {}", "not valid YAML"),
    "not UTF-8": (b"model: \xff", "not UTF-8"),
    "a list": ("- model", "does not hold a mapping"),
    "a text": ("model", "does not hold a mapping"),
    "empty": ("", "does not hold a mapping"),
}


@pytest.mark.parametrize(("content", "said"), NO_TREE.values(), ids=NO_TREE.keys())
def test_a_file_that_holds_no_settings(content: str | bytes, said: str, tmp_path: Path) -> None:
    assert said in refusal(write(tmp_path, content))


def test_a_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.yaml")
    assert "directory" in refusal(tmp_path)


PATHS = {
    "model": {"id": "base", "source": "./model", "chat_template": "chat.jinja"},
    "adapters": {"root": "adapters"},
    "ranking": {"templates": "../templates"},
}


def test_relative_paths_start_from_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    file = write(tmp_path / "here", changed(**PATHS))
    monkeypatch.chdir(tmp_path)
    for path in (file, Path("here/settings.yaml")):
        settings = load_settings(path)
        assert settings.model.source == str(tmp_path / "here" / "model")
        assert settings.model.chat_template == tmp_path / "here" / "chat.jinja"
        assert settings.adapters.root == tmp_path / "here" / "adapters"
        assert settings.ranking.templates == tmp_path / "templates"


def test_absolute_paths_stay(tmp_path: Path) -> None:
    content = changed(model={"id": "base", "source": "/models/base"}, adapters={"root": "/adapters"})
    settings = load_settings(write(tmp_path, content))
    assert settings.model.source == "/models/base"
    assert settings.adapters.root == Path("/adapters")


def test_a_source_is_a_folder_where_there_is_one_else_a_hugging_face_id(tmp_path: Path) -> None:
    content = changed(model={"id": "base", "source": "org/model"})
    assert load_settings(write(tmp_path, content)).model.source == "org/model"
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert load_settings(write(tmp_path, content)).model.source == str(tmp_path / "org" / "model")


def test_paths_that_are_not_given_stay_so(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, changed(model={"id": "base"})))
    assert settings.model.source is None
    assert settings.model.chat_template is None
    assert settings.ranking.templates is None
    assert settings.adapters.root == tmp_path


def test_adapters_name_their_templates() -> None:
    content = changed(
        model={"id": "base", "template": "chat"},
        adapters={"serve": [{"name": "a", "path": "a"}, {"name": "b", "path": "b", "template": "own"}]},
    )
    assert Settings.model_validate(content).templates() == {"base": "chat", "a": "plain", "b": "own"}


@pytest.mark.parametrize(
    ("variable", "keys"),
    [(None, ()), ("", ()), (" , ", ()), ("one", ("one",)), (" one ,two,, ", ("one", "two"))],
)
def test_api_keys_come_from_the_environment(
    variable: str | None, keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is None:
        monkeypatch.delenv("DEAR_API_KEYS", raising=False)
    else:
        monkeypatch.setenv("DEAR_API_KEYS", variable)
    assert accepted_api_keys() == keys


@pytest.mark.parametrize("given", ["redis://elsewhere:6379/1", " rediss://:secret@host "])
def test_the_environments_redis_wins(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAR_LIMITS_URL", given)
    content = changed(tenancy={"limits_url": "redis://here:6379/0", "open": True})
    tenancy = load_settings(write(tmp_path, content)).tenancy
    assert (tenancy.limits_url, tenancy.open) == (given.strip(), True)


def test_the_environments_redis_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAR_LIMITS_URL", "memory://")
    with pytest.raises(SettingsError, match="DEAR_LIMITS_URL: a Redis URL is needed"):
        load_settings(write(tmp_path, changed()))


@pytest.mark.parametrize(
    ("store", "found"),
    [("kept", "{folder}/kept"), ("s3://bucket/kept", "s3://bucket/kept"), ("/srv/kept", "/srv/kept")],
)
def test_the_store_is_a_folder_or_a_url(store: str, found: str, tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, changed(adapters={"store": store})))
    assert settings.adapters.store == found.format(folder=tmp_path)
