"""The decoded form of every GGML block: small unsigned codes, and a scale (and perhaps a minimum) for a few of them.

A GGML type lays these three out in bytes. Its `unpack` function only undoes the layout. It does no arithmetic on
weights, so it loses nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]


class UnpackedBlocks(NamedTuple):
    """Some decoded GGML blocks. `size` is the number of weights in a GGML block (32, 64 or 256).

    Weight k, in block b of `Format.block_size` weights, is
    `scale[b] * (q[k] - Format.zero_point)`, or `scale[b] * q[k] - minimum[b]` for a format with minima.
    Scales and minima are exact in float32: the widest have 20 bits, from a float16 times two small integers.
    """

    q: UInt8  # [n, size]
    scale: Float32  # [n, size / block_size], or [n, 1] if the whole GGML block has one
    minimum: Float32 | None = None  # [n, size / block_size]


@dataclass(frozen=True)
class Format:
    """The lossless form of one GGML type in ONNX Runtime's MatMulNBits."""

    type: GGMLQuantizationType
    bits: Literal[4, 8]
    block_size: Literal[16, 32]
    """Weights that share a scale in MatMulNBits; a GGML block consists of one or more of these blocks."""
    zero_point: int | None
    """The code of weight 0 in every block; None if blocks have minima, because each then gets its own."""
    scale_is_float16: bool
    """Whether every scale is a float16 value, so float16 linears lose nothing."""
    unpack: Callable[[UInt8], UnpackedBlocks]
    """The function that decodes uint8 [n, bytes per GGML block]."""

    @property
    def has_minimum(self) -> bool:
        """Whether a block has a minimum, which needs a correction to be exact (see `packing`)."""
        return self.zero_point is None


def float16_at(blocks: UInt8, offset: int) -> Float32:
    """Return the float16 at byte `offset` of every block, as float32 [n, 1]."""
    return blocks[:, offset : offset + 2].view(np.float16).astype(np.float32)


def split_bits(groups: UInt8, bits: Literal[1, 2, 4]) -> UInt8:
    """Split each byte into fields, in the order of the weights.

    Almost every GGML type stores groups of `width` bytes: their lowest fields are the first `width` weights, the next
    fields are the next `width`, and so on. [n, groups, width] bytes -> [n, groups * (8 / bits) * width] fields.
    """
    n, n_groups, width = groups.shape
    fields = np.empty((n, n_groups, 8 // bits, width), np.uint8)
    for i in range(8 // bits):
        np.right_shift(groups, i * bits, out=fields[:, :, i])
    fields &= (1 << bits) - 1
    return fields.reshape(n, -1)


def look_up(codebook: tuple[int, ...], q: UInt8) -> UInt8:
    """Look up signed entries of a codebook, and offset them by 128 to make them unsigned: the zero point is 128."""
    return np.take(np.array(codebook, np.int8).view(np.uint8) ^ 0x80, q)
