"""Random GGML blocks of any type with chosen scales: ordinary, zero, subnormal, extreme, or a hostile mixture.

The codes are random bits. The offsets of the scales are taken again from ggml's block structures, so the tests do not
depend on the code under test.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

ScaleKind = Literal["ordinary", "zero", "subnormal", "extreme", "mixed", "not finite"]
FINITE_KINDS: tuple[ScaleKind, ...] = ("ordinary", "zero", "subnormal", "extreme", "mixed")

FLOAT16_OFFSETS: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "IQ1_S": (0,),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ2_S": (0,),
    "IQ3_XXS": (0,),
    "IQ3_S": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}


def random_rows(
    ggml_type: GGMLQuantizationType, shape: tuple[int, int], kind: ScaleKind, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Draw rows of blocks for a weight of `shape` [N, K]: uint8 [N, bytes per row]."""
    n_rows, row_weights = shape
    size, n_bytes = GGML_QUANT_SIZES[ggml_type]
    assert row_weights % size == 0
    blocks = rng.integers(0, 256, (n_rows * row_weights // size, n_bytes), np.uint8)
    name = ggml_type.name
    if name == "MXFP4":
        blocks[:, 0] = _exponents(len(blocks), kind, rng)
    elif name == "NVFP4":
        if kind == "zero":
            blocks[:, :4] = 0
    elif name == "IQ1_M":  # its float16 is in the highest nibbles of four words
        bits = _float16(len(blocks), kind, rng).view(np.uint16)
        for i in range(4):
            byte = 49 + 2 * i
            blocks[:, byte] = blocks[:, byte] & 0x0F | (bits >> (4 * i) & 0xF).astype(np.uint8) << 4
    else:
        for offset in FLOAT16_OFFSETS[name]:
            blocks[:, offset : offset + 2] = _float16(len(blocks), kind, rng)[:, None].view(np.uint8)
    return blocks.reshape(n_rows, -1)


def _float16(n: int, kind: ScaleKind, rng: np.random.Generator) -> npt.NDArray[np.float16]:
    """Draw scales or minima of both signs."""
    sign = rng.choice(np.array([-1, 1], np.float16), n)
    ordinary = rng.normal(0, 0.01, n).astype(np.float16)
    if kind == "ordinary":
        return ordinary
    if kind == "zero":
        return sign * np.float16(0)
    if kind == "subnormal":
        return sign * rng.integers(1, 0x400, n, np.uint16).view(np.float16)
    if kind == "extreme":
        return sign * np.float16(65504)
    if kind == "mixed":  # scale and minimum are drawn separately, so every ratio occurs
        values = np.array([0, 0, 2**-24, 2**-14, 0.01, 1, 3, 65504], np.float16)
        return sign * rng.choice(values, n)
    return rng.choice(np.concatenate([ordinary[:4], np.array([np.inf, -np.inf, np.nan], np.float16)]), n)


def _exponents(n: int, kind: ScaleKind, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw exponents of MXFP4's power of two: byte e stands for 2**(e - 128), subnormal below 2."""
    low, high = {
        "ordinary": (115, 125),
        "zero": (0, 1),
        "subnormal": (0, 2),
        "extreme": (232, 240),  # sums of products stay within float32
        "mixed": (0, 240),
        "not finite": (252, 256),
    }[kind]
    return rng.integers(low, high, n, np.uint8)
