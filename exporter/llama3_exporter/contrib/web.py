"""The backends of `--target web`: two graphs on the same weights, for WebGPU and for WebAssembly.

WebGPU has MatMulNBits and GatherBlockQuantized, but not FusedMatMul. In WebAssembly they are slow or missing, so its
graph unpacks the weights to float32 with ops that ONNX Runtime computes once, at load.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from llama3_models.config import Hyperparameters
from llama3_models.gguf.file import GGUFFile, GGUFTensor
from llama3_models.lora import Adapter
from llama3_models.manifest import ExportOptions
from onnxscript import OpBuilder, nn

from llama3_exporter.contrib.backend import ContribBackend
from llama3_exporter.contrib.folding import FoldingPasses, unpacking_bytes
from llama3_exporter.contrib.modules import FloatEmbedding, FloatRows, QuantizedPart
from llama3_exporter.contrib.placed import PlacedTensors
from llama3_exporter.contrib.web_modules import (
    Float32Embedding,
    Float32Rows,
    JoinedLinears,
    UnpackedLinear,
    UnpackedRows,
    matmul_folded,
    pieces,
    rows_of,
)
from llama3_exporter.formats import FORMATS
from llama3_exporter.modules import FLOAT


class WebGPUBackend(ContribBackend):
    """Weights stay packed; other ops replace those that WebGPU has no kernel for."""

    def product(self, op: OpBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
        """See `ContribBackend`."""
        return matmul_folded(op, x, weight)

    def float_embedding(self, weight: ir.ExternalTensor) -> FloatEmbedding:
        """See `ContribBackend`."""
        return Float32Embedding(weight)

    def adapter_rows(self, tensor: GGUFTensor) -> FloatRows:
        """See `MakesMatrices`."""
        return Float32Rows(self.adapter_matrix(tensor))


class WasmBackend(ContribBackend):
    """Weights are unpacked to float32 at load, except the embedding, whose rows are unpacked when they are used."""

    def __init__(
        self,
        file: GGUFFile,
        config: Hyperparameters,
        placed: PlacedTensors,
        options: ExportOptions,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        super().__init__(file, config, placed, options, adapters)
        sizes = {
            f"{tensor.name}:{start}": (stop - start) * tensor.shape[1] * int(FLOAT.itemsize)
            for tensor in config.weights(file).values()
            if tensor.type in FORMATS and (tensor.name != "token_embd.weight" or config.tie_word_embeddings)
            for start, stop in pieces(*tensor.shape)
        }
        self._unpacked_bytes = sum(sizes.values())
        self._passes = FoldingPasses(sizes)

    @property
    def memory_bytes(self) -> int:
        """Bytes that ONNX Runtime needs for the weights: see `ContribBackend`."""
        return super().memory_bytes + unpacking_bytes(self._unpacked_bytes)

    def product(self, op: OpBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
        """See `ContribBackend`."""
        return matmul_folded(op, x, weight)

    def part_linear(self, part: QuantizedPart, **_: bool) -> nn.Module:
        """See `ContribBackend`."""
        linears = [
            UnpackedLinear(rows_of(part, start, stop), f"{part.name}:{start}", self._passes)
            for start, stop in pieces(part.num_rows, part.row_size)
        ]
        return linears[0] if len(linears) == 1 else JoinedLinears(linears)

    def part_rows(self, part: QuantizedPart) -> nn.Module:
        """See `ContribBackend`."""
        return UnpackedRows(part)
