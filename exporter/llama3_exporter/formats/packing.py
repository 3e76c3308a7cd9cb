"""The conversion of rows of GGML blocks to the four arrays of MatMulNBits and GatherBlockQuantized.

Both operators compute a weight as `scales * (q - zero_point)` with an integer zero point, block by block. A format with
minima (weight = scale * q - minimum) does not fit, since minimum / scale is rarely an integer. Rounding it, as other
exporters do, changes the weights. Here a correction makes up for the rounding, one number per block:

    weight = scale * (q - zero_point) + correction,    correction = scale * zero_point - minimum

The graph adds it: a linear adds its product with the sum of the activations over each block, an embedding the
correction itself. Any zero point would do, but the nearest one makes the correction small, at most half a scale. So
int8 activations (whose rounding does not affect the correction's product) lose as little as in llama.cpp.

The two terms do not cancel: if the zero point was clipped they have the same sign; otherwise |correction| is at most
half of the first term, or the first term is 0. So every single weight, however small, is exact up to a few roundings
of float32.
"""

from typing import NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES

from llama3_exporter.formats.blocks import Float32, Format, UInt8

GROUP_WEIGHTS = 1 << 18
"""Weights to decode at a time, few enough to keep all temporaries in a core's cache."""


class PackedWeight(NamedTuple):
    """Rows in the layout of MatMulNBits; that of GatherBlockQuantized is the same, with B as [N, bytes per row]."""

    B: UInt8  # [N, n_blocks, block_size * bits / 8]; of two 4-bit codes, the even one is in the low nibble
    scales: Float32  # [N, n_blocks]
    zero_points: UInt8  # [N, ceil(n_blocks * bits / 8)], packed like B
    correction: Float32 | None  # [N, n_blocks]; None if it would be zero


def packed_size(count: int, bits: int) -> int:
    """Return the number of bytes for `count` codes or zero points of one row."""
    return -(-count * bits // 8)


def repeated(code: int, bits: int) -> int:
    """Return a byte filled with this code or zero point."""
    return code * 0x11 if bits == 4 else code


def pack(fmt: Format, rows: UInt8, *, nearest: bool = True) -> PackedWeight:
    """Repack rows of a GGUF tensor. Rows are independent: call it on chunks, from any thread.

    Args:
        fmt: The tensor's format.
        rows: Its rows, uint8 [n, row bytes].
        nearest: Whether a format with minima has the nearest zero points; if not, they are 0.
    """
    n_rows, row_bytes = rows.shape
    ggml_size, ggml_bytes = GGML_QUANT_SIZES[fmt.type]
    row_weights = row_bytes // ggml_bytes * ggml_size
    n_blocks = row_weights // fmt.block_size

    B = np.empty((n_rows, n_blocks, packed_size(fmt.block_size, fmt.bits)), np.uint8)
    scales = np.empty((n_rows, n_blocks), np.float32)
    # ONNX Runtime 1.23's GatherBlockQuantized does not expect padding at the end of a row of 4-bit zero points, and
    # reads the next rows shifted by a nibble (onnxruntime#26506). With an odd number of blocks, all values must
    # therefore be the same, including the padding: Q4_1 and Q5_1 use 0 instead of the nearest zero point.
    constant = repeated(fmt.zero_point or 0, fmt.bits)
    zero_points = np.full((n_rows, packed_size(n_blocks, fmt.bits)), constant, np.uint8)
    nearest = nearest and n_blocks % 2 == 0
    correction = np.empty_like(scales) if fmt.has_minimum else None

    step = max(1, GROUP_WEIGHTS // row_weights)
    # A damaged file may have infinite or NaN scales; they are kept, without a warning.
    with np.errstate(all="ignore"):
        for start in range(0, n_rows, step):
            part = slice(start, start + step)
            q, scale, minimum = fmt.unpack(rows[part].reshape(-1, ggml_bytes))
            B[part] = _pack_codes(q, fmt.bits).reshape(-1, n_blocks, B.shape[2])
            scales[part] = np.broadcast_to(scale, (len(q), ggml_size // fmt.block_size)).reshape(-1, n_blocks)
            if correction is not None and minimum is not None:
                zero_point = np.zeros(scale.shape, np.uint8)
                if nearest:
                    zero_point = _nearest_zero_points(scale, minimum, fmt.bits)
                    zero_points[part] = _pack_codes(zero_point.reshape(-1, n_blocks), fmt.bits)
                correction[part] = (scale * zero_point - minimum).reshape(-1, n_blocks)
    return PackedWeight(B, scales, zero_points, correction)


def split_nibbles(packed: PackedWeight) -> tuple[PackedWeight, PackedWeight]:
    """Write an 8-bit weight as the exact sum of two 4-bit ones: q = 16 hi + lo, and the same for zero points.

    This is for float32 activations, with which ONNX Runtime's 8-bit kernel unpacks the whole matrix at every call. The
    first weight's scales are 16 times as large, exact below 2**124; only the second has the correction.
    """
    B, scales, zero_points, correction = packed
    four, fifteen = np.uint8(4), np.uint8(15)
    with np.errstate(all="ignore"):
        scales_16 = scales * np.float32(16)
    high = PackedWeight(_pack_nibbles(B >> four), scales_16, _pack_nibbles(zero_points >> four), None)
    low = PackedWeight(_pack_nibbles(B & fifteen), scales, _pack_nibbles(zero_points & fifteen), correction)
    return high, low


def _nearest_zero_points(scale: Float32, minimum: Float32, bits: int) -> UInt8:
    """Return round(minimum / scale), limited to the codes' range; 0 if the scale is 0 or the quotient is NaN."""
    ratio = np.rint(minimum / scale)
    # fmin and fmax prefer the number to the NaN.
    zero_point: UInt8 = np.fmin(np.fmax(ratio, 0), (1 << bits) - 1).astype(np.uint8)
    zero_point[scale == 0] = 0
    return zero_point


def _pack_codes(q: UInt8, bits: int) -> UInt8:
    return _pack_nibbles(q) if bits == 4 else q


def _pack_nibbles(q: UInt8) -> UInt8:
    """Join neighboring codes below 16 along the last axis, the even one low; an odd last one is joined to itself."""
    if q.shape[-1] % 2:
        q = np.concatenate([q, q[..., -1:]], axis=-1)
    pairs = np.ascontiguousarray(q).view(np.uint16)
    pairs = pairs | pairs >> np.uint16(4)  # 0x0B0A | 0x00B0, whose low byte is kept: 0xBA
    return pairs.astype(np.uint8)
