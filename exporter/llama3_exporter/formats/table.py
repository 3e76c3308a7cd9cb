"""One row per GGML type: its form in the contrib graph. `docs/quantization.md` explains the columns."""

from collections.abc import Callable, Mapping
from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from llama3_exporter.formats import fp4, i_quants, k_quants, legacy, ternary
from llama3_exporter.formats.blocks import Format, UInt8, UnpackedBlocks

_Row = tuple[str, Literal[4, 8], Literal[16, 32], int | None, bool, Callable[[UInt8], UnpackedBlocks]]

# fmt: off
_ROWS: tuple[_Row, ...] = (
    # type    bits  block  zero point  float16 scales
    ("Q4_0",     4,  32,     8, True,  legacy.unpack_q4_0),
    ("Q4_1",     4,  32,  None, True,  legacy.unpack_q4_1),
    ("Q5_0",     8,  32,    16, True,  legacy.unpack_q5_0),
    ("Q5_1",     8,  32,  None, True,  legacy.unpack_q5_1),
    ("Q8_0",     8,  32,   128, True,  legacy.unpack_q8_0),
    ("IQ4_NL",   8,  32,   128, True,  legacy.unpack_iq4_nl),
    ("Q2_K",     4,  16,  None, False, k_quants.unpack_q2_k),
    ("Q3_K",     4,  16,     4, False, k_quants.unpack_q3_k),
    ("Q4_K",     4,  32,  None, False, k_quants.unpack_q4_k),
    ("Q5_K",     8,  32,  None, False, k_quants.unpack_q5_k),
    ("Q6_K",     8,  16,    32, False, k_quants.unpack_q6_k),
    ("IQ1_S",    4,  32,  None, False, i_quants.unpack_iq1_s),
    ("IQ1_M",    8,  16,   128, False, i_quants.unpack_iq1_m),
    ("IQ2_XXS",  8,  32,   128, False, i_quants.unpack_iq2_xxs),
    ("IQ2_XS",   8,  16,   128, False, i_quants.unpack_iq2_xs),
    ("IQ2_S",    8,  16,   128, False, i_quants.unpack_iq2_s),
    ("IQ3_XXS",  8,  32,   128, False, i_quants.unpack_iq3_xxs),
    ("IQ3_S",    4,  32,  None, False, i_quants.unpack_iq3_s),
    ("IQ4_XS",   8,  32,   128, False, i_quants.unpack_iq4_xs),
    ("TQ1_0",    4,  32,     1, True,  ternary.unpack_tq1_0),
    ("TQ2_0",    4,  32,     1, True,  ternary.unpack_tq2_0),
    ("MXFP4",    8,  32,   128, False, fp4.unpack_mxfp4),
    ("NVFP4",    8,  16,   128, True,  fp4.unpack_nvfp4),
)
# fmt: on

FORMATS: Mapping[GGMLQuantizationType, Format] = {
    GGMLQuantizationType[name]: Format(
        GGMLQuantizationType[name], bits, block_size, zero_point, scale_is_float16, unpack
    )
    for name, bits, block_size, zero_point, scale_is_float16, unpack in _ROWS
    if name in GGMLQuantizationType.__members__  # the oldest supported gguf package lacks MXFP4 and NVFP4
}
"""The quantized types; `pack` repacks rows of one."""

FLOAT_TYPES: Mapping[GGMLQuantizationType, npt.DTypeLike] = {
    GGMLQuantizationType.F32: np.float32,
    GGMLQuantizationType.F16: np.float16,
    GGMLQuantizationType.BF16: ml_dtypes.bfloat16,
}
"""The types that are stored unchanged: their rows of bytes, viewed as this numpy type, are the weight."""
