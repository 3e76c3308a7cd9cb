"""The backends of `--target web`: two graphs on the same weights, for WebGPU and for WebAssembly.

WebGPU has MatMulNBits and GatherBlockQuantized, but not FusedMatMul. WebAssembly has slow ones or none, so its graph
unpacks the weights to float32 with ops that ONNX Runtime computes once, at load.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import OpBuilder, nn

from llama3_exporter.contrib.backend import ContribBackend
from llama3_exporter.contrib.modules import QuantizedPart
from llama3_exporter.contrib.web_modules import UnpackedLinear, UnpackedRows, matmul_folded


class WebGPUBackend(ContribBackend):
    """Weights stay packed; what WebGPU has no kernel for is written in other ops."""

    def product(self, op: OpBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
        """See `ContribBackend`."""
        return matmul_folded(op, x, weight)


class WasmBackend(WebGPUBackend):
    """Weights are unpacked to float32 at load, except the embedding, whose rows are unpacked when they are used."""

    def part_linear(self, part: QuantizedPart, **_: bool) -> nn.Module:
        """See `ContribBackend`."""
        return UnpackedLinear(part)

    def part_rows(self, part: QuantizedPart) -> nn.Module:
        """See `ContribBackend`."""
        return UnpackedRows(part)
