"""An open GGUF model: its metadata and tensors, from one file or from all parts of a split one.

Only the header is read into memory. Weights are views of a memory map, so opening takes milliseconds whatever the
model's size, and the operating system can drop pages that are no longer used.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterable, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from llama3_models.errors import Llama3Error
from llama3_models.gguf.contents import HEAD_BYTES
from llama3_models.gguf.file_kinds import MAGIC, not_a_file, not_a_gguf, nothing_there
from llama3_models.gguf.part import GGUFPart, GGUFTensor, StringArray, UnreadTensor, Value, parse_part, quoted
from llama3_models.gguf.split_name import SPLIT_NAME
from llama3_models.shortage import shortage

__all__ = ["GGUFFile", "GGUFTensor", "StringArray", "UnreadTensor", "Value"]

_REQUIRED: Any = object()

D = TypeVar("D")
T = TypeVar("T")
AnyTensor = TypeVar("AnyTensor", GGUFTensor, UnreadTensor)


class GGUFFile:
    """A GGUF model in one file or several, open for reading; a context manager.

    Attributes:
        path: The path that was opened; for a split model, any of its parts.
        parts: All files of the model, in order.
        version: The version of the format, 2 or 3.
        size: The size of all parts in bytes.
        unread: The tensors of unsupported types, by name; most files have none.

    `metadata` and `tensors` cannot be used after `close`. Tensors, views and string arrays obtained before stay valid,
    and keep the file mapped. While a file is mapped, it may be renamed or deleted but must not be truncated: reading a
    page that is gone kills the process (SIGBUS).
    """

    def __init__(self, path: Path, parts: tuple[Path, ...], contents: list[GGUFPart], size: int) -> None:
        """Join parsed parts; call `GGUFFile.open` instead."""
        self.path = path
        self.parts = parts
        self.version = contents[0].version
        self.size = size
        self._metadata: Mapping[str, Value] | None = contents[0].metadata
        self._tensors: Mapping[str, GGUFTensor] | None = _joined([content.tensors for content in contents])
        self.unread: Mapping[str, UnreadTensor] = _joined([content.unread for content in contents])

    @classmethod
    def open(cls, path: Path | str) -> GGUFFile:
        """Open and check a model; `path` is its file, or any part of a split model.

        Raises:
            Llama3Error: there is no such file, or it is not a GGUF, truncated or damaged.
        """
        path = Path(path)
        first, size = _open_part(path)
        count = _split_count(first, path)
        if count <= 1:
            return cls(path, (path,), [first], size)
        parts = _split_parts(path, first, count)
        opened = [_open_part(part) for part in parts]
        contents = [content for content, _ in opened]
        _check_split(parts, contents)
        return cls(path, parts, contents, sum(size for _, size in opened))

    def close(self) -> None:
        """Release the files; views that are still in use keep them mapped."""
        self._metadata = self._tensors = None

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"GGUFFile({str(self.path)!r})"

    @property
    def metadata(self) -> Mapping[str, Value]:
        """Every key of the (first) file. Numeric arrays are numpy views; arrays of strings are `StringArray`."""
        if self._metadata is None:
            raise ValueError(f"{self.path} is closed")
        return self._metadata

    @property
    def tensors(self) -> Mapping[str, GGUFTensor]:
        """Every tensor by name, in the order of the file."""
        if self._tensors is None:
            raise ValueError(f"{self.path} is closed")
        return self._tensors

    # Each getter checks the type. Without `default`, a missing key is an error.

    def get_int(self, key: str, default: D = _REQUIRED) -> int | D:
        """Return an integer of any width."""
        return self._get(key, default, int, "an integer")

    def get_float(self, key: str, default: D = _REQUIRED) -> float | D:
        """Return a finite number; an integer is converted."""
        if type(self.metadata.get(key)) is int:
            return float(self.get_int(key))
        value = self._get(key, default, float, "a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise Llama3Error(f"{self.path}: metadata key {quoted(key)} is {value}; download or convert the file again")
        return value

    def get_bool(self, key: str, default: D = _REQUIRED) -> bool | D:
        """Return a boolean."""
        return self._get(key, default, bool, "a boolean")

    def get_str(self, key: str, default: D = _REQUIRED) -> str | D:
        """Return a string."""
        return self._get(key, default, str, "a string")

    def get_strings(self, key: str, default: D = _REQUIRED) -> StringArray | D:
        """Return an array of strings."""
        return self._get(key, default, StringArray, "an array of strings")

    def get_array(self, key: str, default: D = _REQUIRED) -> npt.NDArray[Any] | D:
        """Return an array of numbers or booleans in the file's own type."""
        return self._get(key, default, np.ndarray, "an array of numbers")

    def _get(self, key: str, default: D, kind: type[T], expected: str) -> T | D:
        if key not in self.metadata:
            if default is _REQUIRED:
                raise Llama3Error(
                    f"{self.path}: metadata key {quoted(key)} is missing; download or convert the file again"
                )
            return default
        value = self.metadata[key]
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        found = f"{value}" if isinstance(value, (bool, int, float)) else _KINDS[type(value)]
        raise Llama3Error(
            f"{self.path}: metadata key {quoted(key)} should be {expected}, not {found}; "
            "download or convert the file again"
        )


_KINDS: Final[Mapping[type, str]] = {
    str: "text",
    np.ndarray: "an array of numbers",
    StringArray: "an array of strings",
    tuple: "an array of arrays",
}


def _open_part(path: Path) -> tuple[GGUFPart, int]:
    """Map and parse one file; return it and its size."""
    mapped = _map(path)
    if isinstance(mapped, str):
        raise Llama3Error(f"{path}: {mapped}")
    return parse_part(mapped, path), len(mapped)


def _map(path: Path) -> mmap | str:
    """Map a file that begins like a GGUF, or return what is wrong with the path."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # checked first: opening a pipe would wait for its writer
            return not_a_file(path)
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            return mmap(file.fileno(), 0, access=ACCESS_READ) if head.startswith(MAGIC) else not_a_gguf(path, head)
    except FileNotFoundError:
        return nothing_there(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path, or a file just emptied
        if (problem := shortage(error)) is not None:
            return f"cannot be read: {problem}"
        return f"cannot be read ({(isinstance(error, OSError) and error.strerror) or error})"


# Split models: NAME-00001-of-0000N.gguf, as llama.cpp's gguf-split writes them. Each part is a GGUF with some of the
# tensors. Three metadata keys connect the parts; all other metadata is in the first one.


def _split_count(part: GGUFPart, path: Path) -> int:
    return _split_key(part, path, "split.count") if "split.count" in part.metadata else 1


def _split_key(part: GGUFPart, path: Path, key: str) -> int:
    value = part.metadata.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 100_000:
        raise Llama3Error(f"{path}: a part of a split model without a usable {key}; download it again")
    return value


def _split_parts(path: Path, part: GGUFPart, count: int) -> tuple[Path, ...]:
    """Return the files of a split model, after checking that all exist; `part` is the one at `path`."""
    name = SPLIT_NAME.fullmatch(path.name)
    if name is None or int(name["count"]) != count:
        which = f"part {_split_key(part, path, 'split.no') + 1}" if "split.no" in part.metadata else "one"
        raise Llama3Error(
            f"{path}: {which} of the {count} parts of a split model, but its name does not say so; rename all parts "
            f"to NAME-00001-of-{count:05d}.gguf and so on"
        )
    names = (f"{name['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))
    parts = []
    for file in map(path.with_name, names):
        if not file.exists():
            raise Llama3Error(
                f"{path}: {file.name}, one of the {count} parts of this model, is not in the folder; "
                "download all parts into one folder"
            )
        parts.append(file)
    return tuple(parts)


def _check_split(parts: tuple[Path, ...], contents: list[GGUFPart]) -> None:
    """Check that the numbers and counts in the parts' metadata agree."""
    for number, (path, content) in enumerate(zip(parts, contents, strict=True)):
        said = [_split_key(content, path, key) for key in ("split.no", "split.count")]
        if said != [number, len(parts)]:
            raise Llama3Error(
                f"{path}: its metadata says part {said[0] + 1} of {said[1]}, not {number + 1} of {len(parts)}; "
                "parts of different models are mixed up: download them again"
            )
    found = sum(len(content.tensors) + len(content.unread) for content in contents)
    expected = _split_key(contents[0], parts[0], "split.tensors.count")
    if found != expected:
        raise Llama3Error(
            f"{parts[0]}: the parts of this model have {found} tensors in total, not {expected} as this one says; "
            "parts of different models are mixed up: download them again"
        )


def _joined(contents: Iterable[Mapping[str, AnyTensor]]) -> dict[str, AnyTensor]:
    tensors: dict[str, AnyTensor] = {}
    for content in contents:
        for name, tensor in content.items():
            if name in tensors:
                raise Llama3Error(
                    f"{tensor.part}: tensor {quoted(name)} is also in {tensors[name].part.name}; "
                    "parts of different models are mixed up: download them again"
                )
            tensors[name] = tensor
    return tensors
