"""Every GGML type keeps its weights, up to float32's rounding, in the arrays of MatMulNBits.

The oracle is gguf.quants.dequantize; the operators' formula is written out here, independent of the code under test.
"""

import tracemalloc
import warnings

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from llama3_exporter.formats import FLOAT_TYPES, FORMATS, Format, PackedWeight, pack, packing, split_nibbles

from tests.support.adversarial_blocks import FINITE_KINDS, ScaleKind, random_rows

every_format = pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.type.name)
every_8_bit_format = pytest.mark.parametrize(
    "fmt", [fmt for fmt in FORMATS.values() if fmt.bits == 8], ids=lambda fmt: fmt.type.name
)
Float32 = npt.NDArray[np.float32]


def unpacked(packed: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Return codes along the last axis in the documented order: the low nibble is the even one."""
    if bits == 8:
        return packed
    codes = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), np.uint8)
    codes[..., 0::2] = packed & 15
    codes[..., 1::2] = packed >> 4
    return codes[..., :count]


def operator_weight(packed: PackedWeight, bits: int, block_size: int) -> Float32:
    """Return the weight [N, K] that MatMulNBits multiplies by, plus the correction that the graph adds."""
    n_rows, n_blocks, _ = packed.B.shape
    q = unpacked(packed.B, bits, block_size).astype(np.float32)
    zero_points = unpacked(packed.zero_points, bits, n_blocks).astype(np.float32)
    with np.errstate(all="ignore"):
        weight = packed.scales[:, :, None] * (q - zero_points[:, :, None])
        if packed.correction is not None:
            weight = weight + packed.correction[:, :, None]
    return weight.reshape(n_rows, -1)


def dequantized(rows: npt.NDArray[np.uint8], fmt: Format) -> Float32:
    with np.errstate(all="ignore"):
        return quants.dequantize(rows, fmt.type)


def ggml_size(fmt: Format) -> int:
    return GGML_QUANT_SIZES[fmt.type][0]


def test_every_type_that_gguf_dequantizes_has_a_row() -> None:
    """No type of a real file is missing, and every type has an oracle."""
    known = set()
    for ggml_type, (_, n_bytes) in GGML_QUANT_SIZES.items():
        try:
            quants.dequantize(np.zeros((1, n_bytes), np.uint8), ggml_type)
        except NotImplementedError:
            continue
        known.add(ggml_type)
    assert set(FORMATS) | set(FLOAT_TYPES) == known


@every_format
@pytest.mark.parametrize("kind", FINITE_KINDS)
def test_each_weight_is_the_dequantized_one(fmt: Format, kind: ScaleKind) -> None:
    """Every weight is accurate, even next to 0, and there is no warning."""
    rows = random_rows(fmt.type, (13, 5 * ggml_size(fmt)), kind, np.random.default_rng(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed = pack(fmt, rows)
    np.testing.assert_allclose(
        operator_weight(packed, fmt.bits, fmt.block_size), dequantized(rows, fmt), rtol=1e-6, atol=0
    )


@every_format
def test_all_zero_bytes(fmt: Format) -> None:
    """Blocks of a pruned or blank tensor are zero."""
    rows = np.zeros((3, 3 * GGML_QUANT_SIZES[fmt.type][1]), np.uint8)
    weight = operator_weight(pack(fmt, rows), fmt.bits, fmt.block_size)
    np.testing.assert_array_equal(weight, dequantized(rows, fmt))


@every_format
def test_arrays_have_the_documented_shapes_and_types(fmt: Format) -> None:
    """An odd number of blocks pads the zero points, which ORT 1.23 misreads, so all must be the same."""
    n_blocks = 3 * ggml_size(fmt) // fmt.block_size
    packed = pack(fmt, random_rows(fmt.type, (5, 3 * ggml_size(fmt)), "ordinary", np.random.default_rng(2)))
    assert packed.B.shape == (5, n_blocks, fmt.block_size * fmt.bits // 8)
    assert packed.scales.shape == (5, n_blocks)
    assert packed.zero_points.shape == (5, n_blocks if fmt.bits == 8 else (n_blocks + 1) // 2)
    assert (packed.B.dtype, packed.scales.dtype, packed.zero_points.dtype) == (np.uint8, np.float32, np.uint8)
    if n_blocks % 2:
        parts = [packed] if fmt.bits == 4 else split_nibbles(packed)
        assert all(len(np.unique(unpacked(part.zero_points, 4, n_blocks + 1))) == 1 for part in parts)
    if packed.correction is not None:
        assert packed.correction.shape == packed.scales.shape
        assert packed.correction.dtype == np.float32
    assert (packed.correction is not None) == fmt.has_minimum


@every_format
def test_chunks_of_rows_give_what_the_whole_gives(fmt: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter streams, so borders of chunks and of cache-sized groups must not change the result."""
    rows = random_rows(fmt.type, (11, 2 * ggml_size(fmt)), "ordinary", np.random.default_rng(3))
    whole = pack(fmt, rows)
    monkeypatch.setattr(packing, "GROUP_WEIGHTS", 3 * 2 * ggml_size(fmt))
    chunks = [pack(fmt, rows[start : start + 7]) for start in (0, 7)]
    for name, expected in whole._asdict().items():
        if expected is not None:
            joined = np.concatenate([getattr(chunk, name) for chunk in chunks])
            np.testing.assert_array_equal(joined, expected)


@every_format
def test_memory_is_the_result_and_little_more(fmt: Format) -> None:
    """Decoding works in groups, so a chunk of any size needs little more than its packed arrays."""
    rows = random_rows(fmt.type, (2048, 4096), "ordinary", np.random.default_rng(9))
    pack(fmt, rows[:1])  # caches the grid
    tracemalloc.start()
    packed = pack(fmt, rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - sum(array.nbytes for array in packed if array is not None) < 8 << 20


@every_format
def test_damaged_scales_come_through_without_a_warning(fmt: Format) -> None:
    """With infinite and NaN scales, the same weights are finite as in gguf, and nothing crashes."""
    rows = random_rows(fmt.type, (16, 4 * ggml_size(fmt)), "not finite", np.random.default_rng(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed = pack(fmt, rows)
        if fmt.bits == 8:
            split_nibbles(packed)
    weight, expected = operator_weight(packed, fmt.bits, fmt.block_size), dequantized(rows, fmt)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(weight), finite)
    np.testing.assert_allclose(weight[finite], expected[finite], rtol=1e-6, atol=0)


@every_8_bit_format
@pytest.mark.parametrize("kind", FINITE_KINDS)
def test_eight_bits_are_two_times_four(fmt: Format, kind: ScaleKind) -> None:
    """The sum of the two 4-bit weights is the 8-bit one, with the correction only once."""
    rows = random_rows(fmt.type, (5, 3 * ggml_size(fmt)), kind, np.random.default_rng(5))
    high, low = split_nibbles(pack(fmt, rows))
    assert high.correction is None
    weight = operator_weight(high, 4, fmt.block_size) + operator_weight(low, 4, fmt.block_size)
    expected = dequantized(rows, fmt)
    # The two terms partly cancel, so the error is relative to the larger one.
    largest = np.abs(operator_weight(high, 4, fmt.block_size)) + np.abs(expected)
    assert np.all(np.abs(weight - expected) <= 1e-6 * largest)


@every_format
def test_float16_scales_are_float16(fmt: Format) -> None:
    """Casting the scales to float16 loses nothing if the table says so; otherwise it would."""
    rows = random_rows(fmt.type, (16, 4 * ggml_size(fmt)), "ordinary", np.random.default_rng(6))
    scales = pack(fmt, rows).scales
    is_float16 = np.array_equal(scales.astype(np.float16).astype(np.float32), scales)
    if fmt.type.name != "MXFP4":  # float16 can represent only 40 of its 256 powers of two
        assert is_float16 == fmt.scale_is_float16


@pytest.mark.parametrize("name", ["Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K", "IQ1_S", "IQ3_S"])
def test_correction_is_at_most_half_a_scale(name: str) -> None:
    """The zero point is the nearest one, so nearly all of the weight is multiplied by int8 activations."""
    fmt = FORMATS[GGMLQuantizationType[name]]
    rows = random_rows(fmt.type, (16, 4 * ggml_size(fmt)), "mixed", np.random.default_rng(7))
    packed = pack(fmt, rows)
    assert packed.correction is not None
    zero_points = unpacked(packed.zero_points, fmt.bits, packed.scales.shape[1])
    inside = (zero_points > 0) & (zero_points < 2**fmt.bits - 1)
    assert inside.any()
    assert np.all(np.abs(packed.correction)[inside] <= np.abs(packed.scales)[inside] * 0.5000001)
    assert not zero_points[packed.scales == 0].any()


@pytest.mark.parametrize("ggml_type", FLOAT_TYPES, ids=lambda ggml_type: ggml_type.name)
def test_float_types_are_views_of_their_bytes(ggml_type: GGMLQuantizationType) -> None:
    """F32, F16 and BF16 rows need no decoding."""
    values = np.random.default_rng(8).normal(size=(3, 64)).astype(np.float32)
    rows = np.ascontiguousarray(quants.quantize(values, ggml_type)).view(np.uint8)
    np.testing.assert_array_equal(
        rows.view(FLOAT_TYPES[ggml_type]).astype(np.float32), quants.dequantize(rows, ggml_type)
    )
