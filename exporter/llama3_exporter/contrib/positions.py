"""Where the tokens of a chunk are: the lengths of the rows, and the rotary tables, for GroupQueryAttention."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from llama3_models.config import Hyperparameters
from onnxscript import OpBuilder, nn

from llama3_exporter.decoders.backend import Chunk, Positions
from llama3_exporter.modules import FLOAT, cast, checked, parameter

SPAN = 512
"""How many positions share one start in the rotary tables."""


def table_bytes(config: Hyperparameters, max_length: int) -> int:
    """Return the size of the rotary tables in the graph."""
    return 2 * (math.ceil(max_length / SPAN) + SPAN) * config.rotary_pairs * int(FLOAT.itemsize)


class LengthsAndTables(nn.Module):
    """The lengths of the rows, and the cosines and sines of the positions that the mask covers.

    A float32 cannot hold the angle of position 100,000 well enough, web builds of ONNX Runtime compute nothing in
    double precision, and the whole tables of a long context need hundreds of megabytes. So the graph has cosines and
    sines of two kinds of angles, rounded once from double precision: those of the start of each span of 512 positions,
    and those of the offsets within a span. Each call combines them for the spans that its mask covers, with
    cos(a + b) = cos a cos b - sin a sin b and sin(a + b) = sin a cos b + cos a sin b; the error is below 2e-7.
    """

    def __init__(self, config: Hyperparameters, max_length: int, dtype: ir.DataType) -> None:
        super().__init__()
        starts = np.outer(np.arange(0, max_length, SPAN), config.inverse_frequencies)[:, None]  # [spans, 1, pairs]
        offsets = np.outer(np.arange(SPAN), config.inverse_frequencies)  # [SPAN, pairs]
        factor = config.attention_factor
        self.start_cos, self.start_sin = _constant(np.cos(starts)), _constant(np.sin(starts))
        self.offset_cos, self.offset_sin = _constant(factor * np.cos(offsets)), _constant(factor * np.sin(offsets))
        self.num_pairs = config.rotary_pairs
        self.max_length = max_length
        self.dtype = dtype

    def forward(self, op: OpBuilder, chunk: Chunk) -> Positions:
        """Return the last four inputs of GroupQueryAttention.

        The op finds a row's past by subtracting the chunk's length from the row's, so every row counts as full. Padding
        is also computed, but as positions after the row's real tokens: none of these sees it, and the next chunk
        overwrites it in the cache.

        A mask that is wider than past and chunk, or narrower than the chunk, is an error here: old versions of ONNX
        Runtime would read outside the cache.
        """
        int32 = ir.DataType.INT32
        tokens_before = op.Sub(chunk.tokens, chunk.real)
        seqlens_k = op.Cast(op.Add(tokens_before, op.Sub(chunk.length, 1)), to=int32)
        width_before = op.Sub(chunk.total_length, chunk.length)  # [1]
        past_length = op.Shape(chunk.past_key, start=2, end=3)
        excess = op.Squeeze(op.Max(op.Sub(width_before, past_length), op.Neg(width_before), 0))
        total_length = checked(op, chunk.total_length, excess, "attention_mask_must_be_as_wide_as_past_plus_chunk")
        return seqlens_k, op.Cast(total_length, to=int32), *self.tables(op, total_length)

    def tables(self, op: OpBuilder, total_length: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return cosines and sines, both [n, rotary_dim / 2], times the attention factor; n >= `total_length`."""
        last = op.Sub(total_length, 1)
        beyond = op.Div(last, self.max_length)
        last = checked(op, op.Unsqueeze(last, [0]), beyond, "attention_mask_must_not_be_wider_than_max_length")
        num_spans = op.Reshape(op.Add(op.Div(last, SPAN), 1), [1])
        start_cos, start_sin = (op.Slice(starts, [0], num_spans, [0]) for starts in (self.start_cos, self.start_sin))
        cos = op.Sub(op.Mul(start_cos, self.offset_cos), op.Mul(start_sin, self.offset_sin))  # [spans, SPAN, pairs]
        sin = op.Add(op.Mul(start_sin, self.offset_cos), op.Mul(start_cos, self.offset_sin))
        shape = [-1, self.num_pairs]
        return cast(op, op.Reshape(cos, shape), self.dtype), cast(op, op.Reshape(sin, shape), self.dtype)


def _constant(values: npt.NDArray[np.float64]) -> nn.Parameter:
    return parameter(ir.tensor(values.astype(np.float32)))
