"""What there is to know about a GGUF: its header says it all, so no weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gguf
import onnx_ir as ir
from llama3_models.config import Hyperparameters
from llama3_models.gguf.file import GGUFFile, GGUFTensor
from llama3_models.units import format_bytes

from llama3_exporter.contrib.weights_file import WeightsFile
from llama3_exporter.formats import FLOAT_TYPES, FORMATS
from llama3_exporter.host_files import read_tokenizer
from llama3_exporter.inspect.inspection import Architecture, Inspection, Role, TokenizerFacts, Weight, memory

_EMBEDDING = "token_embd.weight"
_ROPE_FACTORS = "rope_freqs.weight"
_ROLES: dict[str, Role] = {"token_embd": "embedding", "output": "head", "output_norm": "norms", "rope_freqs": "other"}
# The parts of a layer in the order in which `llama.py` declares them, and the exporter places their weights.
_LAYER_ORDER = (
    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
)  # fmt: skip
_FLOAT_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def inspect_gguf(path: Path) -> Inspection:
    """Inspect a GGUF; `path` is its file, or any part of a split one.

    Raises:
        Llama3Error: it is no GGUF of a model that we support, or damaged.
    """
    with GGUFFile.open(path) as file:
        config = Hyperparameters.from_gguf(file)
        architecture = architecture_of(config)
        weights = tuple(_weights(file, config))
        vocabulary, warnings = read_tokenizer(file)
        return Inspection(
            path=path,
            about=_about(file),
            facts=None,
            architecture=architecture,
            weights=weights,
            memory=(
                memory(architecture, "native", file.size, "float16"),
                memory(architecture, "contrib", _contrib_memory(file, config), "float32"),
            ),
            tokenizer=None if vocabulary is None else TokenizerFacts.of(vocabulary),
            warnings=warnings,
        )


def architecture_of(config: Hyperparameters) -> Architecture:
    """The numbers that are shown."""
    return Architecture(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
        tied=config.tied,
        rope_theta=config.rope_theta,
        rope_scaled=config.rope_scaling != 1.0 or config.rope_factors is not None,
    )


def _about(file: GGUFFile) -> dict[str, str]:
    count = len(file.parts)
    about = {"format": f"GGUF version {file.version}, {format_bytes(file.size)}" + (f" in {count} files" * (count > 1))}
    if name := file.get_str("general.name", default=None):
        about["name"] = name
    file_type = file.get_int("general.file_type", default=None)
    if file_type in set(gguf.LlamaFileType):
        about["file type"] = gguf.LlamaFileType(file_type).name.removeprefix("MOSTLY_")
    return about


def _weights(file: GGUFFile, config: Hyperparameters) -> Iterator[Weight]:
    """The weights in the order of the file, without the tables of old converters, which `Hyperparameters` ignores."""
    used = {_ROPE_FACTORS, *(tensor.name for tensor in _in_order(file, config))}
    for tensor in file.tensors.values():
        if tensor.name not in used:
            continue
        layer, role = _place(tensor.name)
        packed = _packed(tensor)
        yield Weight(
            tensor.name, layer, role, tensor.type.name, tensor.shape, tensor.n_bytes, packed.form, sum(packed.arrays)
        )


def _place(name: str) -> tuple[int | None, Role]:
    """The layer and the role of a tensor: `blk.N.attn_q.weight` is attention's."""
    parts = name.split(".")
    if parts[0] != "blk":
        return None, _ROLES.get(parts[0], "other")
    role: Role = "norms" if parts[2].endswith("_norm") else "attention" if parts[2].startswith("attn") else "MLP"
    return int(parts[1]), role


class _Packed(NamedTuple):
    """What a contrib graph holds of a tensor: a word for it, and the bytes of its arrays.

    Zero points that are the same in all blocks are no array of its own, because weights share them in the file: they
    are `fill_bytes` times the byte `fill`.
    """

    form: str
    arrays: tuple[int, ...]
    fill: int = 0
    fill_bytes: int = 0


def _packed(tensor: GGUFTensor) -> _Packed:
    """With the options that `llama3-export` has unless told. See docs/quantization.md."""
    size = math.prod(tensor.shape)
    if len(tensor.shape) < 2:
        return _Packed("float32", (4 * size,))
    if tensor.type in FLOAT_TYPES:
        return _Packed(_FLOAT_NAMES[tensor.type.name], (tensor.n_bytes,))
    form = FORMATS[tensor.type]
    rows, blocks = tensor.shape[0], size // form.block_size
    codes, scales = size * form.bits // 8, 4 * blocks
    zero_points = rows * math.ceil(blocks // rows * form.bits / 8)
    name = f"{form.bits}-bit blocks of {form.block_size}"
    if form.zero_point is None:
        return _Packed(
            f"{name} + sums", (codes, scales, zero_points, scales)
        )  # the sums' factors are as many as scales
    return _Packed(name, (codes, scales), form.zero_point * (0x11 if form.bits == 4 else 1), zero_points)


def _contrib_memory(file: GGUFFile, config: Hyperparameters) -> int:
    """What ONNX Runtime holds: the file of weights, and of float matrices that it multiplies by a float32 copy.

    The file is planned as for an export, and never written.
    """
    plan, copies = WeightsFile(), 0
    for tensor in _in_order(file, config):
        packed = _packed(tensor)
        arrays = [(tensor.name, ir.DataType.UINT8, (n_bytes,)) for n_bytes in packed.arrays]
        plan.add_packing(tensor, lambda rows: [rows], arrays)
        if packed.fill_bytes:
            plan.add_fill(tensor.name, packed.fill, (packed.fill_bytes,))
        if tensor.type in FLOAT_TYPES and len(tensor.shape) == 2 and (config.tied or tensor.name != _EMBEDDING):
            copies += 4 * math.prod(tensor.shape)
    return plan.size + copies


def _in_order(file: GGUFFile, config: Hyperparameters) -> Iterator[GGUFTensor]:
    """The tensors that an export places, in its order."""
    layers = (f"blk.{layer}.{module}" for layer in range(config.num_layers) for module in _LAYER_ORDER)
    for module in ("token_embd", *layers, "output_norm", "output"):
        for name in (f"{module}.bias", f"{module}.weight"):
            if name in file.tensors:
                yield file.tensors[name]
