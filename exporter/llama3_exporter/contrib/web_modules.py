"""Modules that compute with packed weights in ONNX's own ops.

ONNX Runtime computes an op whose inputs are constants once, when it loads the graph. So what unpacks a weight costs
nothing afterwards.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import OpBuilder, nn

from llama3_exporter.contrib.modules import QuantizedPart
from llama3_exporter.contrib.weights_file import same_bytes
from llama3_exporter.modules import FLOAT, cast, parameter, typed

UINT4 = ir.DataType.UINT4


def matmul_folded(op: OpBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
    """Return x [batch, seq, K] @ weight [N, K]^T, with a transposition that is computed at load."""
    assert weight.shape is not None
    return typed(op.MatMul(x, op.Transpose(weight, perm=[1, 0])), x, weight.shape[0], FLOAT)


class UnpackedLinear(nn.Module):
    """x @ W^T, with a W that is unpacked to float32 at load: s (q - zp), rounded once, as in the GGUF."""

    def __init__(self, part: QuantizedPart) -> None:
        super().__init__()
        self.part = part
        num_blocks = part.row_size // part.block_size
        self.weight = parameter(_codes(part.weight, (part.num_rows, num_blocks, part.block_size), part.bits))
        self.scales = parameter(part.scales)
        self.num_blocks = num_blocks
        if part.zero_point is None:
            padded = num_blocks + num_blocks % 2 if part.bits == 4 else num_blocks
            self.zero_points = parameter(_codes(part.zero_points, (part.num_rows, padded), part.bits))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """[batch, seq, K] -> [batch, seq, N], float32."""
        part = self.part
        codes = op.Sub(op.Cast(self.weight, to=FLOAT), self._zero_points(op))
        blocks = op.Mul(codes, op.Unsqueeze(cast(op, self.scales, FLOAT), [2]))  # [N, blocks, block]
        weight = op.Reshape(blocks, [part.num_rows, part.row_size])
        weight.type, weight.shape = ir.TensorType(FLOAT), ir.Shape([part.num_rows, part.row_size])
        return matmul_folded(op, x, weight)

    def _zero_points(self, op: OpBuilder) -> ir.Value | float:
        if self.part.zero_point is not None:
            return float(self.part.zero_point)
        zero_points = op.Cast(self.zero_points, to=FLOAT)
        if self.part.bits == 4 and self.num_blocks % 2:
            zero_points = op.Slice(zero_points, [0], [self.num_blocks], [1])
        return op.Unsqueeze(zero_points, [2])


class UnpackedRows(nn.Module):
    """Rows of W by index, gathered as bytes and then unpacked."""

    def __init__(self, part: QuantizedPart) -> None:
        super().__init__()
        self.part = part
        self.num_blocks = part.row_size // part.block_size
        self.weight = parameter(part.weight)
        self.scales = parameter(part.scales)
        if part.zero_point is None:
            self.zero_points = parameter(part.zero_points)

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        """Int64 [batch, seq] -> [batch, seq, K], float32."""
        part = self.part
        zero_points: ir.Value | float
        if part.zero_point is None:
            zero_points = self._unpacked(op, op.Gather(self.zero_points, ids))  # [batch, seq, blocks]
            if part.bits == 4 and self.num_blocks % 2:
                zero_points = op.Slice(zero_points, [0], [self.num_blocks], [2])
            zero_points = op.Unsqueeze(zero_points, [3])
        else:
            zero_points = float(part.zero_point)
        codes = self._unpacked(op, op.Gather(self.weight, ids))  # [batch, seq, blocks, block]
        scales = op.Unsqueeze(cast(op, op.Gather(self.scales, ids), FLOAT), [3])
        rows = op.Reshape(op.Mul(op.Sub(codes, zero_points), scales), [0, 0, -1])
        rows.type, rows.shape = ir.TensorType(FLOAT), ir.Shape([*(ids.shape or (None, None)), part.row_size])
        return rows

    def _unpacked(self, op: OpBuilder, packed: ir.Value) -> ir.Value:
        """Bytes [..., n] -> codes, float32, [..., n] or [..., 2 n]."""
        codes = op.Cast(packed, to=FLOAT)
        if self.part.bits == 8:
            return codes
        high = op.Floor(op.Mul(codes, 1 / 16))
        low = op.Sub(codes, op.Mul(high, 16.0))
        pairs = op.Concat(op.Unsqueeze(low, [-1]), op.Unsqueeze(high, [-1]), axis=-1)
        zeros = [0] * (len(packed.shape) - 1) if packed.shape is not None else [0, 0, 0]
        return op.Reshape(pairs, [*zeros, -1])


def _codes(packed: ir.ExternalTensor, shape: tuple[int, ...], bits: int) -> ir.ExternalTensor:
    """Return packed codes as a tensor with one element per code."""
    return same_bytes(packed, shape, UINT4 if bits == 4 else None)
