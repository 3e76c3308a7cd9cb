"""A lack of memory or threads is one line in every command, not a traceback."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from llama3_models import shortage as module
from llama3_models.shortage import shortage

from tests.support.llama_gguf import write_llama_gguf

NO_MORE_THREADS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
static int rest = -1;
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*function)(void*), void* argument) {
    if (rest < 0) rest = atoi(getenv("MOST_THREADS"));
    if (rest == 0) return EAGAIN;
    --rest;
    return ((__typeof__(&pthread_create))dlsym(RTLD_NEXT, "pthread_create"))(thread, attributes, function, argument);
}
"""


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "unlimited", "limited"),
    [
        (MemoryError(), "not enough memory; ", "1.0 MB of address space"),
        (RuntimeError("std::bad_alloc"), "not enough memory; ", "1.0 MB of address space"),
        (ImportError("x.so: failed to map segment from shared object"), "not enough memory; ", "1.0 MB of"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "not enough memory; ", "1.0 MB of"),
        (caused(ImportError("import numpy failed"), MemoryError()), "not enough memory; ", "1.0 MB of"),
        (RuntimeError("can't start new thread"), "cannot start more threads; ", "1.0 MB of"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "cannot start more threads; ", "1.0 MB of"),
        (SystemError("<function f> returned NULL without setting an exception"), None, "1.0 MB of"),
        (ImportError("no module named x"), None, "1.0 MB of"),
        (RuntimeError("a bug"), None, None),
        (KeyError("x"), None, None),
    ],
)
def test_what_ran_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception, unlimited: str | None, limited: str | None
) -> None:
    for limit, expected in ((None, unlimited), (1_000_000, limited)):
        monkeypatch.setattr(module, "_memory_limit", lambda limit=limit: limit)
        found = shortage(error)
        assert found is None if expected is None else found is not None and found.startswith(expected)


@pytest.mark.parametrize("command", ["run", "contrib", "export", "inspect", "bench"])
def test_every_command_says_so_in_one_line(tmp_path: Path, command: str) -> None:
    """At any memory limit, the command runs or prints one line; below 120 MB, numpy's BLAS ends the process itself."""
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    words = {
        "run": ["llama3-run", "--model-path", gguf, "--max-new-tokens", "2", "--threads", "4"],
        "contrib": ["llama3-run", "--model-path", gguf, "--max-new-tokens", "2", "--ops", "contrib"],
        "export": ["llama3-export", gguf, "--output", tmp_path / "out", "--force"],
        "inspect": ["llama3-inspect", gguf],
        "bench": ["llama3-bench", "--model-path", gguf, "--prompt-size", "4", "--output-size", "2"],
    }[command]
    script = Path(sys.executable).parent / str(words[0])
    environment = {**os.environ, "LLAMA3_CACHE": str(tmp_path / "cache"), "OPENBLAS_NUM_THREADS": "1"}
    statuses = []
    for megabytes in (*range(120, 500, 80), 4000):
        limit = megabytes << 20

        def restrict(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

        result = subprocess.run(
            [script, *words[1:]], env=environment, capture_output=True, text=True, preexec_fn=restrict, check=False
        )
        statuses.append(result.returncode)
        assert result.returncode in (0, 1), (megabytes, result.stderr)
        assert "Traceback" not in result.stderr, (megabytes, result.stderr)
        if result.returncode == 1:
            (line,) = (line for line in result.stderr.splitlines() if ": error: " in line)
            assert line.endswith("raise the limit (ulimit -v)"), (megabytes, line)
    assert (statuses[0], statuses[-1]) == (1, 0)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_threads_that_do_not_start_are_one_line(tmp_path: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    (tmp_path / "threads.c").write_text(NO_MORE_THREADS)
    library = tmp_path / "threads.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "threads.c", "-ldl"], check=True)
    environment = {
        **os.environ,
        "LLAMA3_CACHE": str(tmp_path / "cache"),
        "LD_PRELOAD": str(library),
        "MOST_THREADS": "0",
        "OPENBLAS_NUM_THREADS": "1",  # with more, it would end the process itself
    }
    folder = Path(sys.executable).parent
    for words in (
        ["llama3-run", "--model-path", gguf, "--max-new-tokens", "2", "--threads", "4"],
        ["llama3-export", gguf, "--output", tmp_path / "out"],
        ["llama3-bench", "--model-path", gguf, "--prompt-size", "4", "--output-size", "2", "--ops", "contrib"],
    ):
        result = subprocess.run(
            [folder / str(words[0]), *words[1:]], env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 1, result
        assert "cannot start more threads; raise the limit" in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
