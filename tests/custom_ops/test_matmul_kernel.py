"""The matmul kernels: every format is compared with gguf's own numpy code, and vector code with portable code.

The test library puts weights, activations, scratch and outputs right before an unmapped page, so any access past an end
crashes.
"""

from __future__ import annotations

import platform
import subprocess
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.custom_ops.kernel_library import (
    BLOCK_FORMATS,
    FORMATS,
    KernelLibrary,
    block_shape,
    float16_offsets,
    load_kernel_library,
    random_weights,
    reference_weights,
    scale_bytes,
)

# Those of this architecture. An emulator also compares the NEON kernels with the portable ones.
IS_ARM = platform.machine() == "aarch64"
INSTRUCTION_SETS = ("scalar", "neon") if IS_ARM else ("scalar", "avx2", "avx2_vnni", "avx512")
VECTOR_SETS = INSTRUCTION_SETS[1:]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return load_kernel_library(tmp_path_factory.mktemp("kernels"))


def test_instruction_sets_share_no_function(library: KernelLibrary) -> None:
    """No function is in two sets: the linker would keep one, whose instructions an older processor may lack."""
    sets: dict[str, set[str]] = {}
    for path in Path(library.library._name).parent.glob("CMakeFiles/kernels_*.dir/**/*.o"):
        name = next(part for part in path.parts if part.startswith("kernels_"))
        symbols = subprocess.run(["nm", "--defined-only", path], check=True, capture_output=True, text=True).stdout
        sets.setdefault(name, set()).update(line.split()[2] for line in symbols.splitlines() if " W " in line)
    assert len(sets) > 1
    shared = {symbol for a, b in combinations(sets.values(), 2) for symbol in a & b}
    assert not shared


def cols_of(name: str, blocks: int) -> int:
    """Return the columns of a row of some blocks. For blocks of 32 they may not be a multiple of 256."""
    weights, _ = block_shape(name)
    return blocks * max(weights, 32)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_row_is_what_gguf_says(library: KernelLibrary, name: str, instruction_set: str) -> None:
    if not library.has(instruction_set):
        pytest.skip(f"no {instruction_set} here")
    cols = cols_of(name, 3)
    data = random_weights(name, 1, cols, np.random.default_rng(0))
    found = library.dequantize(instruction_set, name, data[0], cols)
    np.testing.assert_allclose(found, reference_weights(name, data)[0], rtol=1e-6)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("M", "N", "blocks"), [(1, 1, 1), (1, 67, 5), (3, 65, 2), (8, 130, 3), (37, 19, 4), (70, 131, 2)]
)
def test_products_of_odd_sizes(
    library: KernelLibrary, name: str, instruction_set: str, M: int, N: int, blocks: int
) -> None:
    """float32 activations are exact to rounding; int8 ones lose a hundredth, as in the portable kernels."""
    if not library.has(instruction_set):
        pytest.skip(f"no {instruction_set} here")
    rng = np.random.default_rng(M * N)
    K = cols_of(name, blocks)
    data = random_weights(name, N, K, rng)
    A = rng.standard_normal((M, K)).astype(np.float32)
    bias = rng.standard_normal(N).astype(np.float32)
    expected = A.astype(np.float64) @ reference_weights(name, data).astype(np.float64).T + bias
    (exact,) = library.multiply(instruction_set, A, [(name, data)], biases=[bias], float32=True)
    np.testing.assert_allclose(exact, expected, atol=1e-5 * np.abs(expected).max())
    (rounded,) = library.multiply(instruction_set, A, [(name, data)], biases=[bias])
    (scalar,) = library.multiply("scalar", A, [(name, data)], biases=[bias])
    size = np.linalg.norm(A.astype(np.float64)) * np.linalg.norm(reference_weights(name, data)) / np.sqrt(K)
    assert np.linalg.norm(rounded - expected) < 0.03 * size
    np.testing.assert_allclose(rounded, scalar, atol=2e-6 * np.abs(A).max() * np.abs(expected - bias).max() + 1e-5)


@pytest.mark.parametrize("instruction_set", VECTOR_SETS)
@pytest.mark.parametrize("name", ["q4_k", "q6_k", "q4_1", "q8_0", "iq2_s", "bf16"])
@pytest.mark.parametrize("M", [1, 40, 600])
def test_the_number_of_threads_changes_no_bit(library: KernelLibrary, name: str, M: int, instruction_set: str) -> None:
    if not library.has(instruction_set):
        pytest.skip(f"no {instruction_set} here")
    rng = np.random.default_rng(3)
    K = cols_of(name, 2)
    data = random_weights(name, 333, K, rng)
    A = rng.standard_normal((M, K)).astype(np.float32)
    (one,) = library.multiply(instruction_set, A, [(name, data)], threads=1)
    for threads in (2, 3, 16, 64):
        (many,) = library.multiply(instruction_set, A, [(name, data)], threads=threads)
        assert np.array_equal(one, many)


@pytest.mark.parametrize("instruction_set", VECTOR_SETS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("M", [1, 2, 5, 9, 1000])
def test_vectors_are_as_exact_as_the_portable_kernels(
    library: KernelLibrary, name: str, M: int, instruction_set: str
) -> None:
    """Both multiply the same integers, so only float rounding differs: by up to 1e-6 of the sum of the magnitudes."""
    if not library.has(instruction_set):
        pytest.skip(f"no {instruction_set} here")
    rng = np.random.default_rng(M)
    K = cols_of(name, 3)
    data = random_weights(name, 70, K, rng)
    A = rng.standard_normal((M, K)).astype(np.float32)
    (simd,) = library.multiply(instruction_set, A, [(name, data)], threads=2)
    (scalar,) = library.multiply("scalar", A, [(name, data)], threads=2)
    magnitudes = np.abs(A) @ np.abs(reference_weights(name, data)).T
    assert np.all(np.abs(simd.astype(np.float64) - scalar) <= 1e-6 * magnitudes)


@pytest.mark.parametrize("instruction_set", VECTOR_SETS)
@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("repeats", [1, 4])
def test_the_largest_sums_are_exact(library: KernelLibrary, name: str, repeats: int, instruction_set: str) -> None:
    """Extreme codes times activations of the same sign bring 16-bit sums closest to overflow."""
    if not library.has(instruction_set):
        pytest.skip(f"no {instruction_set} here")
    codes = np.array([0x00, 0x0F, 0xF0, 0x7F, 0x80, 0xFF], np.uint8)
    data = random_weights(name, len(codes), cols_of(name, 9), np.random.default_rng(8))
    _, block_bytes = block_shape(name)
    is_code = np.ones(block_bytes, bool)
    is_code[scale_bytes(name)] = False
    data.reshape(len(codes), -1, block_bytes)[:, :, is_code] = codes[:, None, None]
    weights = reference_weights(name, data)
    A = np.tile(np.where(weights < 0, np.float32(-1), np.float32(1)), (repeats, 1))
    (simd,) = library.multiply(instruction_set, A, [(name, data)])
    (scalar,) = library.multiply("scalar", A, [(name, data)])
    assert np.all(np.abs(simd.astype(np.float64) - scalar) <= 1e-6 * (np.abs(A) @ np.abs(weights).T))


@pytest.mark.parametrize("M", [3, 30])
def test_products_in_one_call_are_those_of_separate_calls(library: KernelLibrary, M: int) -> None:
    """q, k and v share the quantized activations, even with different types."""
    rng = np.random.default_rng(6)
    weights = [(name, random_weights(name, N, 768, rng)) for name, N in (("q4_k", 96), ("q8_0", 33), ("f16", 50))]
    A = rng.standard_normal((M, 768)).astype(np.float32)
    for instruction_set in filter(library.has, INSTRUCTION_SETS):
        together = library.multiply(instruction_set, A, weights, threads=3)
        for weight, found in zip(weights, together, strict=True):
            assert np.array_equal(found, library.multiply(instruction_set, A, [weight])[0])


@pytest.mark.parametrize("name", ["q4_k", "q6_k", "q4_1", "f16"])
@pytest.mark.parametrize("rows", [(20, 1000), (2, 7)])
def test_a_row_does_not_depend_on_those_beside_it(library: KernelLibrary, name: str, rows: tuple[int, int]) -> None:
    """The values of a prompt's tokens do not depend on its split into chunks."""
    rng = np.random.default_rng(7)
    data = random_weights(name, 130, 512, rng)
    A = rng.standard_normal((rows[1], 512)).astype(np.float32)
    for instruction_set in filter(library.has, INSTRUCTION_SETS):
        (all_rows,) = library.multiply(instruction_set, A, [(name, data)], threads=2)
        (first_rows,) = library.multiply(instruction_set, A[: rows[0]], [(name, data)])
        assert np.array_equal(all_rows[: rows[0]], first_rows)


@pytest.mark.parametrize("instruction_set", VECTOR_SETS)
@pytest.mark.parametrize("scale", [0.0, 6e-8, np.inf, np.nan], ids=["zero", "subnormal", "infinite", "NaN"])
@pytest.mark.parametrize("name", [name for name in BLOCK_FORMATS if float16_offsets(name)])
@pytest.mark.parametrize("M", [1, 24])
def test_odd_scales_give_the_same_class_of_result(
    library: KernelLibrary, name: str, scale: float, M: int, instruction_set: str
) -> None:
    """A damaged file does not crash a kernel, and a NaN does not become a number on some processors only."""
    if not library.has(instruction_set):
        pytest.skip(f"no {instruction_set} here")
    rng = np.random.default_rng(4)
    K = cols_of(name, 2)
    _, block_bytes = block_shape(name)
    data = random_weights(name, 5, K, rng)
    blocks = data.reshape(-1, block_bytes)
    for offset in float16_offsets(name):
        blocks[::3, offset : offset + 2] = np.array([scale], np.float16).view(np.uint8)
    A = rng.standard_normal((M, K)).astype(np.float32)
    (simd,) = library.multiply(instruction_set, A, [(name, data)])
    (scalar,) = library.multiply("scalar", A, [(name, data)])
    assert np.array_equal(np.isfinite(simd), np.isfinite(scalar))
    finite = np.isfinite(scalar)
    if finite.any():
        np.testing.assert_allclose(simd[finite], scalar[finite], atol=2e-6 * np.abs(scalar[finite]).max())


def test_a_nan_among_the_activations_spoils_its_row_alone(library: KernelLibrary) -> None:
    rng = np.random.default_rng(5)
    data = random_weights("q4_k", 40, 512, rng)
    for instruction_set in filter(library.has, INSTRUCTION_SETS):
        for M in (2, 20):
            A = rng.standard_normal((M, 512)).astype(np.float32)
            A[1, 300] = np.nan
            (found,) = library.multiply(instruction_set, A, [("q4_k", data)])
            assert np.isnan(found[1]).all()
            assert np.isfinite(np.delete(found, 1, axis=0)).all()
