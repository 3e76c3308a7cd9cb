"""An ONNX Runtime session on the graph of an export, with the requested provider or none.

ONNX Runtime itself falls back to the CPU if CUDA does not start: the run is slow, and the reason goes to standard
output. Here `cuda` means CUDA, and only `auto` may fall back.
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

# ONNX Runtime's error for a native graph if the library of our ops is not registered.
_MISSING_OP = re.compile(r"llama3:\w+\(-?\d+\) is not a registered")

# Log severities of ONNX Runtime. Its warnings are for authors of graphs, and its errors are also raised as exceptions.
_LOG_ERRORS, _NO_LOG = 3, 4

# More threads than CPUs are slower, and with thousands ONNX Runtime hangs.
_MAX_THREADS = max(256, os.cpu_count() or 1)

# The exceptions of ONNX Runtime have no common base class except Exception.
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
    RuntimeError,  # from a run with bindings, instead of any of them
    MemoryError,
    UnicodeDecodeError,  # instead of any of them, if the message quotes a damaged file
)


@dataclass(frozen=True)
class Session:
    """A loaded graph and how it runs.

    Attributes:
        ort: The onnxruntime.InferenceSession.
        device: Where it runs.
        threads: Number of threads that share the work of an op.
        warning: Why `auto` fell back to the CPU, if it did.
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
    """Load a graph.

    Args:
        graph: A .onnx file.
        provider: `cuda` fails if CUDA is not available; `auto` then uses the CPU and sets a warning.
        threads: Number of threads that share the work of an op; None for one per CPU that this process may use.
        custom_ops_path: A library of custom ops to register first.
        weights_folder: Folder of the graph's external weights, if they are not beside it.
        profile_prefix: Start of the path of the file that ONNX Runtime's profiler writes; None turns it off.

    Raises:
        Llama3Error: ONNX Runtime cannot load it with this provider.
    """
    check_choice("provider", provider, Provider)
    if threads is None:
        threads = usable_cpus()  # ONNX Runtime's own default ignores the limits of a container
    if not 1 <= threads <= _MAX_THREADS:
        raise Llama3Error(f"--threads must be in 1 .. {_MAX_THREADS}, not {threads}")
    if threads > usable_cpus():
        logger.warning("%d threads are more than the %d available CPUs; fewer are faster", threads, usable_cpus())
    options = ort.SessionOptions()
    options.log_severity_level = _NO_LOG
    options.intra_op_num_threads = threads
    # It would keep a plan for each new shape, including every length of the mask, and never free one.
    options.enable_mem_pattern = False
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    # Ours is always registered: which ops a graph needs is known only when it is loaded.
    for library in (llama3_custom_ops.built_library(), custom_ops_path):
        if library is not None:
            _register(options, library)
    if weights_folder is None and not _is_utf8(graph):
        weights_folder = graph.parent
    source: str | bytes = str(graph)
    if weights_folder is not None:  # as bytes, because ONNX Runtime accepts text only in UTF-8
        folder = os.fsencode(weights_folder)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        source = graph.read_bytes()  # the option is only for graphs that are passed as bytes
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
    """Return whether a session may run on CUDA: it is requested, and the installed onnxruntime supports it.

    Raises:
        Llama3Error: `provider` is `cuda`, and onnxruntime does not support it.
    """
    check_choice("provider", provider, Provider)
    missing = None if provider == "cpu" else _missing_cuda()
    if missing is not None and provider == "cuda":
        raise _no_cuda(missing)
    return provider != "cpu" and missing is None


def _no_cuda(problem: str) -> Llama3Error:
    return Llama3Error(f"provider cuda: {problem}; use --provider cpu to run on the CPU")


def _missing_cuda() -> str | None:
    if _CUDA in ort.get_available_providers():
        return None
    return f"the installed onnxruntime {ort.__version__} does not support CUDA (onnxruntime-gpu does)"


def _register(options: Any, library: Path) -> None:
    if not library.is_file():
        raise Llama3Error(f"{library}: no such library of custom ops; correct or omit --custom-ops-path")
    if not _is_utf8(library.resolve()):
        raise Llama3Error(f"{library}: ONNX Runtime opens a library only if its path is UTF-8; rename or move the file")
    path = str(library.resolve())
    llama3_custom_ops.check_library(library)
    try:
        options.register_custom_ops_library(path)
    except ORT_ERRORS as error:
        raise Llama3Error(f"{library}: ONNX Runtime cannot load this library of custom ops: {error}") from error


def _load_on_cuda(graph: Path, source: str | bytes, options: Any) -> tuple[Any | None, str]:
    """Return the session, or None and the reason."""
    missing = _missing_cuda()
    if missing is not None:
        return None, missing
    options.log_severity_level = _LOG_ERRORS  # the only way to learn why CUDA does not start
    try:
        session = ort.InferenceSession(source, options, providers=[_CUDA, _CPU], enable_fallback=False)
    except ORT_ERRORS as error:
        return None, f"ONNX Runtime cannot load {graph} on CUDA ({' '.join(str(error).split())})"
    finally:
        options.log_severity_level = _NO_LOG
    if session.get_providers()[0] != _CUDA:
        return None, "ONNX Runtime could not start CUDA (its message above says why)"
    return session, ""


def _load_on_cpu(graph: Path, source: str | bytes, options: Any) -> Any:
    try:
        return ort.InferenceSession(source, options, providers=[_CPU], enable_fallback=False)
    except ORT_ERRORS as error:
        if _MISSING_OP.search(str(error)):
            llama3_custom_ops.library_path()  # raises an error that says what to do, if it was not built
        if (problem := shortage(error)) is not None:
            raise Llama3Error(f"{graph}: ONNX Runtime cannot load this graph: {problem}") from error
        raise Llama3Error(
            f"{graph}: ONNX Runtime {ort.__version__} cannot load this graph; export the GGUF again if the graph "
            f"or its weights were moved or damaged ({error})"
        ) from error


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
