"""The file of weights beside a graph: every tensor gets its place first, its bytes are written later.

The graph only ever sees `onnx_ir.ExternalTensor`s, so that building it costs no memory. Writing then goes through the
weights once, in slices of rows, on all cores: each slice is read from the GGUF (never mapped: mapped pages would
count as resident memory), packed, and written to its place in all of the tensors that hold a part of it.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from llama3_models.errors import Llama3Error
from llama3_models.gguf_file import GGUFTensor

NAME = "model.onnx.data"

# Pages are what the host maps; tensors that start on one cost no unaligned edge.
_ALIGNMENT = 4096
# Bytes of the GGUF in one slice: its unpacked form, some ten times as large, should stay near the caches.
_SLICE_BYTES = 2 << 20

Array = npt.NDArray[np.generic]
Pack = Callable[[npt.NDArray[np.uint8]], Sequence[Array]]
Progress = Callable[[int], None]


@dataclass
class _Packing:
    """One GGUF tensor and where the arrays go that `pack` makes of its rows: a row of each per row of the GGUF."""

    source: GGUFTensor
    pack: Pack
    destinations: Sequence[ir.ExternalTensor]
    has_content: bool = False  # whether any of its bytes was not zero


@dataclass
class WeightsFile:
    """The plan of one file of external data.

    `size` is what the file takes, `source_bytes` what is read from the GGUF to fill it.
    """

    size: int = 0
    source_bytes: int = 0
    _arrays: list[tuple[ir.ExternalTensor, Array]] = field(default_factory=list)
    _packings: list[_Packing] = field(default_factory=list)
    _fills: dict[int, ir.ExternalTensor] = field(default_factory=dict)

    def add_array(self, name: str, array: Array) -> ir.ExternalTensor:
        """Place a small array that is already there (a norm, a bias)."""
        tensor = self._place(name, ir.DataType.from_numpy(array.dtype), array.shape)
        self._arrays.append((tensor, array))
        return tensor

    def add_packing(
        self, source: GGUFTensor, pack: Pack, destinations: Sequence[tuple[str, ir.DataType, Sequence[int]]]
    ) -> list[ir.ExternalTensor]:
        """Place what `pack` makes of the rows of `source`.

        Args:
            source: A tensor [..., rows, K] of the GGUF.
            pack: Takes raw rows, uint8 [n, bytes a row], and returns an array [n, ...] for each destination.
            destinations: Name, type and shape [rows, ...] of each array.
        """
        tensors = [self._place(*destination) for destination in destinations]
        self._packings.append(_Packing(source, pack, tensors))
        self.source_bytes += source.n_bytes
        return tensors

    def add_fill(self, name: str, byte: int, shape: Sequence[int]) -> ir.ExternalTensor:
        """Place a uint8 tensor of one repeated byte; those of the same byte share a place where one is long enough."""
        length = int(math.prod(shape))
        known = self._fills.get(byte)
        if known is None or (known.length or 0) < length:
            known = self._fills[byte] = self.add_array(name, np.full(shape, byte, dtype=np.uint8))
        return ir.ExternalTensor(NAME, known.offset, length, ir.DataType.UINT8, shape=ir.Shape(shape), name=name)

    def same_bytes(self, tensor: ir.ExternalTensor, shape: Sequence[int]) -> ir.ExternalTensor:
        """The bytes of `tensor` once more, in another shape."""
        return ir.ExternalTensor(
            NAME, tensor.offset, tensor.length, tensor.dtype, shape=ir.Shape(shape), name=tensor.name
        )

    def _place(self, name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.ExternalTensor:
        length = int(math.prod(shape) * dtype.itemsize)
        offset = -(-self.size // _ALIGNMENT) * _ALIGNMENT
        self.size = offset + length
        return ir.ExternalTensor(NAME, offset, length, dtype, shape=ir.Shape(shape), name=name)

    def write(self, descriptor: int, progress: Progress) -> None:
        """Fill the open file `descriptor`.

        Args:
            descriptor: Open for writing; written at absolute offsets, so that its position does not matter.
            progress: Called with the number of bytes of the GGUF that were packed since the last call.

        Raises:
            Llama3Error: the GGUF got shorter since it was opened, or was never there in whole.
            OSError: it cannot be read, or the file cannot be written (a full disk).
        """
        os.ftruncate(descriptor, self.size)
        for tensor, array in self._arrays:
            _write_at(descriptor, np.ascontiguousarray(array), tensor.offset or 0)
        workers = os.cpu_count() or 1
        pending: deque[Future[int]] = deque()
        pool = ThreadPoolExecutor(workers)
        try:
            for packing in self._packings:
                for start, stop in _slices(packing.source):
                    pending.append(pool.submit(_pack_slice, descriptor, packing, start, stop))
                    # Two slices a worker keep all busy; more would only take memory.
                    while len(pending) > 2 * workers:
                        progress(pending.popleft().result())
            while pending:
                progress(pending.popleft().result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        for packing in self._packings:
            if not packing.has_content:
                raise Llama3Error(
                    f"{packing.source.part}: tensor {packing.source.name} holds only zero bytes, as a file does whose "
                    "download goes on or broke off; fetch it again"
                )


def _num_rows(tensor: GGUFTensor) -> int:
    return int(math.prod(tensor.shape[:-1]))


def _slices(source: GGUFTensor) -> list[tuple[int, int]]:
    num_rows = _num_rows(source)
    step = max(1, _SLICE_BYTES * num_rows // source.n_bytes)
    return [(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def _pack_slice(descriptor: int, packing: _Packing, start: int, stop: int) -> int:
    source = packing.source
    row_bytes = source.n_bytes // _num_rows(source)
    count = (stop - start) * row_bytes
    rows = np.fromfile(source.part, dtype=np.uint8, count=count, offset=source.offset + start * row_bytes)
    if rows.size != count:
        raise Llama3Error(f"{source.part}: the file got shorter during the export (tensor {source.name}); export again")
    if not packing.has_content and rows.any():
        packing.has_content = True
    arrays = packing.pack(rows.reshape(stop - start, row_bytes))
    for tensor, array in zip(packing.destinations, arrays, strict=True):
        bytes_per_row = (tensor.length or 0) // _num_rows(source)
        _write_at(descriptor, np.ascontiguousarray(array), (tensor.offset or 0) + start * bytes_per_row)
    return count


def _write_at(descriptor: int, array: Array, offset: int) -> None:
    data = array.reshape(-1).view(np.uint8).data
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
