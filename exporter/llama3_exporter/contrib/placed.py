"""The GGUF's tensors in the weights file: packed, as float32, or unchanged, and each in one place.

Several graphs may use the same tensors: they share their bytes, whatever they compute with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from gguf import quants
from llama3_models.gguf.file import GGUFTensor

from llama3_exporter.contrib.modules import QuantizedPart
from llama3_exporter.contrib.weights_file import Array, WeightsFile
from llama3_exporter.finite import checked
from llama3_exporter.formats import FLOAT_TYPES, FORMATS, pack, packed_size, repeated, split_nibbles
from llama3_exporter.modules import FLOAT

UINT8 = ir.DataType.UINT8


@dataclass(frozen=True)
class QuantizedWeight:
    """A quantized weight in the weights file: one part or the sum of two, and a correction for the zero points."""

    parts: tuple[QuantizedPart, ...]
    correction: ir.ExternalTensor | None  # float32 [N, blocks]


class PlacedTensors:
    """The places of a GGUF's tensors in a `WeightsFile`.

    Args:
        tensors: The GGUF's tensors by name (`Hyperparameters.weights`).
        weights: Where their bytes go.
        split_8_bits: Write an 8-bit weight as the sum of two 4-bit ones.
        nearest_zero_points: Whether formats with minima have the nearest zero points; if not, they are 0, and each
            tensor has only one.

    Attributes:
        arrays: The arrays of each tensor, by the tensor's name, without zero points that weights share.
        quantized: The form of each quantized tensor, by its name and the type of its scales.
    """

    def __init__(
        self,
        tensors: Mapping[str, GGUFTensor],
        weights: WeightsFile,
        *,
        split_8_bits: bool,
        nearest_zero_points: bool = True,
    ) -> None:
        self._tensors = tensors
        self._weights = weights
        self._split_8_bits = split_8_bits
        self._nearest_zero_points = nearest_zero_points
        self._adapter_matrices: dict[tuple[Path, str], ir.ExternalTensor] = {}
        self.arrays: dict[str, list[ir.ExternalTensor]] = {}
        self.quantized: dict[str, dict[ir.DataType, QuantizedWeight]] = {}

    @property
    def size(self) -> int:
        """Bytes of the weights file."""
        return self._weights.size

    def vector(self, name: str) -> ir.ExternalTensor:
        """Place a vector (a norm, a bias) of any type as float32."""
        if name not in self.arrays:
            tensor = self._tensors[name]
            self.arrays[name] = [self._weights.add_array(name, FLOAT, tensor.shape, partial(checked, tensor))]
        return self.arrays[name][0]

    def floats(self, tensor: GGUFTensor) -> ir.ExternalTensor:
        """Place a float weight in its own type."""
        if tensor.name not in self.arrays:
            self.arrays[tensor.name] = [self._as_floats(tensor)]
        return self.arrays[tensor.name][0]

    def adapter_matrix(self, tensor: GGUFTensor) -> ir.ExternalTensor:
        """Place a matrix once per file: adapters use the same tensor names, and one adapter may be used twice."""
        key = tensor.part, tensor.name
        if key not in self._adapter_matrices:
            self._adapter_matrices[key] = self._as_floats(tensor)
        return self._adapter_matrices[key]

    def _as_floats(self, tensor: GGUFTensor) -> ir.ExternalTensor:
        """Place a tensor as floats of its own type, or as float32 if it is quantized (an adapter's, in Q8_0)."""

        def floats(rows: npt.NDArray[np.uint8]) -> list[Array]:
            return [rows if tensor.type in FLOAT_TYPES else quants.dequantize(rows, tensor.type)]

        dtype = ir.DataType.from_numpy(np.dtype(FLOAT_TYPES.get(tensor.type, np.float32)))
        return self._weights.add_packing(tensor, floats, [(tensor.name, dtype, tensor.shape)])[0]

    def blocks(self, tensor: GGUFTensor, scale_types: Sequence[ir.DataType]) -> dict[ir.DataType, QuantizedWeight]:
        """Place the arrays that `pack` returns for a quantized tensor, and return them by the type of the scales.

        Codes are placed once. If a tensor is used twice, the first call must name the types for both uses.
        """
        if tensor.name in self.quantized:
            return self.quantized[tensor.name]
        form = FORMATS[tensor.type]
        num_rows, row_size = tensor.shape
        num_blocks = row_size // form.block_size
        split = form.bits == 8 and self._split_8_bits
        bits = 4 if split else form.bits
        zero_point_shape = (num_rows, packed_size(num_blocks, bits))
        zero_point = 0 if form.zero_point is None and not self._nearest_zero_points else form.zero_point
        constants = _constant_zero_points(zero_point, split=split)

        destinations: list[tuple[str, ir.DataType, tuple[int, ...]]] = []
        for _ in constants:
            destinations.append((tensor.name, UINT8, (num_rows, num_blocks, packed_size(form.block_size, bits))))
            destinations += [(tensor.name, scale_type, (num_rows, num_blocks)) for scale_type in scale_types]
            if zero_point is None:
                destinations.append((tensor.name, UINT8, zero_point_shape))
        if form.has_minimum:
            destinations.append((tensor.name, FLOAT, (num_rows, num_blocks)))

        def arrays(rows: npt.NDArray[np.uint8]) -> list[Array]:
            packed = pack(form, rows, nearest=self._nearest_zero_points)
            result: list[Array] = []
            for part in split_nibbles(packed) if split else (packed,):
                result.append(part.B)
                result += [part.scales.astype(scale_type.numpy(), copy=False) for scale_type in scale_types]
                if zero_point is None:
                    result.append(part.zero_points)
            return result if packed.correction is None else [*result, packed.correction]

        self.arrays[tensor.name] = self._weights.add_packing(tensor, arrays, destinations)
        places = iter(self.arrays[tensor.name])
        parts: dict[ir.DataType, list[QuantizedPart]] = {scale_type: [] for scale_type in scale_types}
        for constant in constants:
            weight = next(places)
            scales = {scale_type: next(places) for scale_type in scale_types}
            if constant is None:
                zero_points = next(places)
            else:
                zero_points = self._weights.add_fill(tensor.name, repeated(constant, bits), zero_point_shape)
            for scale_type, scale in scales.items():
                part = QuantizedPart(
                    tensor.name, weight, scale, zero_points, constant, num_rows, row_size, bits, form.block_size
                )
                parts[scale_type].append(part)
        correction = next(places) if form.has_minimum else None
        weights = {scale_type: QuantizedWeight(tuple(parts[scale_type]), correction) for scale_type in scale_types}
        self.quantized[tensor.name] = weights
        return weights


def _constant_zero_points(zero_point: int | None, *, split: bool) -> tuple[int | None, ...]:
    """Return the zero point of all blocks of each part of a weight, or None if every block has its own."""
    if zero_point is None:
        return (None, None) if split else (None,)
    return (zero_point >> 4, zero_point & 15) if split else (zero_point,)
