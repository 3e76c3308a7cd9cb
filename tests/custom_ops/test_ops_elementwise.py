"""The ops between the matrix products, compared with numpy in float64."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.custom_ops.op_sessions import FLOAT, ORT_ERRORS, model_of, needs_library, open_session


@pytest.fixture(autouse=True)
def _library() -> None:
    needs_library()


def swiglu_session(threads: int = 1) -> Any:
    inputs = {"gate": (FLOAT, None), "up": (FLOAT, None)}
    return open_session(model_of("SwiGLU", inputs, {"y": FLOAT}), threads)


def norm_session(threads: int = 1, epsilon: float = 1e-5) -> Any:
    inputs = {"x": (FLOAT, None), "branch": (FLOAT, None), "weight": (FLOAT, None)}
    return open_session(model_of("AddRMSNorm", inputs, {"normed": FLOAT, "sum": FLOAT}, epsilon=epsilon), threads)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 1537), (2, 3, 100), (1, 70, 1000)])
def test_swiglu(shape: tuple[int, ...]) -> None:
    """SwiGLU is exact to float32's rounding, even where e^x overflows or underflows float32."""
    rng = np.random.default_rng(0)
    gate = (rng.standard_normal(shape) * 40).astype(np.float32)
    up = rng.standard_normal(shape).astype(np.float32)
    (y,) = swiglu_session(2).run(None, {"gate": gate, "up": up})
    x = gate.astype(np.float64)
    np.testing.assert_allclose(y, x / (1 + np.exp(-x)) * up, rtol=1e-6, atol=1e-35)


def test_swiglu_of_what_is_not_finite() -> None:
    """A NaN stays NaN, and large values and infinities approach silu's limits."""
    gate = np.array([np.nan, np.inf, -1e30, 0, 100], np.float32)
    (y,) = swiglu_session().run(None, {"gate": gate, "up": np.ones(5, np.float32)})
    assert np.isnan(y[0])
    assert y[1] == np.inf
    assert abs(y[2]) < 1e-6 * 1e30
    assert y[3:].tolist() == [0, 100]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 576), (3, 7, 100), (1, 70, 1000)])
def test_add_rms_norm(shape: tuple[int, ...]) -> None:
    """The op returns the norm of the sum, and the sum."""
    rng = np.random.default_rng(1)
    x, branch = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    weight = rng.standard_normal(shape[-1]).astype(np.float32)
    normed, total = norm_session(2).run(None, {"x": x, "branch": branch, "weight": weight})
    np.testing.assert_array_equal(total, x + branch)
    exact = x.astype(np.float64) + branch
    expected = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(normed, expected, rtol=1e-5, atol=1e-6)


def test_neither_threads_nor_instruction_set_change_a_bit() -> None:
    """Every instruction set compiles the same loops, and one thread computes a whole row."""
    script = """if True:
        import hashlib, sys
        import numpy as np
        from tests.custom_ops.test_ops_elementwise import norm_session, swiglu_session
        rng = np.random.default_rng(2)
        x, branch = (rng.standard_normal((3, 40, 1001)).astype(np.float32) * 10 for _ in range(2))
        weight = rng.standard_normal(1001).astype(np.float32)
        digest = hashlib.sha256()
        for threads in (1, 3):
            results = [
                *norm_session(threads).run(None, {"x": x, "branch": branch, "weight": weight}),
                *swiglu_session(threads).run(None, {"gate": x, "up": branch}),
            ]
            print(hashlib.sha256(b"".join(result.tobytes() for result in results)).hexdigest())
    """
    found = set()
    for instruction_set in ("scalar", "avx2", "avx512", "neon"):  # an unsupported set falls back to a supported one
        environment = {**os.environ, "LLAMA3_CPU": instruction_set}
        result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        found.update(result.stdout.split())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 4), (2, 5), (4,)), r"AddRMSNorm.*input 0 is \[2, 4\], but input 1 is \[2, 5\]"),
        (((2, 4), (2, 4), (5,)), r"AddRMSNorm.*the weight is \[5\], .* \[2, 4\]"),
        (((), (), (1,)), r"AddRMSNorm.*the weight is \[1\], .* \[\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    """Wrong shapes are refused, so nothing outside a tensor is read."""
    feed = {name: np.zeros(shape, np.float32) for name, shape in zip(("x", "branch", "weight"), shapes, strict=True)}
    with pytest.raises(ORT_ERRORS, match=message):
        norm_session().run(None, feed)


def test_a_missing_epsilon_is_refused_at_load() -> None:
    """epsilon is required, because no default would be right."""
    inputs = {"x": (FLOAT, None), "branch": (FLOAT, None), "weight": (FLOAT, None)}
    with pytest.raises(ORT_ERRORS, match="AddRMSNorm 'the_node': attribute epsilon is missing"):
        open_session(model_of("AddRMSNorm", inputs, {"normed": FLOAT, "sum": FLOAT}))


def test_no_rows() -> None:
    """Empty tensors produce empty results."""
    empty = np.empty((0, 8), np.float32)
    normed, total = norm_session().run(None, {"x": empty, "branch": empty, "weight": np.ones(8, np.float32)})
    assert normed.shape == total.shape == (0, 8)
    assert swiglu_session().run(None, {"gate": empty, "up": empty})[0].shape == (0, 8)
