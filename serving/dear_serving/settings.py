"""The settings tree. Defaults are in this file, changes to them in YAML, secrets only in the environment."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dear_serving.errors import SettingsError
from dear_serving.types import Decoding
from dear_tools.names import Name, TemplateName
from dear_tools.plain_yaml import load_yaml

API_KEYS_VARIABLE = "DEAR_API_KEYS"
"""Environment variable with API keys of the default tenant, separated by commas."""

ADMIN_KEY_VARIABLE = "DEAR_ADMIN_KEY"
"""Environment variable with the key of the admin routes; unset or empty: the routes are closed."""

ADMIN_PORT_VARIABLE = "DEAR_ADMIN_PORT"
"""Environment variable by which Ray's proxies, which have no settings, know http.admin_port."""

LIMITS_VARIABLE = "DEAR_LIMITS_URL"
"""Environment variable that overrides tenancy.limits_url, since the URL may hold a password."""

REGISTRY_VARIABLE = "DEAR_REGISTRY_URL"
"""Environment variable that overrides registry.url, since a database URL may hold a password."""

_TRACES_PATH = "/v1/traces"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSettings(_Settings):
    """The base model.

    ``source`` is a folder (relative to the settings file), a URL such as ``s3://models/base``, or a Hugging
    Face id; default: the first adapter's ``base_model_name_or_path``. ``template`` is the prompt template
    when the base model itself ranks. ``chat_template`` is a Jinja file for a tokenizer without one.
    """

    id: Name
    source: str | None = None
    template: TemplateName = "plain"
    chat_template: Path | None = None


class AdapterSettings(_Settings):
    """One LoRA adapter: its public name, its folder under ``adapters.root`` and its prompt template.

    Every tenant may use a ``shared`` adapter; the others need a grant for the tenant.
    """

    name: Name
    path: Path
    template: TemplateName = "plain"
    shared: bool = True


class AdaptersSettings(_Settings):
    """The adapters loaded at startup, and the allowed sources of later ones.

    ``root`` is the folder that must contain all adapter folders. ``sources`` are further allowed origins:
    URL prefixes such as ``s3://models/``. ``bases`` are Hugging Face ids of other models whose adapters fit
    the base model. ``store`` keeps every revision's files: a folder or an fsspec URL that all machines can
    reach; ``store_is_shared`` says that a folder is the same one on all machines (NFS). ``cache`` is a folder
    local to each machine. An engine holds at most ``capacity`` revisions in memory (0 turns adapters off); at
    most ``slots`` of them run in one batch.
    """

    root: Path = Path()
    serve: tuple[AdapterSettings, ...] = ()
    sources: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    store: str = ".dear/store"
    store_is_shared: bool = False
    cache: Path = Path(".dear/cache")
    capacity: Annotated[int, Field(ge=0, le=10_000)] = 64
    slots: Annotated[int, Field(ge=1)] = 8

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [adapter.name for adapter in self.serve]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'adapter "{name}" is named twice')
        if len(names) > self.capacity:
            raise ValueError(f"capacity: {len(names)} adapters are configured, room for {self.capacity}")
        return self

    @field_validator("sources")
    @classmethod
    def _are_urls(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        for source in sources:
            if not re.fullmatch(r"(?!file:|local:)[a-z0-9+]+://.+/", source):
                raise ValueError(f'"{source}" is no URL that ends in a slash, such as s3://models/')
        return sources


class _Autoscaling(_Settings):
    max_replicas: Annotated[int, Field(ge=1)]
    min_replicas: Annotated[int, Field(ge=0)] = 1
    upscale_delay_s: Annotated[float, Field(ge=0)] = 15.0
    downscale_delay_s: Annotated[float, Field(ge=0)] = 300.0

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas may not exceed max_replicas")
        return self


class EngineAutoscaling(_Autoscaling):
    """Engines follow the work: one for each ``tokens_per_replica`` predicted tokens that wait or are in work.

    Delays are in seconds: how long there has to be more work, or less. With ``min_replicas`` 0 the last
    engine stops after ``to_zero_delay_s`` without work.
    """

    tokens_per_replica: Annotated[int, Field(ge=1)] = 131_072
    to_zero_delay_s: Annotated[float, Field(ge=0)] = 900.0


class GatewayAutoscaling(_Autoscaling):
    """Gateways follow the requests in progress: one for each ``requests_per_replica``."""

    min_replicas: Annotated[int, Field(ge=1)] = 1
    requests_per_replica: Annotated[float, Field(gt=0)] = 64.0


class EngineSettings(_Settings):
    """vLLM replicas. ``engine_kwargs`` go to vLLM unchanged; vLLM validates them.

    ``kv_cache_gib`` sizes the CPU engine's KV cache; on GPUs use vLLM's gpu_memory_utilization.
    ``start_timeout_s`` bounds an engine's start, weights and adapters included. ``max_ongoing_requests`` is
    per replica. A replica works on at most ``max_tokens`` tokens of windows at once, or ``max_shared_tokens``
    while several tenants send requests; other windows wait in the gateway. Lower values give a new request
    less latency, higher values give more throughput.

    ``decoding`` is how windows are decoded (see Decoding); drafted windows verify at most ``max_drafts``
    tokens in a forward pass. A window of which nothing is heard for ``stall_timeout_s`` is ranked again, one
    choice at a time.

    With ``autoscaling``, ``replicas`` is how many start first. Where it lets the last engine stop, a request
    waits ``wake_timeout_s`` for the next one to start; with 0 it gets a 503 with the time a start takes.
    """

    accelerator: Literal["cpu", "gpu"] = "cpu"
    accelerator_type: str | None = None
    replicas: Annotated[int, Field(ge=1)] = 1
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 512
    start_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    kv_cache_gib: Annotated[int, Field(ge=1)] = 1
    max_tokens: Annotated[int, Field(ge=1)] = 262_144
    max_shared_tokens: Annotated[int, Field(ge=1)] = 65_536
    decoding: Decoding = "drafted"
    max_drafts: Annotated[int, Field(ge=1, le=64)] = 11
    stall_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    autoscaling: EngineAutoscaling | None = None
    wake_timeout_s: Annotated[float, Field(ge=0)] = 0.0
    engine_kwargs: dict[str, Any] = Field(default_factory=dict, validate_default=True)

    @property
    def may_be_none(self) -> bool:
        """Whether there may be no engine while there is no work."""
        return self.autoscaling is not None and self.autoscaling.min_replicas == 0

    @property
    def least(self) -> int:
        """How many engines run at least, if none is down."""
        return self.replicas if self.autoscaling is None else self.autoscaling.min_replicas

    @property
    def max_model_len(self) -> int:
        """Maximum length of prompt plus answer, in tokens."""
        return int(self.engine_kwargs["max_model_len"])

    @property
    def max_lora_rank(self) -> int:
        """Highest LoRA rank that the engine can load."""
        return int(self.engine_kwargs.get("max_lora_rank", 16))

    @field_validator("engine_kwargs")
    @classmethod
    def _has_length(cls, value: dict[str, Any]) -> dict[str, Any]:
        length = value.get("max_model_len")
        if not isinstance(length, int) or length < 128:
            raise ValueError("max_model_len (tokens, at least 128) is needed")
        rank = value.get("max_lora_rank", 16)
        if not isinstance(rank, int) or rank < 1:
            raise ValueError("max_lora_rank is not a positive number")
        return value

    @model_validator(mode="after")
    def _hardware_fits(self) -> Self:
        if self.accelerator == "cpu" and self.accelerator_type is not None:
            raise ValueError("accelerator_type goes with accelerator: gpu")
        if self.max_shared_tokens > self.max_tokens:
            raise ValueError("max_shared_tokens may not exceed max_tokens")
        return self


class GatewaySettings(_Settings):
    """HTTP replicas. Each reserves ``cpus`` CPUs in Ray.

    A server, gateway or engine that is told to end finishes its requests first, for at most ``drain_s``
    seconds. With ``autoscaling``, ``replicas`` is how many start first.
    """

    replicas: Annotated[int, Field(ge=1)] = 1
    autoscaling: GatewayAutoscaling | None = None
    cpus: Annotated[float, Field(ge=0)] = 1.0
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 2048
    drain_s: Annotated[float, Field(ge=0)] = 30.0


class RankingSettings(_Settings):
    """Defaults for ranking.

    ``templates`` is a folder with your own prompt templates. ``max_reasoning_tokens`` bounds the reasoning
    that a model writes before it ranks, for requests with reasoning. While the engines have more than
    ``busy_s`` seconds of work ahead, and until it is half of that, strategy ``auto`` saves tokens; null: load
    does not count, and equal requests have equal strategies.
    """

    window_size: Annotated[int, Field(ge=2, le=128)] = 20
    step: Annotated[int, Field(ge=1)] = 10
    templates: Path | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=1)] = 512
    busy_s: Annotated[float, Field(gt=0)] | None = 1.0

    @model_validator(mode="after")
    def _step_fits(self) -> Self:
        if self.step > self.window_size:
            raise ValueError("step may not exceed window_size")
        return self


class FirstStageSettings(_Settings):
    """The model that reads passages one by one, for the strategies ``pointwise`` and ``cascade``.

    ``model`` names one of adapters.serve, or the base model; it runs in the engines that are there. Or it is
    the name of a model of its own in ``source`` (a folder, a URL or a Hugging Face id), a sequence classifier
    with one score, which runs in engines of its own: ``engine`` has their settings.

    ``template`` is its prompt template, one for a single passage; default: the one that the model has. A
    cascade ranks the best ``depth`` listwise, if the request does not say how many. ``max_passage_tokens``:
    as many of a passage are read at most; default: what fits.
    """

    model: Name
    source: str | None = None
    engine: EngineSettings | None = None
    template: TemplateName | None = None
    depth: Annotated[int, Field(ge=1, le=10_000)] = 20
    max_passage_tokens: Annotated[int, Field(ge=8)] | None = None

    @model_validator(mode="after")
    def _source_fits(self) -> Self:
        if (self.source is None) != (self.engine is None):
            raise ValueError("source and engine go together: a model of its own needs engines of its own")
        if self.source is not None and self.template is None:
            raise ValueError("template is needed with source; it says how query and passage are put together")
        if self.engine is not None and self.engine.autoscaling is not None:
            raise ValueError("engine.autoscaling: engines of a first stage do not scale; set engine.replicas")
        return self


class LimitSettings(_Settings):
    """Limits for one request, for the requests in one gateway replica (``max_requests_in_flight``, which take
    its memory), and for the tokens of waiting work in all of them (``max_queued_tokens``).

    ``max_windows`` is for all passes of a request together: 1,000 documents in 16 passes of 150 windows fit.
    ``max_prompt_tokens`` is for all windows of a request: strategy ``auto`` fits itself to it.
    A chat that does not say how many tokens to write gets ``default_new_tokens``. Grammars, regular
    expressions and structural tags in OpenAI bodies are refused, or with ``grammar_compile_s`` taken if they
    compile in as many seconds: about as long as each may then hold up an engine.
    """

    max_body_bytes: Annotated[int, Field(gt=0)] = 32 * 1024 * 1024
    max_documents: Annotated[int, Field(gt=0)] = 10_000
    max_document_chars: Annotated[int, Field(gt=0)] = 1_000_000
    max_query_chars: Annotated[int, Field(gt=0)] = 1_000_000
    max_instruction_chars: Annotated[int, Field(gt=0)] = 10_000
    max_windows: Annotated[int, Field(gt=0)] = 2500
    max_prompt_tokens: Annotated[int, Field(gt=0)] = 2_000_000
    max_requests_in_flight: Annotated[int, Field(gt=0)] = 1024
    max_queued_tokens: Annotated[int, Field(gt=0)] = 4_000_000
    default_new_tokens: Annotated[int, Field(gt=0)] = 1024
    grammar_compile_s: Annotated[float, Field(gt=0, le=30)] | None = None


class RegistrySettings(_Settings):
    """The database of tenants, keys and adapters: SQLite, or PostgreSQL for gateways on several machines.

    ``url`` is an SQLAlchemy URL; a relative SQLite path starts at the settings file's folder. ``pool_size``
    bounds a process's connections to PostgreSQL; one more tells it of changes. ``migrate`` says whether
    opening it migrates its tables: ``auto`` does so for SQLite, and for a PostgreSQL database without tables;
    else ``dear migrate`` does. While the registry does not answer, known keys stay good for ``stale_s``.
    Deployments that share a registry and are another ``cluster`` each have adapters and states of their own.
    """

    url: str = "sqlite:///.dear/registry.db"
    migrate: Literal["auto", "always", "never"] = "auto"
    pool_size: Annotated[int, Field(ge=1, le=100)] = 4
    stale_s: Annotated[float, Field(ge=0)] = 300.0
    cluster: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = "default"


class TenancySettings(_Settings):
    """Access control. ``open`` accepts callers without a key, as one tenant; ``open_to_network`` allows this
    on other than loopback addresses. ``open_metrics`` serves /metrics without a key. ``limits_url`` is a
    Redis in which all gateways count tenants' limits, waiting work and shares of the engines together;
    without it each living gateway takes an equal part of them.
    """

    open: bool = False
    open_to_network: bool = False
    open_metrics: bool = False
    limits_url: str | None = None

    @field_validator("limits_url")
    @classmethod
    def _is_redis(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("redis://", "rediss://")):
            raise ValueError("a Redis URL is needed, redis://host:6379/0")
        return url


class HttpSettings(_Settings):
    """The address that the server listens on, and the names it answers to.

    With ``admin_port`` the admin routes, /health, /ready and all metrics are on that port alone, on the same
    host, and ``port`` has what tenants use.

    ``allowed_hosts`` are Host headers without a port, ``*.example.com`` for every name below, ``*`` for any.
    Default: any; loopback's names alone where the server needs no keys and listens on loopback, since a page
    in a browser there can have its own name lead to it.

    ``metrics_port`` is where the Ray that the server starts shows the metrics of every replica, on loopback.
    Default: a free one. A Ray of the user's own has the port that it was started with.

    ``page`` serves the pages for people at / and /fleet.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    admin_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    allowed_hosts: tuple[str, ...] | None = None
    page: bool = True

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.admin_port == self.port:
            raise ValueError(f"admin_port: {self.port} is port already; leave it out to have all on one port")
        return self


class LoggingSettings(_Settings):
    """How gateways and engines log: ``text`` for people, ``json`` for machines; with ``requests``, a line for
    each request.
    """

    format: Literal["text", "json"] = "text"
    requests: bool = True


class TracingSettings(_Settings):
    """Traces over OpenTelemetry. ``endpoint`` is a collector that takes OTLP over HTTP, without a path; None:
    no traces. Of the requests whose caller has not decided, a share of ``sample_ratio`` is traced.
    """

    endpoint: str | None = None
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        try:
            url = urlsplit(endpoint)
            is_url = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
        except ValueError:
            is_url = False
        if not is_url or url.query or url.fragment:
            raise ValueError("a URL is needed, http://collector:4318")
        if url.username is not None:
            raise ValueError("secrets go into the environment, as OTEL_EXPORTER_OTLP_HEADERS")
        return endpoint.rstrip("/")

    @property
    def traces_url(self) -> str | None:
        """Where spans are sent to."""
        if self.endpoint is None or self.endpoint.endswith(_TRACES_PATH):
            return self.endpoint
        return self.endpoint + _TRACES_PATH


class Settings(_Settings):
    """All settings of a server. ``default_model`` answers requests that name no model."""

    model: ModelSettings
    adapters: AdaptersSettings = AdaptersSettings()
    engine: EngineSettings
    gateway: GatewaySettings = GatewaySettings()
    ranking: RankingSettings = RankingSettings()
    first_stage: FirstStageSettings | None = None
    limits: LimitSettings = LimitSettings()
    registry: RegistrySettings = RegistrySettings()
    tenancy: TenancySettings = TenancySettings()
    http: HttpSettings = HttpSettings()
    logging: LoggingSettings = LoggingSettings()
    tracing: TracingSettings = TracingSettings()
    default_model: Name | None = None

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [self.model.id, *(adapter.name for adapter in self.adapters.serve)]
        if self.model.id in names[1:]:
            raise ValueError(f'adapter "{self.model.id}" has the base model\'s id')
        if self.default_model is not None and self.default_model not in names:
            raise ValueError(f'default_model "{self.default_model}" is neither the model nor an adapter')
        stage = self.first_stage
        if stage is not None and stage.source is None and stage.model not in names:
            raise ValueError(
                f'first_stage.model "{stage.model}" is neither the model nor one of adapters.serve'
            )
        if stage is not None and stage.source is not None and stage.model in names:
            raise ValueError(
                f'first_stage.model "{stage.model}" is taken, by the model or one of adapters.serve'
            )
        if self.model.source is None and not self.adapters.serve:
            raise ValueError("model.source is needed where no adapter names its base model")
        return self

    def templates(self) -> dict[str, str]:
        """Public model name -> name of its prompt template; the base model comes first."""
        adapters = {adapter.name: adapter.template for adapter in self.adapters.serve}
        return {self.model.id: self.model.template} | adapters

    def first_stage_template(self) -> str | None:
        """Name of the first stage's prompt template; None: there is no first stage."""
        stage = self.first_stage
        return None if stage is None else stage.template or self.templates()[stage.model]


def check_shared(registry: RegistrySettings, adapters: AdaptersSettings, *, is_elsewhere: bool) -> None:
    """Refuse a registry or a store that not all machines have.

    Args:
        is_elsewhere: whether there are other machines than the one that has them.

    Raises:
        SettingsError: what is one machine's, and what to set instead.
    """
    if not is_elsewhere:
        return
    if registry.url.startswith("sqlite"):
        raise SettingsError(
            f"registry.url: {registry.url} is a file of one machine, and the cluster has several; set it (or "
            f"{REGISTRY_VARIABLE}) to a PostgreSQL database, postgresql+psycopg://user@host/name"
        )
    if "://" not in adapters.store and not adapters.store_is_shared:
        raise SettingsError(
            f"adapters.store: {adapters.store} is a folder of one machine, and the cluster has several; set "
            "a URL that all can reach, such as s3://bucket/dear, or adapters.store_is_shared: true if it is "
            "the same folder on all of them"
        )


def load_settings(path: Path) -> Settings:
    """Read a settings file; relative paths in it start at its own folder.

    Raises:
        SettingsError: no such file, not YAML, or an unknown or wrong setting; one line that names it.
    """
    try:
        data = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read settings file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise SettingsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return read_settings(data, path.resolve().parent, str(path))


def read_settings(data: object, folder: Path, source: str) -> Settings:
    """Settings from plain data, such as YAML's.

    Args:
        folder: where relative paths start.
        source: where the data is from, for messages.

    Raises:
        SettingsError: an unknown or wrong setting; one line that names it.
    """
    if not isinstance(data, dict):
        raise SettingsError(f"{source} does not hold a mapping of settings")
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise SettingsError(f"{source}: {describe(error)}") from None
    return _resolve_paths(settings, folder)


def describe(error: ValidationError) -> str:
    """A pydantic error as one line: ``engine.replicas: Input should be ...; ...``."""
    parts = []
    for detail in error.errors(include_url=False, include_context=False):
        setting = ".".join(str(step) for step in detail["loc"])
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            message = "unknown setting"
        parts.append(f"{setting}: {message}" if setting else message)
    return "; ".join(parts)


def accepted_api_keys() -> tuple[str, ...]:
    """API keys of the default tenant, from the environment."""
    return _keys_in(API_KEYS_VARIABLE)


def admin_keys() -> tuple[str, ...]:
    """Keys of the admin routes, from the environment; empty: the routes are closed."""
    return _keys_in(ADMIN_KEY_VARIABLE)


def check_open_access(settings: Settings) -> None:
    """Refuse to open the server to a whole network by accident.

    Raises:
        SettingsError: the server would accept callers without a key from other machines.
    """
    tenancy, host = settings.tenancy, settings.http.host
    if not tenancy.open or tenancy.open_to_network or accepted_api_keys() or is_loopback(host):
        return
    raise SettingsError(
        f"tenancy.open: without keys the server listens on loopback addresses alone, not on {host}; "
        f"set {API_KEYS_VARIABLE}, or tenancy.open: false, or tenancy.open_to_network: true"
    )


def is_loopback(host: str) -> bool:
    """Whether an address or a name is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _keys_in(variable: str) -> tuple[str, ...]:
    keys = os.environ.get(variable, "").split(",")
    return tuple(key.strip() for key in keys if key.strip())


def _resolve_paths(settings: Settings, folder: Path) -> Settings:
    """Make paths absolute. A source that is no folder is a URL or a Hugging Face id and stays unchanged."""
    model, adapters, ranking = settings.model, settings.adapters, settings.ranking
    source, stage = _resolved_source(model.source, folder), settings.first_stage
    if stage is not None:
        stage = stage.model_copy(update={"source": _resolved_source(stage.source, folder)})
    chat_template = model.chat_template and (folder / model.chat_template).resolve()
    templates = ranking.templates and (folder / ranking.templates).resolve()
    return settings.model_copy(
        update={
            "model": model.model_copy(update={"source": source, "chat_template": chat_template}),
            "adapters": adapters.model_copy(
                update={
                    "root": (folder / adapters.root).resolve(),
                    "cache": (folder / adapters.cache).resolve(),
                    "store": adapters.store
                    if "://" in adapters.store
                    else str((folder / adapters.store).resolve()),
                }
            ),
            "ranking": ranking.model_copy(update={"templates": templates}),
            "first_stage": stage,
            "registry": settings.registry.model_copy(
                update={"url": _registry_url(settings.registry.url, folder)}
            ),
            "tenancy": _with_limits_url(settings.tenancy),
        }
    )


def _resolved_source(source: str | None, folder: Path) -> str | None:
    if source is not None and (source.startswith((".", "/")) or (folder / source).is_dir()):
        return str((folder / source).resolve())
    return source


def _with_limits_url(tenancy: TenancySettings) -> TenancySettings:
    """The settings with the environment's URL, if it is set."""
    override = os.environ.get(LIMITS_VARIABLE, "").strip()
    if not override:
        return tenancy
    try:
        return TenancySettings.model_validate(tenancy.model_dump() | {"limits_url": override})
    except ValidationError:
        raise SettingsError(f"{LIMITS_VARIABLE}: a Redis URL is needed, redis://host:6379/0") from None


def _registry_url(url: str, folder: Path) -> str:
    """The environment's URL, else the setting's; a relative SQLite path is made absolute."""
    override = os.environ.get(REGISTRY_VARIABLE, "").strip()
    scheme, _, path = (override or url).partition(":///")
    if override or not scheme.startswith("sqlite") or not path or path.startswith((":memory:", "/")):
        return override or url
    return f"{scheme}:///{(folder / path).resolve()}"
