"""The facts about a GGUF. They are all in its header, so no weight is read.

Every readable GGUF has a page; if llama3-export refuses the file, the page says why. The contrib backend tells what
each weight becomes in its graph: it places every weight, but nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import gguf
from llama3_models.architectures import ROPE_FACTORS
from llama3_models.config import Hyperparameters, RopeScaling
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile, GGUFTensor, UnreadTensor
from llama3_models.manifest import ExportOptions
from llama3_models.units import format_bytes
from onnxscript import nn

from llama3_exporter.contrib.backend import ContribBackend
from llama3_exporter.contrib.placed import PlacedTensors
from llama3_exporter.contrib.weights_file import WeightsFile
from llama3_exporter.decoders import DECODERS
from llama3_exporter.decoders.backend import Attention, PositionInputs
from llama3_exporter.host_files import read_tokenizer
from llama3_exporter.inspect.inspection import (
    Inspection,
    ModelNumbers,
    TokenizerFacts,
    Weight,
    block_form,
    layer_and_role,
    memory,
    sum_form,
    tokenizer_facts,
)

# Keys of nearly all architectures, for files of any architecture.
_COUNTS = {
    "block_count": "layers",
    "embedding_length": "elements",
    "expert_count": "experts",
    "context_length": "positions",
}


def inspect_gguf(path: Path) -> Inspection:
    """Inspect a GGUF; `path` is its file, or any part of a split one.

    Raises:
        Llama3Error: the file is not a GGUF, or it is damaged.
    """
    with GGUFFile.open(path) as file:
        tokenizer, warnings = tokenizer_facts(*read_tokenizer(file))
        try:
            config = Hyperparameters.from_gguf(file)
            plan = _Plan(file, config)
        except Llama3Error as error:
            return _refused(path, file, tokenizer, str(error))
        architecture = architecture_of(config)
        return Inspection(
            path=path,
            about=_about(file),
            manifest=None,
            architecture=architecture,
            weights=tuple(_weights(file, config, plan)),
            memory=(
                memory(architecture, "native", file.size, "float16"),
                memory(architecture, "contrib", plan.memory_bytes, str(plan.kv_type.numpy())),
            ),
            tokenizer=tokenizer,
            warnings=warnings,
        )


def _refused(path: Path, file: GGUFFile, tokenizer: TokenizerFacts | None, reason: str) -> Inspection:
    """Inspect a file that cannot be exported."""
    for part in {file.path, *file.parts}:
        reason = reason.removeprefix(f"{part}: ")
    tensors: list[GGUFTensor | UnreadTensor] = [*file.tensors.values(), *file.unread.values()]
    return Inspection(
        path=path,
        about=_about(file) | _says(file),
        manifest=None,
        architecture=None,
        weights=tuple(
            Weight(tensor.name, *layer_and_role(tensor.name), tensor.type.name, tensor.shape, tensor.n_bytes)
            for tensor in tensors
        ),
        memory=(),
        tokenizer=tokenizer,
        warnings=(),
        refused=reason,
    )


def _says(file: GGUFFile) -> dict[str, str]:
    """Return what most kinds of files say about themselves, except values of the wrong type."""
    keys = {"type": "general.type", "base model": "general.base_model.0.name", "model": "general.architecture"}
    said = {heading: value for heading, key in keys.items() if isinstance(value := file.metadata.get(key), str)}
    name = said.get("model")
    for key, what in _COUNTS.items():
        if type(number := file.metadata.get(f"{name}.{key}")) is int and number > 0:
            said["model"] += f", {number:,} {what}"
    return said


def architecture_of(config: Hyperparameters) -> ModelNumbers:
    """Return the numbers to show."""
    return ModelNumbers(
        name=config.architecture.name,
        num_hidden_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        tie_word_embeddings=config.tie_word_embeddings,
        rope_theta=config.rope_theta,
        rope_scaling=_scaling_in_words(config.rope_scaling),
    )


def _scaling_in_words(scaling: RopeScaling | None) -> str:
    if scaling is None:
        return "none"
    words = []
    if scaling.original_context is not None:
        words.append(f"YaRN by {scaling.factor:g} from {scaling.original_context:,} positions")
    elif scaling.factor != 1:
        words.append(f"linear by {scaling.factor:g}")
    if scaling.frequency_factors is not None:
        words.append("a factor for each frequency")
    if scaling.attention_factor != 1:
        words.append(f"attention factor {scaling.attention_factor:.4g}")
    return ", ".join(words)


def _about(file: GGUFFile) -> dict[str, str]:
    count = len(file.parts)
    about = {"format": f"GGUF version {file.version}, {format_bytes(file.size)}" + (f" in {count} files" * (count > 1))}
    # Nothing depends on these two, so a value of the wrong type is not a reason to refuse the file.
    if (name := file.metadata.get("general.name")) and isinstance(name, str):
        about["name"] = name
    file_type = file.metadata.get("general.file_type")
    if type(file_type) is int and file_type in set(gguf.LlamaFileType):
        about["file type"] = gguf.LlamaFileType(file_type).name.removeprefix("MOSTLY_")
    return about


def _weights(file: GGUFFile, config: Hyperparameters, plan: _Plan) -> Iterator[Weight]:
    """Yield the weights in the order of the file, without old converters' tables, which `Hyperparameters` ignores."""
    for tensor in file.tensors.values():
        parts = [name for name in config.parts_of(tensor.name) or [tensor.name] if name in plan.placed.arrays]
        if parts:
            form = plan.form(parts[0])
            n_bytes = sum(array.nbytes for part in parts for array in plan.placed.arrays[part])
        elif tensor.name == ROPE_FACTORS:  # part of the rotary frequencies, which are in the graph itself
            form, n_bytes = "float32", 4 * math.prod(tensor.shape)
        else:
            continue
        layer, role = layer_and_role(tensor.name)
        yield Weight(tensor.name, layer, role, tensor.type.name, tensor.shape, tensor.n_bytes, form, n_bytes)


class _Plan(ContribBackend):
    """The contrib graph that an export with the default options would write.

    Positions and attention are omitted: they have no weights, and ONNX Runtime's limits on them do not matter here.
    """

    def __init__(self, file: GGUFFile, config: Hyperparameters) -> None:
        options = ExportOptions("contrib", "int8", "fp32", "last", config.max_position_embeddings)
        self.placed = PlacedTensors(config.weights(file), WeightsFile(), split_8_bits=False)
        super().__init__(file, config, self.placed, options)
        DECODERS[config.architecture.name](config, self)

    def positions(self) -> PositionInputs:
        """Return an empty module."""
        return nn.Module()

    def attention(self, **_: bool) -> Attention:
        """Return an empty module."""
        return nn.Module()

    def form(self, name: str) -> str:
        """Describe what a tensor becomes."""
        if name not in self.placed.quantized:
            return str(self.placed.arrays[name][0].dtype.numpy())
        weight = next(iter(self.placed.quantized[name].values()))
        part = weight.parts[0]
        form = block_form(part.bits, part.block_size)
        return sum_form(form, parts=len(weight.parts), corrected=weight.correction is not None)
