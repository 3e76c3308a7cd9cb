"""Weights as stock ONNX Runtime ops: MatMulNBits and GatherBlockQuantized for blocks, MatMul and Gather for floats.

The graph computes with exactly the GGUF's weights. If a block has a minimum, its integer zero point is rounded, and one
correction per block makes up for that: a linear adds blocksum(x) @ correction^T (docs/quantization.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir
from gguf.constants import GGMLQuantizationType
from llama3_models.config import Hyperparameters
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile, GGUFTensor
from llama3_models.lora import Adapter
from llama3_models.manifest import ExportOptions
from llama3_models.units import format_bytes
from onnxscript import OpBuilder, nn

from llama3_exporter.adapters import adapted, adapted_linears
from llama3_exporter.contrib.modules import (
    BlockQuantizedLinear,
    BlockQuantizedRows,
    BlockSums,
    FloatEmbedding,
    FloatLinear,
    FloatRows,
    GroupedQueryAttention,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedPart,
    SeparateLinears,
    SkipRMSNorm,
    SwiGLU,
    matmul_transposed,
)
from llama3_exporter.contrib.placed import PlacedTensors
from llama3_exporter.contrib.positions import LengthsAndTables, table_bytes
from llama3_exporter.contrib.weights_file import same_bytes
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
from llama3_exporter.formats import FLOAT_TYPES, FORMATS, packed_size
from llama3_exporter.modules import CONTRIB_HEADS, FLOAT, NATIVE_HEADS, HeadRMSNorm, parameter

FLOAT16 = ir.DataType.FLOAT16

# MatMulNBits's attribute: 4 quantizes its input to int8 per block, 1 computes in float32.
ACCURACY_LEVEL = {"int8": 4, "float32": 1}

# Tables of 67 million positions with heads of 128. They are in model.onnx itself, which every host reads whole.
_MAX_ROTARY_BYTES = 1 << 26


class ContribBackend:
    """A `Backend` of stock ops, whose weights are in a `WeightsFile`.

    Args:
        file: The GGUF.
        config: Its hyperparameters.
        placed: The weights' places.
        options: The activations (whether MatMulNBits quantizes its input), the precision (`fp16` multiplies in float16
            if the file's scales are float16) and the number of positions in the rotary tables.
        adapters: LoRA adapters, whose matrices also go into the weights file.
    """

    def __init__(
        self,
        file: GGUFFile,
        config: Hyperparameters,
        placed: PlacedTensors,
        options: ExportOptions,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        self._file = file
        self._tensors = config.weights(file)
        self._adapters = adapters
        self._config = config
        self._placed = placed
        self._activations = options.activations
        self._precision = options.precision
        self._is_for_web = options.target == "web"
        self._max_length = options.max_length
        self._rotary_bytes = table_bytes(config, options.max_length)
        self._block_sums = BlockSums()
        self.domains: Mapping[str, int] = {}
        self.kv_type = FLOAT16 if options.precision == "fp16" else FLOAT
        self._float_copies_bytes = 0

    @property
    def memory_bytes(self) -> int:
        """Bytes that ONNX Runtime needs for the weights on a CPU.

        It copies each float weight into the type and layout of its kernel. The rotary tables count as weights.
        """
        return self._placed.size + self._float_copies_bytes + self._rotary_bytes

    def linear(self, name: str, *, high_precision: bool = False) -> Linear:
        """See `Backend`."""
        return adapted(self._linear(name, high_precision=high_precision), name, self._adapters, self)

    def linears(self, names: Mapping[str, str], *, high_precision: bool = False) -> Linears:
        """See `Backend`."""
        linears = SeparateLinears(
            {attribute: self._linear(name, high_precision=high_precision) for attribute, name in names.items()}
        )
        return adapted_linears(linears, names, self._adapters, self)

    def embedding(self, name: str) -> Embedding:
        """See `Backend`. A tied head and the embedding share the same bytes."""
        return adapted(self._embedding(name), name, self._adapters, self)

    def _embedding(self, name: str) -> FloatEmbedding | QuantizedEmbedding:
        tensor = self._tensors[f"{name}.weight"]
        if tensor.type in FLOAT_TYPES:
            return self.float_embedding(self._placed.floats(tensor))
        # Float16 scales would round the gathered rows. But a tied head may need them beside the same codes.
        head = [self._linear_scale_type(tensor)] if self._config.tie_word_embeddings else []
        weight = self._placed.blocks(tensor, list(dict.fromkeys([FLOAT, *head])))[FLOAT]
        first = weight.parts[0]
        parts = [self.part_rows(part) for part in weight.parts]
        return QuantizedEmbedding(parts, first.num_rows, first.block_size, weight.correction)

    def float_embedding(self, weight: ir.ExternalTensor) -> FloatEmbedding:
        """Make an embedding of a float weight."""
        return FloatEmbedding(weight)

    def part_rows(self, part: QuantizedPart) -> nn.Module:
        """Make a module that looks up rows of a part of a weight, by ids that are checked elsewhere."""
        matrix = same_bytes(part.weight, (part.num_rows, packed_size(part.row_size, part.bits)))
        return BlockQuantizedRows(replace(part, weight=matrix))

    def adapter_linear(self, tensor: GGUFTensor) -> FloatLinear:
        """See `MakesMatrices`."""
        self._float_copies_bytes += int(math.prod(tensor.shape) * FLOAT.itemsize)
        return FloatLinear(self.adapter_matrix(tensor), None, None, FLOAT, self.product)

    def adapter_rows(self, tensor: GGUFTensor) -> FloatRows:
        """See `MakesMatrices`."""
        return FloatRows(self.adapter_matrix(tensor))

    def adapter_matrix(self, tensor: GGUFTensor) -> ir.ExternalTensor:
        """Return the place of an adapter's matrix."""
        return self._placed.adapter_matrix(tensor)

    def norm(self, name: str) -> Norm:
        """See `Backend`."""
        return SkipRMSNorm(self._float32(f"{name}.weight"), self._config.rms_norm_eps)

    def head_norm(self, name: str) -> HeadNorm:
        """See `Backend`."""
        return HeadRMSNorm(self._float32(f"{name}.weight"), self._config.head_dim, self._config.rms_norm_eps)

    def swiglu(self) -> GatedUnit:
        """See `Backend`."""
        return SwiGLU()

    def positions(self) -> PositionInputs:
        """See `Backend`.

        Raises:
            Llama3Error: the rotary tables would be too large.
        """
        if self._rotary_bytes > _MAX_ROTARY_BYTES:
            other = "" if self._is_for_web else ", or --ops native, which has no tables"
            raise Llama3Error(
                f"{self._file.path}: the rotary tables of {self._max_length:,} positions would need "
                f"{format_bytes(self._rotary_bytes)}; use a smaller --max-length{other}"
            )
        return LengthsAndTables(self._config, self._max_length, self.kv_type)

    def attention(self, *, rotary_interleaved: bool) -> Attention:
        """See `Backend`.

        Raises:
            Llama3Error: ONNX Runtime's op does not support the size of the heads.
        """
        for what, count in (("heads have", self._config.head_dim), ("heads rotate", self._config.rotary_dim)):
            if count not in CONTRIB_HEADS:
                native_can = self._config.head_dim in NATIVE_HEADS and not self._is_for_web
                raise Llama3Error(
                    f"{self._file.path}: its {what} {count} elements, but ONNX Runtime's attention supports only "
                    f"multiples of 16; {'use --ops native' if native_can else 'use another model'}"
                )
        return GroupedQueryAttention(self._config, self.kv_type, rotary_interleaved=rotary_interleaved)

    def _linear(self, name: str, *, high_precision: bool) -> FloatLinear | QuantizedLinear:
        tensor = self._tensors[f"{name}.weight"]
        scale, bias = self._vector(f"{name}.scale"), self._vector(f"{name}.bias")
        if tensor.type in FLOAT_TYPES:
            in_float16 = tensor.type == GGMLQuantizationType.F16 and self._multiplies_in_float16(tensor)
            compute = FLOAT16 if in_float16 else FLOAT
            self._float_copies_bytes += int(math.prod(tensor.shape) * compute.itemsize)
            return FloatLinear(self._placed.floats(tensor), scale, bias, compute, self.product)
        scale_type = self._linear_scale_type(tensor)
        weight = self._placed.blocks(tensor, [scale_type])[scale_type]
        parts = [self.part_linear(part, high_precision=high_precision) for part in weight.parts]
        block_size = weight.parts[0].block_size
        return QuantizedLinear(parts, block_size, weight.correction, scale, bias, self._block_sums, self.product)

    def product(self, op: OpBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
        """Multiply by a matrix of floats: see `Product`."""
        return matmul_transposed(op, x, weight)

    def part_linear(self, part: QuantizedPart, *, high_precision: bool) -> nn.Module:
        """Make a module that multiplies by a part of a weight."""
        # fp16 is for CUDA, which does not round activations to int8.
        twice = high_precision and self._activations == "int8" and self._precision == "fp32"
        return BlockQuantizedLinear(part, ACCURACY_LEVEL[self._activations], twice=twice)

    def _vector(self, name: str) -> nn.Parameter | None:
        """Return a scale or a bias, if the file has it."""
        return self._float32(name) if name in self._tensors else None

    def _float32(self, name: str) -> nn.Parameter:
        return parameter(self._placed.vector(name))

    def _linear_scale_type(self, tensor: GGUFTensor) -> ir.DataType:
        in_float16 = FORMATS[tensor.type].scale_is_float16 and self._multiplies_in_float16(tensor)
        return FLOAT16 if in_float16 else FLOAT

    def _multiplies_in_float16(self, tensor: GGUFTensor) -> bool:
        """Return whether a product with this weight may be float16, if float16 holds its numbers.

        If there is a scale beside the weight, its numbers may be far from 1 (NVFP4's go up to 2,688), and the product
        may exceed float16's range.
        """
        return self._precision == "fp16" and f"{tensor.name.removesuffix('weight')}scale" not in self._tensors
