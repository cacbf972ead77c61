"""Compiles a caller's grammar in a process that can be ended, before an engine compiles it.

xgrammar can need minutes and gigabytes for a short text, and cannot be interrupted: an engine that compiles
it answers nobody meanwhile.
"""

from __future__ import annotations

import os
import resource
import select
import signal
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import psutil

from dear_serving.adapters.base_files import local_files
from dear_serving.errors import InvalidRequest
from dear_serving.gateway.worker_process import Buffer, WorkerProcess
from dear_serving.openai.fields import GrammarKind

if TYPE_CHECKING:
    import xgrammar

_MOST_BYTES = 1024**3
_STEPS = 64
_MESSAGE_CHARS = 200
_START_S = 60.0


class GrammarCheck:
    """Refuses grammars, regular expressions and structural tags that an engine could not compile quickly.

    Args:
        source: folder, URL or Hugging Face id of the base model.
        compile_s: seconds that one may take, up to a gigabyte of memory; None: all are refused.
    """

    def __init__(self, source: str, compile_s: float | None) -> None:
        self._source = source
        self._compile_s = compile_s
        self._worker = WorkerProcess(_START_S + (compile_s or 0.0))

    async def check(self, tenant: str, kind: GrammarKind, text: str) -> None:
        """Compile ``text`` and follow it for a few tokens, in turn by tenant.

        Raises:
            InvalidRequest: it is wrong or takes too long, or none are taken.
            WorkerUnavailable: the process died.
        """
        field = f"structured_outputs.{kind}"
        if self._compile_s is None:
            raise InvalidRequest(f"{field}: this server does not support it", param=field)
        job = partial(_problem_of, self._source, kind, self._compile_s)
        problem = await self._worker.run(tenant, job, text.encode("utf-8", "surrogatepass"))
        if problem is not None:
            raise InvalidRequest(f"{field}: {problem}", param=field)

    def close(self) -> None:
        """End the process."""
        self._worker.close()


def _problem_of(source: str, kind: GrammarKind, compile_s: float, text: Buffer) -> str | None:
    """What is wrong with a text, found by a child of this process that has so much time; None: nothing."""
    vocabulary = _vocabulary(source)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(writing, partial(_follow, vocabulary, kind, bytes(text).decode("utf-8", "surrogatepass")))
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        ready, _, _ = select.select([answer], [], [], compile_s)
        if not ready:
            os.kill(child, signal.SIGKILL)
        found = answer.read() if ready else b""
    os.waitpid(child, 0)
    if not found:  # killed, by us or for its memory
        return f"takes over {compile_s:g} s, or too much memory, to compile"
    return None if found == b"\0" else found.decode(errors="replace")


def _answer(writing: int, follow: Callable[[], None]) -> None:
    """The child: one byte 0 where all is well, else the problem."""
    try:
        most = psutil.Process().memory_info().vms + _MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        follow()
        os.write(writing, b"\0")
    except MemoryError:
        pass
    except Exception as error:
        words = " ".join(str(error)[: 4 * _MESSAGE_CHARS].split())
        os.write(writing, (words[:_MESSAGE_CHARS] or type(error).__name__).encode())
    finally:
        os._exit(0)


def _follow(vocabulary: xgrammar.TokenizerInfo, kind: GrammarKind, text: str) -> None:
    """Compile, and take some steps: a grammar can be quick to compile and slow to follow."""
    import xgrammar

    compiler = xgrammar.GrammarCompiler(vocabulary, max_threads=1)
    compile_it: Any = getattr(compiler, f"compile_{kind}")
    matcher = xgrammar.GrammarMatcher(compile_it(text))
    mask = xgrammar.allocate_token_bitmask(1, vocabulary.vocab_size)
    for step in range(_STEPS):
        if matcher.is_terminated():
            return
        matcher.fill_next_token_bitmask(mask)
        allowed = [
            32 * word + bit
            for word, bits in enumerate(mask[0].tolist())
            for bit in range(32)
            if bits >> bit & 1 and 32 * word + bit < vocabulary.vocab_size
        ]
        if not allowed or not matcher.accept_token(allowed[step % len(allowed)]):
            return


@lru_cache(maxsize=1)
def _vocabulary(source: str) -> xgrammar.TokenizerInfo:
    import xgrammar
    from transformers import AutoTokenizer

    with local_files(source) as files:
        return xgrammar.TokenizerInfo.from_huggingface(AutoTokenizer.from_pretrained(files))
