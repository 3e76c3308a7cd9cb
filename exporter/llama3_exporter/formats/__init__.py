"""GGML's block types, and their lossless form for ONNX Runtime's MatMulNBits and GatherBlockQuantized.

`table` has one row per type; `legacy`, `k_quants`, `i_quants`, `ternary` and `fp4` decode their blocks; `packing` turns
decoded blocks into the operators' arrays.
"""

from llama3_exporter.formats.blocks import Format
from llama3_exporter.formats.packing import PackedWeight, pack, packed_size, repeated, split_nibbles
from llama3_exporter.formats.table import FLOAT_TYPES, FORMATS

__all__ = ["FLOAT_TYPES", "FORMATS", "Format", "PackedWeight", "pack", "packed_size", "repeated", "split_nibbles"]
