"""The facts about an export. Only the graph is read: it says what its weights are and where they are stored."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import onnx
from llama3_models.errors import Llama3Error
from llama3_models.exports import WASM_GRAPH, WEBGPU_GRAPH, folder_of, graph_in
from llama3_models.gguf.file import GGUFFile
from llama3_models.manifest import PRODUCER, Manifest
from llama3_models.tokenizer.files import read_vocabulary
from llama3_models.tokenizer.vocabulary import NoTokenizerError
from llama3_models.units import format_bytes
from onnx import TensorProto

from llama3_exporter.contrib.modules import CONTRIB, CORRECTION
from llama3_exporter.graph_file import read_graph
from llama3_exporter.host_files import read_tokenizer
from llama3_exporter.inspect.inspection import (
    ITEM_BYTES,
    Inspection,
    Memory,
    ModelNumbers,
    TokenizerFacts,
    Weight,
    block_form,
    layer_and_role,
    memory,
    sum_form,
    tokenizer_facts,
)
from llama3_exporter.native.modules import DOMAIN

# The graph's tensors are named after the modules of `decoders/`; a weight may consist of several.
_TENSOR_NAME = re.compile(
    rf"(?P<weight>.+?)(?:\.parts\.\d+)?\.(?:weight|scales|zero_points|{CORRECTION})|.+[._](?:bias|scale)"
)
_ROTARY_TABLES = {f"positions.{part}_{function}" for part in ("start", "offset") for function in ("cos", "sin")}
_ZERO_POINTS = "zero_points"  # the name of zero points that weights share
_FLOATS: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}
_COUNTS = {"K", "N", "bits", "block_size"}  # attributes of the ops that multiply by quantized weights
_TOO_MANY = 1 << 63  # ONNX counts in signed 64-bit integers


class _Tensor(NamedTuple):
    """An array of a weight, and where its bytes are: in the file `location`, or in the graph if that is None."""

    name: str
    weight: str
    location: str | None
    offset: int
    length: int

    @property
    def place(self) -> tuple[str, int]:
        """Where its bytes are; equal for tensors that share them."""
        return self.location or self.name, self.offset


class _Matrix(NamedTuple):
    """The form of a tensor's numbers, and how many rows and columns they have."""

    form: str
    shape: tuple[int, ...]


def inspect_export(path: Path) -> Inspection:
    """Inspect an export; `path` is its folder or its graph.

    Raises:
        Llama3Error: the graph is missing, damaged, or not from llama3-export.
    """
    graph_path = graph_in(path) if path.is_dir() else path
    model, manifest = read_graph(graph_path)
    if manifest.options.target == "web" and graph_path.name == Path(WASM_GRAPH).name:
        raise Llama3Error(
            f"{graph_path}: the graph for WebAssembly, which unpacks the same weights as {Path(WEBGPU_GRAPH).name}; "
            "inspect that one, or the folder"
        )
    try:
        return _inspect(path, graph_path, model.graph, manifest)
    except Llama3Error:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration) as error:
        problem = str(error) if isinstance(error, ValueError | TypeError) else repr(error)
        raise Llama3Error(f"{graph_path}: damaged graph ({problem[:200]}); export the GGUF again") from error


def _inspect(path: Path, graph_path: Path, graph: onnx.GraphProto, manifest: Manifest) -> Inspection:
    tensors = list(_tensors(graph))
    weights = tuple(_weights(graph, tensors))
    architecture = _architecture(graph, weights, manifest)
    _check(architecture, weights)
    files = _file_sizes(tensors)
    tokenizer, warnings = _tokenizer(folder_of(graph_path), manifest)
    return Inspection(
        path=path,
        about=_about(graph_path, graph, manifest, sum(files.values())),
        manifest=manifest,
        architecture=architecture,
        weights=weights,
        memory=(_memory(graph, architecture, manifest, sum(files.values())),),
        tokenizer=tokenizer,
        warnings=(*warnings, *_warnings(graph_path.parent, files)),
    )


def _check(architecture: ModelNumbers, weights: Sequence[Weight]) -> None:
    """Refuse numbers that a graph can contain but no model can have.

    Raises:
        ValueError: a number is out of range.
    """
    for name, number in vars(architecture).items():
        if number is not None and not isinstance(number, bool | str):
            _check_count(name, number)
    for weight in weights:
        _check_count(f"bytes of {weight.name}", weight.bytes)
        if weight.name != _ZERO_POINTS:
            if len(weight.shape) > 2:
                raise ValueError(f"{weight.name} has {len(weight.shape)} dimensions")
            _check_shape(weight.name, weight.shape)
    if {weight.layer for weight in weights} - {None} != set(range(architecture.num_hidden_layers)):
        raise ValueError(f"its weights do not match the number of layers, {architecture.num_hidden_layers}")


def _check_count(name: str, number: object) -> None:
    if type(number) is not int or not 1 <= number < _TOO_MANY:
        raise ValueError(f"{name} is {str(number)[:40]}")


def _check_shape(name: str, shape: Sequence[int]) -> None:
    for size in shape:
        _check_count(f"a dimension of {name}", size)
    if not shape or math.prod(shape) >= _TOO_MANY:
        raise ValueError(f"{name} has shape {list(shape)}")


def _warnings(folder: Path, files: Mapping[str, int]) -> Iterator[str]:
    """Yield a warning for each file of weights that is missing or too short for the graph."""
    for name, needed in files.items():
        if not (folder / name).is_file():
            yield f"{name}, which contains weights, is not beside the graph; put it back, or export the GGUF again"
        elif (size := (folder / name).stat().st_size) < needed:
            yield f"{name} has {size:,} of the {needed:,} bytes of weights that the graph needs; export the GGUF again"


def _about(path: Path, graph: onnx.GraphProto, manifest: Manifest, weight_bytes: int) -> dict[str, str]:
    options, source = manifest.options.to_dict(), manifest.source
    special = Counter(node.op_type for node in graph.node if node.domain in (CONTRIB, DOMAIN))
    adapters = ", ".join(f"{adapter.name} (scale {adapter.scale:g})" for adapter in manifest.adapters)
    counts = [f"{name}:{count}" for name, count in special.most_common()]
    sizes = f"a graph of {format_bytes(path.stat().st_size)}, {format_bytes(weight_bytes)} of weights"
    return {
        "format": f"export with {options.pop('ops')} ops: {sizes}",
        "made of": f"{source.name}, {format_bytes(source.size)} of {', '.join(manifest.types)}",
        "made by": f"{PRODUCER} {manifest.version}",
        "options": ", ".join(f"{name} {value}" for name, value in options.items()),
        **({"adapters": adapters} if adapters else {}),
        "ops": ", ".join([*counts, f"and {len(graph.node) - special.total():,} of ONNX's own"]),
    }


def _tensors(graph: onnx.GraphProto) -> Iterator[_Tensor]:
    for tensor in graph.initializer:
        if match := _TENSOR_NAME.fullmatch(tensor.name):
            where = {entry.key: entry.value for entry in tensor.external_data}
            offset, length = int(where.get("offset", 0)), int(where.get("length", len(tensor.raw_data)))
            _check_shape(tensor.name, tensor.dims)
            _check_count(f"bytes of {tensor.name}", length)
            if not 0 <= offset < _TOO_MANY:
                raise ValueError(f"{tensor.name} starts at byte {str(offset)[:40]}")
            yield _Tensor(tensor.name, match["weight"] or tensor.name, where.get("location"), offset, length)


def _file_sizes(tensors: Sequence[_Tensor]) -> dict[str, int]:
    """Return the size of each file of weights, up to the end of its last tensor."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if tensor.location is not None:
            sizes[tensor.location] = max(sizes.get(tensor.location, 0), tensor.offset + tensor.length)
    return sizes


def _weights(graph: onnx.GraphProto, tensors: Sequence[_Tensor]) -> Iterator[Weight]:
    """Yield the weights, except those that share another's bytes, such as a head tied to the embedding.

    Zero points that are the same in all blocks come last, as a separate weight without numbers: the file contains them
    once for all weights of a type. A weight with its own zero points also has a correction.
    """
    matrices = dict(_matrices(graph))
    owners: dict[tuple[str, int], str] = {}
    lengths: dict[tuple[str, int], int] = {}
    parts: dict[str, list[_Tensor]] = {}
    with_own = {tensor.weight for tensor in tensors if tensor.name.endswith(f".{CORRECTION}")}
    for tensor in tensors:
        shared = tensor.name.endswith(".zero_points") and tensor.weight not in with_own
        owners.setdefault(tensor.place, _ZERO_POINTS if shared else tensor.weight)
        lengths[tensor.place] = max(lengths.get(tensor.place, 0), tensor.length)
        parts.setdefault(tensor.weight, []).append(tensor)
    for name, group in parts.items():
        held = [tensor for tensor in group if tensor.name in matrices]
        if all(owners[tensor.place] != name for tensor in held):
            continue
        form, shape = matrices[held[0].name]
        corrected = any(tensor.name.endswith(f".{CORRECTION}") for tensor in group)
        form = sum_form(form, parts=len(held), corrected=corrected)
        own = {tensor.place for tensor in group if owners[tensor.place] == name}
        yield Weight(name, *layer_and_role(name), form, shape, sum(lengths[place] for place in own))
    if zero_points := [place for place, owner in owners.items() if owner == _ZERO_POINTS]:
        n_bytes = sum(lengths[place] for place in zero_points)
        yield Weight(_ZERO_POINTS, None, "other", "shared zero points", (0,), n_bytes)


def _matrices(graph: onnx.GraphProto) -> Iterator[tuple[str, _Matrix]]:
    """Yield the tensors that contain a weight's numbers or codes, with their form and shape."""
    tensors = {tensor.name: tensor for tensor in graph.initializer if _TENSOR_NAME.fullmatch(tensor.name)}
    for name, tensor in tensors.items():
        if tensor.data_type in _FLOATS and name.endswith(("weight", "bias", "scale")):
            yield name, _Matrix(_FLOATS[tensor.data_type], tuple(tensor.dims))
    for node in graph.node:
        values = _attributes(node)
        if node.domain in (CONTRIB, DOMAIN):
            for key in _COUNTS & set(values):
                _check_count(key, values[key])
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            name = node.input[1 if node.op_type == "MatMulNBits" else 0]
            dims, bits = tensors[name].dims, values["bits"]
            columns = dims[-1] * 8 // bits * (dims[1] if len(dims) > 2 else 1)
            yield name, _Matrix(block_form(bits, values["block_size"]), (dims[0], columns))
        elif node.op_type in ("BlockQuantizedMatMul", "BlockQuantizedGather", "BlockQuantizedMatMuls"):
            names = [name for name in node.input if name in tensors and name.endswith(".weight")]
            formats = values["formats" if "formats" in values else "format"].decode().split(",")
            for name, form in zip(names, formats, strict=True):
                type_name = gguf.GGMLQuantizationType[form.upper()].name
                yield name, _Matrix(type_name, (tensors[name].dims[0], values["K"]))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _architecture(graph: onnx.GraphProto, weights: Sequence[Weight], manifest: Manifest) -> ModelNumbers:
    shapes = {weight.name: weight.shape for weight in weights}
    caches = [value for value in graph.input if value.name.startswith("past_key_values.")]
    _, kv_heads, _, head_dim = (dim.dim_value for dim in caches[0].type.tensor_type.shape.dim)
    vocab_size, hidden_size = shapes["embed_tokens"]
    return ModelNumbers(
        name=manifest.architecture,
        num_hidden_layers=len(caches) // 2,
        hidden_size=hidden_size,
        intermediate_size=shapes["layers.0.mlp.gate_proj"][0],
        num_attention_heads=shapes["layers.0.self_attn.q_proj"][0] // head_dim,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab_size,
        max_position_embeddings=manifest.options.max_length,
        tie_word_embeddings="lm_head" not in shapes,
    )


def _memory(graph: onnx.GraphProto, architecture: ModelNumbers, manifest: Manifest, weight_bytes: int) -> Memory:
    cache = next(value for value in graph.input if value.name.startswith("past_key_values."))
    cache_type = _FLOATS[cache.type.tensor_type.elem_type]
    ops = manifest.options.ops
    copies = sum(_float_copies(graph)) if ops == "contrib" else 0
    within = sum(
        len(tensor.raw_data)
        for tensor in graph.initializer
        if tensor.name.endswith(".weight") or tensor.name in _ROTARY_TABLES
    )
    return memory(architecture, ops, weight_bytes + within + copies, cache_type)


def _float_copies(graph: onnx.GraphProto) -> Iterator[int]:
    """Yield the size of ONNX Runtime's copy of each float weight, in the type that it multiplies with."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    transposed = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    for node in graph.node:
        if node.op_type in ("FusedMatMul", "MatMul"):
            name = transposed.get(node.input[1], node.input[1])
            cast = casts.get(name)
            tensor = tensors[cast.input[0] if cast is not None else name]
            if tensor.name.endswith(".weight"):
                rows, columns = tensor.dims
                data_type = _attributes(cast)["to"] if cast is not None else tensor.data_type
                yield rows * columns * ITEM_BYTES[_FLOATS[data_type]]


def _tokenizer(folder: Path, manifest: Manifest) -> tuple[TokenizerFacts | None, tuple[str, ...]]:
    """Return the tokenizer in the folder (tokenizer.json, or that of a GGUF beside the graph), and warnings."""
    path = folder / "tokenizer.json"
    source = folder / manifest.source.parts[0].name
    if not path.is_file() and not source.is_file():
        return None, (str(NoTokenizerError(folder)),)
    try:
        if path.is_file():
            return tokenizer_facts(read_vocabulary(path), None)
        with GGUFFile.open(source) as file:
            return tokenizer_facts(*read_tokenizer(file))
    except Llama3Error as error:
        return None, (f"llama3-run cannot use this export's tokenizer and needs --tokenizer-path ({error})",)
