"""A single GGUF file, parsed without trusting it and without reading its weights.

A GGUF is a header (counts, metadata, a description of each tensor) and the tensors' bytes, all little endian:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The parser walks through the header once, in a memory map.
Tensors become views of the map. Arrays of strings, which are most of a header (Llama 3's vocabulary has 408,403
strings), are only stepped over. Every count, length and offset is checked against the file's size before it is used, so
a damaged or hostile file costs neither memory nor time. A file that ends too early has its own error, because the usual
cause is an unfinished download.
"""

from __future__ import annotations

import shlex
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from mmap import mmap
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType

from llama3_models.errors import Llama3Error
from llama3_models.gguf.file_kinds import MAGIC, unfinished
from llama3_models.gguf.tensor_types import UnreadType, unread_type

# Real headers stay far below these bounds: Llama 3's has 8 MB and 320 entries. The bounds keep a hostile file from
# costing minutes of stepping over strings or gigabytes of Python objects.
MAX_HEADER_BYTES = 64 << 20
MAX_ENTRIES = 65_536  # metadata keys, tensors and arrays inside arrays, together
MAX_NAME_BYTES = 65_535  # the specification's own bound for metadata keys
MAX_ARRAY_DEPTH = 4
MAX_DIMENSIONS = 4

_VERSIONS = (2, 3)

_SCALARS = {
    GGUFValueType.UINT8: struct.Struct("<B"),
    GGUFValueType.INT8: struct.Struct("<b"),
    GGUFValueType.UINT16: struct.Struct("<H"),
    GGUFValueType.INT16: struct.Struct("<h"),
    GGUFValueType.UINT32: struct.Struct("<I"),
    GGUFValueType.INT32: struct.Struct("<i"),
    GGUFValueType.FLOAT32: struct.Struct("<f"),
    GGUFValueType.BOOL: struct.Struct("<B"),
    GGUFValueType.UINT64: struct.Struct("<Q"),
    GGUFValueType.INT64: struct.Struct("<q"),
    GGUFValueType.FLOAT64: struct.Struct("<d"),
}
_U32 = _SCALARS[GGUFValueType.UINT32]
_U64 = _SCALARS[GGUFValueType.UINT64]
_MIN_METADATA_BYTES = 13  # an empty key (8), a type (4), a value of one byte
_MIN_TENSOR_BYTES = 32  # an empty name (8), a count of dimensions (4), one of them (8), a type (4), an offset (8)
_MIN_ARRAY_BYTES = 12  # a type (4), a count (8)

Value: TypeAlias = "int | float | bool | str | npt.NDArray[Any] | StringArray | tuple[Value, ...]"


class StringArray(Sequence[str]):
    """An array of strings in a GGUF's metadata, found and decoded on demand.

    Decoding a string that is not UTF-8 raises `Llama3Error`; `raw` and `raw_all` return the bytes of any string.
    """

    def __init__(self, buffer: bytes | mmap, start: int, count: int, where: str) -> None:
        """Locate the strings: `start` is the first one's length. The parser has checked that all `count` fit."""
        self._buffer = buffer
        self._start = start
        self._count = count
        self._where = where

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        read_length = _U64.unpack_from
        spans = []
        position = self._start
        for _ in range(self._count):
            begin = position + 8
            position = begin + read_length(self._buffer, position)[0]
            spans.append((begin, position))
        return spans

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        try:
            return self.raw(index).decode("utf-8")
        except UnicodeDecodeError:
            raise Llama3Error(
                f"{self._where}: string {index} is not UTF-8; download or convert the model again"
            ) from None

    def __repr__(self) -> str:
        return f"StringArray({self._count} strings)"

    def raw(self, index: int) -> bytes:
        """Return the bytes of one string."""
        begin, end = self._spans[index]
        return self._buffer[begin:end]

    def raw_all(self) -> list[bytes]:
        """Return the bytes of every string, in order."""
        buffer = self._buffer
        return [buffer[begin:end] for begin, end in self._spans]


@dataclass(frozen=True, eq=False)
class GGUFTensor:
    """A tensor of a GGUF: its description in the header, and a view of its bytes.

    `shape` is in numpy's order, rows first (a linear layer is [outputs, inputs]), and counts weights. `offset` is the
    position of the first byte in the file `part`. `data` is a read-only uint8 view of the map,
    [*shape[:-1], bytes per row], whatever the type.
    """

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    n_bytes: int
    offset: int
    part: Path
    data: npt.NDArray[np.uint8] = field(repr=False)

    def dequantize(self, rows: slice | npt.NDArray[np.int64] = slice(None)) -> npt.NDArray[np.float32]:
        """Dequantize some rows (default: all) with `gguf.quants.dequantize`, the format's own definition.

        Returns:
            float32 [*rows, *shape[1:]].
        """
        return np.asarray(quants.dequantize(np.asarray(self.data[rows]), self.type), dtype=np.float32)

    def rows(self, name: str, start: int, stop: int) -> GGUFTensor:
        """Return some rows of a matrix, or elements of a vector, as a tensor over the same bytes.

        Raises:
            Llama3Error: they begin or end inside a block, which is possible only in a vector.
        """
        shape = (stop - start, *self.shape[1:])
        block_size, block_bytes = GGML_QUANT_SIZES[self.type]
        first, end = start * prod(shape[1:]), stop * prod(shape[1:])
        if first % block_size or end % block_size:
            raise Llama3Error(
                f"{self.part}: tensor {self.name} is {self.type.name}, but {name} in it begins or ends inside a "
                f"block of {block_size}; convert the model again, with vectors in F32"
            )
        begin, n_bytes = first // block_size * block_bytes, (end - first) // block_size * block_bytes
        data = self.data.reshape(-1)[begin : begin + n_bytes].reshape(*shape[:-1], -1)
        return replace(self, name=name, shape=shape, n_bytes=n_bytes, offset=self.offset + begin, data=data)


@dataclass(frozen=True)
class UnreadTensor:
    """A tensor of an unsupported type, as the header describes it.

    `n_bytes` reaches up to the next tensor if the size of the type's blocks is unknown.
    """

    name: str
    type: UnreadType
    shape: tuple[int, ...]
    n_bytes: int
    part: Path


@dataclass(frozen=True)
class GGUFPart:
    """The contents of one file, a whole model or a part of a split one. `unread` has tensors of unsupported types."""

    version: int
    metadata: dict[str, Value]
    tensors: dict[str, GGUFTensor]
    unread: dict[str, UnreadTensor]


def parse_part(buffer: bytes | mmap, path: Path) -> GGUFPart:
    """Parse the file mapped as `buffer`; `path` is for error messages.

    Raises:
        Llama3Error: the file is truncated, damaged, big-endian, of an unsupported version, or several files joined.
    """
    return _Parser(buffer, path).parse()


def quoted(name: str) -> str:
    """Return a name from a file as one short printable line, for messages."""
    shown = repr(name)
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[-1]}"


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


class _Description(NamedTuple):
    """The header's description of a tensor; `offset` counts from where the tensors' bytes begin.

    `n_bytes` is 0 if the size of the type's blocks is unknown.
    """

    type: GGMLQuantizationType | UnreadType
    shape: tuple[int, ...]
    n_bytes: int
    offset: int


class _Parser:
    """A cursor over the header of one file."""

    def __init__(self, buffer: bytes | mmap, path: Path) -> None:
        self.buffer = buffer
        self.path = path
        self.size = len(buffer)
        self.position = 0
        self.entries = 0

    def parse(self) -> GGUFPart:
        self.take(len(MAGIC))  # already checked by the caller
        version = self.read_version()
        n_tensors = self.read_count("tensors", _MIN_TENSOR_BYTES, entries=True)
        n_metadata = self.read_count("metadata keys", _MIN_METADATA_BYTES, entries=True)
        metadata: dict[str, Value] = {}
        for index in range(n_metadata):
            key = self.read_name(f"metadata key {index + 1} of {n_metadata}")
            if key in metadata:
                self.damaged(f"metadata key {quoted(key)} appears twice")
            metadata[key] = self.read_value(self.read_value_type(key), key)
        alignment = self.alignment(metadata)
        tensors, unread, end = self.read_tensors(n_tensors, alignment)
        self.refuse_joined(end, alignment)
        return GGUFPart(version, metadata, tensors, unread)

    # Errors

    def damaged(self, what: str) -> NoReturn:
        raise Llama3Error(f"{self.path}: {what}; the file is damaged: download or convert it again")

    def cut_short(self, what: str, needed: str) -> NoReturn:
        known = unfinished(self.path)
        advice = (
            "if it is being downloaded, wait for it to finish, otherwise download it again"
            if known is None
            else f"it is {known}"
        )
        raise Llama3Error(
            f"{self.path}: truncated: {what} needs {needed} bytes, but the file has {self.size:,}; {advice}"
        )

    def require(self, end: int) -> None:
        """Refuse a header that would reach byte `end`, if that is impossible."""
        if end > MAX_HEADER_BYTES:
            self.damaged(f"its header would reach byte {end:,}, but no header is larger than {MAX_HEADER_BYTES:,}")
        if end > self.size:
            self.cut_short("its header", f"at least {end:,}")

    # Numbers and names

    def take(self, n_bytes: int) -> int:
        """Step over the next bytes of the header, after checking that they exist; return where they begin."""
        begin = self.position
        self.require(begin + n_bytes)
        self.position += n_bytes
        return begin

    def read_u32(self) -> int:
        return int(_U32.unpack_from(self.buffer, self.take(4))[0])

    def read_u64(self) -> int:
        return int(_U64.unpack_from(self.buffer, self.take(8))[0])

    def read_count(self, what: str, min_bytes: int, *, entries: bool = False) -> int:
        """Read a count of items of at least `min_bytes` each; `entries` says that they become Python objects now."""
        count = self.read_u64()
        if entries:
            self.entries += count
            if self.entries > MAX_ENTRIES:
                self.damaged(f"its header counts {count:,} {what}, more than any model has")
        self.require(self.position + count * min_bytes)
        return count

    def read_version(self) -> int:
        version = self.read_u32()
        if version in _VERSIONS:
            return version
        if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, 2, 3):
            raise Llama3Error(
                f"{self.path}: a big-endian GGUF, but only little-endian ones are supported; back it up, then convert "
                f"it in place with `gguf-convert-endian {shlex.quote(str(self.path))} little`"
            )
        if version == 1:
            raise Llama3Error(
                f"{self.path}: GGUF version 1 (2023) is not supported; download or convert the model again"
            )
        raise Llama3Error(f"{self.path}: unknown GGUF version {version}, not 2 or 3; look for a newer llama3-onnx")

    def read_name(self, what: str) -> str:
        length = self.read_u64()
        if length > MAX_NAME_BYTES:
            self.damaged(f"{what} would be {length:,} bytes long")
        begin = self.take(length)
        try:
            return self.buffer[begin : self.position].decode("utf-8")
        except UnicodeDecodeError:
            self.damaged(f"{what} is not UTF-8")

    # Metadata

    def read_value_type(self, key: str) -> GGUFValueType:
        number = self.read_u32()
        try:
            return GGUFValueType(number)
        except ValueError:
            self.damaged(f"metadata key {quoted(key)} has the unknown value type {number}")

    def read_value(self, value_type: GGUFValueType, key: str, depth: int = 0) -> Value:
        if value_type is GGUFValueType.ARRAY:
            return self.read_array(key, depth)
        if value_type is GGUFValueType.STRING:
            begin = self.take(self.read_u64())
            # A model is not refused for a stray byte in, say, an author's name.
            return self.buffer[begin : self.position].decode("utf-8", errors="replace")
        scalar = _SCALARS[value_type]
        value: int | float = scalar.unpack_from(self.buffer, self.take(scalar.size))[0]
        if value_type is not GGUFValueType.BOOL:
            return value
        if value > 1:
            self.damaged(f"metadata key {quoted(key)} is a boolean with the value {value}")
        return bool(value)

    def read_array(self, key: str, depth: int) -> Value:
        if depth == MAX_ARRAY_DEPTH:
            self.damaged(f"metadata key {quoted(key)} nests arrays more than {MAX_ARRAY_DEPTH} deep")
        item_type = self.read_value_type(key)
        if item_type is GGUFValueType.ARRAY:
            count = self.read_count(f"arrays in metadata key {quoted(key)}", _MIN_ARRAY_BYTES, entries=True)
            return tuple(self.read_value(item_type, key, depth + 1) for _ in range(count))
        if item_type is GGUFValueType.STRING:
            return self.step_over_strings(self.read_count("strings", 8), key)
        scalar = _SCALARS[item_type]
        count = self.read_count("numbers", scalar.size)
        begin = self.take(count * scalar.size)
        if item_type is not GGUFValueType.BOOL:
            return np.frombuffer(self.buffer, dtype=scalar.format, count=count, offset=begin)
        flags = np.frombuffer(self.buffer, dtype=np.uint8, count=count, offset=begin)
        if count and flags.max() > 1:
            self.damaged(f"metadata key {quoted(key)} contains booleans that are neither 0 nor 1")
        return flags.view(np.bool_)

    def step_over_strings(self, count: int, key: str) -> StringArray:
        """Step over strings. Most of the time to open a model is spent here: 30 ms for Llama 3's 408,403 strings."""
        read_length = _U64.unpack_from
        buffer = self.buffer
        begin = position = self.position
        try:
            for _ in range(count):
                position += 8 + read_length(buffer, position)[0]
        except (struct.error, OverflowError):  # a length leads past the end of the file
            self.require(position + 8)
        self.take(position - begin)
        return StringArray(buffer, begin, count, f"{self.path}: metadata key {quoted(key)}")

    def alignment(self, metadata: dict[str, Value]) -> int:
        value = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(value, int) or isinstance(value, bool) or value < 8 or value & (value - 1):
            shown = value if isinstance(value, (int, float)) else "not a number"
            self.damaged(f"general.alignment is {shown}, expected a power of two of at least 8")
        return value

    # Tensors

    def read_tensors(self, count: int, alignment: int) -> tuple[dict[str, GGUFTensor], dict[str, UnreadTensor], int]:
        """Return the supported tensors, the unsupported ones, and where the last one ends."""
        described: dict[str, _Description] = {}
        for index in range(count):
            name = self.read_name(f"the name of tensor {index + 1} of {count}")
            if name in described:
                self.damaged(f"tensor {quoted(name)} appears twice")
            described[name] = self.read_description(name, alignment)
        data_begin = _align(self.position, alignment)
        end = self.check_places(described, data_begin, alignment)
        tensors, unread = {}, {}
        # A tensor ends at the next one's offset at the latest. For an unknown type, nothing more is known.
        offsets = sorted({description.offset for description in described.values()})
        limits = dict(zip(offsets, [*offsets[1:], self.size - data_begin], strict=False))
        for name, (tensor_type, shape, n_bytes, offset) in described.items():
            if isinstance(tensor_type, UnreadType):
                unread[name] = UnreadTensor(name, tensor_type, shape, n_bytes or limits[offset] - offset, self.path)
            else:
                tensors[name] = self.view(name, tensor_type, shape, n_bytes, data_begin + offset)
        return tensors, unread, self.position if not described else data_begin + end

    def read_description(self, name: str, alignment: int) -> _Description:
        shape = self.read_shape(name)
        tensor_type, block_size, block_bytes = self.read_tensor_type()
        if shape[-1] % block_size:
            self.damaged(
                f"tensor {quoted(name)} has rows of {shape[-1]:,} weights, "
                f"not a whole number of {tensor_type.name} blocks of {block_size}"
            )
        offset = self.read_u64()
        if offset % alignment:
            self.damaged(f"tensor {quoted(name)} begins at offset {offset:,}, which is not aligned to {alignment}")
        return _Description(tensor_type, shape, prod(shape) // block_size * block_bytes, offset)

    def read_shape(self, name: str) -> tuple[int, ...]:
        n_dims = self.read_u32()
        if not 1 <= n_dims <= MAX_DIMENSIONS:
            self.damaged(f"tensor {quoted(name)} has {n_dims:,} dimensions, not 1 to {MAX_DIMENSIONS}")
        shape = tuple(self.read_u64() for _ in range(n_dims))[::-1]  # the file has the innermost first
        if not 0 < prod(shape) < 1 << 63:
            self.damaged(f"tensor {quoted(name)} has the impossible shape {list(shape)}")
        return shape

    def read_tensor_type(self) -> tuple[GGMLQuantizationType | UnreadType, int, int]:
        """Return the type, and the weights and bytes per block; 0 bytes if they are unknown."""
        number = self.read_u32()
        try:
            tensor_type = GGMLQuantizationType(number)
        except ValueError:
            unread = unread_type(number)
            return unread, unread.block_size, unread.block_bytes or 0
        return (tensor_type, *GGML_QUANT_SIZES[tensor_type])

    def check_places(self, described: dict[str, _Description], data_begin: int, alignment: int) -> int:
        """Check that tensors do not overlap and that the file has room for them; return the last one's end."""
        end, before = 0, ""
        for name, description in sorted(described.items(), key=lambda item: item[1].offset):
            if description.offset < end:
                self.damaged(f"tensors {quoted(before)} and {quoted(name)} overlap")
            end, before = description.offset + description.n_bytes, name
        if described and data_begin + end > self.size:
            # If tensors lie end to end, as every writer puts them, the last one's end is the size of the whole file.
            if end <= sum(_align(description.n_bytes, alignment) for description in described.values()):
                self.cut_short("the model", f"{data_begin + end:,}")
            self.damaged(
                f"tensor {quoted(before)} ends at byte {data_begin + end:,}, but the file has {self.size:,} bytes"
            )
        return end

    def refuse_joined(self, end: int, alignment: int) -> None:
        """Refuse a file if another GGUF follows the last tensor, which ends at byte `end`."""
        for begin in (end, _align(end, alignment)):
            head = self.buffer[begin : begin + 8]
            if head[:4] == MAGIC and int.from_bytes(head[4:], "little") in _VERSIONS:
                raise Llama3Error(
                    f"{self.path}: several GGUFs joined into one file (another begins at byte {begin:,}); "
                    "download the parts as separate files and use the first, or merge them with "
                    "`llama-gguf-split --merge`"
                )

    def view(
        self, name: str, tensor_type: GGMLQuantizationType, shape: tuple[int, ...], n_bytes: int, offset: int
    ) -> GGUFTensor:
        flat = np.frombuffer(self.buffer, dtype=np.uint8, count=n_bytes, offset=offset)
        data = flat.reshape(*shape[:-1], n_bytes // prod(shape[:-1]))
        return GGUFTensor(name, tensor_type, shape, n_bytes, offset, self.path, data)
