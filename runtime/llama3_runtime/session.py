"""An ONNX Runtime session on the graph of an export folder, with the provider that was asked for or none.

ONNX Runtime falls back to the CPU on its own, which on a machine with a broken CUDA set-up means a silent slow run;
here `cuda` means CUDA, and only `auto` may fall back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import onnxruntime as ort
from llama3_models.errors import Llama3Error
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

Provider: TypeAlias = Literal["cpu", "cuda", "auto"]

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"

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
)


@dataclass(frozen=True)
class Session:
    """A loaded graph, where it runs (`cpu` or `cuda`), and a remark where that is not what `auto` tried first."""

    ort: Any
    device: Literal["cpu", "cuda"]
    remark: str | None = None


def open_session(
    graph: Path, *, provider: Provider = "cpu", threads: int | None = None, custom_ops_path: Path | None = None
) -> Session:
    """Load `graph`.

    Args:
        graph: A .onnx file; its weights lie beside it.
        provider: `cuda` fails where there is no CUDA; `auto` then takes the CPU and leaves a remark.
        threads: For the work inside of an op; None for one a core.
        custom_ops_path: A library of custom ops to register before.

    Raises:
        Llama3Error: ONNX Runtime cannot load it, or not where it was asked to.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors come as exceptions; warnings are for the graph's author
    if threads is not None:
        if threads < 1:
            raise Llama3Error(f"threads must be 1 or more, not {threads}")
        options.intra_op_num_threads = threads
    if custom_ops_path is not None:
        _register(options, custom_ops_path)
    if not has_cuda(provider):
        remark = f"{_missing_cuda()}; running on the CPU" if provider == "auto" else None
        return Session(_load(graph, options, [_CPU]), "cpu", remark)
    session = _load(graph, options, [_CUDA, _CPU])
    if session.get_providers()[0] == _CUDA:
        return Session(session, "cuda")
    problem = "ONNX Runtime could not start CUDA (its own message above says why)"
    if provider == "cuda":
        raise Llama3Error(f"provider cuda: {problem}; --provider cpu runs on the CPU")
    return Session(session, "cpu", f"{problem}; running on the CPU")


def has_cuda(provider: Provider) -> bool:
    """Whether a session may run on CUDA: it is wanted, and the installed onnxruntime was built with it.

    Raises:
        Llama3Error: `provider` is `cuda`, and it was not.
    """
    problem = None if provider == "cpu" else _missing_cuda()
    if problem is not None and provider == "cuda":
        raise Llama3Error(f"provider cuda: {problem}; --provider cpu runs on the CPU")
    return provider != "cpu" and problem is None


def _missing_cuda() -> str | None:
    if _CUDA in ort.get_available_providers():
        return None
    return f"the installed onnxruntime {ort.__version__} has no CUDA (that of pip install onnxruntime-gpu has)"


def _register(options: Any, library: Path) -> None:
    if not library.is_file():
        raise Llama3Error(f"{library}: no such library of custom ops")
    try:
        options.register_custom_ops_library(str(library.resolve()))
    except ORT_ERRORS as error:
        raise Llama3Error(f"{library}: ONNX Runtime cannot load this library of custom ops: {error}") from error


def _load(graph: Path, options: Any, providers: list[str]) -> Any:
    try:
        return ort.InferenceSession(str(graph), options, providers=providers)
    except ORT_ERRORS as error:
        raise Llama3Error(
            f"{graph}: ONNX Runtime {ort.__version__} cannot load this graph; export it again if it or its weights "
            f"were moved or damaged ({error})"
        ) from error
