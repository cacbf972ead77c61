"""Other people's clients, unmodified, and the page that shows them: what each does with what the server says.

They have an environment of their own, where one process makes the calls of tests/support/other_clients.py.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from dear_serving.gateway.tokenizer import load_tokenizer
from tests.conftest import ROOT
from tests.e2e.conftest import BODY, Admin, Server, order_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

UNKNOWN_KEY = f"dear_{'0' * 12}_{'x' * 43}"
"""Looks like a key of ours; an open server lets in whoever brings any other text."""


# --- what each client does ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Errors:
    """A family's exceptions for 401, 404, 400 and 429."""

    bad_key: str
    unknown_model: str
    bad_input: str
    limited: str


OPENAI = Errors("AuthenticationError", "NotFoundError", "BadRequestError", "RateLimitError")
COHERE = Errors("UnauthorizedError", "NotFoundError", "BadRequestError", "TooManyRequestsError")
JINA = Errors("RuntimeError", "RuntimeError", "RuntimeError", "RuntimeError")
LITELLM = OPENAI  # its classes are OpenAI's
STAINLESS = OPENAI  # made by the same generator
VOYAGE = Errors("AuthenticationError", "APIError", "InvalidRequestError", "RateLimitError")
PINECONE = Errors("UnauthorizedError", "NotFoundError", "PineconeApiException", "RateLimitError")
NVIDIA = Errors("Exception", "Exception", "Exception", "Exception")
BEDROCK = Errors(
    "AccessDeniedException", "ResourceNotFoundException", "ValidationException", "ThrottlingException"
)

SERVER = "the server's refusal, as the client's exception for bad input"
ITSELF = "a ValueError or a ValidationError of its own before anything is sent"
NOTHING = "an empty list before anything is sent"
UNSENT = "an answer as if it had not been given: it is not sent, or the server's dialect does not know it"

WAITS = "waits and tries again"
RAISES = "its exception for 429"
NEVER = "never is"


@dataclass(frozen=True, slots=True)
class Client:
    """One client: where its URL ends, which variables it reads, and what it makes of refusals.

    ``blank_query``, ``no_documents`` and ``negative_top_n`` are None where there is no such input.
    """

    name: str
    base: str
    variables: tuple[str | None, str | None]  # for URL and key
    errors: Errors
    limited: str
    blank_query: str | None = SERVER
    no_documents: str | None = SERVER
    negative_top_n: str | None = SERVER
    names_model: bool = True
    heeds_retry_after: bool = True

    @property
    def reranks(self) -> bool:
        return not self.name.startswith("openai")


OPENAI_VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_KEY")
COHERE_VARIABLES = ("CO_API_URL", "CO_API_KEY")
# fmt: off
CLIENTS = [
    Client("openai models", "/v1", OPENAI_VARIABLES, OPENAI, NEVER, None, None, None),
    Client("openai chat", "/v1", OPENAI_VARIABLES, OPENAI, WAITS, None),
    Client("openai streamed chat", "/v1", OPENAI_VARIABLES, OPENAI, WAITS, None),
    Client("cohere Client", "", COHERE_VARIABLES, COHERE, WAITS),
    Client("cohere ClientV2", "", COHERE_VARIABLES, COHERE, WAITS),
    Client("langchain-cohere CohereRerank", "", (None, "COHERE_API_KEY"), COHERE, WAITS,
           no_documents=NOTHING),
    Client("langchain-community JinaRerank", "/v1/rerank", (None, "JINA_API_KEY"), JINA, RAISES,
           no_documents=NOTHING),
    Client("llama-index CohereRerank", "", (None, "COHERE_API_KEY"), COHERE, WAITS,
           no_documents=NOTHING),
    Client("llama-index JinaRerank", "/v1", (None, "JINAAI_API_KEY"), JINA, RAISES,
           no_documents=NOTHING),
    Client("cohere-haystack CohereRanker", "", (None, "COHERE_API_KEY"), COHERE, WAITS,
           negative_top_n=ITSELF),
    Client("jina-haystack JinaRanker", "/v1/rerank", (None, "JINA_API_KEY"), JINA, RAISES,
           no_documents=NOTHING, negative_top_n=ITSELF),
    Client("litellm hosted_vllm", "", ("HOSTED_VLLM_API_BASE", "HOSTED_VLLM_API_KEY"), LITELLM, RAISES),
    Client("litellm cohere", "", ("COHERE_API_BASE", "COHERE_API_KEY"), LITELLM, RAISES),
    Client("litellm jina_ai", "", ("JINA_AI_API_BASE", "JINA_AI_API_KEY"), LITELLM, RAISES),
    Client("litellm huggingface", "", ("HUGGINGFACE_API_BASE", "HUGGINGFACE_API_KEY"), LITELLM, RAISES,
           negative_top_n=UNSENT, names_model=False),
    Client("voyageai Client", "/v1", (None, "VOYAGE_API_KEY"), VOYAGE, RAISES),
    Client("langchain-nvidia-ai-endpoints NVIDIARerank", "/v1", ("NVIDIA_BASE_URL", "NVIDIA_API_KEY"),
           NVIDIA, RAISES, no_documents=NOTHING, negative_top_n=ITSELF),
    Client("contextual-client ContextualAI", "/v1", ("CONTEXTUAL_AI_BASE_URL", "CONTEXTUAL_API_KEY"),
           STAINLESS, WAITS),
    Client("together Together", "", ("TOGETHER_BASE_URL", "TOGETHER_API_KEY"), STAINLESS, WAITS),
    Client("pinecone Pinecone", "", ("PINECONE_CONTROLLER_HOST", "PINECONE_API_KEY"), PINECONE, WAITS,
           blank_query=ITSELF, no_documents=ITSELF, negative_top_n=ITSELF),
    Client("mixedbread Mixedbread", "", ("MIXEDBREAD_BASE_URL", "MXBAI_API_KEY"), STAINLESS, WAITS),
    Client("zeroentropy ZeroEntropy", "/v1", ("ZEROENTROPY_BASE_URL", "ZEROENTROPY_API_KEY"),
           STAINLESS, WAITS),
    Client("boto3 bedrock-agent-runtime", "/compat/bedrock",
           ("AWS_ENDPOINT_URL_BEDROCK_AGENT_RUNTIME", None), BEDROCK, WAITS,
           no_documents=ITSELF, negative_top_n=ITSELF, heeds_retry_after=False),
]
# fmt: on
RERANKERS = [client for client in CLIENTS if client.reranks]

each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
each_reranker = pytest.mark.parametrize("client", RERANKERS, ids=lambda client: client.name)

BAD_INPUTS: dict[str, tuple[dict[str, object], str]] = {
    "blank_query": ({"query": "  "}, "quer(y|ies): may not be blank"),
    "no_documents": ({"documents": []}, "at least one"),
    "negative_top_n": ({"top_n": -1}, "(top_n|top_k|max_tokens)(: Input should be| must be at least)"),
}
"""What is changed in a good call, and what the server says to it. OpenAI's documents are the messages, and
top_n is the most tokens."""

BAD_CALLS = [
    pytest.param(client, bad_input, getattr(client, bad_input), id=f"{client.name}-{bad_input}")
    for client in CLIENTS
    for bad_input in BAD_INPUTS
    if getattr(client, bad_input) is not None
]


# --- the environment and the calls ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call: an answer, or an exception by its class's name and what it says."""

    answer: Any = None
    error: str | None = None
    message: str = ""


class Clients:
    """The process that has the clients."""

    def __init__(self, process: subprocess.Popen[str], url: str, key: str, log: Path) -> None:
        self._process = process
        self.url = url
        self._key = key
        self._log = log

    def call(self, client: Client, **changes: object) -> Outcome:
        """A good call of a tenant's with a key, but for the changes."""
        call = {"client": client.name, "url": self.url + client.base, "key": self._key, "model": "legal"}
        return self._send(call | BODY | {"top_n": None} | changes)

    def run(self, program: str) -> Outcome:
        """A program; its answer is what it printed."""
        return self._send({"program": program})

    def _send(self, line: dict[str, Any]) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        assert reply, self._log.read_text()
        return Outcome(**json.loads(reply))


def new_key(admin: Admin, tenant: str, **limits: object) -> str:
    """The key of a tenant just made."""
    assert admin.http.post("/tenants", json={"id": tenant, **limits}).status_code == 201
    return str(admin.http.post(f"/tenants/{tenant}/keys", json={}).json()["key"])


@pytest.fixture(scope="module")
def key(admin: Admin) -> str:
    """The key of a tenant without limits."""
    return new_key(admin, "clients")


@pytest.fixture(scope="module")
def narrow_key(admin: Admin) -> str:
    """The key of a tenant that may have one request in flight."""
    return new_key(admin, "narrow", requests_in_flight=1)


@pytest.fixture(scope="module")
def clients(
    server: Server, key: str, clients_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Clients]:
    """The clients, with URL and key in the variables that they read."""
    environment = os.environ | {
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NVIDIA_USAGE_TELEMETRY_ENABLED": "false",
    }
    for client in CLIENTS:
        url_variable, key_variable = client.variables
        if key_variable:
            environment[key_variable] = key
        if url_variable:
            environment[url_variable] = server.url + client.base
    log = tmp_path_factory.mktemp("clients") / "errors.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [str(clients_python), "-P", str(ROOT / "tests" / "support" / "other_clients.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        ) as process,
    ):
        yield Clients(process, server.url, key, log)


@pytest.fixture(scope="module")
def orders(http: httpx.Client) -> dict[str, list[int]]:
    """The orders that the adapter and the base model give, as a plain HTTP client reads them."""
    found = {model: list(order_of(http, model)) for model in ("legal", "dear-tiny")}
    assert found["legal"] != found["dear-tiny"]
    return found


def metric(http: httpx.Client, sample: str) -> float:
    """A sample by its name and labels; 0 before there is one."""
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{sample} "))


def requests_of(tenant: str, outcome: str, http: httpx.Client) -> float:
    """How many requests of a tenant came to that, since the server started."""
    return metric(http, f'dear_tenant_requests_total{{outcome="{outcome}",tenant="{tenant}"}}')


def expected(client: Client, orders: dict[str, list[int]]) -> list[object]:
    """What comes of a good call."""
    if client.reranks:
        return [*orders["legal" if client.names_model else "dear-tiny"]]
    return ["legal"] if client.name == "openai models" else ["legal", "length"]


# --- what they do -----------------------------------------------------------------------------------


@each_client
def test_a_client_gets_what_it_asks_an_adapter_for(
    clients: Clients, orders: dict[str, list[int]], client: Client
) -> None:
    assert clients.call(client) == Outcome(expected(client, orders))


@each_reranker
def test_a_client_gets_as_many_results_as_it_asks_for(
    clients: Clients, orders: dict[str, list[int]], client: Client
) -> None:
    count = len(BODY["documents"]) if client.negative_top_n == UNSENT else 2
    assert clients.call(client, top_n=2) == Outcome(expected(client, orders)[:count])


@pytest.mark.parametrize(
    "client", [client for client in CLIENTS if client.variables[1]], ids=lambda client: client.name
)
def test_a_client_finds_url_and_key_in_the_environment(
    clients: Clients, http: httpx.Client, orders: dict[str, list[int]], client: Client
) -> None:
    url_variable, _ = client.variables
    found = {"key": None, "url": None} if url_variable else {"key": None}
    before = requests_of("clients", "served", http)
    assert clients.call(client, **found) == Outcome(expected(client, orders))
    # The door is open to other keys too; they are another tenant's.
    assert requests_of("clients", "served", http) > before


@each_client
def test_a_key_that_nobody_has_is_the_clients_own_error(clients: Clients, client: Client) -> None:
    refused = clients.call(client, key=UNKNOWN_KEY)
    assert refused.error == client.errors.bad_key
    assert "the API key is not known" in refused.message


@each_client
def test_an_unknown_model_is_the_clients_own_error(
    clients: Clients, orders: dict[str, list[int]], client: Client
) -> None:
    answer = clients.call(client, model="nobody")
    if client.names_model:
        assert answer.error == client.errors.unknown_model
        assert "there is no model 'nobody'" in answer.message
    else:
        assert answer == Outcome(expected(client, orders))


@pytest.mark.parametrize(("client", "bad_input", "then"), BAD_CALLS)
def test_bad_input_is_the_clients_own_error(
    clients: Clients, orders: dict[str, list[int]], client: Client, bad_input: str, then: str
) -> None:
    changes, sentence = BAD_INPUTS[bad_input]
    answer = clients.call(client, **changes)
    if then == SERVER:
        assert answer.error == client.errors.bad_input
        assert re.search(sentence, answer.message)
    elif then == ITSELF:
        assert answer.error is not None
        assert answer.error.endswith(("ValueError", "ValidationError"))
        assert not re.search(sentence, answer.message)
    else:
        assert answer == Outcome([] if then == NOTHING else expected(client, orders))


# --- too many requests --------------------------------------------------------------------------------


class Place:
    """The one place that the narrow tenant has: taken by a long text that nobody reads."""

    def __init__(self, server: Server, http: httpx.Client, key: str) -> None:
        self._http = http
        self._server = server
        self._key = key
        self._connection: socket.socket | None = None

    def take(self) -> None:
        """Return when the place is taken."""
        body = json.dumps({"prompt": "a", "stream": True, "ignore_eos": True, "max_tokens": 4000})
        url = httpx.URL(self._server.url)
        head = [
            "POST /v1/completions HTTP/1.1",
            f"Host: {url.host}",
            f"Authorization: Bearer {self._key}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        self._connection = socket.create_connection((url.host, url.port))
        self._connection.sendall("\r\n".join([*head, "", body]).encode())
        assert eventually(lambda: metric(self._http, "dear_requests_in_flight") == 1)

    def leave(self) -> None:
        """Return when the place is free."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            assert eventually(lambda: metric(self._http, "dear_requests_in_flight") == 0)

    def refused(self) -> float:
        """How many requests of the tenant were told to come later, since the server started."""
        return requests_of("narrow", "limited", self._http)

    def wait_for_refusals(self, count: float) -> None:
        """Return when that many were."""
        assert eventually(lambda: self.refused() >= count)


@pytest.fixture
def place(server: Server, http: httpx.Client, narrow_key: str) -> Iterator[Place]:
    """Taken before the test, free after it."""
    place = Place(server, http, narrow_key)
    place.take()
    yield place
    place.leave()


def each_that(then: str) -> pytest.MarkDecorator:
    """The clients that do so when told to come later."""
    some = [client for client in CLIENTS if client.limited == then]
    return pytest.mark.parametrize("client", some, ids=lambda client: client.name)


@each_that(WAITS)
def test_a_client_that_retries_comes_again_when_there_is_room(
    clients: Clients, orders: dict[str, list[int]], narrow_key: str, place: Place, client: Client
) -> None:
    before = place.refused()
    began_s = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(clients.call, client, key=narrow_key)
        place.wait_for_refusals(before + 1)
        place.leave()
        left_s = time.monotonic() - began_s
        assert called.result() == Outcome(expected(client, orders))
    refused = place.refused() - before
    # It was told to wait for a second at least: until the place was left, it came once a second at most.
    assert 1 <= refused <= (1 + int(left_s) if client.heeds_retry_after else math.inf)


@each_that(RAISES)
def test_too_many_requests_are_the_clients_own_error_where_it_does_not_retry(
    clients: Clients, narrow_key: str, place: Place, client: Client
) -> None:
    before = place.refused()
    refused = clients.call(client, key=narrow_key)
    assert refused.error == client.errors.limited
    assert "1 requests in flight" in refused.message
    assert place.refused() == before + 1


@each_that(NEVER)
def test_asking_what_there_is_takes_no_place(
    clients: Clients, orders: dict[str, list[int]], narrow_key: str, place: Place, client: Client
) -> None:
    assert clients.call(client, key=narrow_key) == Outcome(expected(client, orders))


def test_a_client_gives_up_after_its_retries(clients: Clients, narrow_key: str, place: Place) -> None:
    (client,) = (client for client in CLIENTS if client.name == "cohere ClientV2")
    before = place.refused()
    refused = clients.call(client, key=narrow_key)
    assert refused.error == client.errors.limited
    assert place.refused() == before + 3


# --- APIs whose clients cannot be pointed elsewhere: plain HTTP ------------------------------------------


QUERY, DOCUMENTS = BODY["query"], BODY["documents"]
RANKING_CONFIG = "/v1/projects/any/locations/global/rankingConfigs/default_ranking_config:rank"
PLAIN: dict[str, dict[str, Any]] = {
    "/compatible-api/v1/reranks": {"query": QUERY, "documents": DOCUMENTS},
    "/compat/sglang/v1/rerank": {"query": QUERY, "documents": DOCUMENTS},
    "/v1/score": {"text_1": QUERY, "text_2": DOCUMENTS},
    RANKING_CONFIG: {
        "query": QUERY,
        "records": [{"id": str(place), "content": text} for place, text in enumerate(DOCUMENTS)],
    },
}


@pytest.mark.parametrize("path", PLAIN)
@pytest.mark.parametrize("model", ["legal", "dear-tiny"])
def test_an_api_without_a_client_gives_the_same_order(
    http: httpx.Client, orders: dict[str, list[int]], path: str, model: str
) -> None:
    reply = http.post(path, json=PLAIN[path] | {"model": model})
    assert reply.status_code == 200, reply.text
    data = reply.json()
    results = (
        data
        if isinstance(data, list)
        else next(data[key] for key in ("results", "data", "records") if key in data)
    )
    best_first = sorted(results, key=lambda one: -float(one.get("score", one.get("relevance_score"))))
    assert [int(one.get("index", one.get("id", -1))) for one in best_first] == orders[model]


def test_a_label_scores_as_probable_as_the_models_own_first_token(http: httpx.Client) -> None:
    tokenizer = load_tokenizer(str(ROOT / "configs" / "demo" / "base"))
    prompt = [tokenizer.bos_token_id or 0, *tokenizer.encode("Search Query: parking permit [")]
    asked = {"model": "legal", "prompt": prompt, "max_tokens": 1, "logprobs": 5, "temperature": 0}
    (found,) = http.post("/v1/completions", json=asked).json()["choices"][0]["logprobs"]["top_logprobs"]
    ids = {text: tokenizer.encode(text) for text in found}
    known = [(tokens[0], found[text]) for text, tokens in ids.items() if len(tokens) == 1]
    assert len(known) >= 2
    labels, log_probs = zip(*known, strict=True)
    body = {"model": "legal", "query": prompt, "items": [[]], "label_token_ids": labels}
    (scored,) = http.post("/generative_scoring", json=body).json()["data"]
    total = sum(math.exp(one) for one in log_probs)
    assert scored["score"] == pytest.approx(math.exp(log_probs[0]) / total, rel=1e-3)


# --- vLLM's benchmark -----------------------------------------------------------------------------------


async def vllm_rerank(url: str, key: str, texts: Sequence[str], model: str = "legal") -> Any:
    """A request of ``vllm bench serve --backend vllm-rerank``, by its own function."""
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncInput, async_request_vllm_rerank

    asked = RequestFuncInput(
        prompt=list(texts),
        api_url=f"{url}/v1/rerank",
        prompt_len=0,
        output_len=0,
        model=model,
        extra_headers={"Authorization": f"Bearer {key}"},
    )
    async with aiohttp.ClientSession() as session:
        return await async_request_vllm_rerank(asked, session)


GOOD_TEXTS = [str(BODY["query"]), *BODY["documents"]]


async def test_vllms_request_is_answered_with_its_count_of_tokens(server: Server, key: str) -> None:
    done = await vllm_rerank(server.url, key, GOOD_TEXTS)
    assert done.success, done.error
    assert done.prompt_len > 50


@pytest.mark.parametrize(
    ("model", "texts", "own_key", "reason"),
    [
        ("legal", GOOD_TEXTS, UNKNOWN_KEY, "Unauthorized"),
        ("nobody", GOOD_TEXTS, None, "Not Found"),
        ("legal", ["  ", "a passage"], None, "Bad Request"),
    ],
)
async def test_vllms_request_fails_for_the_reason_that_the_server_gives(
    server: Server, key: str, model: str, texts: list[str], own_key: str | None, reason: str
) -> None:
    done = await vllm_rerank(server.url, own_key or key, texts, model)
    assert (done.success, done.error) == (False, reason)


async def test_vllms_request_fails_where_there_are_too_many(
    server: Server, narrow_key: str, place: Place
) -> None:
    done = await vllm_rerank(server.url, narrow_key, GOOD_TEXTS)
    assert (done.success, done.error) == (False, "Too Many Requests")


# --- the page ---------------------------------------------------------------------------------------------


PAGE = (ROOT / "client" / "other-clients.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    """The page's fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


PREAMBLE, *PROGRAMS = blocks("python")


def name_of(program: str) -> str:
    """What a program imports first of the client."""
    modules: list[str] = re.findall(r"^(?:import|from) (\S+)", program, re.MULTILINE)
    return next(module for module in reversed(modules) if not module.endswith("documents"))


@pytest.mark.parametrize("program", PROGRAMS, ids=name_of)
def test_an_example_of_the_page_prints_what_the_page_shows(clients: Clients, program: str) -> None:
    (shown,) = blocks("text")
    assert ADDRESS in program
    done = clients.run(PREAMBLE + program.replace(ADDRESS, clients.url))
    assert done.error is None, done.message
    if "openai" in program:  # the tests' server has more models
        assert {"'dear-tiny'", "'legal'", "'medical'"} <= set(re.findall(r"'[\w-]+'", done.answer))
        assert len(done.answer.splitlines()) > 1
    else:
        assert done.answer == shown


def test_the_page_shows_every_client() -> None:
    rows = [
        f"| {client.name} | {f'`{client.base}`' if client.base else 'nothing'} "
        f"| {', '.join(f'`{variable}`' for variable in client.variables if variable)} "
        f"| {f'`{client.errors.limited}`' if client.limited == RAISES else client.limited} |"
        for client in CLIENTS
    ]
    assert re.findall(r"^\| .* \|$", PAGE, re.MULTILINE)[1:] == rows
    imported = {re.split(r"[._]", name_of(program))[0] for program in PROGRAMS}
    assert imported == {
        "openai",
        "cohere",
        "langchain",
        "llama",
        "haystack",
        "litellm",
        "voyageai",
        "contextual",
        "together",
        "pinecone",
        "mixedbread",
        "zeroentropy",
        "boto3",
    }
    assert len(PROGRAMS) == 17


BENCHMARK = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""What ``vllm bench serve`` does; the CPU build's command asks for a package that has another name there."""


def test_vllms_benchmark_of_the_page_counts_what_the_server_read(
    server: Server, key: str, tmp_path: Path
) -> None:
    (command,) = blocks("bash")
    assert ADDRESS in command
    vllm, bench, serve, *arguments = shlex.split(command.replace("\\\n", "").replace(ADDRESS, server.url))
    assert (vllm, bench, serve) == ("vllm", "bench", "serve")
    arguments += ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "result.json"]
    done = subprocess.run(
        [sys.executable, "-c", BENCHMARK, *arguments],
        cwd=ROOT,
        env=os.environ | {"OPENAI_API_KEY": key, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["total_input_sequences"]) == (2, 8)
    assert result["total_input_tokens"] > 2 * (64 + 4)
