"""The attention kernels of every instruction set are compared with float64 numpy and with the scalar kernels.

The kernels run through the C function in custom_ops/tests/attention_library.cc. The cache after a call is compared with
the rotated keys in float64, rounded once, and the output with attention over that same cache.
"""

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.paths import CUSTOM_OPS

# Those of this architecture. An emulator also compares the NEON kernels with the portable ones.
IS_ARM = platform.machine() == "aarch64"
KERNELS = ("scalar", "neon") if IS_ARM else ("scalar", "avx2", "avx512", "avx512_bf16")
SIMD_KERNELS = KERNELS[1:]
CACHE_TYPES = (np.float16, np.float32)
MOST_STREAMED = 8  # tokens, kMaxQueriesStreamed in attention.h


@dataclass(frozen=True)
class Case:
    """One call: its shape and its numbers of new and past tokens."""

    num_heads: int
    kv_heads: int
    head_dim: int
    length: int
    past: int
    rope_dim: int | None = None  # head_dim by default
    interleaved: bool = True
    spare: int = 3  # positions of the cache after the last token

    @property
    def rotated(self) -> int:
        return self.head_dim if self.rope_dim is None else self.rope_dim

    @property
    def depth(self) -> int:
        return self.past + self.length

    @property
    def scale(self) -> float:
        return float(np.float32(max(self.head_dim, 1) ** -0.5))

    @property
    def inv_freq(self) -> NDArray[np.float64]:
        return 500000.0 ** (-np.arange(0, self.rotated, 2) / max(self.rotated, 1))


@dataclass
class Tensors:
    """The inputs of a call, which writes to the cache."""

    q: NDArray[np.float32]  # [length, num_heads, head_dim]
    k: NDArray[np.float32]  # [length, kv_heads, head_dim]
    v: NDArray[np.float32]
    keys: NDArray[Any]  # [kv_heads, capacity, head_dim], NaN where there is no token yet
    values: NDArray[Any]


def random_tensors(case: Case, cache_type: Any, seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((case.length, case.num_heads, case.head_dim), np.float32) * 2
    k, v = (rng.standard_normal((case.length, case.kv_heads, case.head_dim), np.float32) for _ in range(2))
    cache = np.full((2, case.kv_heads, case.depth + case.spare, case.head_dim), np.nan, cache_type)
    cache[:, :, : case.past] = rng.standard_normal((2, case.kv_heads, case.past, case.head_dim), np.float32)
    return Tensors(q, k, v, cache[0].copy(), cache[1].copy())


def pointers(arrays: Sequence[NDArray[Any]]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def integers(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


class AttentionLibrary:
    """The C function, with arrays as inputs and results."""

    def __init__(self, path: str) -> None:
        self.function = ctypes.CDLL(path).llama3_test_attention

    def run(self, kernels: str, case: Case, tensors: Tensors, threads: int = 1) -> NDArray[np.float32]:
        """Attend, append to the cache and return [length, num_heads, head_dim]. Skip the test if the CPU cannot."""
        (output,) = self.run_rows(kernels, [case], [tensors], threads)
        return output

    def run_rows(
        self, kernels: str, cases: Sequence[Case], rows: Sequence[Tensors], threads: int = 1
    ) -> list[NDArray[np.float32]]:
        """Run several rows in one call. Their cases differ only in lengths and spare positions."""
        case = cases[0]
        outputs = [np.full(row.q.shape, np.nan, np.float32) for row in rows]
        inv_freq = case.inv_freq
        status = self.function(
            kernels.encode(),
            *map(ctypes.c_int64, (case.num_heads, case.kv_heads, case.head_dim, case.rotated)),
            ctypes.c_float(case.scale),
            ctypes.c_int(case.interleaved),
            ctypes.c_void_p(inv_freq.ctypes.data),
            ctypes.c_int(rows[0].keys.dtype == np.float32),
            ctypes.c_int64(len(rows)),
            pointers([row.q for row in rows]),
            pointers([row.k for row in rows]),
            pointers([row.v for row in rows]),
            integers([case.length for case in cases]),
            integers([case.past for case in cases]),
            pointers([row.keys for row in rows]),
            pointers([row.values for row in rows]),
            integers([row.keys.shape[1] for row in rows]),
            pointers(outputs),
            ctypes.c_int64(threads),
        )
        if status == 1:
            pytest.skip(f"this processor cannot run {kernels}")
        if status == 2:
            raise ValueError("the shape was refused")
        return outputs


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> AttentionLibrary:
    """Build the test library, or load the one that LLAMA3_ATTENTION_TEST_LIBRARY names."""
    built = os.environ.get("LLAMA3_ATTENTION_TEST_LIBRARY")
    if not built:
        if not (shutil.which("cmake") and shutil.which("c++")):
            pytest.skip("no C++ compiler")
        folder = tmp_path_factory.mktemp("attention")
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DLLAMA3_CUSTOM_OPS_TESTS=ON", "-DLLAMA3_CUSTOM_OPS_WERROR=ON"]
        subprocess.run(["cmake", "-S", str(CUSTOM_OPS), "-B", str(folder), *options], check=True, capture_output=True)
        build = ["cmake", "--build", str(folder), "--target", "llama3_attention_test", "-j2"]
        subprocess.run(build, check=True, capture_output=True)
        built = str(next(folder.rglob("libllama3_attention_test.so")))
    return AttentionLibrary(built)


def rotate(case: Case, heads: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rotate [length, heads, head_dim] at the positions past to past + length - 1, in float64."""
    positions = np.arange(case.past, case.depth, dtype=np.float64)
    angles = positions[:, None, None] * case.inv_freq
    sine, cosine = np.sin(angles), np.cos(angles)
    result = heads.astype(np.float64)
    half = case.rotated // 2
    first, second = (
        (slice(0, case.rotated, 2), slice(1, case.rotated, 2))
        if case.interleaved
        else (slice(0, half), slice(half, case.rotated))
    )
    x, y = result[..., first].copy(), result[..., second].copy()
    result[..., first] = x * cosine - y * sine
    result[..., second] = x * sine + y * cosine
    return result


def appended(case: Case, tensors: Tensors) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the keys and values of the cache after the call."""
    keys, values = tensors.keys.copy(), tensors.values.copy()
    with np.errstate(over="ignore"):
        keys[:, case.past : case.depth] = rotate(case, tensors.k).transpose(1, 0, 2)
        values[:, case.past : case.depth] = tensors.v.transpose(1, 0, 2)
    return keys, values


def attended(case: Case, tensors: Tensors) -> NDArray[np.float64]:
    """Compute the output [length, num_heads, head_dim] over the cache after the call, in float64."""
    with np.errstate(all="ignore"):
        q = rotate(case, tensors.q).reshape(case.length, case.kv_heads, -1, case.head_dim)
        k, v = (cache[:, : case.depth].astype(np.float64) for cache in (tensors.keys, tensors.values))
        scores = np.einsum("sghd,gpd->ghsp", q, k) * case.scale
        visible = np.arange(case.depth) <= np.arange(case.past, case.depth)[:, None]
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        output: NDArray[np.float64] = np.einsum("ghsp,gpd->sghd", weights, v).reshape(tensors.q.shape)
    return output


def relative_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def tolerance(kernels: str, case: Case, cache_type: Any) -> float:
    """Return the tolerance of float32, or of bfloat16 (8 bits of mantissa) if the products may use it."""
    bfloat16 = kernels == "avx512_bf16" and cache_type == np.float16 and case.length > MOST_STREAMED
    return 8e-3 if bfloat16 else 1e-6


CASES = {
    "first token": Case(4, 2, 64, length=1, past=0),
    "Llama 3 token": Case(32, 8, 128, length=1, past=700),
    "long token": Case(8, 2, 128, length=1, past=5000),
    "few tokens": Case(8, 2, 64, length=3, past=37),
    "most streamed": Case(12, 4, 64, length=MOST_STREAMED, past=130),
    "fewest tiled": Case(12, 4, 64, length=MOST_STREAMED + 1, past=130),
    "prompt": Case(8, 2, 128, length=150, past=0),
    "later chunk": Case(8, 2, 128, length=70, past=333),
    "few tokens far in": Case(4, 1, 64, length=9, past=3000),
    "SmolLM2 token": Case(9, 3, 64, length=1, past=200),
    "SmolLM2 prompt": Case(9, 3, 64, length=129, past=64),
    "many heads on one": Case(20, 1, 64, length=30, past=10),
    "token of many heads": Case(21, 1, 80, length=2, past=100),
    "no sharing": Case(3, 3, 96, length=65, past=1),
    "head of 8": Case(2, 1, 8, length=1, past=70),
    "head of 16": Case(4, 2, 16, length=40, past=3),
    "head of 24": Case(4, 2, 24, length=2, past=66),
    "head of 24, prompt": Case(4, 2, 24, length=20, past=66),
    "head of 72": Case(5, 5, 72, length=100, past=0),
    "head of 256": Case(4, 1, 256, length=1, past=90),
    "head of 256, prompt": Case(4, 1, 256, length=67, past=5),
    "halves": Case(4, 2, 64, length=3, past=20, interleaved=False),
    "halves, prompt": Case(4, 2, 128, length=33, past=20, interleaved=False),
    "a part rotated": Case(4, 2, 80, length=2, past=40, rope_dim=20),
    "a part rotated, halves": Case(4, 2, 80, length=12, past=40, rope_dim=32, interleaved=False),
    "nothing rotated": Case(4, 2, 64, length=6, past=40, rope_dim=0),
    "cache full": Case(4, 2, 64, length=10, past=54, spare=0),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_cache = pytest.mark.parametrize("cache_type", CACHE_TYPES, ids=("float16", "float32"))


@pytest.mark.parametrize("kernels", KERNELS)
@each_cache
@each_case
def test_attention_is_what_float64_gives(library: AttentionLibrary, kernels: str, cache_type: Any, case: Case) -> None:
    """The output is right, the new tokens are in the cache, and every other position is untouched."""
    tensors = random_tensors(case, cache_type)
    keys, values = appended(case, tensors)
    output = library.run(kernels, case, tensors, threads=2)
    assert relative_error(output, attended(case, tensors)) < tolerance(kernels, case, cache_type)
    np.testing.assert_array_equal(tensors.values, values)
    new = slice(case.past, case.depth)
    one_step = max(np.finfo(cache_type).eps, 4 * np.finfo(np.float32).eps)  # rounded once, after float32's roundings
    np.testing.assert_allclose(tensors.keys[:, new], keys[:, new], rtol=one_step, atol=one_step)
    keys[:, new] = tensors.keys[:, new]
    np.testing.assert_array_equal(tensors.keys, keys)


@pytest.mark.parametrize("kernels", SIMD_KERNELS)
@each_cache
@each_case
def test_simd_equals_scalar(library: AttentionLibrary, kernels: str, cache_type: Any, case: Case) -> None:
    """The caches are equal bit for bit, the outputs to float32's rounding."""
    scalar, simd = random_tensors(case, cache_type, seed=1), random_tensors(case, cache_type, seed=1)
    expected = library.run("scalar", case, scalar)
    actual = library.run(kernels, case, simd)
    np.testing.assert_array_equal(simd.keys, scalar.keys)
    np.testing.assert_array_equal(simd.values, scalar.values)
    assert relative_error(actual, expected) < tolerance(kernels, case, cache_type)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", ["long token", "later chunk", "few tokens far in", "SmolLM2 token"])
def test_threads_do_not_change_a_bit(library: AttentionLibrary, kernels: str, name: str) -> None:
    """Any number of threads from 1 to 64 produces the same bits."""
    case = CASES[name]
    expected = library.run(kernels, case, random_tensors(case, np.float16))
    for threads in (2, 3, 7, 64):
        actual = library.run(kernels, case, random_tensors(case, np.float16), threads)
        np.testing.assert_array_equal(actual, expected)


# Lengths and pasts of the rows of one call: tokens, chunks, a first token, a split and an unsplit row. The last list
# needs more memory than one group of rows may use.
ROWS = {
    "tokens": [(1, 0), (1, 700), (1, 40), (1, 511), (1, 127)],
    "tokens and chunks": [(1, 300), (70, 0), (9, 2000), (8, 5), (3, 129)],
    "many chunks": [(260, 1500)] * 4 + [(1, 90)],
}


@pytest.mark.parametrize("kernels", KERNELS)
@each_cache
@pytest.mark.parametrize("lengths", ROWS.values(), ids=ROWS)
def test_a_row_among_others_is_the_row_alone(
    library: AttentionLibrary, kernels: str, cache_type: Any, lengths: list[tuple[int, int]]
) -> None:
    """Output and cache are equal bit for bit, with any number of threads."""
    cases = [Case(8, 2, 72, length, past, spare=i) for i, (length, past) in enumerate(lengths)]
    alone = [random_tensors(case, cache_type, seed) for seed, case in enumerate(cases)]
    expected = [library.run(kernels, case, tensors) for case, tensors in zip(cases, alone, strict=True)]
    for threads in (1, 2, 5):
        rows = [random_tensors(case, cache_type, seed) for seed, case in enumerate(cases)]
        outputs = library.run_rows(kernels, cases, rows, threads)
        for i, output in enumerate(outputs):
            np.testing.assert_array_equal(output, expected[i])
            np.testing.assert_array_equal(rows[i].keys, alone[i].keys)
            np.testing.assert_array_equal(rows[i].values, alone[i].values)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("interleaved", [True, False])
def test_late_positions_are_exact(library: AttentionLibrary, kernels: str, interleaved: bool) -> None:
    """At position 131,000 a float32 angle would be off by 4e-3, but keys are as exact as at position 0."""
    case = Case(1, 1, 64, length=2, past=131_000, interleaved=interleaved, spare=0)
    tensors = random_tensors(case, np.float32)
    expected = rotate(case, tensors.k)
    library.run(kernels, case, tensors)
    np.testing.assert_allclose(tensors.keys[:, case.past :], expected.transpose(1, 0, 2), rtol=0, atol=4e-7)


@pytest.mark.parametrize("kernels", KERNELS)
def test_token_by_token_is_the_prompt(library: AttentionLibrary, kernels: str) -> None:
    """A prompt has the same cache and output in one chunk, in chunks of 7 and one token at a time."""
    whole = Case(8, 2, 64, length=70, past=0, spare=0)
    tensors = random_tensors(whole, np.float16)
    expected = library.run(kernels, whole, tensors)
    for step in (1, 7):
        again = random_tensors(whole, np.float16)
        outputs = []
        for past in range(0, whole.length, step):
            part = slice(past, past + step)
            chunk = replace(again, q=again.q[part].copy(), k=again.k[part].copy(), v=again.v[part].copy())
            outputs.append(library.run(kernels, replace(whole, length=step, past=past), chunk))
        np.testing.assert_array_equal(again.keys, tensors.keys)
        assert relative_error(np.concatenate(outputs), expected) < tolerance(kernels, whole, np.float16)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("length", [1, 40])
def test_large_scores_do_not_overflow(library: AttentionLibrary, kernels: str, length: int) -> None:
    """With scores in the thousands, one position gets all the weight and nothing becomes infinite."""
    case = Case(4, 2, 64, length=length, past=100)
    tensors = random_tensors(case, np.float32)
    tensors.q *= 1000
    output = library.run(kernels, case, tensors)
    expected = attended(case, tensors)
    assert np.isfinite(output).all()
    assert relative_error(output, expected) < 1e-3


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["q", "k", "v", "keys", "values"])
def test_a_number_that_is_none_stays_in_its_head(
    library: AttentionLibrary, kernels: str, length: int, bad: float, where: str
) -> None:
    """NaN and infinity act as in float arithmetic in the last token's head, and do not affect other heads."""
    case = Case(4, 2, 64, length=length, past=100, rope_dim=0)
    tensors = random_tensors(case, np.float16)
    array = getattr(tensors, where)
    if where in ("keys", "values"):
        array[1, 50, 5] = bad
    else:
        array[0, -1, 5] = bad
    output = library.run(kernels, case, tensors)
    expected = attended(case, tensors)
    np.testing.assert_array_equal(np.isnan(output[-1]), np.isnan(expected[-1]))
    clean = slice(0, 2)  # the heads of the first KV head; for a query, of all but the last head
    assert np.isfinite(output[:, clean]).all()
    assert relative_error(output[:, clean], expected[:, clean]) < 8e-3


@pytest.mark.parametrize(
    "case",
    [
        Case(5, 2, 64, 1, 0),
        Case(0, 1, 64, 1, 0),
        Case(2, 0, 64, 1, 0),
        Case(2, 1, 12, 1, 0),
        Case(2, 1, 264, 1, 0),
        Case(2, 1, 0, 1, 0),
        Case(2, 1, 64, 1, 0, rope_dim=66),
        Case(2, 1, 64, 1, 0, rope_dim=7),
    ],
)
def test_impossible_shapes_are_refused(library: AttentionLibrary, case: Case) -> None:
    """The kernels refuse shapes that they have no code for."""
    one = np.zeros((1, 1, 1), np.float32)
    with pytest.raises(ValueError, match="refused"):
        library.run("scalar", case, Tensors(one, one, one, one, one))
