"""Every dialect. A path may have several: the first one that claims a body has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.routing import compile_path

from dear_serving.http.dialects import (
    bedrock,
    documents,
    hosted,
    mixedbread,
    nvidia,
    pinecone,
    tei,
    vertex,
    vllm_score,
    voyage,
    zeroentropy,
)
from dear_serving.http.dialects.dialect import Dialect
from dear_serving.http.dialects.reply import RerankReply

_QUERY = "parking permit"
_TEXTS = ["A permit is cheap", "Parking permit prices"]
_ASKED = {"model": "legal", "query": _QUERY, "documents": _TEXTS}
_OBJECTS = [{"title": "Prices", "body": "A permit is cheap"}, {"title": "Fines", "body": "None"}]


def _has(data: Mapping[str, Any], *names: str) -> bool:
    """Whether a body has any of these fields; null is the same as absent."""
    return any(data.get(name) is not None for name in names)


BEDROCK = Dialect(
    "bedrock",
    "Amazon Bedrock",
    ("/rerank",),
    bedrock.BedrockBody,
    bedrock.BedrockReply,
    bedrock.to_task,
    bedrock.to_reply,
    "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_agent-runtime_Rerank.html",
    {
        "Bedrock": {
            "queries": [{"type": "TEXT", "textQuery": {"text": _QUERY}}],
            "sources": [
                {
                    "type": "INLINE",
                    "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": _TEXTS[0]}},
                },
                {"type": "INLINE", "inlineDocumentSource": {"type": "JSON", "jsonDocument": _OBJECTS[1]}},
            ],
            "rerankingConfiguration": {
                "type": "BEDROCK_RERANKING_MODEL",
                "bedrockRerankingConfiguration": {
                    "numberOfResults": 1,
                    "modelConfiguration": {"modelArn": "arn:aws:bedrock:local::foundation-model/legal"},
                },
            },
        }
    },
    passages=("sources",),
    query=("queries",),
    sdk="boto3",
    claims=lambda data, has_api_key: _has(data, "sources", "rerankingConfiguration"),
    error=bedrock.error,
)
TEI = Dialect(
    "tei",
    "text-embeddings-inference",
    ("/rerank",),
    tei.TeiBody,
    list[tei.TeiResult],
    tei.to_task,
    tei.to_reply,
    "https://huggingface.github.io/text-embeddings-inference/",
    {"text-embeddings-inference": {"query": _QUERY, "texts": _TEXTS, "return_text": True}},
    passages=("texts",),
    sdk="litellm",
    claims=lambda data, has_api_key: "texts" in data and not _has(data, "documents"),
)
PINECONE = Dialect(
    "pinecone",
    "Pinecone",
    ("/rerank",),
    pinecone.PineconeBody,
    pinecone.PineconeReply,
    pinecone.to_task,
    pinecone.to_reply,
    "https://docs.pinecone.io/reference/api/latest/inference/rerank",
    {
        "Pinecone": {
            "model": "legal",
            "query": _QUERY,
            "documents": [{"text": text} for text in _TEXTS],
            "rank_fields": ["text"],
            "parameters": {"truncate": "END"},
        }
    },
    sdk="pinecone",
    # Others that rank objects by fields send their key as Authorization.
    claims=lambda data, has_api_key: has_api_key and _has(data, "rank_fields"),
    error=pinecone.error,
)
VOYAGE = Dialect(
    "voyage",
    "Voyage AI",
    ("/v1/rerank", "/rerank"),
    voyage.VoyageBody,
    voyage.VoyageReply,
    voyage.to_task,
    voyage.to_reply,
    "https://docs.voyageai.com/reference/reranker-api",
    {"Voyage": {**_ASKED, "top_k": 1, "truncation": True, "return_documents": True}},
    sdk="voyageai",
    claims=lambda data, has_api_key: _has(data, "truncation", "top_k"),
)
SGLANG = Dialect(
    "sglang",
    "SGLang",
    ("/v1/rerank",),
    hosted.SglangBody,
    list[hosted.SglangResult],
    documents.to_task,
    hosted.to_sglang,
    "https://docs.sglang.io/docs/supported-models/rerank_models",
    {"SGLang": {**_ASKED, "instruct": "Prefer what is in force."}},
    claims=lambda data, has_api_key: _has(data, "instruct"),
)
COHERE = Dialect(
    "cohere",
    "Cohere",
    ("/v2/rerank", "/v1/rerank"),
    documents.RerankBody,
    RerankReply,
    documents.to_task,
    documents.to_reply,
    "https://docs.cohere.com/reference/rerank",
    {
        "Cohere v2": {**_ASKED, "top_n": 1},
        "Cohere v1": {
            "query": _QUERY,
            "documents": _OBJECTS,
            "rank_fields": ["title", "body"],
            "return_documents": True,
        },
        "fields as YAML": {"query": _QUERY, "documents": _OBJECTS},
        "options of this server": {
            "query": _QUERY,
            "documents": _TEXTS,
            "dear": {"strategy": "sliding", "window_size": 20, "step": 10, "deadline_ms": 5000},
        },
        "as a stream": {"query": _QUERY, "documents": _TEXTS, "dear": {"stream": True}},
    },
    sdk="cohere",
    has_meta=True,
)
JINA = Dialect(
    "jina",
    "Jina",
    ("/v1/rerank", "/rerank"),
    documents.RerankBody,
    RerankReply,
    documents.to_task,
    documents.to_reply,
    "https://api.jina.ai/redoc#tag/rerank",
    {"Jina": {"query": _QUERY, "documents": [{"text": text} for text in _TEXTS], "top_n": None}},
    sdk="langchain-community",
    has_meta=True,
)
VLLM = Dialect(
    "vllm",
    "vLLM",
    ("/rerank", "/v1/rerank", "/v2/rerank"),
    documents.RerankBody,
    RerankReply,
    documents.to_task,
    documents.to_reply,
    "https://docs.vllm.ai/en/stable/models/pooling_models/",
    {
        "vLLM": {
            "query": _QUERY,
            "documents": _TEXTS,
            "truncate_prompt_tokens": 64,
            "priority": 1,
            "instruction": "Prefer what is in force.",
        }
    },
    sdk="litellm",
    has_meta=True,
)
VLLM_SCORE = Dialect(
    "vllm-score",
    "vLLM's score API",
    ("/score", "/v1/score"),
    vllm_score.ScoreBody,
    vllm_score.ScoreReply,
    vllm_score.to_task,
    vllm_score.to_reply,
    "https://docs.vllm.ai/en/stable/models/pooling_models/",
    {
        "queries and documents": {"model": "legal", "queries": _QUERY, "documents": _TEXTS},
        "text_1 and text_2": {"text_1": _QUERY, "text_2": _TEXTS},
    },
    passages=("documents", "items", "data_2", "text_2"),
    query=("queries", "data_1", "text_1"),
)
NVIDIA = Dialect(
    "nvidia",
    "NVIDIA NIM",
    ("/v1/ranking",),
    nvidia.NimBody,
    nvidia.NimReply,
    nvidia.to_task,
    nvidia.to_reply,
    "https://docs.nvidia.com/nim/nemo-retriever/text-reranking/latest/reference.html",
    {
        "NIM": {
            "model": "legal",
            "query": {"text": _QUERY},
            "passages": [{"text": text} for text in _TEXTS],
            "truncate": "END",
        }
    },
    passages=("passages",),
    sdk="langchain-nvidia-ai-endpoints",
)
CONTEXTUAL = Dialect(
    "contextual",
    "Contextual AI",
    ("/v1/rerank", "/rerank"),
    documents.RerankBody,
    hosted.ContextualReply,
    documents.to_task,
    hosted.to_contextual,
    "https://docs.contextual.ai/how-to-guides/rerank",
    {
        "Contextual": {
            **_ASKED,
            "instruction": "Prefer what is in force.",
            "metadata": ["in force since 2024", "repealed"],
        }
    },
    sdk="contextual-client",
)
DASHSCOPE = Dialect(
    "dashscope",
    "DashScope",
    ("/compatible-api/v1/reranks",),
    documents.RerankBody,
    hosted.DashScopeReply,
    documents.to_task,
    hosted.to_dashscope,
    "https://www.alibabacloud.com/help/en/model-studio/rerank",
    {"DashScope": {**_ASKED, "top_n": 1, "instruct": "Prefer what is in force."}},
    error=hosted.dashscope_error,
)
TOGETHER = Dialect(
    "together",
    "Together",
    ("/v1/rerank",),
    documents.RerankBody,
    hosted.TogetherReply,
    documents.to_task,
    hosted.to_together,
    "https://docs.together.ai/reference/rerank",
    {"Together": {**_ASKED, "documents": _OBJECTS, "return_documents": True}},
    sdk="together",
)
MIXEDBREAD = Dialect(
    "mixedbread",
    "Mixedbread",
    ("/v1/reranking",),
    mixedbread.MixedbreadBody,
    mixedbread.MixedbreadReply,
    mixedbread.to_task,
    mixedbread.to_reply,
    "https://www.mixedbread.com/api-reference/endpoints/reranking",
    {"Mixedbread": {"model": "legal", "query": _QUERY, "input": _TEXTS, "top_k": 1, "return_input": True}},
    passages=("input",),
    sdk="mixedbread",
)
ZEROENTROPY = Dialect(
    "zeroentropy",
    "ZeroEntropy",
    ("/v1/models/rerank", "/models/rerank"),
    zeroentropy.ZeroEntropyBody,
    zeroentropy.ZeroEntropyReply,
    zeroentropy.to_task,
    zeroentropy.to_reply,
    "https://docs.zeroentropy.dev/api-reference/models/rerank",
    {"ZeroEntropy": {**_ASKED, "top_n": 1, "latency": "fast"}},
    sdk="zeroentropy",
)
VERTEX = Dialect(
    "vertex",
    "Google Vertex AI",
    ("/v1/projects/{project}/locations/{location}/rankingConfigs/{config}:rank",),
    vertex.VertexBody,
    vertex.VertexReply,
    vertex.to_task,
    vertex.to_reply,
    "https://cloud.google.com/generative-ai-app-builder/docs/ranking",
    {
        "Vertex": {
            "model": "legal",
            "query": _QUERY,
            "records": [
                {"id": "a", "title": "Prices", "content": _TEXTS[0]},
                {"id": "b", "content": _TEXTS[1]},
            ],
            "topN": 1,
        }
    },
    passages=("records",),
    parameters={"project": "any", "location": "global", "config": "default_ranking_config"},
    error=vertex.error,
)

DIALECTS = {
    one.name: one
    for one in (
        BEDROCK,
        TEI,
        PINECONE,
        VOYAGE,
        SGLANG,
        COHERE,
        JINA,
        VLLM,
        VLLM_SCORE,
        NVIDIA,
        CONTEXTUAL,
        DASHSCOPE,
        TOGETHER,
        MIXEDBREAD,
        ZEROENTROPY,
        VERTEX,
    )
}
"""By name."""

SHARED_PATHS = {
    "/rerank": (BEDROCK, TEI, PINECONE, VOYAGE, JINA),
    "/v1/rerank": (VOYAGE, SGLANG, COHERE),
    "/v2/rerank": (COHERE,),
}
"""Paths of several dialects, with those that are told apart there; the last one takes every body. Its reply
has what the other dialects with ``documents`` look for.
"""

_OTHER_PATHS = {path: (one,) for one in DIALECTS.values() for path in one.paths if path not in SHARED_PATHS}
_COMPATIBLE_PATHS = {one.folder + path: (one,) for one in DIALECTS.values() for path in one.paths}

PATHS: Mapping[str, tuple[Dialect, ...]] = {**SHARED_PATHS, **_OTHER_PATHS, **_COMPATIBLE_PATHS}
"""Every path, with the dialects that it may be in."""


_PATTERNS = {compile_path(path)[0]: dialects for path, dialects in _OTHER_PATHS.items() if "{" in path}


def dialect_of(path: str) -> Dialect | None:
    """The dialect of a path that has no other, by the request's path; None: there is none, or several."""
    if path.startswith("/compat/"):
        return DIALECTS.get(path.split("/", 3)[2])
    dialects = PATHS.get(path) or next((of for one, of in _PATTERNS.items() if one.match(path)), ())
    return dialects[0] if len(dialects) == 1 else None
