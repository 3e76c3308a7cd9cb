"""Graphs of one of our ops, as sessions of ONNX Runtime."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from llama3_custom_ops import library_path, register
from llama3_models.errors import Llama3Error
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

# The exceptions that ONNX Runtime raises for an op's status, at load and at a call.
ORT_ERRORS = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)

ORT_VERSION = tuple(int(part) for part in ort.__version__.split(".")[:2])

FLOAT, FLOAT16, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8
INT32, INT64, DOUBLE = TensorProto.INT32, TensorProto.INT64, TensorProto.DOUBLE

Shape = Sequence[int | str | None] | None


def needs_library() -> None:
    """Skip the test if the library was not built."""
    try:
        library_path()
    except Llama3Error as error:
        pytest.skip(str(error))


def model_of(
    op: str,
    inputs: Mapping[str, tuple[int, Shape] | NDArray[Any]],
    outputs: Mapping[str, int],
    *,
    domain: str = "llama3",
    **attributes: Any,
) -> bytes:
    """Build a graph of one node. Inputs are arrays (initializers) or types with shapes (graph inputs); "" omits one."""
    node = helper.make_node(op, list(inputs), list(outputs), name="the_node", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(n, *i) for n, i in inputs.items() if n and not isinstance(i, np.ndarray)],
        [helper.make_tensor_value_info(n, t, None) for n, t in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in inputs.items() if isinstance(a, np.ndarray)],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(domain, 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=11).SerializeToString())


def open_session(model: bytes, threads: int = 1, *, arena: bool = True) -> ort.InferenceSession:
    """Open a session with our ops. Without an arena, each tensor has its own `malloc`, which a sanitizer can watch."""
    options = ort.SessionOptions()
    options.enable_cpu_mem_arena = options.enable_mem_pattern = arena
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    register(options)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
