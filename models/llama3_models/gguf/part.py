"""One GGUF file as it lies on disk, parsed without trusting it and without reading its weights.

A GGUF is a header (counts, metadata, a description of each tensor) and the tensors' bytes, all little endian:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The parser walks the header once over a memory map. Tensors
become views of the map, and arrays of strings, which are nearly all of a header (Llama 3's vocabulary has 408,403
strings), are only stepped over. Every count, length and offset is compared with the file's size before it is used, so
that a damaged or hostile file costs neither memory nor time; a file that ends too early is told apart from a file that
is wrong, because a download that is still running is the most usual cause.
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

# Real headers stay far below these bounds: Llama 3's takes 8 MB and has 320 entries. They keep a hostile file from
# asking for minutes of stepping over strings or gigabytes of Python objects.
MAX_HEADER_BYTES = 64 << 20
MAX_ENTRIES = 65_536  # of metadata, of tensors and of arrays inside arrays, together
MAX_NAME_BYTES = 65_535  # of a metadata key: the specification's own bound
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
    """An array of strings in a GGUF's metadata, found and decoded only when asked for.

    Strings are UTF-8; one that is not raises `Llama3Error` when it is decoded, while `raw` and `raw_all` give the
    bytes of any.
    """

    def __init__(self, buffer: bytes | mmap, start: int, count: int, where: str) -> None:
        """`start` is the position of the first string's length; the parser has checked that all `count` fit."""
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
        """The bytes of one string."""
        begin, end = self._spans[index]
        return self._buffer[begin:end]

    def raw_all(self) -> list[bytes]:
        """The bytes of every string, in order."""
        buffer = self._buffer
        return [buffer[begin:end] for begin, end in self._spans]


@dataclass(frozen=True, eq=False)
class GGUFTensor:
    """A tensor of a GGUF: what its header says, and a view of its bytes.

    `shape` is numpy's order, rows first (a linear layer is [outputs, inputs]), and counts weights. `offset` is the
    position of the first byte in the file `part`. `data` is a read-only uint8 view of the map, shaped
    [*shape[:-1], bytes of a row], whatever the type.
    """

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    n_bytes: int
    offset: int
    part: Path
    data: npt.NDArray[np.uint8] = field(repr=False)

    def dequantize(self, rows: slice | npt.NDArray[np.int64] = slice(None)) -> npt.NDArray[np.float32]:
        """The weights of some rows (default: all), as `gguf.quants.dequantize`, the format's own definition, has them.

        Returns:
            float32 [*rows, *shape[1:]].
        """
        return np.asarray(quants.dequantize(np.asarray(self.data[rows]), self.type), dtype=np.float32)

    def rows(self, name: str, start: int, stop: int) -> GGUFTensor:
        """Some rows of a matrix, or elements of a vector, as a tensor over the same bytes.

        Raises:
            Llama3Error: they do not begin and end with a block, which only those of a vector can fail to do.
        """
        shape = (stop - start, *self.shape[1:])
        block_size, block_bytes = GGML_QUANT_SIZES[self.type]
        first, end = start * prod(shape[1:]), stop * prod(shape[1:])
        if first % block_size or end % block_size:
            raise Llama3Error(
                f"{self.part}: tensor {self.name} is {self.type.name}, and {name} in it begins or ends within one "
                f"of its blocks of {block_size}; convert the model again, with vectors in F32"
            )
        begin, n_bytes = first // block_size * block_bytes, (end - first) // block_size * block_bytes
        data = self.data.reshape(-1)[begin : begin + n_bytes].reshape(*shape[:-1], -1)
        return replace(self, name=name, shape=shape, n_bytes=n_bytes, offset=self.offset + begin, data=data)


@dataclass(frozen=True)
class UnreadTensor:
    """A tensor of a type that is not read: what the header says of it.

    `n_bytes` reaches up to the next tensor where the type does not tell.
    """

    name: str
    type: UnreadType
    shape: tuple[int, ...]
    n_bytes: int
    part: Path


@dataclass(frozen=True)
class GGUFPart:
    """What one file holds: the whole model, or a part of a split one. `unread` are the tensors of types not read."""

    version: int
    metadata: dict[str, Value]
    tensors: dict[str, GGUFTensor]
    unread: dict[str, UnreadTensor]


def parse_part(buffer: bytes | mmap, path: Path) -> GGUFPart:
    """Parses the file mapped as `buffer`; `path` names it in errors.

    Raises:
        Llama3Error: The file is cut short, damaged, big endian, or of a version or type that is not known here.
    """
    return _Parser(buffer, path).parse()


def quoted(name: str) -> str:
    """A name from a file as one short printable line, for messages."""
    shown = repr(name)
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[-1]}"


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


class _Description(NamedTuple):
    """What the header says of a tensor; `offset` counts from where the tensors' bytes begin.

    `n_bytes` is 0 where the type does not tell.
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
        self.take(len(MAGIC))  # already looked at by the caller
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
        advice = unfinished(self.path) or "if it is being downloaded, wait for the end, else download it again"
        raise Llama3Error(
            f"{self.path}: cut short: {what} needs {needed} bytes, and the file has {self.size:,}; {advice}"
        )

    def require(self, end: int) -> None:
        """Refuses a file whose header says that it goes on to byte `end`, if it cannot."""
        if end > MAX_HEADER_BYTES:
            self.damaged(f"its header would end past byte {end:,}, and no header is larger than {MAX_HEADER_BYTES:,}")
        if end > self.size:
            self.cut_short("its header", f"at least {end:,}")

    # Numbers and names

    def take(self, n_bytes: int) -> int:
        """Steps over the next bytes of the header, once it is known that they are there; returns where they begin."""
        begin = self.position
        self.require(begin + n_bytes)
        self.position += n_bytes
        return begin

    def read_u32(self) -> int:
        return int(_U32.unpack_from(self.buffer, self.take(4))[0])

    def read_u64(self) -> int:
        return int(_U64.unpack_from(self.buffer, self.take(8))[0])

    def read_count(self, what: str, min_bytes: int, *, entries: bool = False) -> int:
        """A count of things of at least `min_bytes` each; `entries` are those that become Python objects at once."""
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
                f"{self.path}: a big-endian GGUF, and only little-endian ones are read; "
                f"convert a copy of it in place with `gguf-convert-endian {shlex.quote(str(self.path))} little`"
            )
        if version == 1:
            raise Llama3Error(f"{self.path}: GGUF version 1 (2023) is not read; download a newer file or convert again")
        raise Llama3Error(f"{self.path}: GGUF version {version} is not known here, only 2 and 3; look for an update")

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
            # A stray byte in, say, an author's name is no reason to refuse the model.
            return self.buffer[begin : self.position].decode("utf-8", errors="replace")
        scalar = _SCALARS[value_type]
        value: int | float = scalar.unpack_from(self.buffer, self.take(scalar.size))[0]
        if value_type is not GGUFValueType.BOOL:
            return value
        if value > 1:
            self.damaged(f"metadata key {quoted(key)} is a boolean of value {value}")
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
            self.damaged(f"metadata key {quoted(key)} holds booleans that are neither 0 nor 1")
        return flags.view(np.bool_)

    def step_over_strings(self, count: int, key: str) -> StringArray:
        """The loop that decides how long a model takes to open: 30 ms for Llama 3's 408,403 strings."""
        read_length = _U64.unpack_from
        buffer = self.buffer
        begin = position = self.position
        try:
            for _ in range(count):
                position += 8 + read_length(buffer, position)[0]
        except (struct.error, OverflowError):  # a length led past the end of the file
            self.require(position + 8)
        self.take(position - begin)
        return StringArray(buffer, begin, count, f"{self.path}: metadata key {quoted(key)}")

    def alignment(self, metadata: dict[str, Value]) -> int:
        value = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(value, int) or isinstance(value, bool) or value < 8 or value & (value - 1):
            shown = value if isinstance(value, (int, float)) else "no number"
            self.damaged(f"general.alignment is {shown}, not a power of two of at least 8")
        return value

    # Tensors

    def read_tensors(self, count: int, alignment: int) -> tuple[dict[str, GGUFTensor], dict[str, UnreadTensor], int]:
        """The tensors that are read, those of types that are not, and where the last one ends."""
        described: dict[str, _Description] = {}
        for index in range(count):
            name = self.read_name(f"the name of tensor {index + 1} of {count}")
            if name in described:
                self.damaged(f"tensor {quoted(name)} appears twice")
            described[name] = self.read_description(name, alignment)
        data_begin = _align(self.position, alignment)
        end = self.check_places(described, data_begin, alignment)
        tensors, unread = {}, {}
        # Where each one can end at most, which is all that is known of a type that is not.
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
        """The type, and the weights and bytes of its blocks; no bytes where they are not known."""
        number = self.read_u32()
        try:
            tensor_type = GGMLQuantizationType(number)
        except ValueError:
            unread = unread_type(number)
            return unread, unread.block_size, unread.block_bytes or 0
        return (tensor_type, *GGML_QUANT_SIZES[tensor_type])

    def check_places(self, described: dict[str, _Description], data_begin: int, alignment: int) -> int:
        """Holds the tensors' places against each other and against the file's size; returns the last one's end."""
        end, before = 0, ""
        for name, description in sorted(described.items(), key=lambda item: item[1].offset):
            if description.offset < end:
                self.damaged(f"tensors {quoted(before)} and {quoted(name)} overlap")
            end, before = description.offset + description.n_bytes, name
        if described and data_begin + end > self.size:
            # Tensors laid end to end, as every writer does, tell the size that the file had when it was whole.
            if end <= sum(_align(description.n_bytes, alignment) for description in described.values()):
                self.cut_short("the model", f"{data_begin + end:,}")
            self.damaged(f"tensor {quoted(before)} ends at byte {data_begin + end:,}, past the file's {self.size:,}")
        return end

    def refuse_joined(self, end: int, alignment: int) -> None:
        """Refuses a file in which another GGUF follows the last tensor, which ends at byte `end`."""
        for begin in (end, _align(end, alignment)):
            head = self.buffer[begin : begin + 8]
            if head[:4] == MAGIC and int.from_bytes(head[4:], "little") in _VERSIONS:
                raise Llama3Error(
                    f"{self.path}: several GGUFs joined into one file (another begins at byte {begin:,}); "
                    "keep the parts as they were downloaded and give the first, or merge them with "
                    "`llama-gguf-split --merge`"
                )

    def view(
        self, name: str, tensor_type: GGMLQuantizationType, shape: tuple[int, ...], n_bytes: int, offset: int
    ) -> GGUFTensor:
        flat = np.frombuffer(self.buffer, dtype=np.uint8, count=n_bytes, offset=offset)
        data = flat.reshape(*shape[:-1], n_bytes // prod(shape[:-1]))
        return GGUFTensor(name, tensor_type, shape, n_bytes, offset, self.path, data)
