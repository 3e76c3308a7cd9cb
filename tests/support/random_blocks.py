"""Random blocks of any GGML type, with sane scales: weights in types that the gguf package reads but cannot write.

Uniform random bytes produce any bit pattern of the quants, sub-block scales and signs. But a random float16 scale would
sometimes be huge, infinite or NaN. So the scale fields are overwritten, and the weights have about the standard
deviation of a trained weight of the same shape.
"""

from __future__ import annotations

from functools import cache

import gguf
import numpy as np
from gguf import GGMLQuantizationType

# The offset of a block's float16 scale d. For types with a minimum, also its offset, and its value per unit of d that
# makes the mean weight zero. Offsets are those of the block structs in ggml-common.h.
_HALF_SCALES: dict[str, tuple[int, tuple[int, float] | None]] = {
    "Q4_0": (0, None),
    "Q4_1": (0, (2, -7.5)),
    "Q5_0": (0, None),
    "Q5_1": (0, (2, -15.5)),
    "Q8_0": (0, None),
    "Q2_K": (80, (82, 1.5)),
    "Q3_K": (108, None),
    "Q4_K": (0, (2, 7.5)),
    "Q5_K": (0, (2, 15.5)),
    "Q6_K": (208, None),
    "IQ2_XXS": (0, None),
    "IQ2_XS": (0, None),
    "IQ2_S": (0, None),
    "IQ3_XXS": (0, None),
    "IQ3_S": (0, None),
    "IQ1_S": (0, None),
    "IQ4_NL": (0, None),
    "IQ4_XS": (0, None),
    "TQ1_0": (52, None),
    "TQ2_0": (64, None),
}
_OTHER_SCALES = ("IQ1_M", "MXFP4", "NVFP4")

RANDOM_BLOCK_TYPES = tuple(t for t in GGMLQuantizationType if t.name in _HALF_SCALES or t.name in _OTHER_SCALES)
"""Every block type that the installed gguf package can dequantize."""


def random_blocks(
    tensor_type: GGMLQuantizationType, rows: int, cols: int, rng: np.random.Generator, std: float
) -> np.ndarray:
    """Draw weights with a standard deviation around `std` and a mean around 0: uint8 [rows, bytes_per_row].

    `cols` counts weights. In F32, F16 and BF16 the weights are Gaussian.
    """
    if tensor_type.name in ("F32", "F16", "BF16"):
        gaussian = rng.normal(0, std, (rows, cols)).astype(np.float32)
        return gguf.quants.quantize(gaussian, tensor_type).view(np.uint8)
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[tensor_type]
    if cols % block_size:
        raise ValueError(f"rows of {cols} weights are not a whole number of {tensor_type.name} blocks of {block_size}")
    blocks = rng.integers(0, 256, (rows * cols // block_size, block_bytes), dtype=np.uint8)
    scales = std / _unit_std(tensor_type) * rng.uniform(0.5, 1.5, len(blocks))
    if tensor_type.name in _HALF_SCALES and _HALF_SCALES[tensor_type.name][1] is None:
        scales *= rng.choice([-1.0, 1.0], len(blocks))  # ggml's quantizers also write scales of either sign
    _set_scales(blocks, tensor_type, scales)
    return blocks.reshape(rows, -1)


@cache
def _unit_std(tensor_type: GGMLQuantizationType) -> float:
    """Measure the standard deviation of the weights in random blocks whose scale is 1."""
    block_bytes = gguf.GGML_QUANT_SIZES[tensor_type][1]
    blocks = np.random.default_rng(0).integers(0, 256, (256, block_bytes), dtype=np.uint8)
    _set_scales(blocks, tensor_type, np.ones(len(blocks)))
    return float(gguf.quants.dequantize(blocks, tensor_type).std())


def _set_scales(blocks: np.ndarray, tensor_type: GGMLQuantizationType, scales: np.ndarray) -> None:
    """Write the scales [n_blocks] into the blocks [n_blocks, block_bytes]."""
    name = tensor_type.name
    if name in _HALF_SCALES:
        offset, minimum = _HALF_SCALES[name]
        blocks[:, offset : offset + 2] = _half_bytes(scales)
        if minimum is not None:
            offset, per_scale = minimum
            blocks[:, offset : offset + 2] = _half_bytes(scales * per_scale)
    elif name == "IQ1_M":  # the float16's four nibbles are the high nibbles of four uint16 at byte 48
        for nibble in range(4):
            bits = scales.astype(np.float16).view(np.uint16) >> (4 * nibble) & 0xF
            high = blocks[:, 49 + 2 * nibble]
            blocks[:, 49 + 2 * nibble] = (high & 0x0F) | (bits << 4).astype(np.uint8)
    elif name == "MXFP4":  # a power of two, 2^(e - 128)
        blocks[:, 0] = np.clip(np.round(np.log2(scales)) + 128, 0, 254).astype(np.uint8)
    elif name == "NVFP4":  # an unsigned float8 per quarter, which stands for half its value
        blocks[:, :4] = gguf.quants.NVFP4.fp32_to_ue4m3(2 * scales.astype(np.float32))[:, None]
    else:
        raise ValueError(f"the scale of a {name} block is unknown")


def _half_bytes(values: np.ndarray) -> np.ndarray:
    return values.astype("<f2")[:, None].view(np.uint8)
