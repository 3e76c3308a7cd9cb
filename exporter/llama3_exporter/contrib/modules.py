"""The modules of the contrib backend: which stock ops multiply, gather and attend.

All modules accept and return float32 hidden states; a float16 graph casts before and after the ops that compute in
float16. Weights are parameters whose bytes are in the weights file (`backend.py` places them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir
from llama3_models.config import Hyperparameters
from onnxscript import OpBuilder, nn

from llama3_exporter.decoders.backend import LayerCache, Positions
from llama3_exporter.modules import FLOAT, RMSNorm, cast, checked, parameter, scale_and_bias, typed

CONTRIB = "com.microsoft"

CORRECTION = "remainder"
"""The name of a correction in the graph, the same in every version."""


Product: TypeAlias = Callable[[OpBuilder, ir.Value, ir.Value], ir.Value]
"""(x [batch, seq, K], weight [N, K]) -> x @ weight^T [batch, seq, N]."""


class BlockSums:
    """The sums of x over each block of its last axis, computed once for all the linears that share x."""

    def __init__(self) -> None:
        self._known: dict[tuple[ir.Value, int], ir.Value] = {}

    def __call__(self, op: OpBuilder, x: ir.Value, block_size: int) -> ir.Value:
        """[batch, seq, K] -> [batch, seq, K / block_size]."""
        if (x, block_size) not in self._known:
            blocks = op.Reshape(x, [0, 0, -1, block_size])
            self._known[x, block_size] = op.ReduceSum(blocks, [-1], keepdims=0)
        return self._known[x, block_size]


@dataclass(frozen=True)
class QuantizedPart:
    """A block-quantized matrix [N, K] in the weights file, or one of the two that add up to it."""

    name: str  # the tensor's in the GGUF
    weight: ir.ExternalTensor  # uint8 [N, blocks, bytes per block]
    scales: ir.ExternalTensor  # [N, blocks], float32 or float16
    zero_points: ir.ExternalTensor  # uint8 [N, bytes]
    zero_point: int | None  # that of all blocks, or None if they differ
    num_rows: int  # N
    row_size: int  # K
    bits: int
    block_size: int


class BlockQuantized(nn.Module):
    """s (q - zp) in blocks along K: the three tensors that MatMulNBits and GatherBlockQuantized share."""

    def __init__(self, part: QuantizedPart) -> None:
        super().__init__()
        self.weight = parameter(part.weight)
        self.scales = parameter(part.scales)
        self.zero_points = parameter(part.zero_points)
        self.part = part


class BlockQuantizedLinear(BlockQuantized):
    """x @ W^T, computed in the type of the scales.

    With accuracy level 4, MatMulNBits rounds each block of x to int8. If `twice`, the rounding error is also rounded
    and multiplied, as more rows of the batch. So 15 bits of x count, and the weights are still read once.
    """

    def __init__(self, part: QuantizedPart, accuracy_level: int, *, twice: bool) -> None:
        super().__init__(part)
        self.accuracy_level = accuracy_level
        self.twice = twice

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """[batch, seq, K] -> [batch, seq, N], float32."""
        if not self.twice:
            return self._multiply(op, x)
        rounded = round_to_int8(op, x, self.part.block_size)
        both = op.Concat(rounded, op.Sub(x, rounded), axis=0)  # [2 batch, seq, K]
        of_rounded, of_rest = op.Split(self._multiply(op, both), num_outputs=2, axis=0, _outputs=["rounded", "rest"])
        return typed(op.Add(of_rounded, of_rest), x, self.part.num_rows, FLOAT)

    def _multiply(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        part, compute = self.part, self.part.scales.dtype
        y = op.MatMulNBits(
            cast(op, x, compute),
            self.weight,
            self.scales,
            self.zero_points,
            K=part.row_size,
            N=part.num_rows,
            bits=part.bits,
            block_size=part.block_size,
            accuracy_level=self.accuracy_level,
            _domain=CONTRIB,
        )
        return cast(op, typed(y, x, part.num_rows, compute), FLOAT)


class BlockQuantizedRows(BlockQuantized):
    """Rows of W by index; the weight is uint8 [N, bytes]."""

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        """Int64 [batch, seq] -> [batch, seq, K], float32."""
        rows = op.GatherBlockQuantized(
            self.weight,
            ids,
            self.scales,
            self.zero_points,
            gather_axis=0,
            quantize_axis=1,
            bits=self.part.bits,
            block_size=self.part.block_size,
            _domain=CONTRIB,
        )
        rows.type, rows.shape = ir.TensorType(FLOAT), ir.Shape([*(ids.shape or (None, None)), self.part.row_size])
        return rows


def round_to_int8(op: OpBuilder, x: ir.Value, block_size: int) -> ir.Value:
    """Round each block of x [batch, seq, K] to multiples of its largest magnitude / 127."""
    blocks = op.Reshape(x, [0, 0, -1, block_size])
    scales = op.Div(op.ReduceMax(op.Abs(blocks), [-1], keepdims=1), 127.0)
    scales = op.Max(scales, 1e-30)  # for a block of zeros
    rounded = op.Mul(op.Round(op.Div(blocks, scales)), scales)
    return op.Reshape(rounded, op.Shape(x))


class QuantizedLinear(nn.Module):
    """The sum of a weight's one or two quantized parts and their correction; then scale and bias."""

    def __init__(
        self,
        parts: Sequence[nn.Module],
        block_size: int,
        correction: ir.TensorProtocol | None,
        scale: nn.Parameter | None,
        bias: nn.Parameter | None,
        block_sums: BlockSums,
        product: Product,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(list(parts))
        self.block_size = block_size
        self.correction = parameter(correction, CORRECTION) if correction is not None else None
        self.scale = scale
        self.bias = bias
        self.block_sums = block_sums
        self.product = product

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """[batch, seq, K] -> [batch, seq, N], float32."""
        y = add_all(op, [part(op, x) for part in self.parts])
        if self.correction is not None:
            sums = self.block_sums(op, cast(op, x, FLOAT), self.block_size)
            y = op.Add(y, self.product(op, sums, self.correction))
        return scale_and_bias(op, y, self.scale, self.bias)


class SeparateLinears(nn.Module):
    """Several linears that share their input. They keep their own names: this module's name is empty."""

    def __init__(self, linears: dict[str, nn.Module]) -> None:
        super().__init__("")
        self.names = tuple(linears)
        for name, linear in linears.items():
            setattr(self, name, linear)

    def forward(self, op: OpBuilder, x: ir.Value) -> tuple[ir.Value, ...]:
        """[batch, seq, K] -> [batch, seq, N] of each."""
        return tuple(getattr(self, name)(op, x) for name in self.names)


class FloatLinear(nn.Module):
    """x @ W^T with W [N, K] in the file's own type; ONNX Runtime folds its cast to `compute` at load."""

    def __init__(
        self,
        weight: ir.TensorProtocol,
        scale: nn.Parameter | None,
        bias: nn.Parameter | None,
        compute: ir.DataType,
        product: Product,
    ) -> None:
        super().__init__()
        self.weight = parameter(weight)
        self.scale = scale
        self.bias = bias
        self.compute = compute
        self.product = product

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """[batch, seq, K] -> [batch, seq, N], float32."""
        y = self.product(op, cast(op, x, self.compute), cast(op, self.weight, self.compute))
        return scale_and_bias(op, cast(op, y, FLOAT), self.scale, self.bias)


class SkipRMSNorm(RMSNorm):
    """Addition and norm as one op, the fusion that ONNX Runtime would choose itself."""

    def add_and_norm(self, op: OpBuilder, x: ir.Value, branch: ir.Value) -> tuple[ir.Value, ir.Value]:
        """See `RMSNorm`."""
        normed, _, _, total = op.SkipSimplifiedLayerNormalization(
            x,
            branch,
            self.weight,
            epsilon=self.epsilon,
            _domain=CONTRIB,
            # The two outputs in the middle are for training; an empty name omits them.
            _outputs=["normed", ir.Value(name=""), ir.Value(name=""), "sum"],
        )
        return normed, total


class SwiGLU(nn.Module):
    """silu(gate) * up."""

    def forward(self, op: OpBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
        """[batch, seq, n] for each -> [batch, seq, n]."""
        return op.Mul(op.Mul(gate, op.Sigmoid(gate)), up)


def add_all(op: OpBuilder, terms: list[ir.Value]) -> ir.Value:
    """Return the sum of one or more values."""
    total = terms[0]
    for term in terms[1:]:
        total = op.Add(total, term)
    return total


def matmul_transposed(op: OpBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
    """Return x [batch, seq, K] @ weight [N, K]^T."""
    assert weight.shape is not None
    y = op.FusedMatMul(x, weight, transB=1, _domain=CONTRIB)
    return typed(y, x, weight.shape[0], weight.dtype or FLOAT)


def in_vocabulary(op: OpBuilder, ids: ir.Value, vocab_size: int) -> ir.Value:
    """Return `ids`, checked: GatherBlockQuantized has zeros for an id that is too large, and the last row for -1."""
    remainders = op.Mod(ids, vocab_size)
    return op.Add(remainders, checked(op, [0], op.Sub(ids, remainders), "input_ids_must_be_in_the_vocabulary"))


class QuantizedEmbedding(nn.Module):
    """Rows of a block-quantized weight, plus their correction, repeated over each block."""

    def __init__(
        self, parts: Sequence[nn.Module], vocab_size: int, block_size: int, correction: ir.TensorProtocol | None
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(list(parts))
        self.vocab_size = vocab_size
        self.block_size = block_size
        self.correction = parameter(correction, CORRECTION) if correction is not None else None

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        """Int64 [batch, seq] -> [batch, seq, hidden], float32."""
        ids = in_vocabulary(op, ids, self.vocab_size)
        x = add_all(op, [part(op, ids) for part in self.parts])
        if self.correction is not None:
            block = [1, 1, 1, self.block_size]
            repeated = op.Expand(
                op.Unsqueeze(op.Gather(self.correction, ids), [3]), block
            )  # [batch, seq, blocks, block]
            x = op.Add(x, op.Reshape(repeated, [0, 0, -1]))
        return x


class FloatRows(nn.Module):
    """Rows of a weight [N, K] in the file's own type, by indices that are checked elsewhere."""

    def __init__(self, weight: ir.TensorProtocol) -> None:
        super().__init__()
        self.weight = parameter(weight)
        self.num_rows, _ = weight.shape.numpy()

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        """Int64 [batch, seq] -> [batch, seq, K], float32."""
        return cast(op, op.Gather(self.weight, ids), FLOAT)


class FloatEmbedding(FloatRows):
    """Rows of a weight [N, K] in the file's own type, by token id."""

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        """Int64 [batch, seq] -> [batch, seq, hidden], float32."""
        return super().forward(op, in_vocabulary(op, ids, self.num_rows))


class GroupedQueryAttention(nn.Module):
    """GroupQueryAttention with its own rotation. Q and K keep the order of the GGUF's rows."""

    def __init__(self, config: Hyperparameters, kv_type: ir.DataType, *, rotary_interleaved: bool) -> None:
        super().__init__()
        self.rotary_interleaved = rotary_interleaved
        self.config = config
        self.kv_type = kv_type

    def forward(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, past: LayerCache, positions: Positions
    ) -> tuple[ir.Value, LayerCache]:
        """Q [batch, seq, heads * head_dim], k and v [batch, seq, kv_heads * head_dim] -> y like q, float32."""
        y, key, value = op.GroupQueryAttention(
            cast(op, q, self.kv_type),
            cast(op, k, self.kv_type),
            cast(op, v, self.kv_type),
            past.key,
            past.value,
            *positions,
            num_heads=self.config.num_attention_heads,
            kv_num_heads=self.config.num_key_value_heads,
            do_rotary=1,
            rotary_interleaved=int(self.rotary_interleaved),
            _domain=CONTRIB,
            _outputs=["attended", "present_key", "present_value"],
        )
        typed(y, q, self.config.num_attention_heads * self.config.head_dim, self.kv_type)
        return cast(op, y, FLOAT), LayerCache(key, value)
