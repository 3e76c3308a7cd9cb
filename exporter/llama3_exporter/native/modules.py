"""The modules of the native backend: our own ops over the GGUF's unchanged bytes.

A weight of any type is uint8 [N, blocks, bytes per block], and the op names its format. Linears that share their input
are one op, which quantizes it once. The KV cache is float16. Attention is one op, which also rotates and appends.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from llama3_models.config import Hyperparameters
from onnxscript import OpBuilder, nn

from llama3_exporter.decoders.backend import Chunk, LayerCache, Positions
from llama3_exporter.modules import FLOAT, RMSNorm, parameter, scale_and_bias, typed

DOMAIN = "llama3"


@dataclass(frozen=True)
class GGUFMatrix:
    """A matrix [N, K] as it is stored in the GGUF."""

    tensor: ir.TensorProtocol  # uint8 [N, blocks, bytes per block]
    format: str  # ggml's name of the type, in lower case
    num_rows: int
    row_size: int


class BlockQuantizedLinear(nn.Module):
    """x @ W^T, times the scale, plus the bias."""

    def __init__(
        self, matrix: GGUFMatrix, scale: nn.Parameter | None, bias: nn.Parameter | None, activations: str
    ) -> None:
        super().__init__()
        self.weight = parameter(matrix.tensor)
        self.scale = scale
        self.bias = bias
        self.matrix = matrix
        self.activations = activations

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """Compute [batch, seq, K] -> [batch, seq, N]."""
        within = self.bias if self.scale is None else None  # the op would add the bias before the scale
        y = op.BlockQuantizedMatMul(
            x,
            self.weight,
            *([within] if within is not None else []),
            K=self.matrix.row_size,
            N=self.matrix.num_rows,
            format=self.matrix.format,
            block_layout_version=1,
            activations=self.activations,
            _domain=DOMAIN,
        )
        y = typed(y, x, self.matrix.num_rows, FLOAT)
        return y if self.scale is None else scale_and_bias(op, y, self.scale, self.bias)


class BlockQuantizedLinears(nn.Module):
    """Several linears of one input. Each weight has its own name, to which the module adds nothing."""

    def __init__(
        self,
        matrices: dict[str, GGUFMatrix],
        scales: dict[str, nn.Parameter | None],
        biases: dict[str, nn.Parameter | None],
        activations: str,
    ) -> None:
        super().__init__("")
        self.matrices = matrices
        self.activations = activations
        for name, matrix in matrices.items():
            setattr(self, f"{name}_weight", parameter(matrix.tensor, f"{name}.weight"))
            for what, vector in (("scale", scales[name]), ("bias", biases[name])):
                if vector is not None:
                    vector.name = f"{name}.{what}"
                setattr(self, f"{name}_{what}", vector)

    def forward(self, op: OpBuilder, x: ir.Value) -> tuple[ir.Value, ...]:
        """Compute [batch, seq, K] -> [batch, seq, N] of each."""
        outputs = op.BlockQuantizedMatMuls(
            x,
            *(getattr(self, f"{name}_weight") for name in self.matrices),
            K=next(iter(self.matrices.values())).row_size,
            Ns=[matrix.num_rows for matrix in self.matrices.values()],
            formats=",".join(matrix.format for matrix in self.matrices.values()),
            activations=self.activations,
            _domain=DOMAIN,
            _outputs=list(self.matrices),
        )
        return tuple(
            scale_and_bias(
                op,
                typed(y, x, self.matrices[name].num_rows, FLOAT),
                getattr(self, f"{name}_scale"),
                getattr(self, f"{name}_bias"),
            )
            for name, y in zip(self.matrices, outputs, strict=True)
        )


class AddRMSNorm(RMSNorm):
    """One pass over each row; in a small model, ONNX Runtime's own op costs ten times as much per token."""

    def add_and_norm(self, op: OpBuilder, x: ir.Value, branch: ir.Value) -> tuple[ir.Value, ir.Value]:
        """See `RMSNorm`."""
        normed, total = op.AddRMSNorm(
            x, branch, self.weight, epsilon=self.epsilon, _domain=DOMAIN, _outputs=["normed", "sum"]
        )
        return normed, total


class SwiGLU(nn.Module):
    """silu(gate) * up, in one pass."""

    def forward(self, op: OpBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
        """Compute [batch, seq, n] from gate and up, both [batch, seq, n]."""
        y = op.SwiGLU(gate, up, _domain=DOMAIN)
        y.type, y.shape = gate.type, gate.shape
        return y


class BlockQuantizedEmbedding(nn.Module):
    """Rows of W by id."""

    def __init__(self, matrix: GGUFMatrix) -> None:
        super().__init__()
        self.weight = parameter(matrix.tensor)
        self.matrix = matrix

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        """Look up ids, int64 [batch, seq] -> [batch, seq, K]."""
        rows = op.BlockQuantizedGather(
            self.weight, ids, K=self.matrix.row_size, format=self.matrix.format, _domain=DOMAIN
        )
        rows.type, rows.shape = ir.TensorType(FLOAT), ir.Shape([*(ids.shape or (None, None)), self.matrix.row_size])
        return rows


class LengthsAndFrequencies(nn.Module):
    """The lengths of the rows, and the angle per position of each rotated pair of a head."""

    def __init__(self, config: Hyperparameters) -> None:
        super().__init__()
        self.inverse_frequencies = parameter(ir.tensor(config.inverse_frequencies))

    def forward(self, op: OpBuilder, chunk: Chunk) -> Positions:
        """Compute the last four inputs of CachedAttention."""
        int32 = ir.DataType.INT32
        seqlens_k = op.Cast(op.Sub(chunk.tokens, 1), to=int32)
        total_length = op.Cast(op.Squeeze(chunk.total_length), to=int32)
        return seqlens_k, total_length, self.inverse_frequencies, op.Cast(chunk.real, to=int32)


class CachedAttention(nn.Module):
    """Attention that rotates queries and keys, and appends keys and values to the cache in place."""

    def __init__(self, config: Hyperparameters, *, rotary_interleaved: bool) -> None:
        super().__init__()
        self.rotary_interleaved = rotary_interleaved
        self.config = config
        # The op has no factor for cosines and sines. Models with one rotate whole heads, so its square is in the scale.
        self.scale = config.head_dim**-0.5 * config.attention_factor**2

    def forward(
        self, op: OpBuilder, q: ir.Value, k: ir.Value, v: ir.Value, past: LayerCache, positions: Positions
    ) -> tuple[ir.Value, LayerCache]:
        """Attend: q [batch, seq, heads * head_dim], k and v [batch, seq, kv_heads * head_dim] -> y, shaped like q."""
        y, key, value = op.CachedAttention(
            q,
            k,
            v,
            past.key,
            past.value,
            *positions,
            num_heads=self.config.num_attention_heads,
            kv_num_heads=self.config.num_key_value_heads,
            scale=self.scale,
            rotary_interleaved=int(self.rotary_interleaved),
            _domain=DOMAIN,
            _outputs=["attended", "present_key", "present_value"],
        )
        return typed(y, q, self.config.num_attention_heads * self.config.head_dim, FLOAT), LayerCache(key, value)
