"""The matrix products of the native graph in ONNX Runtime, compared with dequantized weights in float64."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from gguf import GGMLQuantizationType
from llama3_custom_ops import register
from llama3_exporter.formats import FLOAT_TYPES
from llama3_exporter.formats import FORMATS as TYPES
from numpy.typing import NDArray

from tests.custom_ops.kernel_library import FORMATS, block_shape, random_weights, reference_weights
from tests.custom_ops.op_sessions import (
    FLOAT,
    ORT_ERRORS,
    ORT_VERSION,
    UINT8,
    model_of,
    needs_library,
    open_session,
)
from tests.support.paths import DOCS


@pytest.fixture(autouse=True)
def _library() -> None:
    needs_library()


def weights(name: str, N: int, K: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return random blocks for the op [N, blocks, bytes] and their weights [N, K]."""
    data = random_weights(name, N, K, rng)
    return data.reshape(N, -1, block_shape(name)[1]), reference_weights(name, data).astype(np.float64)


def matmul(B: NDArray[np.uint8], A_shape: Any, *, bias: Any = None, domain: str = "llama3", **attributes: Any) -> bytes:
    inputs = {"A": (FLOAT, A_shape), "B": B, **({} if bias is None else {"bias": bias})}
    return model_of("BlockQuantizedMatMul", inputs, {"Y": FLOAT}, domain=domain, **attributes)


def relative_error(value: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(value - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", FORMATS)
def test_float32_activations_multiply_the_weights_themselves(name: str) -> None:
    """In every format, float32 mode multiplies by the dequantized matrix, to float32's rounding."""
    rng = np.random.default_rng(0)
    B, W = weights(name, 37, 512, rng)
    session = open_session(matmul(B, [None, None, 512], K=512, N=37, format=name, activations="float32"))
    for M in (1, 9):
        A = rng.standard_normal((2, M, 512)).astype(np.float32)
        (Y,) = session.run(None, {"A": A})
        assert Y.shape == (2, M, 37)
        assert relative_error(Y, A.astype(np.float64) @ W.T) < 1e-5


@pytest.mark.parametrize("name", FORMATS)
def test_int8_activations_are_the_default_and_lose_little(name: str) -> None:
    """In every format, 8-bit activations cost about a hundredth."""
    rng = np.random.default_rng(1)
    B, W = weights(name, 64, 512, rng)
    session = open_session(matmul(B, ["M", 512], K=512, N=64, format=name))
    A = rng.standard_normal((20, 512)).astype(np.float32)
    for rows in (1, 20):
        (Y,) = session.run(None, {"A": A[:rows]})
        expected = A[:rows].astype(np.float64) @ W.T
        assert np.linalg.norm(Y - expected) / np.linalg.norm(expected) < 0.02


@pytest.mark.parametrize("name", FORMATS)
def test_int8x2_activations_keep_15_bits(name: str) -> None:
    """In every format, rounding the rest makes the error a hundredth of int8's. The bias is added once."""
    rng = np.random.default_rng(1)
    B, W = weights(name, 64, 768, rng)
    bias = rng.standard_normal(64).astype(np.float32)
    session = open_session(matmul(B, ["M", 768], bias=bias, K=768, N=64, format=name, activations="int8x2"), 2)
    A = rng.standard_normal((20, 768)).astype(np.float32)
    A[:, 5], A[3] = 100, 0  # one large value spoils its block; a row of zeros
    for rows in (1, 20):
        (Y,) = session.run(None, {"A": A[:rows]})
        expected = A[:rows].astype(np.float64) @ W.T + bias
        assert np.linalg.norm(Y - expected) / np.linalg.norm(expected) < 2e-4


def test_int8x2_activations_that_are_not_finite_are_seen() -> None:
    """A NaN or an infinity makes its own row NaN, but no other."""
    B, _ = weights("q4_k", 5, 256, np.random.default_rng(0))
    session = open_session(matmul(B, ["M", 256], K=256, N=5, format="q4_k", activations="int8x2"))
    A = np.ones((4, 256), np.float32)
    A[1, 7], A[2, 9] = np.nan, np.inf
    (Y,) = session.run(None, {"A": A})
    assert np.isnan(Y[1:3]).all()
    assert np.isfinite(Y[[0, 3]]).all()


def test_mobius_signature() -> None:
    """A node as mobius writes it works: in mobius's domain, with a bias and without our attributes."""
    rng = np.random.default_rng(2)
    B, W = weights("iq4_nl", 5, 576, rng)
    bias = rng.standard_normal(5).astype(np.float32)
    attributes = {"K": 576, "N": 5, "format": "iq4_nl", "block_layout_version": 1}
    session = open_session(matmul(B, ["batch", "seq", 576], bias=bias, domain="pkg.nxrt", **attributes))
    A = rng.standard_normal((1, 3, 576)).astype(np.float32)
    (Y,) = session.run(None, {"A": A})
    expected = A.astype(np.float64) @ W.T + bias
    assert np.linalg.norm(Y - expected) / np.linalg.norm(expected) < 0.02


def test_a_bias_that_is_left_out_by_an_empty_name() -> None:
    """ONNX can skip an optional input this way. onnxruntime 1.23 would crash if the op inferred shapes there."""
    B, W = weights("q8_0", 4, 32, np.random.default_rng(0))
    model = model_of(
        "BlockQuantizedMatMul",
        {"A": (FLOAT, ["M", 32]), "B": B, "": (FLOAT, None)},
        {"Y": FLOAT},
        K=32,
        N=4,
        format="q8_0",
        activations="float32",
    )
    (Y,) = open_session(model).run(None, {"A": np.ones((1, 32), np.float32)})
    assert relative_error(Y, W.sum(1)) < 1e-5


def test_no_rows() -> None:
    """An empty input produces an empty product."""
    B, _ = weights("q8_0", 4, 32, np.random.default_rng(0))
    (Y,) = open_session(matmul(B, ["M", 32], K=32, N=4, format="q8_0")).run(None, {"A": np.empty((0, 32), np.float32)})
    assert Y.shape == (0, 4)


def test_a_weight_that_is_no_constant_is_checked_at_each_call() -> None:
    """If B is a graph input of unknown shape, the right blocks are multiplied and wrong ones are refused."""
    rng = np.random.default_rng(3)
    B, W = weights("q4_k", 6, 256, rng)
    model = model_of(
        "BlockQuantizedMatMul",
        {"A": (FLOAT, None), "B": (UINT8, None)},
        {"Y": FLOAT},
        K=256,
        N=6,
        format="q4_k",
        activations="float32",
    )
    session = open_session(model)
    A = rng.standard_normal((2, 256)).astype(np.float32)
    (Y,) = session.run(None, {"A": A, "B": B})
    assert relative_error(Y, A.astype(np.float64) @ W.T) < 1e-5
    for wrong in (B[:5], B[:, :, :143], B.reshape(-1), np.concatenate([B, B], 1)):
        with pytest.raises(ORT_ERRORS, match=r"input 1 is \[.*q4_k with K = 256 is \[6, 1, 144\]"):
            session.run(None, {"A": A, "B": wrong})
    with pytest.raises(ORT_ERRORS, match=r"input 0 is \[2, 255\], but K is 256"):
        session.run(None, {"A": A[:, :255].copy(), "B": B})
    with pytest.raises(ORT_ERRORS, match=r"input 0 is \[\], but K is 256"):
        session.run(None, {"A": np.array(1, np.float32), "B": B})


GOOD = {"K": 256, "N": 3, "format": "q4_k"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": 128}, r"K is 128; .* multiple of .*q4_k.* 256"),
        ({"K": 512}, r"input 1 is \[3, 1, 144\], but a matrix of q4_k with K = 512 is \[3, 2, 144\]"),
        ({"K": 0}, r"K is 0"),
        ({"K": -256}, r"K is -256"),
        ({"K": 2**62}, r"input 1 is \[3, 1, 144\]"),
        ({"K": "256"}, r"attribute K is missing or is not an integer"),
        ({"K": None}, r"attribute K is missing"),
        ({"N": 4}, r"input 1 is \[3, 1, 144\], but a matrix of q4_k with K = 256 is \[4, 1, 144\]"),
        ({"N": 0}, r"N is 0"),
        ({"N": -3}, r"N is -3"),
        ({"format": "q4_k_m"}, r"unknown format 'q4_k_m'; .*f32, .*q4_k"),
        ({"format": ""}, r"unknown format ''"),
        ({"format": "q5_k"}, r"input 1 is \[3, 1, 144\], but a matrix of q5_k"),
        ({"block_layout_version": 2}, r"block_layout_version is 2; only 1"),
        ({"activations": "int4"}, r"activations is 'int4'; .*int8, int8x2 or float32"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(change: dict[str, Any], message: str) -> None:
    """No attribute makes the op read outside its weight. The message names the node and the problem."""
    B = np.zeros((3, 1, 144), np.uint8)
    attributes = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(ORT_ERRORS, match=rf"BlockQuantizedMatMul 'the_node': .*{message}"):
        open_session(matmul(B, ["M", None], **attributes))


def test_a_declared_input_of_another_width_is_refused_at_load() -> None:
    """If the graph declares A's last dimension, it is checked against K before anything runs."""
    with pytest.raises(ORT_ERRORS, match=r"input 0 is \[\?, 255\], but K is 256"):
        open_session(matmul(np.zeros((3, 1, 144), np.uint8), ["M", 255], **GOOD))


def test_a_bias_of_another_length_is_refused() -> None:
    """The bias must have N values."""
    session = open_session(matmul(np.zeros((3, 1, 144), np.uint8), ["M", 256], bias=np.zeros(2, np.float32), **GOOD))
    with pytest.raises(ORT_ERRORS, match=r"the bias is \[2\], but N is 3"):
        session.run(None, {"A": np.zeros((1, 256), np.float32)})


def test_output_shapes_are_inferred() -> None:
    """Open dimensions keep their names through the op, so hosts see them in its output."""
    session = open_session(matmul(np.zeros((3, 1, 144), np.uint8), ["batch", "seq", 256], **GOOD))
    if ORT_VERSION >= (1, 24):  # 1.23 crashes in our shape inference, so it is off there
        assert session.get_outputs()[0].shape == ["batch", "seq", 3]


def test_an_open_dimension_without_a_name_stays_open(capfd: pytest.CaptureFixture[str]) -> None:
    """onnxruntime would read an inferred -1 as a size and warn at each call."""
    model = matmul(np.zeros((3, 1, 144), np.uint8), [None, 256], **GOOD)
    options = ort.SessionOptions()
    register(options)
    session = ort.InferenceSession(model, options)
    assert session.get_outputs()[0].shape in (None, [], [None, 3])
    session.run(None, {"A": np.zeros((2, 256), np.float32)})
    assert "does not match" not in "".join(capfd.readouterr())


def matmuls(tensors: list[NDArray[np.uint8]], **attributes: Any) -> bytes:
    inputs = {"A": (FLOAT, ["batch", "seq", 256]), **{f"B{i}": B for i, B in enumerate(tensors)}}
    outputs = {f"Y{i}": FLOAT for i in range(len(attributes.get("Ns") or tensors))}
    return model_of("BlockQuantizedMatMuls", inputs, outputs, **attributes)


@pytest.mark.parametrize("activations", ["int8", "int8x2", "float32"])
def test_several_weights_equal_each_alone(activations: str) -> None:
    """One op for q, k and v in different formats produces the same bits as three ops."""
    rng = np.random.default_rng(4)
    names, Ns = ["q4_k", "q6_k", "q8_0"], [70, 16, 16]
    tensors = [weights(name, N, 256, rng)[0] for name, N in zip(names, Ns, strict=True)]
    together = open_session(matmuls(tensors, K=256, Ns=Ns, formats=",".join(names), activations=activations), 2)
    for M in (1, 40):
        A = rng.standard_normal((1, M, 256)).astype(np.float32)
        for Y, B, name, N in zip(together.run(None, {"A": A}), tensors, names, Ns, strict=True):
            model = matmul(B, [1, M, 256], K=256, N=N, format=name, activations=activations)
            (alone,) = open_session(model).run(None, {"A": A})
            np.testing.assert_array_equal(Y, alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Ns": [3]}, "Ns has 1 values and formats has 2 names"),
        ({"formats": "q4_k"}, "Ns has 2 values and formats has 1 names"),
        ({"formats": "q4_k,"}, "unknown format ''"),
        ({"formats": "q4_k,q4_k"}, r"input 2 is \[5, 8, 34\], but a matrix of q4_k with K = 256 is \[5, 1, 144\]"),
        ({"Ns": None}, "attribute Ns is missing"),
        ({"Ns": [3, 2**61]}, r"input 2 is \[5, 8, 34\]"),
        ({"formats": ["q4_k", "q8_0"]}, "attribute formats is missing or is not a string"),
    ],
)
def test_several_weights_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    """The graph does not load unless each list fits the weights."""
    tensors = [np.zeros((3, 1, 144), np.uint8), np.zeros((5, 8, 34), np.uint8)]
    attributes: dict[str, Any] = {"K": 256, "Ns": [3, 5], "formats": "q4_k,q8_0", **change}
    with pytest.raises(ORT_ERRORS, match=message):
        open_session(matmuls(tensors, **{n: v for n, v in attributes.items() if v is not None}))


def test_more_weights_than_an_op_takes_are_refused() -> None:
    """The number of weights has a limit, and the message names it."""
    tensors = [np.zeros((1, 1, 144), np.uint8)] * 17
    with pytest.raises(ORT_ERRORS, match=r"17 weights; .* 16"):
        open_session(matmuls(tensors, K=256, Ns=[1] * 17, formats=",".join(["q4_k"] * 17)))


def test_threads_do_not_change_the_result() -> None:
    """One thread and many produce the same bits, for a token and for a prompt."""
    rng = np.random.default_rng(5)
    B, _ = weights("q4_k", 300, 512, rng)
    for M in (1, 3, 65):
        A = rng.standard_normal((M, 512)).astype(np.float32)
        results = [
            open_session(matmul(B, ["M", 512], K=512, N=300, format="q4_k"), threads).run(None, {"A": A})[0]
            for threads in (1, 2, 5)
        ]
        assert all(np.array_equal(results[0], result) for result in results[1:])


def test_calls_at_the_same_time_do_not_disturb_each_other() -> None:
    """Several threads can run one session, each with its own input."""
    rng = np.random.default_rng(6)
    B, _ = weights("q6_k", 200, 512, rng)
    session = open_session(matmul(B, ["M", 512], K=512, N=200, format="q6_k"), 2)
    inputs = [rng.standard_normal((1 + i % 7, 512)).astype(np.float32) for i in range(60)]
    alone = [session.run(None, {"A": A})[0] for A in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda A: session.run(None, {"A": A})[0], inputs))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_the_op_s_formats_are_the_exporter_s_types() -> None:
    """The tables of types in C++ and in Python and the documentation list the same types."""
    rng = np.random.default_rng(0)
    B = weights("q4_k", 8, 256, rng)[0]
    with pytest.raises(ORT_ERRORS) as caught:
        open_session(matmul(B, ["m", 256], K=256, N=8, format="none"))
    names = str(caught.value).split("use one of ")[1].split()
    found = {name.strip(",.") for name in names}
    expected = {type.name.lower() for type in (*TYPES, *FLOAT_TYPES)}
    # An older gguf package does not know the newest types.
    assert {name for name in found if name.upper() in GGMLQuantizationType.__members__} == expected
    page = (DOCS / "native-ops.md").read_text(encoding="utf-8").lower()
    assert {name for name in expected if f"{name}" not in page} == set()
