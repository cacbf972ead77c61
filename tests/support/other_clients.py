"""Other people's clients, each called as its documentation says. Runs in ``.venv-clients``, which has them.

Reads calls from standard input, one JSON object a line, and writes to standard output what came of each::

    {"client", "url", "key", "model", "query", "documents", "top_n"}  ->  {"answer"} or {"error", "message"}
    {"program"}                                                       ->  {"answer"}: what it printed, or ...

``url`` and ``key`` may be null: the client then finds them in the environment. What each client is expected
to do is in ``tests/e2e/test_other_clients.py``, which writes the calls.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import cohere
import litellm
import openai
import requests
from haystack import Document as HaystackDocument
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from langchain_cohere import CohereRerank as LangChainCohereRerank
from langchain_community.document_compressors import JinaRerank as LangChainJinaRerank
from langchain_core.documents import BaseDocumentCompressor, Document
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaIndexCohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank as LlamaIndexJinaRerank
from requests.adapters import HTTPAdapter


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked; ``top_n`` null asks for all."""

    url: str | None
    key: str | None
    model: str
    query: str
    documents: list[str]
    top_n: int | None = None

    @property
    def given(self) -> dict[str, str]:
        """The key as the keyword that most constructors know, left out where the environment has it."""
        return {} if self.key is None else {"api_key": self.key}


Order = list[int]
"""The documents' indices, best first."""


# --- openai: documents are the messages, top_n the most tokens ------------------------------------


def openai_client(call: Call) -> openai.OpenAI:
    return openai.OpenAI(base_url=call.url, api_key=call.key)


def openai_models(call: Call) -> list[str]:
    client = openai_client(call)
    wanted = client.models.retrieve(call.model).id
    return [model.id for model in client.models.list() if model.id == wanted]


def openai_asked(call: Call) -> dict[str, Any]:
    return {
        "model": call.model,
        "messages": [{"role": "user", "content": text} for text in call.documents],
        "max_tokens": call.top_n or 8,
        "extra_body": {"ignore_eos": True},
    }


def openai_chat(call: Call) -> list[str]:
    reply = openai_client(call).chat.completions.create(**openai_asked(call))
    return [reply.model, reply.choices[0].finish_reason]


def openai_streamed_chat(call: Call) -> list[str]:
    chunks = list(openai_client(call).chat.completions.create(**openai_asked(call), stream=True))
    return [chunks[0].model, chunks[-1].choices[0].finish_reason]


# --- Cohere's own ----------------------------------------------------------------------------------


def ask_cohere(client: cohere.Client | cohere.ClientV2, call: Call) -> Order:
    reply = client.rerank(model=call.model, query=call.query, documents=call.documents, top_n=call.top_n)
    return [result.index for result in reply.results]


def cohere_arguments(call: Call) -> dict[str, str]:
    return call.given | ({} if call.url is None else {"base_url": call.url})


def cohere_v1(call: Call) -> Order:
    return ask_cohere(cohere.Client(**cohere_arguments(call)), call)


def cohere_v2(call: Call) -> Order:
    return ask_cohere(cohere.ClientV2(**cohere_arguments(call)), call)


# --- LangChain -------------------------------------------------------------------------------------


def ask_langchain(compressor: BaseDocumentCompressor, call: Call) -> Order:
    documents = [Document(text, metadata={"index": index}) for index, text in enumerate(call.documents)]
    return [one.metadata["index"] for one in compressor.compress_documents(documents, call.query)]


def langchain_cohere(call: Call) -> Order:
    key = {} if call.key is None else {"cohere_api_key": call.key}
    compressor = LangChainCohereRerank(model=call.model, base_url=call.url, top_n=call.top_n, **key)
    return ask_langchain(compressor, call)


class Elsewhere(HTTPAdapter):
    """For a client that knows one address only: sends its requests to another."""

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__()

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        request.url = self.url
        return super().send(request, *args, **options)


def langchain_jina(call: Call) -> Order:
    key = {} if call.key is None else {"jina_api_key": call.key}
    compressor = LangChainJinaRerank(model=call.model, top_n=call.top_n, **key)
    assert call.url is not None
    compressor.session.mount("https://api.jina.ai/", Elsewhere(call.url))
    return ask_langchain(compressor, call)


# --- LlamaIndex: its top_n is never null -----------------------------------------------------------


def ask_llama_index(postprocessor: BaseNodePostprocessor, call: Call) -> Order:
    nodes = [
        NodeWithScore(node=TextNode(text=text, id_=str(index))) for index, text in enumerate(call.documents)
    ]
    return [int(one.node.node_id) for one in postprocessor.postprocess_nodes(nodes, query_str=call.query)]


def llama_index_arguments(call: Call) -> dict[str, Any]:
    top_n = call.top_n or len(call.documents)
    return {"model": call.model, "top_n": top_n, "base_url": call.url} | call.given


def llama_index_cohere(call: Call) -> Order:
    return ask_llama_index(LlamaIndexCohereRerank(**llama_index_arguments(call)), call)


def llama_index_jina(call: Call) -> Order:
    return ask_llama_index(LlamaIndexJinaRerank(**llama_index_arguments(call)), call)


# --- Haystack --------------------------------------------------------------------------------------


def ask_haystack(ranker: CohereRanker | JinaRanker, call: Call) -> Order:
    documents = [
        HaystackDocument(content=text, meta={"index": index}) for index, text in enumerate(call.documents)
    ]
    found = ranker.run(query=call.query, documents=documents, top_k=call.top_n)
    return [one.meta["index"] for one in found["documents"]]


def haystack_arguments(call: Call) -> dict[str, Any]:
    return {"model": call.model} | ({} if call.key is None else {"api_key": Secret.from_token(call.key)})


def haystack_cohere(call: Call) -> Order:
    return ask_haystack(CohereRanker(api_base_url=call.url, **haystack_arguments(call)), call)


def haystack_jina(call: Call) -> Order:
    return ask_haystack(JinaRanker(base_url=call.url, **haystack_arguments(call)), call)


# --- LiteLLM ---------------------------------------------------------------------------------------


def litellm_as(provider: str) -> Callable[[Call], Order]:
    """LiteLLM's way to servers of one kind, which is chosen by the first part of the model's name."""

    def ask(call: Call) -> Order:
        reply = litellm.rerank(
            model=f"{provider}/{call.model}",
            query=call.query,
            documents=call.documents,
            top_n=call.top_n,
            api_base=call.url,
            api_key=call.key,
        )
        return [result["index"] for result in reply.results]

    return ask


# --- the other APIs: imported when they are called first, since together that takes long ------------


def voyage(call: Call) -> Order:
    import voyageai

    client = voyageai.Client(base_url=call.url, **call.given)
    reply = client.rerank(call.query, call.documents, model=call.model, top_k=call.top_n)
    return [result.index for result in reply.results]


def nvidia(call: Call) -> Order:
    from langchain_nvidia_ai_endpoints import NVIDIARerank

    top_n = len(call.documents) if call.top_n is None else call.top_n
    url = {} if call.url is None else {"base_url": call.url}
    return ask_langchain(NVIDIARerank(model=call.model, top_n=top_n, **url, **call.given), call)


def with_top_n(call: Call) -> dict[str, Any]:
    """The arguments that most have; top_n is left out where it is null."""
    asked = {"model": call.model, "query": call.query, "documents": call.documents}
    return asked if call.top_n is None else asked | {"top_n": call.top_n}


def contextual(call: Call) -> Order:
    from contextual import ContextualAI

    reply = ContextualAI(base_url=call.url, **call.given).rerank.create(**with_top_n(call))
    return [result.index for result in reply.results]


def together(call: Call) -> Order:
    from together import Together

    reply = Together(base_url=call.url, **call.given).rerank.create(**with_top_n(call))
    return [result.index for result in reply.results]


def pinecone(call: Call) -> Order:
    from pinecone import Pinecone

    reply = Pinecone(host=call.url, **call.given).inference.rerank(**with_top_n(call))
    return [result.index for result in reply.data]


def mixedbread(call: Call) -> Order:
    from mixedbread import Mixedbread

    url = {} if call.url is None else {"base_url": call.url}
    top_k = {} if call.top_n is None else {"top_k": call.top_n}
    client = Mixedbread(**url, **call.given)
    reply = client.rerank(model=call.model, query=call.query, input=call.documents, **top_k)
    return [result.index for result in reply.data]


def zeroentropy(call: Call) -> Order:
    from zeroentropy import ZeroEntropy

    reply = ZeroEntropy(base_url=call.url, **call.given).models.rerank(**with_top_n(call))
    return [result.index for result in reply.results]


def bedrock(call: Call) -> Order:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    # More retries than its two, since it does not wait as long as the server says.
    unsigned = Config(signature_version=UNSIGNED, retries={"total_max_attempts": 8, "mode": "standard"})
    client = boto3.client(
        "bedrock-agent-runtime", endpoint_url=call.url, region_name="us-east-1", config=unsigned
    )

    def add_key(params: dict[str, Any], **_: Any) -> None:
        params["headers"]["Authorization"] = f"Bearer {call.key}"

    client.meta.events.register("before-call", add_key)
    top_n = {} if call.top_n is None else {"numberOfResults": call.top_n}
    reply = client.rerank(
        queries=[{"type": "TEXT", "textQuery": {"text": call.query}}],
        sources=[
            {"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": text}}}
            for text in call.documents
        ],
        rerankingConfiguration={
            "type": "BEDROCK_RERANKING_MODEL",
            "bedrockRerankingConfiguration": {"modelConfiguration": {"modelArn": call.model}, **top_n},
        },
    )
    return [result["index"] for result in reply["results"]]


CLIENTS: dict[str, Callable[[Call], list[int] | list[str]]] = {
    "openai models": openai_models,
    "openai chat": openai_chat,
    "openai streamed chat": openai_streamed_chat,
    "cohere Client": cohere_v1,
    "cohere ClientV2": cohere_v2,
    "langchain-cohere CohereRerank": langchain_cohere,
    "langchain-community JinaRerank": langchain_jina,
    "llama-index CohereRerank": llama_index_cohere,
    "llama-index JinaRerank": llama_index_jina,
    "cohere-haystack CohereRanker": haystack_cohere,
    "jina-haystack JinaRanker": haystack_jina,
    "litellm hosted_vllm": litellm_as("hosted_vllm"),
    "litellm cohere": litellm_as("cohere"),
    "litellm jina_ai": litellm_as("jina_ai"),
    "litellm huggingface": litellm_as("huggingface"),
    "voyageai Client": voyage,
    "langchain-nvidia-ai-endpoints NVIDIARerank": nvidia,
    "contextual-client ContextualAI": contextual,
    "together Together": together,
    "pinecone Pinecone": pinecone,
    "mixedbread Mixedbread": mixedbread,
    "zeroentropy ZeroEntropy": zeroentropy,
    "boto3 bedrock-agent-runtime": bedrock,
}


def answer(line: dict[str, Any]) -> dict[str, Any]:
    """What came of one line."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):  # answers alone go to standard output
            if "program" in line:
                exec(line["program"], {})
                return {"answer": printed.getvalue()}
            call = Call(**{field.name: line[field.name] for field in fields(Call)})
            return {"answer": CLIENTS[line["client"]](call)}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    for text in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(text))) + "\n")
        sys.stdout.flush()
