"""A GGUF's tensors in slices of rows. They are read, not mapped: mapped pages would count as resident memory."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFTensor
from llama3_models.gguf.part import quoted

# Bytes of the GGUF per slice. Unpacked, it is about ten times as large and should still roughly fit the caches.
_SLICE_BYTES = 2 << 20


def num_rows(tensor: GGUFTensor) -> int:
    """Return the number of rows of a tensor [..., K], all leading dimensions together. A vector is one row."""
    return int(math.prod(tensor.shape[:-1]))


def slices(tensor: GGUFTensor) -> list[tuple[int, int]]:
    """Return the first row of each slice, and the row after its last."""
    rows = num_rows(tensor)
    step = max(1, _SLICE_BYTES * rows // tensor.n_bytes)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def read_rows(tensor: GGUFTensor, start: int, stop: int) -> npt.NDArray[np.uint8]:
    """Read rows `start` to `stop` as in the file, uint8 [stop - start, bytes per row].

    Raises:
        Llama3Error: the file cannot be read, or has become shorter since it was opened.
    """
    row_bytes = tensor.n_bytes // num_rows(tensor)
    count = (stop - start) * row_bytes
    try:
        rows = np.fromfile(tensor.part, dtype=np.uint8, count=count, offset=tensor.offset + start * row_bytes)
    except OSError as error:
        raise Llama3Error(
            f"{tensor.part}: cannot be read (tensor {quoted(tensor.name)}: {error.strerror or error}); try again"
        ) from error
    if rows.size != count:
        raise Llama3Error(
            f"{tensor.part}: the file became shorter while it was read (tensor {quoted(tensor.name)}); try again"
        )
    return rows.reshape(stop - start, row_bytes)
