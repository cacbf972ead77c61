"""The command line of ``dear eval``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from dear_client.options import RerankOptions
from dear_tools.exits import ToolError
from dear_tools.options import JsonOption, KeyOption, UrlOption, with_rerank_options

_NEEDED = {"ir_measures": "ir-measures", "scipy": "scipy", "yaml": "pyyaml"}


@with_rerank_options()
def evaluate(
    candidates: Annotated[
        Path | None, typer.Option(help="Candidates with their texts: JSON of RankGPT, JSONL of rank_llm.")
    ] = None,
    qrels: Annotated[Path | None, typer.Option(help="Judgements: TREC's, or BEIR's TSV.")] = None,
    run: Annotated[Path | None, typer.Option(help="Candidates: a TREC run.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Texts of the run's queries: TSV or JSONL.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Texts of the run's documents: TSV or JSONL.")] = None,
    beir: Annotated[Path | None, typer.Option(help="A BEIR folder; the candidates are --run.")] = None,
    irds: Annotated[str | None, typer.Option(help="A dataset of ir_datasets, by its name there.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="A collection with its settings, or card for all; see benchmarks/evaluation.md."),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder with the preset's files.")] = Path(),
    depth: Annotated[
        int | None, typer.Option(min=1, help="Candidates a query.", show_default="the preset's, else 100")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for an answer.")] = 120.0,
    ranker: Annotated[
        str,
        typer.Option(
            help="server; oracle (by the judgements); first-stage (unchanged); or a TREC run's file."
        ),
    ] = "server",
    against: Annotated[
        Path | None, typer.Option(help="A TREC run to compare with.", show_default="the first stage")
    ] = None,
    relevant_from: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Lowest grade that counts as relevant for AP and R.",
            show_default="the preset's, else 1",
        ),
    ] = None,
    measures: Annotated[
        list[str] | None,
        typer.Option(
            help="Measures of ir-measures, 'nDCG@10 AP'; may be repeated.",
            show_default="nDCG@1 nDCG@5 nDCG@10 AP R@DEPTH",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for answers, run and report.", show_default="eval-NAME")
    ] = None,
    calibration: Annotated[
        bool,
        typer.Option("--calibration", help="Ask for confidences and compare them with the judgements."),
    ] = False,
    stages: Annotated[
        bool,
        typer.Option(
            "--stages",
            help="Compare the listwise ranking with the server's first stage alone and with the cascade.",
        ),
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Delete the answers that are in --out.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many queries, the first ones.")] = None,
    *,
    options: RerankOptions,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rerank judged candidate lists and report nDCG, MAP, recall, significance, valid orders and cost.

    Started again, it resumes. Ranks beyond --top-n keep the first stage's order. The exit code is 3 where
    queries failed.
    """
    for module, package in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise ToolError(f"dear eval needs {package}: pip install {package}")
    from dear_tools.evaluation.session import Request, run_session
    from dear_tools.evaluation.sources import Source

    source = Source(candidates, qrels, run, queries, corpus, beir, irds)
    if preset is not None and source != Source():
        raise typer.BadParameter("--preset brings its own files, from --data")
    if preset is None and (problem := source.problem()):
        raise typer.BadParameter(problem)
    if calibration and ranker != "server":
        raise typer.BadParameter("--calibration needs a server: other rankers have no confidence")
    if calibration and importlib.util.find_spec("matplotlib") is None:
        raise ToolError("--calibration needs matplotlib: pip install matplotlib")
    if stages and (ranker != "server" or against is not None or preset == "card"):
        raise typer.BadParameter("--stages asks the server three times, and compares the answers by itself")
    if stages and options.get("strategy") in ("pointwise", "cascade"):
        raise typer.BadParameter("--stages: --strategy names the listwise one that the others are held to")
    request = Request(
        source=source,
        options=options,
        preset=preset,
        data=data,
        depth=depth,
        limit=limit,
        ranker=ranker,
        against=against,
        relevant_from=relevant_from,
        measures=tuple(name for group in measures or () for name in group.split()),
        out=out,
        restart=restart,
        calibration=calibration,
        stages=stages,
        concurrency=concurrency,
        timeout_s=timeout,
        url=url,
        api_key=api_key,
    )
    raise typer.Exit(run_session(request, is_json=as_json))
