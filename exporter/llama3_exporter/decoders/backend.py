"""What a decoder is made of: modules that a `Backend` makes, and what goes from one to the next.

The types below are those of calls: mypy refuses a call, or the `forward` of a module, that has another signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar

import onnx_ir as ir
from onnxscript import OpBuilder

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Chunk(NamedTuple):
    """The tokens of one call: each row's real tokens come first, its padding after them."""

    ids: ir.Value  # int64 [batch, seq]
    length: ir.Value  # int64 [1]: seq
    tokens: ir.Value  # int64 [batch]: real tokens up to and with this chunk
    real: ir.Value  # int64 [batch]: those of this chunk, 0 to seq
    past_key: ir.Value  # [batch, kv_heads, past, head_dim]: of the first layer
    total_length: ir.Value  # int64 [1]: the mask's width


class LayerCache(NamedTuple):
    """Keys and values of one layer, [batch, kv_heads, positions, head_dim]."""

    key: ir.Value
    value: ir.Value


Positions: TypeAlias = tuple[ir.Value, ...]
"""Inputs that every layer's attention op shares: the lengths of the rows, and what rotates queries and keys."""


class Module(Protocol[P, R_co]):
    """An `onnxscript.nn.Module` whose call adds nodes to the graph of `op`."""

    def forward(self, op: OpBuilder, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """What a subclass defines."""
        ...

    def __call__(self, op: OpBuilder, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The same under the module's name."""
        ...


Linear: TypeAlias = Module[[ir.Value], ir.Value]
"""x [batch, seq, K] -> [batch, seq, N], float32: x @ weight^T, times the scale and plus the bias that the file has."""
Linears: TypeAlias = Module[[ir.Value], tuple[ir.Value, ...]]
"""x -> one output for each of several linears."""
Embedding: TypeAlias = Module[[ir.Value], ir.Value]
"""ids [batch, seq] -> [batch, seq, hidden], float32. On the CPU an id without a row is an error."""
Norm: TypeAlias = Module[[ir.Value, "ir.Value | None"], tuple[ir.Value, ir.Value]]
"""(x, branch) -> (RMS norm of x + branch, x + branch), as x; a branch of None adds nothing."""
HeadNorm: TypeAlias = Module[[ir.Value], ir.Value]
"""x [batch, seq, heads * head_dim] -> the same, the RMS norm of each head."""
GatedUnit: TypeAlias = Module[[ir.Value, ir.Value], ir.Value]
"""(gate, up) -> silu(gate) * up."""
PositionInputs: TypeAlias = Module[[Chunk], Positions]
"""Chunk -> Positions, which every layer's attention shares."""
Attention: TypeAlias = Module[[ir.Value, ir.Value, ir.Value, LayerCache, Positions], tuple[ir.Value, LayerCache]]
"""(q, k, v, LayerCache, Positions) -> (y, LayerCache): rotate, append to the cache, attend."""


class Backend(Protocol):
    """How the GGUF's weights and the attention become ops. Names are the GGUF's, without `.weight`.

    Attributes:
        kv_type: Type of the KV cache, FLOAT or FLOAT16.
        domains: Domains of ops besides ONNX's and com.microsoft, with their versions.
    """

    kv_type: ir.DataType
    domains: Mapping[str, int]

    def linear(self, name: str, *, high_precision: bool = False) -> Linear:
        """A module that multiplies by a weight.

        Where linears round x to int8, those of `high_precision` keep 15 bits of it.
        """

    def linears(self, names: Mapping[str, str], *, high_precision: bool = False) -> Linears:
        """A module of the linears of `names`, which share their input, in that order; the keys name their weights."""

    def embedding(self, name: str) -> Embedding:
        """A module that takes rows of a weight."""

    def norm(self, name: str) -> Norm:
        """A module that norms the residual stream."""

    def head_norm(self, name: str) -> HeadNorm:
        """A module that norms each head of queries or keys."""

    def swiglu(self) -> GatedUnit:
        """The activation of the MLP."""

    def positions(self) -> PositionInputs:
        """A module that says where the tokens of a chunk stand."""

    def attention(self, *, rotary_interleaved: bool) -> Attention:
        """Attention over the KV cache; neighbouring elements of a head rotate, or its two halves."""
