"""What the modules of every backend need: parameters with a value, and types where shape inference has none."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import OpBuilder, nn

FLOAT = ir.DataType.FLOAT


def cast(op: OpBuilder, x: ir.Value, dtype: ir.DataType) -> ir.Value:
    """`x` as `dtype`, without a node where it is that already."""
    return x if x.dtype == dtype else op.Cast(x, to=dtype)


def parameter(tensor: ir.TensorProtocol, name: str | None = None) -> nn.Parameter:
    """A parameter whose value is there already; None names it as the attribute that it becomes."""
    return nn.Parameter(tensor.shape.numpy(), data=tensor, name=name)


def add_bias(op: OpBuilder, y: ir.Value, bias: nn.Parameter | None) -> ir.Value:
    """`y` plus a bias, where there is one."""
    return y if bias is None else op.Add(y, bias)


def typed(value: ir.Value, like: ir.Value, last_dim: int | ir.SymbolicDim, dtype: ir.DataType) -> ir.Value:
    """State what shape inference does not know of contrib ops: `value` is [batch, seq, last_dim] as `like` is."""
    value.type = ir.TensorType(dtype)
    value.shape = None if like.shape is None else ir.Shape([*like.shape[:-1], last_dim])
    return value
