"""GGML's block types, and how ONNX Runtime's MatMulNBits and GatherBlockQuantized hold each of them without loss.

`table` has one row a type; `legacy`, `k_quants`, `i_quants`, `ternary` and `fp4` decode their blocks; `packing` turns
decoded blocks into the operators' arrays.
"""

from llama3_exporter.formats.blocks import Format
from llama3_exporter.formats.packing import PackedWeight, pack, packed_size, repeated, split_nibbles
from llama3_exporter.formats.table import FLOAT_TYPES, FORMATS

__all__ = ["FLOAT_TYPES", "FORMATS", "Format", "PackedWeight", "pack", "packed_size", "repeated", "split_nibbles"]
