"""Helpers for the modules of every backend: parameters with values, and types that shape inference does not find."""

from __future__ import annotations

from abc import ABC, abstractmethod

import onnx_ir as ir
from onnxscript import OpBuilder, nn

FLOAT = ir.DataType.FLOAT

# Head sizes that attention supports; in contrib graphs, the rotated part of a head must also be one of them.
CONTRIB_HEADS = range(16, 1 << 31, 16)
NATIVE_HEADS = range(8, 256 + 1, 8)


def cast(op: OpBuilder, x: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Return `x` as `dtype`, without a node if it already has that type."""
    return x if x.dtype == dtype else op.Cast(x, to=dtype)


def parameter(tensor: ir.TensorProtocol, name: str | None = None) -> nn.Parameter:
    """Return a parameter with a value. If `name` is None, it is named after its attribute."""
    return nn.Parameter(tensor.shape.numpy(), data=tensor, name=name)


def scale_and_bias(op: OpBuilder, y: ir.Value, scale: nn.Parameter | None, bias: nn.Parameter | None) -> ir.Value:
    """Multiply `y` [batch, seq, N] by a scale [1] and add a bias [N], if there are any."""
    if scale is not None:
        y = op.Mul(y, scale)
    return y if bias is None else op.Add(y, bias)


def checked(op: OpBuilder, only: ir.Value | list[int], index: ir.Value, rule: str) -> ir.Value:
    """Return `only` [1] in the shape of `index`, int64, whose elements must be 0 or -1.

    On the CPU any other value fails the run with an error that names the node `rule`: the index is out of range. CUDA's
    Gather does not check.
    """
    gathered = op.Gather(only, index)
    gathered.producer().name = rule
    return gathered


class RMSNorm(nn.Module, ABC):
    """The norm of the residual stream, after adding a branch. Each backend has its own op that does both."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.epsilon = epsilon

    def forward(self, op: OpBuilder, x: ir.Value, branch: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """[batch, seq, hidden] -> the normalized sum and the sum."""
        if branch is None:
            return op.RMSNormalization(x, self.weight, epsilon=self.epsilon), x
        normed, total = self.add_and_norm(op, x, branch)
        for value in (normed, total):
            value.type, value.shape = x.type, x.shape
        return normed, total

    @abstractmethod
    def add_and_norm(self, op: OpBuilder, x: ir.Value, branch: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the normalized sum of `x` and `branch`, and the sum."""


class HeadRMSNorm(nn.Module):
    """The norm of each head of q or k."""

    def __init__(self, weight: nn.Parameter, head_dim: int, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.head_dim = head_dim
        self.epsilon = epsilon

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """[batch, seq, heads * head_dim] -> the same."""
        heads = op.Reshape(x, [0, 0, -1, self.head_dim])
        y = op.Reshape(op.RMSNormalization(heads, self.weight, epsilon=self.epsilon), [0, 0, -1])
        y.type, y.shape = x.type, x.shape
        return y


def typed(value: ir.Value, like: ir.Value, last_dim: int | ir.SymbolicDim, dtype: ir.DataType) -> ir.Value:
    """Set what shape inference does not know about contrib ops: `value` is [batch, seq, last_dim], like `like`."""
    value.type = ir.TensorType(dtype)
    value.shape = None if like.shape is None else ir.Shape([*like.shape[:-1], last_dim])
    return value
