"""The native backend: external tensors that point into the GGUF itself, and our own ops over its blocks.

An export writes only a graph of a few hundred kilobytes and copies nothing; ONNX Runtime maps the GGUF.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from llama3_models.config import Hyperparameters
from llama3_models.errors import Llama3Error
from llama3_models.exports import Activations
from llama3_models.gguf.file import GGUFFile, GGUFTensor
from llama3_models.lora import Adapter
from onnxscript import nn

from llama3_exporter.adapters import adapted, adapted_linears
from llama3_exporter.decoders.backend import (
    Attention,
    Embedding,
    GatedUnit,
    HeadNorm,
    Linear,
    Linears,
    Norm,
    PositionInputs,
)
from llama3_exporter.modules import CONTRIB_HEADS, FLOAT, NATIVE_HEADS, HeadRMSNorm, parameter
from llama3_exporter.native.modules import (
    DOMAIN,
    AddRMSNorm,
    BlockQuantizedEmbedding,
    BlockQuantizedLinear,
    BlockQuantizedLinears,
    CachedAttention,
    GGUFMatrix,
    LengthsAndFrequencies,
    SwiGLU,
)


class NativeBackend:
    """A `Backend` of our own ops.

    Args:
        file: The GGUF.
        config: Its hyperparameters.
        activations: `int8` quantizes the input of a linear, as in llama.cpp, and keeps a float16 KV cache; with
            `float32` both are float32.
        adapters: LoRA adapters. Their matrices are in the graph, as ONNX Runtime loads weights from one folder only.
        names: The name of each file of the GGUF in the graph.
    """

    def __init__(
        self,
        file: GGUFFile,
        config: Hyperparameters,
        activations: Activations,
        names: Mapping[Path, str],
        adapters: Sequence[Adapter] = (),
    ) -> None:
        self._file = file
        self._tensors = config.weights(file)
        self._adapters = adapters
        self._config = config
        self._activations = activations
        self._names = names
        self.domains: Mapping[str, int] = {DOMAIN: 1}
        self.kv_type = FLOAT if activations == "float32" else ir.DataType.FLOAT16

    def linear(self, name: str, *, high_precision: bool = False) -> Linear:
        """See `Backend`."""
        activations = self._linear_activations(high_precision)
        scale, bias = self._vector(f"{name}.scale"), self._vector(f"{name}.bias")
        linear = BlockQuantizedLinear(self._matrix(name), scale, bias, activations)
        return adapted(linear, name, self._adapters, self)

    def linears(self, names: Mapping[str, str], *, high_precision: bool = False) -> Linears:
        """See `Backend`. Their input is quantized only once."""
        matrices = {attribute: self._matrix(name) for attribute, name in names.items()}
        scales = {attribute: self._vector(f"{name}.scale") for attribute, name in names.items()}
        biases = {attribute: self._vector(f"{name}.bias") for attribute, name in names.items()}
        linears = BlockQuantizedLinears(matrices, scales, biases, self._linear_activations(high_precision))
        return adapted_linears(linears, names, self._adapters, self)

    def embedding(self, name: str) -> Embedding:
        """See `Backend`."""
        return adapted(BlockQuantizedEmbedding(self._matrix(name)), name, self._adapters, self)

    def adapter_linear(self, tensor: GGUFTensor) -> Linear:
        """See `MakesMatrices`."""
        return BlockQuantizedLinear(_within_graph(tensor), None, None, "float32")

    def adapter_rows(self, tensor: GGUFTensor) -> Embedding:
        """See `MakesMatrices`."""
        return BlockQuantizedEmbedding(_within_graph(tensor))

    def norm(self, name: str) -> Norm:
        """See `Backend`."""
        return AddRMSNorm(self._float32(f"{name}.weight"), self._config.rms_norm_eps)

    def head_norm(self, name: str) -> HeadNorm:
        """See `Backend`."""
        return HeadRMSNorm(self._float32(f"{name}.weight"), self._config.head_dim, self._config.rms_norm_eps)

    def swiglu(self) -> GatedUnit:
        """See `Backend`."""
        return SwiGLU()

    def positions(self) -> PositionInputs:
        """See `Backend`."""
        return LengthsAndFrequencies(self._config)

    def attention(self, *, rotary_interleaved: bool) -> Attention:
        """See `Backend`.

        Raises:
            Llama3Error: the op does not support the length of the heads.
        """
        head_dim, rotary_dim = self._config.head_dim, self._config.rotary_dim
        if head_dim not in NATIVE_HEADS:
            contrib_can = head_dim in CONTRIB_HEADS and rotary_dim in CONTRIB_HEADS
            raise Llama3Error(
                f"{self._file.path}: its heads have {head_dim} elements, but native attention needs a multiple of 8 up "
                f"to {NATIVE_HEADS[-1]}; {'use --ops contrib' if contrib_can else 'use another model'}"
            )
        return CachedAttention(self._config, rotary_interleaved=rotary_interleaved)

    def _linear_activations(self, high_precision: bool) -> str:
        return "int8x2" if high_precision and self._activations == "int8" else self._activations

    def _vector(self, name: str) -> nn.Parameter | None:
        """Return a scale or a bias, if the file has it."""
        return self._float32(name) if name in self._tensors else None

    def _float32(self, name: str) -> nn.Parameter:
        """Return a vector: in the GGUF if it is float32 there, as is usual; otherwise stored in the graph."""
        tensor = self._tensors[name]
        if tensor.type == GGMLQuantizationType.F32:
            return parameter(self._external(tensor, FLOAT, tensor.shape))
        return parameter(ir.tensor(tensor.dequantize(), name=name))

    def _matrix(self, name: str) -> GGUFMatrix:
        tensor = self._tensors[f"{name}.weight"]
        return _matrix(tensor, self._external(tensor, ir.DataType.UINT8, _blocks_shape(tensor)))

    def _external(self, tensor: GGUFTensor, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.ExternalTensor:
        location = self._names[tensor.part]
        return ir.ExternalTensor(
            location, tensor.offset, tensor.n_bytes, dtype, shape=ir.Shape(shape), name=tensor.name
        )


def _blocks_shape(tensor: GGUFTensor) -> tuple[int, int, int]:
    num_rows, row_size = tensor.shape
    block_size, block_bytes = GGML_QUANT_SIZES[tensor.type]
    return num_rows, row_size // block_size, block_bytes


def _matrix(tensor: GGUFTensor, blocks: ir.TensorProtocol) -> GGUFMatrix:
    return GGUFMatrix(blocks, tensor.type.name.lower(), *tensor.shape)


def _within_graph(tensor: GGUFTensor) -> GGUFMatrix:
    """Return a matrix whose bytes are in the graph."""
    return _matrix(tensor, ir.tensor(tensor.data.reshape(_blocks_shape(tensor)), name=tensor.name))
