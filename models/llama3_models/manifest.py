"""An export's manifest: which GGUF it was made from, how, and by which version. It is in llama3.json and in the graph.

A manifest is not trusted: one that is damaged, forged or written by a newer version is refused in one line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NoReturn, get_args

from llama3_models.errors import Llama3Error
from llama3_models.exports import MANIFEST, METADATA_KEY, Activations, Logits, Ops, Precision, Target
from llama3_models.gguf.file import GGUFFile
from llama3_models.regular_files import read_regular

PRODUCER: Final = "llama3-onnx"

FORMAT_VERSION: Final = 1
"""Increased when a reader of the old format would misunderstand the new one; new keys alone do not change it."""

_UNVERSIONED_ARCHITECTURE: Final = "llama"  # the only one before format 1
_MAX_TEXT: Final = 255  # the longest name of a file
_CONTROLS: Final = {*map(chr, range(32)), "\x7f"}
_MAX_COUNT: Final = 1 << 63  # ONNX counts in signed 64-bit integers


class NotAnExportError(Llama3Error):
    """There is no manifest of this package, or it is damaged."""


class NewerExportError(Llama3Error):
    """A later version of this package wrote the manifest, in a format that this one does not know."""


@dataclass(frozen=True)
class Part:
    """A file of the GGUF or of an export's own weights, by its name without a folder.

    A file that the graph reads in every run (a native export's GGUF, a contrib export's weights) has a `size` and a
    `fingerprint` (`digests.fingerprint`), which are quick to compare. A contrib export's weights, and the GGUF they
    were made from, have a `sha256` of the whole file.
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Source:
    """The GGUF: `name` is the name of its first part, `size` the bytes of all parts."""

    name: str
    size: int
    parts: tuple[Part, ...]  # one or more


@dataclass(frozen=True)
class AdapterUse:
    """A LoRA adapter that a graph includes: the name, size and SHA-256 of its file, and its strength."""

    name: str
    size: int
    sha256: str
    scale: float


@dataclass(frozen=True)
class ExportOptions:
    """The options of one export; `max_length` is the number of positions that the graph can reach."""

    ops: Ops
    activations: Activations
    precision: Precision
    logits: Logits
    max_length: int
    target: Target = "any"

    def to_dict(self) -> dict[str, Any]:
        """Return the options as data for JSON, with the target only if it is not `any`."""
        data = asdict(self)
        if self.target == "any":
            del data["target"]
        return data


@dataclass(frozen=True)
class TypeUse:
    """How much of a model is of one GGML type."""

    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """An export's description of itself.

    Attributes:
        source: The GGUF.
        options: How it was exported.
        types: How much of the GGUF is of each GGML type, by the type's name, most bytes first.
        architecture: The GGUF's `general.architecture`.
        adapters: The LoRA adapters that the graph includes.
        weights: A contrib export's weights files; empty for a native one, and for an older one with a single file.
        version: The version of this package that made the export.
        format_version: The format of the manifest, `FORMAT_VERSION` or older.
    """

    source: Source
    options: ExportOptions
    types: Mapping[str, TypeUse]
    architecture: str
    weights: tuple[Part, ...] = ()
    adapters: tuple[AdapterUse, ...] = ()
    version: str = version("llama3-onnx")
    format_version: int = FORMAT_VERSION

    @classmethod
    def of_gguf(
        cls,
        file: GGUFFile,
        options: ExportOptions,
        parts: Sequence[Part],
        weights: Sequence[Part] = (),
        adapters: Sequence[AdapterUse] = (),
    ) -> Manifest:
        """Create the manifest of an export of `file`."""
        source = Source(file.path.name, file.size, tuple(parts))
        architecture = file.get_str("general.architecture")
        return cls(source, options, types_of(file), architecture, tuple(weights), tuple(adapters))

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as data for JSON, without empty entries."""
        data: dict[str, Any] = {
            "producer": PRODUCER,
            "version": self.version,
            "format_version": self.format_version,
            "architecture": self.architecture,
            "source": {
                "name": self.source.name,
                "size": self.source.size,
                "parts": [_described(part) for part in self.source.parts],
            },
            "options": self.options.to_dict(),
            "types": {name: asdict(use) for name, use in self.types.items()},
        }
        if self.weights:
            data["weights"] = [_described(part) for part in self.weights]
        if self.adapters:
            data["adapters"] = [asdict(adapter) for adapter in self.adapters]
        return data

    def to_json(self) -> str:
        """Return the manifest as one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str | bytes, where: Path) -> Manifest:
        """Read a manifest back.

        Args:
            text: The JSON.
            where: The file that it is from, for messages.

        Raises:
            NotAnExportError: it is damaged, or another program wrote it.
            NewerExportError: a later version of this package wrote it.
        """
        try:
            return cls._from_dict(json.loads(text, parse_constant=_not_json, parse_float=_finite), where)
        except Llama3Error:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            shown = str(error) if isinstance(error, ValueError | TypeError) else repr(error)
            problem = " ".join(shown[:200].split())
            raise NotAnExportError(f"{where}: damaged metadata ({problem}); export the GGUF again") from error

    @classmethod
    def of_graph(cls, metadata: Mapping[str, str], graph: Path) -> Manifest:
        """Read the manifest in a graph's metadata.

        Raises:
            NotAnExportError: the manifest is missing or damaged.
            NewerExportError: a later version of this package wrote it.
        """
        if METADATA_KEY not in metadata:
            raise NotAnExportError(
                f"{graph}: not a graph of llama3-export (its metadata has no manifest); export the GGUF again"
            )
        return cls.from_json(metadata[METADATA_KEY], graph)

    @classmethod
    def of_folder(cls, folder: Path) -> Manifest:
        """Read the manifest of an export folder, without its graph.

        Raises:
            NotAnExportError: the manifest is missing or damaged.
            NewerExportError: a later version of this package wrote it.
        """
        path = folder / MANIFEST
        try:
            text = read_regular(path)
        except FileNotFoundError:
            raise NotAnExportError(f"{folder}: has no {MANIFEST}; use a folder made by llama3-export") from None
        except OSError as error:
            raise NotAnExportError(f"{path}: cannot be read ({error.strerror})") from error
        return cls.from_json(text, path)

    @classmethod
    def _from_dict(cls, data: Any, where: Path) -> Manifest:
        if not isinstance(data, dict):
            raise TypeError(f"a {type(data).__name__}, not an object")
        if data.get("producer") != PRODUCER:
            raise NotAnExportError(f"{where}: not written by llama3-export, or damaged; export the GGUF again")
        format_version = data.get("format_version", 0)
        if _count(format_version, "format_version", least=0) > FORMAT_VERSION:
            its_version = ascii(data.get("version"))[:20].strip("'")
            raise NewerExportError(
                f"{where}: llama3-onnx {its_version} wrote this export, and {version('llama3-onnx')} cannot read it; "
                "upgrade llama3-onnx, or export the GGUF again"
            )
        source, options = data["source"], data["options"]
        parts = tuple(_part(part) for part in _list(source["parts"], "parts"))
        if not parts:
            raise ValueError("no parts of its GGUF")
        return cls(
            source=Source(_file_name(source["name"]), _count(source["size"], "size"), parts),
            options=ExportOptions(
                ops=_choice(options["ops"], Ops),
                activations=_choice(options["activations"], Activations),
                precision=_choice(options["precision"], Precision),
                logits=_choice(options["logits"], Logits),
                max_length=_count(options["max_length"], "max_length"),
                target=_choice(options.get("target", "any"), Target),
            ),
            types={
                name: TypeUse(*(_count(use[key], key, least=0) for key in ("tensors", "parameters", "bytes")))
                for name, use in data["types"].items()
            },
            architecture=_text(data.get("architecture", _UNVERSIONED_ARCHITECTURE), "architecture"),
            weights=tuple(_part(part) for part in _list(data.get("weights", []), "weights")),
            adapters=tuple(_adapter(use) for use in _list(data.get("adapters", []), "adapters")),
            version=_text(data["version"], "version"),
            format_version=format_version,
        )


def types_of(file: GGUFFile) -> dict[str, TypeUse]:
    """Count the tensors, weights and bytes of each GGML type, most bytes first."""
    uses: dict[str, TypeUse] = {}
    for tensor in file.tensors.values():
        use = uses.get(tensor.type.name, TypeUse(0, 0, 0))
        parameters = use.parameters + math.prod(tensor.shape)
        uses[tensor.type.name] = TypeUse(use.tensors + 1, parameters, use.bytes + tensor.n_bytes)
    return dict(sorted(uses.items(), key=lambda item: -item[1].bytes))


def _described(part: Part) -> dict[str, Any]:
    return {key: value for key, value in asdict(part).items() if value is not None}


def _part(data: Any) -> Part:
    size = data.get("size")
    return Part(
        name=_file_name(data["name"]),
        size=None if size is None else _count(size, "size", least=0),
        sha256=_optional_text(data.get("sha256"), "sha256"),
        fingerprint=_optional_text(data.get("fingerprint"), "fingerprint"),
    )


def _adapter(data: Any) -> AdapterUse:
    scale = data["scale"]
    if type(scale) not in (int, float) or not math.isfinite(scale):
        raise ValueError(f"scale is {str(scale)[:40]}")
    size, digest = _count(data["size"], "size"), _text(data["sha256"], "sha256")
    return AdapterUse(_file_name(data["name"]), size, digest, float(scale))


def _file_name(value: Any) -> str:
    """Check a file name. A path is refused, because it could lead out of the folder; a GGUF may have any other name."""
    name = _text(value, "name", any_character=True)
    if name == ".." or name != Path(name).name:
        raise ValueError(f"{name[:40]!r} is not a file name")
    return name


def _text(value: Any, key: str, *, any_character: bool = False) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{key} is {str(value)[:40]}, not text")
    controls = "\0" if any_character else _CONTROLS
    if not 0 < len(value) <= _MAX_TEXT or any(character in controls for character in value):
        raise ValueError(f"{key} is empty, too long or has control characters")
    return value


def _optional_text(value: Any, key: str) -> str | None:
    return None if value is None else _text(value, key)


def _count(value: Any, key: str, *, least: int = 1) -> int:
    if type(value) is not int or not least <= value < _MAX_COUNT:
        raise ValueError(f"{key} is {str(value)[:40]}")
    return value


def _choice(value: Any, choices: Any) -> Any:
    if value not in get_args(choices):
        raise ValueError(f"{str(value)[:40]!r} is not one of {', '.join(get_args(choices))}")
    return value


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{key} is not a list")
    return value


def _not_json(text: str) -> NoReturn:
    """Refuse `NaN` and `Infinity`, which Python reads but which are not JSON."""
    raise ValueError(f"{text} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _not_json(text)
    return value
