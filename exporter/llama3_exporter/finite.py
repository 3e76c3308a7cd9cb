"""The check that every weight of a GGUF is finite: a single NaN or infinite scale can make all logits NaN.

`gguf.quants.dequantize` defines the formats, but needs minutes for a large model. So a cheap test comes first: weights
whose scales and minima are far from float32's limits are finite, whatever their codes. Only rows that fail this test
are dequantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from llama3_models.cpus import usable_cpus
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile, GGUFTensor
from llama3_models.gguf.part import quoted

from llama3_exporter.formats import FLOAT_TYPES, FORMATS
from llama3_exporter.formats.packing import GROUP_WEIGHTS
from llama3_exporter.slices import num_rows, read_rows, slices

UInt8: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[Any]

# Codes are below 256, so a weight, scale * code - minimum, is below 2**109.
_SAFE_SCALE = 2.0**100

_INTEGERS = frozenset(GGMLQuantizationType[name] for name in ("I8", "I16", "I32", "I64"))


def refuse_not_finite(file: GGUFFile, progress: Callable[[int, int], None] | None = None) -> int:
    """Read all weights of a GGUF and refuse any that is not finite.

    Args:
        file: The open GGUF.
        progress: Called with the bytes read so far, and their total.

    Returns:
        The number of tensors checked: all except those of types that nothing can dequantize.

    Raises:
        Llama3Error: a weight is NaN or infinite (the message names the tensor and the place), or the file cannot be
            read.
    """
    tensors = [tensor for tensor in file.tensors.values() if _can_be_checked(tensor.type)]
    total = sum(tensor.n_bytes for tensor in tensors)
    done = 0
    pool = ThreadPoolExecutor(usable_cpus())
    try:
        jobs = [(tensor, start, stop) for tensor in tensors for start, stop in slices(tensor)]
        for n_bytes in pool.map(lambda job: _check_slice(*job), jobs):
            done += n_bytes
            if progress is not None:
                progress(done, total)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return len(tensors)


def refuse_rows(tensor: GGUFTensor, start: int, rows: UInt8, scales: Iterable[Floats] | None = None) -> None:
    """Refuse rows with a weight that is not finite.

    Args:
        tensor: The tensor.
        start: The index of the first row.
        rows: Some of its rows as in the file, uint8 [n, bytes per row].
        scales: The scales and minima of the rows, if the type is quantized and they are already unpacked.

    Raises:
        Llama3Error: a weight is NaN or infinite.
    """
    if tensor.type in _INTEGERS or _surely_finite(tensor.type, rows, scales):
        return
    for i, row in enumerate(rows, start):
        with np.errstate(all="ignore"):
            weights = np.asarray(_weights(row, tensor.type))
            bad = np.flatnonzero(~np.isfinite(weights))
        if bad.size:
            raise _not_finite(tensor, i, int(bad[0]), float(weights[bad[0]]))


def checked(tensor: GGUFTensor) -> npt.NDArray[np.float32]:
    """Return the weights of a small tensor (a norm, a bias).

    Raises:
        Llama3Error: a weight is NaN or infinite.
    """
    refuse_rows(tensor, 0, tensor.data.reshape(num_rows(tensor), -1))
    return tensor.dequantize()


def _check_slice(tensor: GGUFTensor, start: int, stop: int) -> int:
    rows = read_rows(tensor, start, stop)
    refuse_rows(tensor, start, rows)
    return rows.size


def _can_be_checked(tensor_type: GGMLQuantizationType) -> bool:
    known = tensor_type in FLOAT_TYPES or tensor_type in FORMATS or tensor_type in _INTEGERS
    return known or tensor_type == GGMLQuantizationType.F64


def _surely_finite(tensor_type: GGMLQuantizationType, rows: UInt8, scales: Iterable[Floats] | None) -> bool:
    """Return whether the cheap test shows that all weights are finite. If it does not, they may still be."""
    if tensor_type not in FORMATS:
        with np.errstate(invalid="ignore"):  # a signaling NaN in bfloat16
            return bool(np.isfinite(_weights(rows.reshape(-1), tensor_type)).all())
    with np.errstate(all="ignore"):
        # A NaN fails both comparisons.
        return all(
            values.max() < _SAFE_SCALE and values.min() > -_SAFE_SCALE
            for values in (_scales(tensor_type, rows) if scales is None else scales)
        )


def _weights(raw: UInt8, tensor_type: GGMLQuantizationType) -> npt.NDArray[Any]:
    """Return the weights of some consecutive blocks. Floats keep their type, which costs nothing."""
    if tensor_type == GGMLQuantizationType.F64:
        return raw.view(np.float64)
    if tensor_type in FLOAT_TYPES:
        return raw.view(FLOAT_TYPES[tensor_type])
    return quants.dequantize(raw, tensor_type)


def _scales(tensor_type: GGMLQuantizationType, rows: UInt8) -> Iterator[Floats]:
    """Yield the scales and the minima of all blocks."""
    block_size, block_bytes = GGML_QUANT_SIZES[tensor_type]
    blocks = rows.reshape(-1, block_bytes)
    step = GROUP_WEIGHTS // block_size
    for start in range(0, len(blocks), step):
        _, scale, minimum = FORMATS[tensor_type].unpack(blocks[start : start + step])
        yield scale
        if minimum is not None:
            yield minimum


def _not_finite(tensor: GGUFTensor, row: int, column: int, value: float) -> Llama3Error:
    block_size = GGML_QUANT_SIZES[tensor.type][0]
    place = f"block {column // block_size}" if block_size > 1 else f"element {column}"
    where = place if len(tensor.shape) == 1 else f"row {row}, {place}"
    return Llama3Error(
        f"{tensor.part}: tensor {quoted(tensor.name)} ({tensor.type.name}) contains "
        f"{'NaN' if np.isnan(value) else 'infinity'} in {where}, counted from 0; the file is damaged, or was "
        "made from a damaged model: download it again, or use another file of the model"
    )
