"""The backends of `--target web`: two graphs on the same weights, for WebGPU and for WebAssembly.

WebGPU has MatMulNBits and GatherBlockQuantized, but not FusedMatMul. WebAssembly has slow ones or none, so its graph
unpacks the weights to float32 with ops that ONNX Runtime computes once, at load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir
from llama3_models.config import Hyperparameters
from llama3_models.gguf.file import GGUFFile
from llama3_models.lora import Adapter
from llama3_models.manifest import ExportOptions
from onnxscript import OpBuilder, nn

from llama3_exporter.contrib.backend import ContribBackend
from llama3_exporter.contrib.folding import FoldingPasses
from llama3_exporter.contrib.modules import QuantizedPart
from llama3_exporter.contrib.placed import PlacedTensors
from llama3_exporter.contrib.web_modules import UnpackedLinear, UnpackedRows, matmul_folded
from llama3_exporter.formats import FORMATS


class WebGPUBackend(ContribBackend):
    """Weights stay packed; what WebGPU has no kernel for is written in other ops."""

    def product(self, op: OpBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
        """See `ContribBackend`."""
        return matmul_folded(op, x, weight)


class WasmBackend(WebGPUBackend):
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
        tensors = config.weights(file).values()
        self._passes = FoldingPasses(
            {tensor.name: math.prod(tensor.shape) * 4 for tensor in tensors if tensor.type in FORMATS}
        )

    def part_linear(self, part: QuantizedPart, **_: bool) -> nn.Module:
        """See `ContribBackend`."""
        return UnpackedLinear(part, self._passes)

    def part_rows(self, part: QuantizedPart) -> nn.Module:
        """See `ContribBackend`."""
        return UnpackedRows(part)
