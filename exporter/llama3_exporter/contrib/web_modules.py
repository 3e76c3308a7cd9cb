"""Modules that compute with packed weights in ONNX's own ops.

ONNX Runtime computes an op whose inputs are constants once, when it loads the graph. So unpacking a weight costs
nothing afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
from onnxscript import OpBuilder, nn

from llama3_exporter.contrib.folding import FoldingPasses
from llama3_exporter.contrib.modules import FloatEmbedding, FloatRows, QuantizedPart
from llama3_exporter.contrib.weights_file import same_bytes
from llama3_exporter.formats import packed_size
from llama3_exporter.modules import FLOAT, cast, parameter, typed

# ONNX Runtime's largest array when it unpacks a weight.
_PIECE_BYTES = 16 << 20

UINT8 = ir.DataType.UINT8


def matmul_folded(op: OpBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
    """Return x [batch, seq, K] @ weight [N, K]^T, with a transposition that is computed at load."""
    assert weight.shape is not None
    return typed(op.MatMul(x, op.Transpose(weight, perm=[1, 0])), x, weight.shape[0], FLOAT)


def pieces(num_rows: int, row_size: int) -> list[tuple[int, int]]:
    """Return the first row of each piece of a weight that is unpacked at a time, and the row after its last."""
    step = max(1, _PIECE_BYTES // (row_size * int(FLOAT.itemsize)))
    return [(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def rows_of(part: QuantizedPart, start: int, stop: int) -> QuantizedPart:
    """Return some of the rows of a part."""

    def cut(tensor: ir.ExternalTensor) -> ir.ExternalTensor:
        row_bytes = (tensor.length or 0) // part.num_rows
        shape = (stop - start, *tensor.shape.numpy()[1:])
        offset = (tensor.offset or 0) + start * row_bytes
        return ir.ExternalTensor(
            tensor.location,
            offset,
            (stop - start) * row_bytes,
            tensor.dtype,
            shape=ir.Shape(shape),
            name=tensor.name,
        )

    return replace(part, weight=cut(part.weight), scales=cut(part.scales), num_rows=stop - start)


class Float32Rows(FloatRows):
    """Rows of a weight that becomes float32 at load: not every WebGPU device has float16, and none has bfloat16."""

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        """Int64 [batch, seq] -> [batch, seq, K], float32."""
        return op.Gather(cast(op, self.weight, FLOAT), ids)


class Float32Embedding(FloatEmbedding, Float32Rows):
    """The same by token id."""


class JoinedLinears(nn.Module):
    """The outputs of several linears, side by side."""

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        super().__init__()
        self.pieces = nn.ModuleList(list(linears))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """[batch, seq, K] -> [batch, seq, N], float32."""
        return op.Concat(*[piece(op, x) for piece in self.pieces], axis=2)


class UnpackedLinear(nn.Module):
    """x @ W^T, with a W that is unpacked to float32 at load: s (q - zp), rounded once, as in the GGUF."""

    def __init__(self, part: QuantizedPart, name: str, passes: FoldingPasses) -> None:
        super().__init__()
        self.part = part
        self.name_in_passes = name
        self.passes = passes
        num_blocks, num_bytes = part.row_size // part.block_size, packed_size(part.block_size, part.bits)
        self.weight = parameter(same_bytes(part.weight, (part.num_rows, num_blocks, num_bytes, 1)))
        self.scales = parameter(part.scales)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """[batch, seq, K] -> [batch, seq, N], float32."""
        part = self.part
        codes = self.passes.wait(op, self.weight, self.name_in_passes)
        if part.bits == 4:
            codes = op.Concat(low_nibbles(op, codes), high_nibbles(op, codes), axis=3)
        codes = op.Cast(op.Transpose(codes, perm=[1, 2, 3, 0]), to=FLOAT)  # [blocks, bytes, codes per byte, N]
        scales = op.Unsqueeze(op.Transpose(self.scales, perm=[1, 0]), [1, 2])  # [blocks, 1, 1, N]
        weight = op.Reshape(op.Mul(without_zero_point(op, codes, part), scales), [part.row_size, part.num_rows])
        return typed(op.MatMul(x, weight), x, part.num_rows, FLOAT)


class UnpackedRows(nn.Module):
    """Rows of W by index, gathered as bytes and then unpacked."""

    def __init__(self, part: QuantizedPart) -> None:
        super().__init__()
        self.part = part
        self.num_blocks = part.row_size // part.block_size
        self.weight = parameter(same_bytes(part.weight, (part.num_rows, packed_size(part.row_size, part.bits), 1)))
        self.scales = parameter(part.scales)

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        """Int64 [batch, seq] -> [batch, seq, K], float32."""
        part = self.part
        codes = op.Gather(self.weight, ids)  # [batch, seq, bytes, 1]
        if part.bits == 4:
            codes = op.Concat(low_nibbles(op, codes), high_nibbles(op, codes), axis=3)
        codes = op.Reshape(op.Cast(codes, to=FLOAT), [0, 0, self.num_blocks, part.block_size])
        scales = op.Unsqueeze(op.Gather(self.scales, ids), [3])
        rows = op.Reshape(op.Mul(without_zero_point(op, codes, part), scales), [0, 0, part.row_size])
        rows.type, rows.shape = ir.TensorType(FLOAT), ir.Shape([*(ids.shape or (None, None)), part.row_size])
        return rows


def low_nibbles(op: OpBuilder, codes: ir.Value) -> ir.Value:
    """Return the first code of each byte."""
    return op.BitwiseAnd(codes, _byte(op, 15))


def high_nibbles(op: OpBuilder, codes: ir.Value) -> ir.Value:
    """Return the second code of each byte."""
    return op.BitShift(codes, _byte(op, 4), direction="RIGHT")


def without_zero_point(op: OpBuilder, codes: ir.Value, part: QuantizedPart) -> ir.Value:
    """Return q - zp, float32."""
    assert part.zero_point is not None  # web exports have no others
    return op.Sub(codes, float(part.zero_point)) if part.zero_point else codes


def _byte(op: OpBuilder, value: int) -> ir.Value:
    return op.Constant(value=ir.tensor([value], dtype=UINT8))
