"""The order in which ONNX Runtime unpacks weights when it loads a graph: a few in each pass over the graph.

In a pass, ONNX Runtime computes every op whose inputs are constants, and frees what nothing needs only when the pass is
over. Unpacking a weight takes several ops, so unpacking all of them in one pass would need four to five times the size
of the result. Here each weight waits for a shape that becomes a constant in its pass.

That shape comes from the length of a list, `chosen`, which an If returns: it has 2 or 4 elements, as the condition
says. The condition is a constant, so a pass replaces the If by one branch, but only at the end of the pass does it
learn that the list has 2 elements. Then, in the next pass, the shape is a constant, and so is the condition of the next
If.

This is only about memory: a host that computes the ops in another order gets the same result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnxscript import OpBuilder

# ONNX Runtime makes up to 10 passes.
NUM_PASSES = 8

# Unpacking needs the result and, until the pass is over, about 3 times its size. So if a pass unpacks 3/4 as much as
# the one before it, all passes need the same: their own 4 parts, and the results of those before.
_RATIO = 3 / 4

_INT64 = ir.DataType.INT64


def unpacking_bytes(float_bytes: int) -> int:
    """Return the memory that unpacking needs in WebAssembly, for weights of `float_bytes` in float32: measured."""
    return float_bytes * 3 // 2


class FoldingPasses:
    """The pass in which each weight is unpacked: the largest first, when there is most room.

    Args:
        sizes: The size of each weight, by its name.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        total = max(1, sum(sizes.values()))
        self._passes: dict[str, int] = {}
        done = 0
        for name in sorted(sizes, key=lambda name: -sizes[name]):
            left = 1 - done / total * (1 - _RATIO**NUM_PASSES)
            self._passes[name] = min(NUM_PASSES - 1, math.floor(math.log(left) / math.log(_RATIO)))
            done += sizes[name]
        self._shapes: list[ir.Value] = []

    def wait(self, op: OpBuilder, weight: ir.Value, name: str) -> ir.Value:
        """Return `weight` [N, blocks, n, 1] so that it is not a constant before the pass of the weight `name`."""
        number = self._passes[name]
        return op.Reshape(weight, self._shape(op, number)) if number else weight

    def _shape(self, op: OpBuilder, number: int) -> ir.Value:
        """Return [0, 0, -1, 1], which is not a constant before the pass `number`, 1 or more."""
        while len(self._shapes) < number:
            condition: ir.Value | bool = True
            if self._shapes:
                condition = op.Cast(op.Squeeze(op.Slice(self._shapes[-1], [3], [4], [0])), to=ir.DataType.BOOL)
            self._shapes.append(op.Sub([2, 2, 1, 3], _length_2(op, condition, len(self._shapes) + 1)))
        return self._shapes[number - 1]


def _length_2(op: OpBuilder, condition: ir.Value | bool, number: int) -> ir.Value:
    """Return [2], the length of a list that also depends on an input of the graph, so that it is never a constant."""
    input_shape = op.Shape(next(value for value in op.builder.graph.inputs if value.name == "input_ids"))
    _set_type(input_shape, [2])
    then_branch = _branch(f"pass_{number}.then", ir.node("Add", [input_shape, input_shape]))
    else_branch = _branch(f"pass_{number}.else", ir.node("Concat", [input_shape, input_shape], {"axis": 0}))
    chosen = op.If(condition, then_branch=then_branch, else_branch=else_branch)
    _set_type(chosen, None)
    length: ir.Value = op.Shape(chosen)
    _set_type(length, [1])
    return length


def _branch(name: str, node: ir.Node) -> ir.Graph:
    node.outputs[0].name = name
    return ir.Graph([], node.outputs, nodes=[node], name=name)


def _set_type(value: ir.Value, shape: Sequence[int] | None) -> None:
    value.type, value.shape = ir.TensorType(_INT64), None if shape is None else ir.Shape(shape)
