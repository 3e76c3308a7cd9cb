"""The check of a whole model: its weights are finite, and an export's files have not changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from llama3_models.digests import fingerprint, sha256
from llama3_models.errors import Llama3Error
from llama3_models.exports import MANIFEST, WASM_GRAPH, WEBGPU_GRAPH, graph_in
from llama3_models.gguf.file import GGUFFile
from llama3_models.gguf.model_kinds import other_kind
from llama3_models.gguf.part import quoted
from llama3_models.gguf.unfinished import refuse_unfinished
from llama3_models.manifest import Manifest, Part
from onnx import TensorProto

from llama3_exporter.finite import refuse_not_finite
from llama3_exporter.graph_file import read_graph

_READ_BYTES = 16 << 20
_FLOATS: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}

Progress = Callable[[int, int], None]


def check_gguf(path: Path, progress: Progress | None = None) -> str:
    """Read every tensor of a GGUF and check that it is finite.

    Returns:
        The result in words.

    Raises:
        Llama3Error: the check fails.
    """
    with GGUFFile.open(path) as file:
        if other_kind(file) is None:  # zeros are normal in an adapter
            refuse_unfinished(file)
        checked = refuse_not_finite(file, progress)
        return _all_finite(checked, len(file.tensors) + len(file.unread))


def check_export(path: Path, progress: Progress | None = None) -> str:
    """Read and check every file that an export's manifest names; `path` is its folder or its graph.

    Returns:
        The result in words.

    Raises:
        Llama3Error: the check fails.
    """
    try:
        return _check_export(path, graph_in(path) if path.is_dir() else path, progress)
    except OSError as error:
        raise Llama3Error(f"{error.filename or path}: cannot be read ({error.strerror}); try again") from error


def _check_export(path: Path, graph_path: Path, progress: Progress | None) -> str:
    folder = graph_path.parent
    model, manifest = read_graph(graph_path)
    if path.is_dir() and (path / MANIFEST).exists() and Manifest.of_folder(path) != manifest:
        raise Llama3Error(
            f"{path / MANIFEST}: belongs to a different export than {graph_path.name}; put the files of one export "
            "together, or export the GGUF again"
        )
    if manifest.options.ops == "native":
        # The graph points to bytes of exactly this file, so compare it before trusting its header.
        for part in manifest.source.parts:
            _check_file(folder, part, "the GGUF of this graph")
        checked = check_gguf(folder / manifest.source.parts[0].name, progress)
        return f"the GGUF matches this graph in size and samples; {checked}"
    _check_sizes(folder, model.graph)
    whole = [_check_file(folder, part, "the weights of this graph") for part in manifest.weights]
    if graph_path == path / WEBGPU_GRAPH:
        _check_wasm(path, manifest)
    checked = _all_finite(*_check_floats(folder, model.graph))
    if whole and all(whole):
        return f"the weights match this graph byte for byte; {checked}"
    known = "size and samples" if whole and any(part.fingerprint for part in manifest.weights) else "size"
    return (
        f"the weights match this graph in {known} (an older version wrote this export without checksums: export the "
        f"GGUF again to add them); {checked}"
    )


def _check_wasm(path: Path, manifest: Manifest) -> None:
    """Check the graph for WebAssembly in the folder of an export for the web, whose weights may be a copy."""
    graph_path = path / WASM_GRAPH
    model, own = read_graph(graph_path)
    if _without_names(own) != _without_names(manifest):
        raise Llama3Error(
            f"{graph_path}: belongs to a different export than {Path(WEBGPU_GRAPH).name}; put the files of one export "
            "together, or export the GGUF again"
        )
    _check_sizes(graph_path.parent, model.graph)
    for part, other in zip(own.weights, manifest.weights, strict=True):
        place = graph_path.parent / part.name
        if not (place.is_file() and place.samefile(place.with_name(other.name))):
            _check_file(graph_path.parent, part, "the weights of this graph")


def _without_names(manifest: Manifest) -> Manifest:
    """Return a manifest without the names of its weights files, which differ between the two graphs for the web."""
    return replace(manifest, weights=tuple(replace(part, name="") for part in manifest.weights))


def _check_file(folder: Path, part: Part, what: str) -> bool:
    """Compare a file with its description in the manifest, and return whether that covers every byte."""
    path = folder / part.name
    if not path.is_file():
        raise Llama3Error(f"{path}: no such file; put {what} back, or export the GGUF again")
    size = path.stat().st_size
    if part.size is not None and size != part.size:
        raise Llama3Error(f"{path}: has {size:,} bytes, not {part.size:,}; put {what} back, or export the GGUF again")
    if part.sha256 is not None:
        same = sha256(path) == part.sha256
    else:
        same = part.fingerprint is None or fingerprint(path) == part.fingerprint
    if not same:
        raise Llama3Error(f"{path}: has changed since the export; put {what} back, or export the GGUF again")
    return part.sha256 is not None


def _check_sizes(folder: Path, graph: onnx.GraphProto) -> None:
    """Refuse files of weights that are missing or too short for the graph, whatever the manifest says."""
    for tensor, name, offset, length in _external(graph):
        path = folder / name
        if not path.is_file():
            raise Llama3Error(f"{path}: no such file; put the weights of this graph back, or export the GGUF again")
        if path.stat().st_size < offset + length:
            raise Llama3Error(f"{path}: too short for {quoted(tensor.name)}; export the GGUF again")


def _check_floats(folder: Path, graph: onnx.GraphProto) -> tuple[int, int]:
    """Refuse a scale, correction or float weight that is not finite; return the arguments for `_all_finite`."""
    tensors = list(_external(graph))
    for tensor, name, offset, length in tensors:
        dtype = _FLOATS.get(tensor.data_type)
        if dtype is None:
            continue  # codes and zero points
        for start in range(0, length, _READ_BYTES):
            count = min(_READ_BYTES, length - start) // dtype.itemsize
            values = np.fromfile(folder / name, dtype, count, offset=offset + start)
            if not np.isfinite(values).all():
                raise Llama3Error(
                    f"{folder / name}: {quoted(tensor.name)} contains NaN or infinity; export the GGUF again, which "
                    "names the tensor if the GGUF itself is damaged"
                )
    return len(tensors), len(tensors)


def _external(graph: onnx.GraphProto) -> list[tuple[onnx.TensorProto, str, int, int]]:
    """Return the tensors stored in other files, each with the file's name, its offset and length."""
    found = []
    for tensor in graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if "location" in where:
            try:
                offset, length = int(where.get("offset", 0)), int(where.get("length", 0))
            except ValueError:
                offset = length = -1
            if min(offset, length) < 0:
                raise Llama3Error(
                    f"the graph is damaged (bad offset or length of {quoted(tensor.name)}); export the GGUF again"
                )
            found.append((tensor, where["location"], offset, length))
    return found


def _all_finite(checked: int, tensors: int) -> str:
    if not tensors:
        return "there are no tensors to check"
    if checked == tensors:
        return f"all {checked:,} tensors are finite"
    return f"{checked:,} of {tensors:,} tensors are finite; the types of the others are not supported"
