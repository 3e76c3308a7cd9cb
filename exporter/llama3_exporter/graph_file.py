"""The graph file: written with the manifest in its metadata, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from llama3_models.exports import METADATA_KEY
from llama3_models.manifest import Manifest, NotAnExportError
from llama3_models.regular_files import read_regular


def serialized(model: ir.Model, manifest: Manifest, locations: Mapping[str, str] | None = None) -> bytes:
    """Return the graph as a file, with the manifest in its metadata.

    Args:
        model: The graph.
        manifest: The manifest.
        locations: New names of its files of weights, by their names in `model`.
    """
    model.metadata_props[METADATA_KEY] = manifest.to_json()
    for node in model.graph:
        for key in [key for key in node.metadata_props if key.startswith("pkg.onnxscript.")]:
            del node.metadata_props[key]  # the builder's own notes, half of the file
    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = (locations or {}).get(entry.value, entry.value)
    data: bytes = proto.SerializeToString()
    return data


def read_graph(path: Path) -> tuple[onnx.ModelProto, Manifest]:
    """Read a graph, without its weights, and its manifest.

    Raises:
        NotAnExportError: the graph cannot be read, or llama3-export did not write it.
        Llama3Error: a newer version of this package wrote it.
    """
    try:
        model = onnx.ModelProto.FromString(read_regular(path))
        metadata = {entry.key: entry.value for entry in model.metadata_props}
    except OSError as error:
        raise NotAnExportError(f"{path}: cannot be read ({error.strerror})") from error
    except (DecodeError, ValueError) as error:
        raise NotAnExportError(f"{path}: not an ONNX graph, or damaged; export the GGUF again") from error
    return model, Manifest.of_graph(metadata, path)
