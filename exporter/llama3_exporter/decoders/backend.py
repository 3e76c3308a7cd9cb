"""The parts of a decoder: modules that a `Backend` makes, and the values that they exchange.

The types below describe calls: mypy rejects a call, or a module's `forward`, with a different signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar

import onnx_ir as ir
from onnxscript import OpBuilder

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Chunk(NamedTuple):
    """The tokens of one call: first each row's real tokens, then its padding."""

    ids: ir.Value  # int64 [batch, seq]
    length: ir.Value  # int64 [1]: seq
    tokens: ir.Value  # int64 [batch]: real tokens so far, including this chunk's
    real: ir.Value  # int64 [batch]: real tokens of this chunk, 0 to seq
    past_key: ir.Value  # [batch, kv_heads, past, head_dim]: of the first layer
    total_length: ir.Value  # int64 [1]: the mask's width


class LayerCache(NamedTuple):
    """Keys and values of one layer, [batch, kv_heads, positions, head_dim]."""

    key: ir.Value
    value: ir.Value


Positions: TypeAlias = tuple[ir.Value, ...]
"""Inputs that the attention ops of all layers share: the lengths of the rows, and the rotation of queries and keys."""


class Module(Protocol[P, R_co]):
    """An `onnxscript.nn.Module` whose call adds nodes to the graph of `op`."""

    def forward(self, op: OpBuilder, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Add the nodes; each module defines how."""
        ...

    def __call__(self, op: OpBuilder, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Add the nodes under the module's name."""
        ...


Linear: TypeAlias = Module[[ir.Value], ir.Value]
"""x [batch, seq, K] -> [batch, seq, N], float32: x @ weight^T, times the scale and plus the bias, if any."""
Linears: TypeAlias = Module[[ir.Value], tuple[ir.Value, ...]]
"""x -> one output for each of several linears."""
Embedding: TypeAlias = Module[[ir.Value], ir.Value]
"""ids [batch, seq] -> [batch, seq, hidden], float32. On the CPU an id without a row is an error."""
Norm: TypeAlias = Module[[ir.Value, "ir.Value | None"], tuple[ir.Value, ir.Value]]
"""(x, branch) -> (RMS norm of x + branch, x + branch), both shaped like x; None as the branch adds nothing."""
HeadNorm: TypeAlias = Module[[ir.Value], ir.Value]
"""x [batch, seq, heads * head_dim] -> the same, the RMS norm of each head."""
GatedUnit: TypeAlias = Module[[ir.Value, ir.Value], ir.Value]
"""(gate, up) -> silu(gate) * up."""
PositionInputs: TypeAlias = Module[[Chunk], Positions]
"""Chunk -> Positions."""
Attention: TypeAlias = Module[[ir.Value, ir.Value, ir.Value, LayerCache, Positions], tuple[ir.Value, LayerCache]]
"""(q, k, v, LayerCache, Positions) -> (y, LayerCache): rotate, append to the cache, attend."""


class Backend(Protocol):
    """The ops for a GGUF's weights and for attention. Names are the GGUF's, without `.weight`.

    Attributes:
        kv_type: Type of the KV cache, FLOAT or FLOAT16.
        domains: Domains of ops besides ONNX's and com.microsoft, with their versions.
    """

    kv_type: ir.DataType
    domains: Mapping[str, int]

    def linear(self, name: str, *, high_precision: bool = False) -> Linear:
        """Make a module that multiplies by a weight.

        If linears round x to int8, those with `high_precision` keep 15 bits of it.
        """

    def linears(self, names: Mapping[str, str], *, high_precision: bool = False) -> Linears:
        """Make a module of linears that share their input, in the order of `names`; the keys name their weights."""

    def embedding(self, name: str) -> Embedding:
        """Make a module that looks up rows of a weight."""

    def norm(self, name: str) -> Norm:
        """Make a module that normalizes the residual stream."""

    def head_norm(self, name: str) -> HeadNorm:
        """Make a module that normalizes each head of queries or keys."""

    def swiglu(self) -> GatedUnit:
        """Make the activation of the MLP."""

    def positions(self) -> PositionInputs:
        """Make a module that computes the positions of a chunk's tokens."""

    def attention(self, *, rotary_interleaved: bool) -> Attention:
        """Make attention over the KV cache; it rotates neighboring elements of a head, or its two halves."""
