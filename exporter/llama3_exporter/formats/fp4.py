"""MXFP4 and NVFP4: 4-bit floating point weights, with an 8-bit scale per block.

The sixteen values of a 4-bit float are multiples of 1/2. gguf's codebook contains them doubled, so scales are halved.
"""

import numpy as np
import numpy.typing as npt
from gguf import quants

from llama3_exporter.formats.blocks import Float32, UInt8, UnpackedBlocks, look_up, split_bits


def _powers_of_two() -> Float32:
    """Return half the values of E8M0, in which byte e is 2**(e - 127); the two smallest are subnormal in float32."""
    return np.ldexp(np.ones(256), np.arange(256) - 128).astype(np.float32)


def _small_floats() -> Float32:
    """Return half the values of E4M3 without a sign, with bias 7. Byte 0x7F is NaN, which ggml reads as 0."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    subnormal, normal = np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent - 10)
    values: npt.NDArray[np.float64] = np.where(exponent == 0, subnormal, normal) / 2
    values[0x7F] = 0
    return values.astype(np.float32)


E8M0 = _powers_of_two()
E4M3 = _small_floats()


def unpack_mxfp4(blocks: UInt8) -> UnpackedBlocks:
    """Unpack a scale, 16 bytes of nibbles; blocks of 32."""
    q = split_bits(blocks[:, None, 1:], 4)
    return UnpackedBlocks(look_up(quants.MXFP4.kvalues, q), np.take(E8M0, blocks[:, :1]))


def unpack_nvfp4(blocks: UInt8) -> UnpackedBlocks:
    """Unpack four scales, then 8 bytes of nibbles for each; sub-blocks of 16."""
    q = split_bits(blocks[:, 4:].reshape(-1, 4, 8), 4)
    return UnpackedBlocks(look_up(quants.NVFP4.kvalues, q), np.take(E4M3, blocks[:, :4]))
