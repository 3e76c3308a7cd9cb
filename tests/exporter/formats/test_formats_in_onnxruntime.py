"""With the packed arrays, ONNX Runtime computes the same as with the dequantized weight, for every GGML type.

Each case is a graph of one linear or one embedding, with the correction by block sums if the type has minima.
"""

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from llama3_exporter.formats import FORMATS, Format, PackedWeight, pack, split_nibbles
from onnx import TensorProto, helper, numpy_helper

from tests.support.adversarial_blocks import ScaleKind, random_rows

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
INT8_ERROR = 2e-2  # of a linear whose activations are rounded to int8: 5e-3, and up to 1.2e-2 for the smallest case


def formats(bits: int | None = None) -> pytest.MarkDecorator:
    chosen = [fmt for fmt in FORMATS.values() if bits in (None, fmt.bits)]
    return pytest.mark.parametrize("fmt", chosen, ids=lambda fmt: fmt.type.name)


class Graph:
    """A graph of nodes and initializers that runs on the CPU."""

    def __init__(self) -> None:
        self.nodes: list[object] = []
        self.initializers: list[object] = []

    def constant(self, value: npt.NDArray[np.generic]) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op_type: str, inputs: list[str], domain: str = "", **attributes: object) -> str:
        name = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], domain=domain, **attributes))
        return name

    def run(self, output: str, value: npt.NDArray[np.generic], output_shape: tuple[int, ...]) -> Float32:
        element = helper.np_dtype_to_tensor_dtype(value.dtype)
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("x", element, value.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, output_shape)],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": value})[0]


def linear(x: Float32, parts: list[tuple[PackedWeight, int]], block_size: int, accuracy_level: int) -> Float32:
    """Sum x @ W^T over packed weights (each with its bits), including their corrections."""
    graph = Graph()
    terms = []
    n_rows, n_blocks = parts[0][0].scales.shape
    for packed, bits in parts:
        inputs = ["x", *(graph.constant(array) for array in (packed.B, packed.scales, packed.zero_points))]
        attributes = {"K": x.shape[1], "N": n_rows, "bits": bits, "block_size": block_size}
        terms.append(graph.node("MatMulNBits", inputs, "com.microsoft", accuracy_level=accuracy_level, **attributes))
        if packed.correction is not None:
            blocks = graph.node("Reshape", ["x", graph.constant(np.array([len(x), n_blocks, block_size]))])
            sums = graph.node("ReduceSum", [blocks, graph.constant(np.array([2]))], keepdims=0)
            terms.append(graph.node("MatMul", [sums, graph.constant(np.ascontiguousarray(packed.correction.T))]))
    return graph.run(graph.node("Sum", terms), x, (len(x), n_rows))


IDS = np.array([[8, 0, 3], [3, 7, 1]])


def embedding(parts: list[tuple[PackedWeight, int]], block_size: int) -> Float32:
    """Sum the rows IDS of packed weights (each with its bits), including their corrections."""
    graph = Graph()
    terms = []
    row_size = parts[0][0].scales.shape[1] * block_size
    for packed, bits in parts:
        data = graph.constant(packed.B.reshape(len(packed.B), -1))
        inputs = [data, "x", graph.constant(packed.scales), graph.constant(packed.zero_points)]
        attributes = {"bits": bits, "block_size": block_size, "gather_axis": 0, "quantize_axis": 1}
        terms.append(graph.node("GatherBlockQuantized", inputs, "com.microsoft", **attributes))
        if packed.correction is not None:
            terms.append(graph.node("Gather", [graph.constant(np.repeat(packed.correction, block_size, axis=1)), "x"]))
    return graph.run(graph.node("Sum", terms), IDS, (*IDS.shape, row_size))


def case(
    fmt: Format, n_rows: int, n_ggml_blocks: int, m: int, kind: ScaleKind
) -> tuple[npt.NDArray[np.uint8], Float32, Float64]:
    """Return rows of W [N, K], x [m, K], and W.

    With three GGML blocks of 32, the number of blocks is odd, and K is not a multiple of 256.
    """
    rng = np.random.default_rng(n_rows + m)
    k = n_ggml_blocks * GGML_QUANT_SIZES[fmt.type][0]
    rows = random_rows(fmt.type, (n_rows, k), kind, rng)
    x = rng.normal(size=(m, k)).astype(np.float32)
    return rows, x, quants.dequantize(rows, fmt.type).astype(np.float64)


def relative_error(y: Float32, expected: Float64) -> float:
    return float(np.linalg.norm(y - expected) / np.linalg.norm(expected))


@formats()
@pytest.mark.parametrize("accuracy_level", [0, 1])
@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize(("n_rows", "n_ggml_blocks"), [(7, 3), (64, 4)])
@pytest.mark.parametrize("kind", ["ordinary", "subnormal", "extreme", "mixed"])
def test_linear_with_float32_activations(
    fmt: Format, kind: ScaleKind, n_rows: int, n_ggml_blocks: int, m: int, accuracy_level: int
) -> None:
    """Both 4 bits and 8 bits as two times 4 are exact, for one or several tokens, and also for odd N."""
    rows, x, weight = case(fmt, n_rows, n_ggml_blocks, m, kind)
    packed = pack(fmt, rows)
    parts = [(packed, 4)] if fmt.bits == 4 else [(part, 4) for part in split_nibbles(packed)]
    error = np.abs(linear(x, parts, fmt.block_size, accuracy_level) - x @ weight.T)
    # As x has unit variance, this is an output's deviation. Each row is separate, so a large one cannot hide another.
    assert np.all(error <= 1e-5 * np.linalg.norm(weight, axis=1))


@formats()
@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize(("n_rows", "n_ggml_blocks"), [(7, 3), (64, 4)])
def test_linear_with_int8_activations(fmt: Format, n_rows: int, n_ggml_blocks: int, m: int) -> None:
    """At accuracy level 4 only the activations are rounded, so the error is no larger than theirs."""
    rows, x, weight = case(fmt, n_rows, n_ggml_blocks, m, "ordinary")
    y = linear(x, [(pack(fmt, rows), fmt.bits)], fmt.block_size, accuracy_level=4)
    assert relative_error(y, x @ weight.T) <= INT8_ERROR


def test_int8_activations_cost_little_through_a_minimum() -> None:
    """Zero points are near minimum / scale: with 0 instead, a Gaussian matrix loses more than twice as much."""
    rng = np.random.default_rng(12)
    fmt = FORMATS[GGMLQuantizationType.Q4_1]
    rows = quants.quantize(rng.normal(size=(256, 1024)).astype(np.float32), fmt.type)
    x = rng.normal(size=(16, 1024)).astype(np.float32)
    expected = x @ quants.dequantize(rows, fmt.type).astype(np.float64).T
    assert relative_error(linear(x, [(pack(fmt, rows), 4)], 32, accuracy_level=4), expected) <= 7e-3


@formats()
@pytest.mark.parametrize("kind", ["ordinary", "subnormal", "extreme", "mixed"])
@pytest.mark.parametrize("n_ggml_blocks", [3, 4])
def test_embedding(fmt: Format, n_ggml_blocks: int, kind: ScaleKind) -> None:
    """GatherBlockQuantized returns each weight up to a rounding from the same arrays, and from two 4-bit halves."""
    rng = np.random.default_rng(10)
    k = n_ggml_blocks * GGML_QUANT_SIZES[fmt.type][0]
    rows = random_rows(fmt.type, (9, k), kind, rng)
    packed = pack(fmt, rows)
    expected = quants.dequantize(rows, fmt.type)[IDS]
    np.testing.assert_allclose(embedding([(packed, fmt.bits)], fmt.block_size), expected, rtol=1e-6, atol=0)
    if fmt.bits == 8:
        parts = [(part, 4) for part in split_nibbles(packed)]
        np.testing.assert_allclose(embedding(parts, fmt.block_size), expected, rtol=1e-6, atol=0)
