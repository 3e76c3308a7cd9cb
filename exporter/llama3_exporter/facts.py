"""What an export says of itself: its source, its options, its types; in the graph's metadata and in llama3.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from llama3_models.errors import Llama3Error
from llama3_models.exports import METADATA_KEY
from llama3_models.gguf.file import GGUFFile
from llama3_models.regular_files import read_regular

from llama3_exporter.options import ExportOptions

PRODUCER = "llama3-onnx"


@dataclass(frozen=True)
class TypeUse:
    """How much of a model one GGML type holds."""

    tensors: int
    parameters: int
    bytes: int


def types_of(file: GGUFFile) -> dict[str, TypeUse]:
    """How many tensors, weights and bytes each GGML type has, largest first."""
    uses: dict[str, TypeUse] = {}
    for tensor in file.tensors.values():
        use = uses.get(tensor.type.name, TypeUse(0, 0, 0))
        parameters = use.parameters + math.prod(tensor.shape)
        uses[tensor.type.name] = TypeUse(use.tensors + 1, parameters, use.bytes + tensor.n_bytes)
    return dict(sorted(uses.items(), key=lambda item: -item[1].bytes))


def facts_of(file: GGUFFile, options: ExportOptions, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts as data. `parts` has each file of the GGUF: its name, and what tells that its content is the same."""
    return {
        "producer": PRODUCER,
        "version": version("llama3-onnx"),
        "source": {"name": file.path.name, "size": file.size, "parts": list(parts)},
        "options": vars(options),
        "types": {name: vars(use) for name, use in types_of(file).items()},
    }


def serialized(model: ir.Model, facts: dict[str, Any]) -> bytes:
    """The graph as a file, with the facts in its metadata."""
    model.metadata_props[METADATA_KEY] = json.dumps(facts)
    for node in model.graph:
        for key in [key for key in node.metadata_props if key.startswith("pkg.onnxscript.")]:
            del node.metadata_props[key]  # the builder's notes to itself, half of the file
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def read_graph(path: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Read a graph back, without its weights, and the facts in its metadata.

    Raises:
        Llama3Error: there is no graph, or none of ours.
    """
    try:
        model = onnx.ModelProto.FromString(read_regular(path))
        text = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), "{}")
        facts = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except OSError as error:
        raise Llama3Error(f"{path}: cannot be read ({error.strerror}); export the GGUF again") from error
    except (DecodeError, ValueError, RecursionError):
        facts = None
    if not is_ours(facts):
        raise Llama3Error(f"{path}: no graph that llama3-export wrote, or a damaged one; export the GGUF again")
    return model, facts


def _finite(text: str) -> float:
    """A number of JSON. Python reads `NaN` and `1e999` as well, which are none."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number of JSON")
    return value


def is_ours(facts: object) -> bool:
    """Whether parsed facts are of an export of this package, of whatever version."""
    return isinstance(facts, dict) and facts.get("producer") == PRODUCER
