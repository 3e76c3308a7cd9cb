"""An ONNX Runtime session on the graph of an export folder, with the provider that was asked for or none.

ONNX Runtime falls back to the CPU on its own, which on a machine with a broken CUDA set-up means a slow run, and what
it has to say of that goes to standard output. Here `cuda` means CUDA, and only `auto` may fall back.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import llama3_custom_ops
import onnxruntime as ort
from llama3_models.cpus import usable_cpus
from llama3_models.errors import Llama3Error
from llama3_models.exports import check_choice
from llama3_models.shortage import shortage
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

logger = logging.getLogger(__name__)

Provider: TypeAlias = Literal["cpu", "cuda", "auto"]

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"

# How ONNX Runtime says that a native graph was given no library of our ops.
_MISSING_OP = re.compile(r"llama3:\w+\(-?\d+\) is not a registered")

# Of ONNX Runtime's severities: its warnings are for a graph's author, and its errors also come as exceptions.
_LOG_ERRORS, _NO_LOG = 3, 4

# More are slower than as many as there are CPUs, and with thousands ONNX Runtime does not come to an end.
_MAX_THREADS = max(256, os.cpu_count() or 1)

# What ONNX Runtime raises shares no base class but Exception.
ORT_ERRORS: tuple[type[Exception], ...] = (
    ort_state.EPFail,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NoModel,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
    RuntimeError,  # any of them from a run with bindings
    MemoryError,
    UnicodeDecodeError,  # any of them whose message quotes a damaged file
)


@dataclass(frozen=True)
class Session:
    """A loaded graph and how it runs.

    Attributes:
        ort: The onnxruntime.InferenceSession.
        device: Where it computes.
        threads: For the work inside of an op.
        warning: Why it does not run where `auto` tried first, if so.
    """

    ort: Any
    device: Literal["cpu", "cuda"]
    threads: int
    warning: str | None = None


def open_session(
    graph: Path,
    *,
    provider: Provider = "cpu",
    threads: int | None = None,
    custom_ops_path: Path | None = None,
    weights_folder: Path | None = None,
    profile_prefix: Path | None = None,
) -> Session:
    """Load `graph`.

    Args:
        graph: A .onnx file; its weights lie beside it.
        provider: `cuda` fails where there is no CUDA; `auto` then takes the CPU and leaves a warning.
        threads: For the work inside of an op; None for one for each CPU that this process may use.
        custom_ops_path: A library of custom ops to register before.
        weights_folder: Where the graph's external weights lie, if not beside it.
        profile_prefix: How the file begins in which ONNX Runtime's profiler notes its times, if it is wanted.

    Raises:
        Llama3Error: ONNX Runtime cannot load it, or not where it was asked to.
    """
    check_choice("provider", provider, Provider)
    if threads is None:
        threads = usable_cpus()  # ONNX Runtime's own default knows nothing of a container's share
    if not 1 <= threads <= _MAX_THREADS:
        raise Llama3Error(f"threads must be in 1 .. {_MAX_THREADS}, not {threads}")
    if threads > usable_cpus():
        logger.warning("%d threads are more than the %d CPUs that may be used, which is slower", threads, usable_cpus())
    options = ort.SessionOptions()
    options.log_severity_level = _NO_LOG
    options.intra_op_num_threads = threads
    # It would keep a plan for every shape that it meets, each length of the mask among them, and never forget one.
    options.enable_mem_pattern = False
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    # Ours in any case: which ops a graph needs is known only when it is loaded.
    for library in (llama3_custom_ops.built_library(), custom_ops_path):
        if library is not None:
            _register(options, library)
    if weights_folder is None and not _is_utf8(graph):
        weights_folder = graph.parent
    source: str | bytes = str(graph)
    if weights_folder is not None:  # as bytes, since ONNX Runtime takes text only in UTF-8
        folder = os.fsencode(weights_folder)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        source = graph.read_bytes()  # the option is for graphs that come as bytes
    warning = None
    if provider != "cpu":
        session, problem = _load_on_cuda(graph, source, options)
        if session is not None:
            return Session(session, "cuda", threads)
        if provider == "cuda":
            raise _no_cuda(problem)
        warning = f"{problem}; running on the CPU"
    return Session(_load_on_cpu(graph, source, options), "cpu", threads, warning)


def has_cuda(provider: Provider) -> bool:
    """Whether a session may run on CUDA: it is wanted, and the installed onnxruntime was built with it.

    Raises:
        Llama3Error: `provider` is `cuda`, and it was not.
    """
    check_choice("provider", provider, Provider)
    missing = None if provider == "cpu" else _missing_cuda()
    if missing is not None and provider == "cuda":
        raise _no_cuda(missing)
    return provider != "cpu" and missing is None


def _no_cuda(problem: str) -> Llama3Error:
    return Llama3Error(f"provider cuda: {problem}; --provider cpu runs on the CPU")


def _missing_cuda() -> str | None:
    if _CUDA in ort.get_available_providers():
        return None
    return f"the installed onnxruntime {ort.__version__} has no CUDA (that of pip install onnxruntime-gpu has)"


def _register(options: Any, library: Path) -> None:
    if not library.is_file():
        raise Llama3Error(f"{library}: no such library of custom ops")
    if not _is_utf8(library.resolve()):
        raise Llama3Error(
            f"{library}: ONNX Runtime opens only libraries whose path is UTF-8; rename it, or move the file"
        )
    path = str(library.resolve())
    llama3_custom_ops.check_library(library)
    try:
        options.register_custom_ops_library(path)
    except ORT_ERRORS as error:
        raise Llama3Error(f"{library}: ONNX Runtime cannot load this library of custom ops: {error}") from error


def _load_on_cuda(graph: Path, source: str | bytes, options: Any) -> tuple[Any | None, str]:
    """The session, or None and why there is none."""
    missing = _missing_cuda()
    if missing is not None:
        return None, missing
    options.log_severity_level = _LOG_ERRORS  # why CUDA does not start is told in no other way
    try:
        session = ort.InferenceSession(source, options, providers=[_CUDA, _CPU], enable_fallback=False)
    except ORT_ERRORS as error:
        return None, f"ONNX Runtime cannot load {graph} on CUDA ({' '.join(str(error).split())})"
    finally:
        options.log_severity_level = _NO_LOG
    if session.get_providers()[0] != _CUDA:
        return None, "ONNX Runtime could not start CUDA (its own message above says why)"
    return session, ""


def _load_on_cpu(graph: Path, source: str | bytes, options: Any) -> Any:
    try:
        return ort.InferenceSession(source, options, providers=[_CPU], enable_fallback=False)
    except ORT_ERRORS as error:
        if _MISSING_OP.search(str(error)):
            llama3_custom_ops.library_path()  # says what to do where it was not built
        if (problem := shortage(error)) is not None:
            raise Llama3Error(f"{graph}: ONNX Runtime cannot load this graph: {problem}") from error
        raise Llama3Error(
            f"{graph}: ONNX Runtime {ort.__version__} cannot load this graph; export it again if it or its weights "
            f"were moved or damaged ({error})"
        ) from error


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
