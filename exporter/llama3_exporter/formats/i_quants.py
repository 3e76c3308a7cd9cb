"""IQ1_S to IQ4_XS: super-blocks of 256 weights, most of them drawn in eights or fours from a grid of points.

All grid values are small integers, so that a weight is a scale times a signed byte. The grids come from the gguf
package. Scales are odd multiples of a fraction of one float16, exact in float32.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import quants

from llama3_exporter.formats.blocks import Float32, UInt8, UnpackedBlocks, float16_at, look_up, split_bits

_Integers = npt.NDArray[np.integer[Any]]
EIGHTH, QUARTER = np.float32(1 / 8), np.float32(1 / 4)


@cache
def _grid(name: str) -> UInt8:
    """The points of a type's grid, [points, weights a point]; the negative values of IQ1 wrap around."""
    quant = getattr(quants, name)
    quant.init_grid()  # from the compact form that the package ships
    points: UInt8 = quant.grid[0, 0].astype(np.int8).view(np.uint8)
    return points


def _signed_points(name: str, index: _Integers, signs: UInt8) -> UInt8:
    """Grid points by index, negated where a bit of `signs` (a byte for eight weights) is set, offset by 128."""
    q = np.take(_grid(name), index, axis=0).reshape(len(index), -1)
    negative = np.unpackbits(signs, axis=1, bitorder="little")
    q ^= -negative  # with the 1 added below: two's complement
    q += negative
    q ^= 0x80
    return q


def _four_fields(words: _Integers, bits: int) -> _Integers:
    """The low four fields of each word, the lowest first: [n, words] -> [n, 4 * words]."""
    fields = words[:, :, None] >> np.arange(0, 4 * bits, bits, dtype=words.dtype) & ((1 << bits) - 1)
    return fields.reshape(len(words), -1)


def _sign_bytes(sevens: _Integers) -> UInt8:
    """Signs of eight weights from 7 bits: the eighth makes the number of negative ones even."""
    return np.take(np.frombuffer(quants.IQ2_XXS.ksigns, np.uint8), sevens)


def _odd_multiples(unit: Float32, half: _Integers) -> Float32:
    """The scales unit * (2 half + 1): [n, 1] and [n, sub-blocks] give [n, sub-blocks]."""
    return unit * (half.astype(np.float32) * 2 + 1)


def unpack_iq2_xxs(blocks: UInt8) -> UnpackedBlocks:
    """A float16, then for each 32 weights four grid indices of 8 bits, four signs of 7 bits, a scale of 4 bits."""
    words = blocks[:, 2:].view(np.uint32).reshape(-1, 8, 2)
    index = np.ascontiguousarray(words[:, :, 0]).view(np.uint8)
    signs = _sign_bytes(_four_fields(words[:, :, 1], 7))
    scale = _odd_multiples(float16_at(blocks, 0) * EIGHTH, words[:, :, 1] >> 28)
    return UnpackedBlocks(_signed_points("IQ2_XXS", index, signs), scale)


def unpack_iq2_xs(blocks: UInt8) -> UnpackedBlocks:
    """A float16, 32 words of a 9-bit grid index and a 7-bit sign, 16 scales of 4 bits; sub-blocks of 16."""
    words = blocks[:, 2:66].view(np.uint16)
    signs = _sign_bytes(words >> 9)
    scale = _odd_multiples(float16_at(blocks, 0) * EIGHTH, split_bits(blocks[:, 66:, None], 4))
    return UnpackedBlocks(_signed_points("IQ2_XS", words & 511, signs), scale)


def unpack_iq2_s(blocks: UInt8) -> UnpackedBlocks:
    """A float16, 32 grid indices, 32 sign bytes, two more bits for each index, 16 scales of 4 bits."""
    index = blocks[:, 2:34] | split_bits(blocks[:, 66:74, None], 2).astype(np.uint16) << 8
    scale = _odd_multiples(float16_at(blocks, 0) * EIGHTH, split_bits(blocks[:, 74:, None], 4))
    return UnpackedBlocks(_signed_points("IQ2_S", index, blocks[:, 34:66]), scale)


def unpack_iq3_xxs(blocks: UInt8) -> UnpackedBlocks:
    """A float16, 64 grid indices of four weights each, then for each 32 weights four signs and a scale of 4 bits."""
    words = blocks[:, 66:].view(np.uint32)
    scale = _odd_multiples(float16_at(blocks, 0) * QUARTER, words >> 28)
    return UnpackedBlocks(_signed_points("IQ3_XXS", blocks[:, 2:66], _sign_bytes(_four_fields(words, 7))), scale)


def unpack_iq3_s(blocks: UInt8) -> UnpackedBlocks:
    """A float16, 64 grid indices of four weights each, a ninth bit for each, 32 sign bytes, 8 scales of 4 bits.

    The grid holds odd numbers up to 15: with their signs they are 2 q - 15, and q fits 4 bits.
    """
    index = blocks[:, 2:66] | split_bits(blocks[:, 66:74, None], 1).astype(np.uint16) << 8
    scale = _odd_multiples(float16_at(blocks, 0), split_bits(blocks[:, 106:, None], 4))
    q = _signed_points("IQ3_S", index, blocks[:, 74:106])  # offset by 128
    return UnpackedBlocks((q - np.uint8(128 - 15)) >> np.uint8(1), scale * np.float32(2), scale * np.float32(15))


def unpack_iq1_s(blocks: UInt8) -> UnpackedBlocks:
    """A float16, 32 grid indices, then for each 32 weights 3 more bits for four indices, a scale of 3 bits, a shift.

    The grid holds -1, 0 and 1, all of which the shift moves up or down by an eighth: it belongs to the minimum.
    """
    words = blocks[:, 34:].view(np.uint16)
    index = blocks[:, 2:34] | _four_fields(words, 3) << 8
    q = np.take(_grid("IQ1_S"), index, axis=0).reshape(len(blocks), -1)
    scale = _odd_multiples(float16_at(blocks, 0), words >> 12 & 7)
    shift = np.copysign(EIGHTH, words.view(np.int16).astype(np.float32))
    return UnpackedBlocks(q + np.uint8(1), scale, scale * (1 - shift))


def unpack_iq1_m(blocks: UInt8) -> UnpackedBlocks:
    """32 grid indices, for each a nibble of 3 more bits and a shift, 16 scales of 3 bits; sub-blocks of 16.

    The float16 lies in four pieces, the highest nibbles of the four words that hold the scales. A shift moves 8
    weights, so a sub-block can have both: the codes are eighths, offset by 128.
    """
    nibbles = split_bits(blocks[:, 32:48, None], 4)
    words = blocks[:, 48:].view(np.uint16)
    pieces = words >> 12 << np.array([0, 4, 8, 12], np.uint16)
    unit = np.bitwise_or.reduce(pieces, axis=1, keepdims=True).view(np.float16).astype(np.float32)
    index = blocks[:, :32] | (nibbles & 7).astype(np.uint16) << 8
    eighths = np.take(_grid("IQ1_M"), index, axis=0) << np.uint8(3)
    eighths += np.where(nibbles >= 8, np.uint8(128 - 1), np.uint8(128 + 1))[:, :, None]
    return UnpackedBlocks(eighths.reshape(len(blocks), -1), _odd_multiples(unit * EIGHTH, _four_fields(words, 3)))


def unpack_iq4_xs(blocks: UInt8) -> UnpackedBlocks:
    """A float16, high and low bits of eight 6-bit scales, 128 bytes of nibbles into IQ4_NL's codebook."""
    high_bits = blocks[:, 2:4].view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scale = split_bits(blocks[:, 4:8, None], 4).astype(np.int16) | (high_bits << 4).astype(np.int16)
    q = split_bits(blocks[:, 8:].reshape(-1, 8, 16), 4)
    return UnpackedBlocks(look_up(quants.IQ4_NL.kvalues, q), float16_at(blocks, 0) * (scale - 32).astype(np.float32))
