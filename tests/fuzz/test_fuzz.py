"""Every target, for a while."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.attack, pytest.mark.long, pytest.mark.timeout(300)]

# Where a search begins: a body of each kind.
SEEDS: dict[str, list[bytes]] = {
    "rerank": [
        b'{"query":"q","documents":["a",{"text":"b"}],"top_n":1,"rank_fields":["text"],"dear":{"passes":2}}',
        b'{"query":"q","texts":["a","b"],"raw_scores":true,"truncate":true}',
    ],
    "openai": [
        b'{"messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],"max_tokens":1,"stop":["a"]}',
        b'{"prompt":[[1,2],[3]],"n":2,"structured_outputs":{"choice":["a"]},"logprobs":1}',
    ],
    "permutation": [b"\x05\x00[2] > [1] > [3]", b"\x09\x01</think> passage 4, passage 2"],
    "passage": [b"\x00 [3] > [1]\r\n ]4] \xef\xbc\xbb5\xef\xbc\xbd"],
}


@pytest.mark.parametrize("target", SEEDS)
def test_nothing_is_found_in(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="Atheris has wheels for Python 3.11 alone")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[target]):
        (corpus / f"{number}").write_bytes(seed)
    limits = ("-max_total_time=30", "-rss_limit_mb=2048", "-timeout=10", f"-artifact_prefix={tmp_path}/")
    command = [sys.executable, "-m", "tests.fuzz", target, str(corpus), *limits]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
