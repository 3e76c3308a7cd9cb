"""The embedding of the native graph in ONNX Runtime."""

from typing import Any

import numpy as np
import pytest

from tests.custom_ops.kernel_library import FORMATS, block_shape, random_weights, reference_weights
from tests.custom_ops.op_sessions import FLOAT, INT64, ORT_ERRORS, ORT_VERSION, model_of, needs_library, open_session


@pytest.fixture(autouse=True)
def _library() -> None:
    needs_library()


def gather(B: Any, **attributes: Any) -> bytes:
    inputs = {"B": B, "ids": (INT64, ["batch", "seq"])}
    return model_of("BlockQuantizedGather", inputs, {"Y": FLOAT}, **attributes)


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_what_the_format_says(name: str) -> None:
    """In every format, a row is its dequantized weights."""
    data = random_weights(name, 11, 512, np.random.default_rng(0))
    B = data.reshape(11, -1, block_shape(name)[1])
    ids = np.array([[10, 0, 3], [3, 3, 7]], np.int64)
    (Y,) = open_session(gather(B, K=512, format=name), 2).run(None, {"ids": ids})
    np.testing.assert_allclose(Y, reference_weights(name, data)[ids], rtol=1e-6, atol=0)


def test_many_rows() -> None:
    """The rows of a long prompt, computed by several threads, end up in the right places."""
    data = random_weights("q8_0", 50, 64, np.random.default_rng(0))
    ids = np.random.default_rng(1).integers(0, 50, (1, 3000))
    (Y,) = open_session(gather(data.reshape(50, 2, 34), K=64, format="q8_0"), 3).run(None, {"ids": ids})
    np.testing.assert_allclose(Y, reference_weights("q8_0", data)[ids], rtol=1e-6)
    (Y,) = open_session(gather(data.reshape(50, 2, 34), K=64, format="q8_0")).run(None, {"ids": ids[:, :0]})
    assert Y.shape == (1, 0, 64)


@pytest.mark.parametrize("id_", [-1, 4, 2**40, -(2**63)])
def test_an_id_outside_of_the_matrix_is_refused(id_: int) -> None:
    """No id reads outside the weight, and a negative id does not count from the end."""
    session = open_session(gather(np.zeros((4, 2, 34), np.uint8), K=64, format="q8_0"))
    with pytest.raises(ORT_ERRORS, match=rf"id {id_} is .* rows 0 to 3"):
        session.run(None, {"ids": np.array([[0, id_]], np.int64)})


@pytest.mark.parametrize("shape", [(4, 2, 33), (4, 3, 34), (4, 68), (0, 2, 34)])
def test_a_weight_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    """The bytes are checked against K and the format at load."""
    with pytest.raises(ORT_ERRORS, match=r"BlockQuantizedGather 'the_node': input 0 is .* q8_0 with K = 64 is \["):
        open_session(gather(np.zeros(shape, np.uint8), K=64, format="q8_0"))


@pytest.mark.skipif(ORT_VERSION < (1, 24), reason="shape inference of custom ops crashes in onnxruntime 1.23")
def test_output_shape_is_inferred() -> None:
    """Hosts see the shape [batch, seq, K]."""
    session = open_session(gather(np.zeros((4, 2, 34), np.uint8), K=64, format="q8_0"))
    assert session.get_outputs()[0].shape == ["batch", "seq", 64]
