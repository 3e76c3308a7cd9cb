"""The weights files beside a graph: every tensor gets its place first, and its bytes are written later.

The graph contains only `onnx_ir.ExternalTensor`s, so building it needs little memory. Writing then goes through the
weights once, in slices of rows, on all cores: each slice is read from the GGUF, packed, and written to its place in
every tensor that has a part of it.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from llama3_models.cpus import usable_cpus
from llama3_models.exports import WEIGHTS
from llama3_models.gguf.file import GGUFTensor

from llama3_exporter.finite import refuse_rows
from llama3_exporter.slices import num_rows, read_rows, slices

# The host maps whole pages, so tensors start at one.
_ALIGNMENT = 4096
_DIGEST_BYTES = 1 << 20

Array = npt.NDArray[np.generic]
Pack = Callable[[npt.NDArray[np.uint8]], Sequence[Array]]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class _Packing:
    """One GGUF tensor, and the destinations of the arrays that `pack` returns: one row of each per row of the GGUF."""

    source: GGUFTensor
    pack: Pack
    destinations: Sequence[ir.ExternalTensor]


@dataclass
class WeightsFile:
    """The plan of the external data: one file, or several of up to `shard_size` bytes.

    A tensor is never split, so the file of a tensor larger than `shard_size` is also larger.

    `name` is the name of the first file; that of a later one also has its number. `sizes` are the bytes of each file by
    its name. `source_bytes` are the bytes of the GGUF that are read to fill them.
    """

    shard_size: int | None = None
    name: str = WEIGHTS
    sizes: dict[str, int] = field(init=False)
    source_bytes: int = 0
    _arrays: list[tuple[ir.ExternalTensor, Callable[[], Array]]] = field(default_factory=list)
    _packings: list[_Packing] = field(default_factory=list)
    _fills: dict[int, ir.ExternalTensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sizes = {self.name: 0}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())

    def add_array(
        self, name: str, dtype: ir.DataType, shape: Sequence[int], make: Callable[[], Array]
    ) -> ir.ExternalTensor:
        """Place a small array (a norm, a bias). `make` returns it when it is written."""
        tensor = self._place(name, dtype, shape)
        self._arrays.append((tensor, make))
        return tensor

    def add_packing(
        self, source: GGUFTensor, pack: Pack, destinations: Sequence[tuple[str, ir.DataType, Sequence[int]]]
    ) -> list[ir.ExternalTensor]:
        """Place the arrays that `pack` returns for the rows of `source`.

        Args:
            source: A tensor [..., rows, K] of the GGUF.
            pack: Turns raw rows, uint8 [n, bytes per row], into an array [n, ...] for each destination.
            destinations: Name, type and shape [rows, ...] of each array.
        """
        tensors = [self._place(*destination) for destination in destinations]
        self._packings.append(_Packing(source, pack, tensors))
        self.source_bytes += source.n_bytes
        return tensors

    def add_fill(self, name: str, byte: int, shape: Sequence[int]) -> ir.ExternalTensor:
        """Place a uint8 tensor of one repeated byte. Tensors of the same byte share a place if it is long enough."""
        length = int(math.prod(shape))
        known = self._fills.get(byte)
        if known is None or (known.length or 0) < length:
            make = partial(np.full, shape, byte, dtype=np.uint8)
            known = self._fills[byte] = self.add_array(name, ir.DataType.UINT8, shape, make)
        return ir.ExternalTensor(
            known.location, known.offset, length, ir.DataType.UINT8, shape=ir.Shape(shape), name=name
        )

    def _place(self, name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.ExternalTensor:
        length = int(math.prod(shape) * dtype.itemsize)
        location = next(reversed(self.sizes))
        offset = -(-self.sizes[location] // _ALIGNMENT) * _ALIGNMENT
        if self.shard_size is not None and offset > 0 and offset + length > self.shard_size:
            location, offset = f"{self.name}_{len(self.sizes)}", 0
        self.sizes[location] = offset + length
        return ir.ExternalTensor(location, offset, length, dtype, shape=ir.Shape(shape), name=name)

    def write(self, descriptors: Mapping[str, int], progress: Progress) -> dict[str, str]:
        """Fill the open files.

        Args:
            descriptors: The descriptor of each file by its name, open for reading and writing. Writes are at absolute
                offsets, so positions do not matter.
            progress: Called with the bytes of the GGUF that were packed since the last call.

        Returns:
            The SHA-256 of each file by its name.

        Raises:
            Llama3Error: the GGUF cannot be read or has become shorter, or a weight is NaN or infinite.
            OSError: a file cannot be written (a full disk).
        """
        for name, size in self.sizes.items():
            os.ftruncate(descriptors[name], size)
        for tensor, make in self._arrays:
            _write(descriptors, tensor, make())
        workers = usable_cpus()
        pending: deque[tuple[Future[int], _Packing | None]] = deque()
        pool = ThreadPoolExecutor(workers)
        digests = _Digests(descriptors, self.sizes)

        def finish_one() -> None:
            future, finished = pending.popleft()
            progress(future.result())
            if finished is not None:
                digests.follow(finished.destinations[-1])

        try:
            for packing in self._packings:
                ranges = slices(packing.source)
                for start, stop in ranges:
                    last = packing if (start, stop) == ranges[-1] else None
                    pending.append((pool.submit(_pack_slice, descriptors, packing, start, stop), last))
                    # Two slices per worker keep all busy; more would only use memory.
                    while len(pending) > 2 * workers:
                        finish_one()
            while pending:
                finish_one()
            return digests.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            digests.close()


def same_bytes(tensor: ir.ExternalTensor, shape: Sequence[int], dtype: ir.DataType | None = None) -> ir.ExternalTensor:
    """Return a tensor with the bytes of `tensor`, and another shape or type."""
    return ir.ExternalTensor(
        tensor.location, tensor.offset, tensor.length, dtype or tensor.dtype, shape=ir.Shape(shape), name=tensor.name
    )


class _Digests:
    """The SHA-256 of the files, computed while they are written and the system still has the bytes in memory.

    Tensors are placed one after another and finished in that order: when one is finished, everything up to its end has
    been written.
    """

    def __init__(self, descriptors: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        self._descriptors = descriptors
        self._sizes = sizes
        self._digests = {name: hashlib.sha256() for name in sizes}
        self._done = dict.fromkeys(sizes, 0)
        self._pool = ThreadPoolExecutor(1)

    def follow(self, tensor: ir.ExternalTensor) -> None:
        """Hash everything up to the end of a tensor, in a thread."""
        self._pool.submit(self._read, str(tensor.location), (tensor.offset or 0) + (tensor.length or 0))

    def result(self) -> dict[str, str]:
        """Return the digests of the whole files, in hexadecimal."""
        name, size = list(self._sizes.items())[-1]
        self._pool.submit(self._read, name, size).result()
        return {name: digest.hexdigest() for name, digest in self._digests.items()}

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, location: str, end: int) -> None:
        for name, size in self._sizes.items():
            stop = end if name == location else size
            while self._done[name] < stop:
                block = os.pread(self._descriptors[name], min(_DIGEST_BYTES, stop - self._done[name]), self._done[name])
                if not block:
                    raise OSError(errno.EIO, "the file became shorter while it was written", name)
                self._digests[name].update(block)
                self._done[name] += len(block)
            if name == location:
                return


def _pack_slice(descriptors: Mapping[str, int], packing: _Packing, start: int, stop: int) -> int:
    source = packing.source
    rows = read_rows(source, start, stop)
    arrays = packing.pack(rows)
    refuse_rows(source, start, rows, [array for array in arrays if array.dtype.kind == "f"])
    for tensor, array in zip(packing.destinations, arrays, strict=True):
        bytes_per_row = (tensor.length or 0) // num_rows(source)
        _write(descriptors, tensor, array, start * bytes_per_row)
    return rows.size


def _write(descriptors: Mapping[str, int], tensor: ir.ExternalTensor, array: Array, start: int = 0) -> None:
    """Write `array` into the place of `tensor`, `start` bytes from its beginning."""
    descriptor = descriptors[str(tensor.location)]
    offset = (tensor.offset or 0) + start
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
