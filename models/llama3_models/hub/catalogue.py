"""The models available by name, and their files.

The data is in catalogue.toml. This module loads it into types and finds an entry: a misspelled name or an unpublished
encoding is refused before anything is downloaded. download.py fetches the files.
"""

import difflib
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from llama3_models.errors import Llama3Error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Encoding = Literal["q4_0", "q4_1", "q4_k", "q6_k", "bf16", "float32"]
"""The encodings that models of the catalog are published in."""

DEFAULT_ENCODING = "q4_k"

INSTEAD = "smollm2-135m, which needs no network, or your own GGUF file"
"""The advice when a download fails, after "use"."""


@dataclass(frozen=True)
class Source:
    """One file on the Hugging Face Hub."""

    repository: str
    file: str

    def __str__(self) -> str:
        return f"{self.repository}/{self.file}"


@dataclass(frozen=True)
class HubFile:
    """One encoding of a model: its sources, best first, and its rounded size in 10^9 bytes."""

    sources: tuple[Source, ...]
    gigabytes: float


@dataclass(frozen=True)
class PackageFile:
    """A model in a Python package: it needs no network once the package is installed."""

    module: str
    requirement: str
    file: str
    encoding: str


@dataclass(frozen=True)
class Model:
    """One entry of the catalog; `version` is its value for `--version`, if it has one."""

    name: str
    description: str
    license: str
    license_url: str
    version: str | None
    hub_files: Mapping[str, HubFile]
    package: PackageFile | None

    @property
    def encodings(self) -> tuple[str, ...]:
        """The encodings of this model, smallest first."""
        return (self.package.encoding,) if self.package else tuple(self.hub_files)

    def encoding_or_default(self, encoding: str | None) -> str:
        """Return `encoding`, or the default for None: q4_k, or the one in the model's package.

        Raises:
            Llama3Error: the model is not published in this encoding.
        """
        if encoding is None:
            return self.package.encoding if self.package else DEFAULT_ENCODING
        if encoding not in self.encodings:
            raise Llama3Error(
                f"{self.name} is available as {', '.join(self.encodings)}, not {encoding}; omit --quantization-encoding"
            )
        return encoding


def find(name: str) -> Model:
    """Find a model by its name.

    Raises:
        Llama3Error: the name is unknown; the message has the most similar name, or all names.
    """
    models = _catalogue()
    if name.lower() in models:
        return models[name.lower()]
    nearest = difflib.get_close_matches(name.lower(), models, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"choose one of {', '.join(models)}"
    raise Llama3Error(
        f"unknown model {name!r}; {hint} (use a path for your own GGUF, ORG/REPO for one on the Hugging Face Hub)"
    )


def for_version(version: str) -> Model:
    """Find the 8B instruct model of a Llama version, "3.0" or "3.1".

    Raises:
        Llama3Error: the version is unknown.
    """
    by_version = {model.version: model for model in _catalogue().values() if model.version}
    if version not in by_version:
        raise Llama3Error(f"unknown Llama version {version!r}; choose one of {', '.join(sorted(by_version))}")
    return by_version[version]


def all_models() -> list[Model]:
    """Return all models, in the order of catalogue.toml."""
    return list(_catalogue().values())


@functools.cache
def _catalogue() -> dict[str, Model]:
    text = resources.files("llama3_models.hub").joinpath("catalogue.toml").read_text(encoding="utf-8")
    models: dict[str, Model] = {}
    for entry in tomllib.loads(text)["model"]:
        package = PackageFile(**entry["package"]) if "package" in entry else None
        hub_files = {
            encoding: HubFile(tuple(map(_source, file["sources"])), file["gigabytes"])
            for encoding, file in entry.get("encodings", {}).items()
        }
        models[entry["name"]] = Model(
            name=entry["name"],
            description=entry["description"],
            license=entry["license"],
            license_url=entry["license_url"],
            version=entry.get("version"),
            hub_files=hub_files,
            package=package,
        )
    return models


def _source(text: str) -> Source:
    owner, repository, file = text.split("/")
    return Source(f"{owner}/{repository}", file)
