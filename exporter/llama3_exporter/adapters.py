"""LoRA adapters in the graph: each adds factor * B (A x) to the output of a linear or of the embedding.

Nothing is merged into a weight, because the weight would have to be quantized again. The backend decides how an
adapter's matrices become ops, and where their bytes are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import onnx_ir as ir
from llama3_models.gguf.file import GGUFTensor
from llama3_models.lora import Adapter
from onnxscript import OpBuilder, nn

from llama3_exporter.decoders.backend import Linear, Linears

EMBEDDING = "token_embd"


class MakesMatrices(Protocol):
    """The part of a backend that this module needs: float32 modules for an adapter's matrices."""

    def adapter_linear(self, tensor: GGUFTensor) -> Linear:
        """Return a module that computes x @ W^T."""

    def adapter_rows(self, tensor: GGUFTensor) -> Linear:
        """Return a module that looks up rows of W by index."""


class LowRankProduct(nn.Module):
    """factor * B (A x)."""

    def __init__(self, a: Linear, b: Linear, factor: float) -> None:
        super().__init__()
        self.lora_a = a
        self.lora_b = b
        self.factor = factor

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """[batch, seq, K], or ids [batch, seq] -> [batch, seq, N]."""
        thin = self.lora_a(op, x)  # [batch, seq, rank]
        return self.lora_b(op, thin if self.factor == 1 else op.Mul(thin, self.factor))


class AdapterSum(nn.Module):
    """The products of all adapters of one weight, added to the weight's own output."""

    def __init__(self, products: Sequence[LowRankProduct], name: str = "adapters") -> None:
        super().__init__(name)
        self.products: Sequence[Linear] = products
        for index, product in enumerate(products):
            setattr(self, str(index), product)

    def forward(self, op: OpBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
        """Add the products of the input x to y [batch, seq, N]."""
        for product in self.products:
            y = op.Add(y, product(op, x))
        return y


class Adapted(nn.Module):
    """A linear or the embedding with adapters. The weight has the same name as without them."""

    def __init__(self, base: Linear, adapters: AdapterSum) -> None:
        super().__init__()
        _unnamed(base)
        self.base = base
        self.adapters = adapters

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """Return the same shapes as the base."""
        y: ir.Value = self.adapters(op, x, self.base(op, x))
        return y


class AdaptedLinears(nn.Module):
    """Several linears that share their input, some with adapters."""

    def __init__(self, base: Linears, adapters: Mapping[str, AdapterSum | None]) -> None:
        super().__init__("")
        _unnamed(base)
        self.base = base
        self.names = tuple(adapters)
        for name, adapter_sum in adapters.items():
            setattr(self, f"{name}_adapters", adapter_sum)

    def forward(self, op: OpBuilder, x: ir.Value) -> tuple[ir.Value, ...]:
        """Return the same shapes as the base."""
        sums = (getattr(self, f"{name}_adapters") for name in self.names)
        outputs = zip(sums, self.base(op, x), strict=True)
        return tuple(y if adapter_sum is None else adapter_sum(op, x, y) for adapter_sum, y in outputs)


def adapted(base: Linear, name: str, adapters: Sequence[Adapter], backend: MakesMatrices) -> Linear:
    """Return `base`, the linear or the embedding of the weight `name`, with its adapters, if any."""
    products = _products(name, adapters, backend)
    return Adapted(base, AdapterSum(products)) if products else base


def adapted_linears(
    base: Linears, names: Mapping[str, str], adapters: Sequence[Adapter], backend: MakesMatrices
) -> Linears:
    """Do the same for linears that share their input. `names` is as in `Backend.linears`."""
    products = {attribute: _products(name, adapters, backend) for attribute, name in names.items()}
    if not any(products.values()):
        return base
    sums = {key: AdapterSum(found, f"{key}.adapters") if found else None for key, found in products.items()}
    return AdaptedLinears(base, sums)


def _products(name: str, adapters: Sequence[Adapter], backend: MakesMatrices) -> list[LowRankProduct]:
    first: Callable[[GGUFTensor], Linear] = backend.adapter_rows if name == EMBEDDING else backend.adapter_linear
    found = [adapter.weights[name] for adapter in adapters if name in adapter.weights]
    return [LowRankProduct(first(each.a), backend.adapter_linear(each.b), each.factor) for each in found]


def _unnamed(module: Linear | Linears) -> None:
    """Leave the name of `module` out of its weights' names."""
    assert isinstance(module, nn.Module)
    module._set_name("")
