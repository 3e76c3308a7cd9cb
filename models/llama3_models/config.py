"""A model's hyperparameters, read from a GGUF's metadata and checked against its tensors.

The exporter and the numpy reference both build the model from `Hyperparameters`. A file that
`Hyperparameters.from_gguf` accepts is complete: every tensor is there with the right shape, and nothing that affects
the result is ignored. Any other file is refused in one line. The meaning of each key, and its default, are llama.cpp's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import gguf
import numpy as np
import numpy.typing as npt

from llama3_models.architectures import ARCHITECTURES, ROPE_FACTORS, Architecture, Size, TensorShapes
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile, GGUFTensor
from llama3_models.gguf.model_kinds import refuse_other_kinds
from llama3_models.gguf.part import quoted
from llama3_models.gguf.unfinished import refuse_unfinished

_CONVERT = "download or convert the model again"

# Radians per position; models have 1. In double precision, angles at a million positions are still exact to 1e-7.
_FASTEST_ROTATION = 1e3

# Models have 1 to 2.
_LARGEST_ATTENTION_FACTOR = 1e3

# llama.cpp stores it as a signed 32-bit integer.
_LONGEST_ORIGINAL_CONTEXT = (1 << 31) - 1

# Converters of 2023 stored the rotary table as a tensor; llama.cpp has never read it.
_IGNORED_SUFFIXES = ("attn_rot_embd.weight", "attention.rotary_emb.inv_freq")


# YaRN's bounds, in turns over the original context. Pairs that turn more often than the first keep their frequency, and
# pairs that turn less often than the second are slowed by the whole factor. For these architectures, llama.cpp reads no
# bounds from a file.
YARN_BETA_FAST, YARN_BETA_SLOW = 32.0, 1.0

_LINEAR_OF_LAYER = re.compile(r"blk\.(?P<layer>0|[1-9]\d{0,8})\.(?P<linear>\w+)\.(?P<kind>\w+)", re.ASCII)


@dataclass(frozen=True)
class RopeScaling:
    """Changes to the rotation that `rope_theta` defines.

    Attributes:
        factor: How many times longer the context becomes (1.0: unchanged). Linear scaling divides every frequency by
            it, YaRN only the slow ones.
        frequency_factors: A divisor for each frequency, as in Llama 3.1 (the tensor `rope_freqs.weight`), or None.
        original_context: With YaRN, the number of positions before scaling; None for linear scaling.
        attention_factor: Multiplies cosines and sines. It includes YaRN's own part, 1 + 0.1 ln(factor).
    """

    factor: float = 1.0
    frequency_factors: tuple[float, ...] | None = None
    original_context: int | None = None
    attention_factor: float = 1.0


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers that define a model, named as in Hugging Face's configuration.

    `rotary_dim` is the number of leading elements of a head that rotate (usually all `head_dim`), and
    `tie_word_embeddings` says that the output head is the embedding's matrix.
    """

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Hyperparameters:
        """Read the metadata of `file` and check every tensor's presence and shape.

        The checks go from the kind of file to its details, so the first failure is the most helpful one.

        Raises:
            Llama3Error: the file is not a model, its architecture is not one of `ARCHITECTURES`, its download is
                unfinished, a setting is missing, impossible or unsupported, or a tensor is missing, misshapen, unknown
                or of an unsupported type.
        """
        refuse_other_kinds(file)
        architecture = _architecture(file)
        refuse_unfinished(file)
        refuse_unread(file)
        name = architecture.name
        _refuse_what_would_change_the_result(file, name)

        hidden_size = _positive_int(file, f"{name}.embedding_length")
        num_layers = _positive_int(file, f"{name}.block_count")
        num_attention_heads = _of_all_layers(file, f"{name}.attention.head_count", num_layers)
        head_dim = _head_dim(file, name, hidden_size, num_attention_heads)
        hyperparameters = cls(
            architecture=architecture,
            vocab_size=_vocab_size(file),
            hidden_size=hidden_size,
            intermediate_size=_of_all_layers(file, f"{name}.feed_forward_length", num_layers),
            num_hidden_layers=num_layers,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=_of_all_layers(
                file, f"{name}.attention.head_count_kv", num_layers, default=num_attention_heads
            ),
            head_dim=head_dim,
            rotary_dim=_positive_int(file, f"{name}.rope.dimension_count", default=head_dim),
            rope_theta=_positive_float(file, f"{name}.rope.freq_base", default=10_000.0),
            rope_scaling=_rope_scaling(file, architecture),
            rms_norm_eps=_positive_float(file, f"{name}.attention.layer_norm_rms_epsilon"),
            max_position_embeddings=_positive_int(file, f"{name}.context_length"),
            tie_word_embeddings="output.weight" not in file.tensors,
        )
        _check_numbers(file, hyperparameters)
        _check_tensors(file, hyperparameters)
        _check_scales(file)
        _check_rotation(file, hyperparameters)
        return hyperparameters

    def weights(self, file: GGUFFile) -> Mapping[str, GGUFTensor]:
        """Return the tensors of `file` by the names of `architecture`, with each fused one replaced by its parts.

        The parts are views of its rows, so nothing is copied.

        Raises:
            Llama3Error: a fused tensor has the wrong shape, or one of its parts is also in the file.
        """
        weights: dict[str, GGUFTensor] = {}
        for name, tensor in file.tensors.items():
            parts = self.parts_of(name)
            if parts and name.endswith("scale"):  # one number for all parts
                weights |= {part: replace(tensor, name=part) for part in parts}
            elif parts:
                _check_fused(file, name, parts)
                weights |= _rows_of(tensor, parts)
            else:
                weights[name] = tensor
        return weights

    def parts_of(self, name: str) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the parts of a fused tensor of this name; empty for any other name."""
        match = _LINEAR_OF_LAYER.fullmatch(name)
        if match is None or int(match["layer"]) >= self.num_hidden_layers:
            return {}
        shapes = {**self.architecture.required, **self.architecture.optional}
        parts = [f"{part}.{match['kind']}" for part in self.architecture.fused.get(f"blk.*.{match['linear']}", ())]
        if not all(part in shapes for part in parts):
            return {}
        return {part.replace("*", match["layer"]): _numbers(self, shapes[part]) for part in parts}

    @property
    def query_size(self) -> int:
        """Elements of a token's queries."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Elements of a token's keys, and of its values."""
        return self.num_key_value_heads * self.head_dim

    @property
    def rotary_pairs(self) -> int:
        """The number of pairs of a head that rotate."""
        return self.rotary_dim // 2

    @property
    def inverse_frequencies(self) -> npt.NDArray[np.float64]:
        """Radians that each rotating pair of a head turns per position, [rotary_dim / 2], with all scaling."""
        exponents = np.arange(0, self.rotary_dim, 2, dtype=np.float64) / self.rotary_dim
        frequencies = self.rope_theta**-exponents
        scaling = self.rope_scaling
        if scaling is not None:
            slowed = np.ones(self.rotary_pairs)  # from 0 to 1
            if scaling.original_context is not None:
                first, last = yarn_range(self.rotary_dim, self.rope_theta, scaling.original_context)
                slowed = np.clip((np.arange(self.rotary_pairs) - first) / max(0.001, last - first), 0, 1)
            frequencies *= slowed / scaling.factor + (1 - slowed)
            if scaling.frequency_factors is not None:
                frequencies /= np.array(scaling.frequency_factors)
        return np.asarray(frequencies, dtype=np.float64)

    @property
    def attention_factor(self) -> float:
        """The number that multiplies every cosine and sine."""
        return 1.0 if self.rope_scaling is None else self.rope_scaling.attention_factor


def yarn_range(rotary_dim: int, theta: float, original_context: int) -> tuple[float, float]:
    """Return the first pair that YaRN slows, and the first that it slows by the whole factor.

    They turn `YARN_BETA_FAST` and `YARN_BETA_SLOW` times in the original context (https://arxiv.org/abs/2309.00071). As
    in llama.cpp, both are rounded to whole pairs in float32, and the second is bounded by the number of elements.
    """
    turns = np.array([YARN_BETA_FAST, YARN_BETA_SLOW], dtype=np.float32)
    with np.errstate(divide="ignore", over="ignore"):  # a theta of 1, or too large for float32
        positions_per_radian = np.float32(original_context) / (turns * np.float32(2) * np.float32(np.pi))
        pairs = np.float32(rotary_dim) * np.log(positions_per_radian) / (np.float32(2) * np.log(np.float32(theta)))
    return max(0.0, float(np.floor(pairs[0]))), min(rotary_dim - 1.0, float(np.ceil(pairs[1])))


def _architecture(file: GGUFFile) -> Architecture:
    name = file.get_str("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(f"{row.name!r} ({row.models})" for row in ARCHITECTURES.values())
        experts = file.metadata.get(f"{name}.expert_count")
        kind = f" (a mixture of {experts} experts)" if type(experts) is int and experts > 0 else ""
        raise Llama3Error(
            f"{file.path}: the architecture {quoted(name)}{kind} is not supported; use a GGUF of one of these: {known}"
        )
    return ARCHITECTURES[name]


def refuse_unread(file: GGUFFile) -> None:
    """Refuse a file with tensors of unsupported types.

    Raises:
        Llama3Error: it has such a tensor that is not ignored anyway.
    """
    for name, tensor in file.unread.items():
        if not name.endswith(_IGNORED_SUFFIXES):
            raise Llama3Error(
                f"{tensor.part}: tensor {quoted(name)} has the type {tensor.type.name}, {tensor.type.why}"
            )


def _refuse_what_would_change_the_result(file: GGUFFile, name: str) -> None:
    """Refuse settings that llama.cpp applies for these architectures and that are not implemented here."""
    num_experts = file.get_int(f"{name}.expert_count", default=0)
    if num_experts > 0:
        raise Llama3Error(f"{file.path}: a mixture of {num_experts} experts is not supported; use a dense model")
    if not file.get_bool(f"{name}.attention.causal", default=True):
        raise Llama3Error(f"{file.path}: {name}.attention.causal is false; use a causal (text-generating) model")
    scale = file.get_float(f"{name}.attention.scale", default=0.0)
    if scale != 0:
        raise Llama3Error(
            f"{file.path}: {name}.attention.scale = {scale:g} is not supported; use a model without that key"
        )


def _of_all_layers(file: GGUFFile, key: str, num_layers: int, *, default: int | None = None) -> int:
    """Return a number, or the common value of an array with one number per layer."""
    numbers = file.metadata.get(key)
    if not isinstance(numbers, np.ndarray):
        return _positive_int(file, key, default=default)
    if numbers.dtype.kind not in "iu" or len(numbers) != num_layers:
        raise Llama3Error(
            f"{file.path}: {key} is an array of {len(numbers)} values, expected an integer, or one integer for each "
            f"of {num_layers} layers; {_CONVERT}"
        )
    if (numbers != numbers[0]).any():
        raise Llama3Error(
            f"{file.path}: {key} is {numbers.min()} in some layers and {numbers.max()} in others, which is not "
            "supported; use a model whose layers are all alike"
        )
    return _checked_positive(file, key, int(numbers[0]))


def _head_dim(file: GGUFFile, name: str, hidden_size: int, num_attention_heads: int) -> int:
    """Return the length of a head: the file's key_length, by default the hidden size divided by the number of heads."""
    if hidden_size < num_attention_heads and f"{name}.attention.key_length" not in file.metadata:
        raise Llama3Error(
            f"{file.path}: {name}.embedding_length is {hidden_size}, too small for the {num_attention_heads} heads of "
            f"{name}.attention.head_count; {_CONVERT}"
        )
    return _positive_int(file, f"{name}.attention.key_length", default=hidden_size // num_attention_heads)


def _positive_int(file: GGUFFile, key: str, *, default: int | None = None) -> int:
    if isinstance(file.metadata.get(key), np.ndarray):
        raise Llama3Error(
            f"{file.path}: {key} is an array, but only one number for all layers is supported; "
            "use a model whose layers are all alike"
        )
    return _checked_positive(file, key, file.get_int(key) if default is None else file.get_int(key, default=default))


def _checked_positive(file: GGUFFile, key: str, value: int) -> int:
    if value < 1:
        raise Llama3Error(f"{file.path}: {key} is {value}, expected at least 1; {_CONVERT}")
    return value


def _positive_float(file: GGUFFile, key: str, *, default: float | None = None) -> float:
    value = file.get_float(key) if default is None else file.get_float(key, default=default)
    if value <= 0:
        raise Llama3Error(f"{file.path}: {key} is {value}, expected a positive number; {_CONVERT}")
    return value


def _vocab_size(file: GGUFFile) -> int:
    """Return the number of the embedding's rows, one per token; a padded embedding has more.

    llama.cpp refuses a padded one. The key ARCHITECTURE.vocab_size is not used, because fine-tunes that add tokens
    leave the old number there.
    """
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise Llama3Error(f"{file.path}: the tensor token_embd.weight is missing; {_CONVERT}")
    num_rows = embedding.shape[0]
    tokens = file.get_strings("tokenizer.ggml.tokens", default=None)
    if tokens is not None and len(tokens) > num_rows:
        raise Llama3Error(
            f"{file.path}: tokenizer.ggml.tokens lists {len(tokens):,} tokens, but token_embd.weight has only "
            f"{num_rows:,} rows; convert the model again, together with its own tokenizer"
        )
    return num_rows


def _rope_scaling(file: GGUFFile, architecture: Architecture) -> RopeScaling | None:
    """Return the scaling as llama.cpp computes it; None if it changes nothing.

    For these architectures, llama.cpp reads only these YaRN numbers, whatever the converter wrote.
    """
    prefix = f"{architecture.name}.rope.scaling"
    kind = file.get_str(f"{prefix}.type", default="linear")  # so a factor without a type is linear scaling
    if kind not in ("none", "linear", "yarn"):
        raise Llama3Error(
            f"{file.path}: RoPE scaling {quoted(kind)} is not supported, only 'none', 'linear' and 'yarn'; "
            "use another model"
        )
    factor = 1.0 if kind == "none" else _scaling_factor(file, architecture.name)
    attention_factor = _positive_float(file, f"{prefix}.attn_factor", default=1.0)
    original_context = None
    if kind == "yarn" and factor != 1:
        original_context = _original_context(file, architecture.name)
        attention_factor *= 1 + 0.1 * math.log(max(factor, 1.0))
    scaling = RopeScaling(
        factor=factor,
        frequency_factors=_frequency_factors(file) if ROPE_FACTORS in architecture.optional else None,
        original_context=original_context,
        attention_factor=attention_factor,
    )
    return None if scaling == RopeScaling() else scaling


def _scaling_factor(file: GGUFFile, name: str) -> float:
    """Return how many times longer the context becomes; a 0 in the file also means unchanged."""
    key = f"{name}.rope.scaling.factor"
    if key not in file.metadata:
        key = f"{name}.rope.scale_linear"  # its name before GGUF had scaling types
    factor = file.get_float(key, default=0.0)
    if factor < 0:
        raise Llama3Error(f"{file.path}: {key} is {factor}, expected a positive number; {_CONVERT}")
    return factor or 1.0


def _original_context(file: GGUFFile, name: str) -> int:
    """Return the number of positions before YaRN; if the key is missing or 0, that of the model."""
    key = f"{name}.rope.scaling.original_context_length"
    length = file.get_int(key, default=0) or _positive_int(file, f"{name}.context_length")
    if not 0 < length <= _LONGEST_ORIGINAL_CONTEXT:
        raise Llama3Error(f"{file.path}: {key} is {length}, expected a number of positions; {_CONVERT}")
    return length


def _frequency_factors(file: GGUFFile) -> tuple[float, ...] | None:
    tensor = file.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return None
    if tensor.type != gguf.GGMLQuantizationType.F32:
        raise Llama3Error(f"{file.path}: tensor {ROPE_FACTORS} has type {tensor.type.name}, expected F32; {_CONVERT}")
    factors = tensor.dequantize()
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise Llama3Error(
            f"{file.path}: tensor {ROPE_FACTORS} contains values that are not positive numbers; {_CONVERT}"
        )
    return tuple(float(factor) for factor in factors)


def _check_numbers(file: GGUFFile, h: Hyperparameters) -> None:
    name = h.architecture.name
    value_dim = file.get_int(f"{name}.attention.value_length", default=h.head_dim)
    if value_dim != h.head_dim:
        raise Llama3Error(
            f"{file.path}: keys of {h.head_dim} and values of {value_dim} elements per head are not supported, "
            "only equal lengths; use another model"
        )
    if h.num_attention_heads % h.num_key_value_heads:
        raise Llama3Error(
            f"{file.path}: {h.num_attention_heads} attention heads cannot share {h.num_key_value_heads} "
            f"key-value heads; {_CONVERT}"
        )
    if h.rotary_dim % 2 or h.rotary_dim > h.head_dim:
        raise Llama3Error(
            f"{file.path}: {name}.rope.dimension_count is {h.rotary_dim}, expected an even number up to {h.head_dim}, "
            f"the length of a head; {_CONVERT}"
        )


def _check_rotation(file: GGUFFile, h: Hyperparameters) -> None:
    """Refuse numbers that are valid one by one but whose angles are out of range."""
    with np.errstate(all="ignore"):
        frequencies = h.inverse_frequencies
    if not (np.isfinite(frequencies).all() and frequencies.max() <= _FASTEST_ROTATION):
        raise Llama3Error(
            f"{file.path}: {h.architecture.name}.rope.freq_base = {h.rope_theta:g} and the RoPE scaling result in "
            f"angles that cannot be computed; {_CONVERT}"
        )
    key = f"{h.architecture.name}.rope.scaling.attn_factor"
    if h.attention_factor > _LARGEST_ATTENTION_FACTOR:
        raise Llama3Error(
            f"{file.path}: {key} and YaRN multiply queries and keys by {h.attention_factor:g}, expected at most "
            f"{_LARGEST_ATTENTION_FACTOR:g}; {_CONVERT}"
        )
    if h.attention_factor != 1 and h.rotary_dim != h.head_dim:
        raise Llama3Error(
            f"{file.path}: {key} or YaRN is not supported if only {h.rotary_dim} of a head's {h.head_dim} elements "
            "rotate; use another model"
        )


def _named(shapes: TensorShapes, h: Hyperparameters) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of each tensor. It is lazy, so a hostile block_count costs nothing."""
    numbers = {name: _numbers(h, sizes) for name, sizes in shapes.items()}
    for name, shape in numbers.items():
        if "*" not in name:
            yield name, shape
    for layer in range(h.num_hidden_layers):
        for name, shape in numbers.items():
            if "*" in name:
                yield name.replace("*", str(layer)), shape


def _numbers(h: Hyperparameters, sizes: tuple[Size | Literal[1], ...]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else int(getattr(h, size)) for size in sizes)


def _check_fused(file: GGUFFile, name: str, parts: Mapping[str, tuple[int, ...]]) -> None:
    """Accept a fused tensor only if llama.cpp does: it replaces all its parts, and biases may be fused or not."""
    for part in parts:
        if part != name and part in file.tensors:
            raise Llama3Error(f"{file.path}: has both {name} and {part}, but only one is allowed; {_CONVERT}")
    first, *others = parts.values()
    _check_tensor(file, file.tensors[name], (first[0] + sum(shape[0] for shape in others), *first[1:]))
    linear, _, kind = name.rpartition(".")
    if kind != "weight":
        if f"{linear}.weight" not in file.tensors:
            raise Llama3Error(f"{file.path}: has {name}, but no {linear}.weight; {_CONVERT}")
        return
    biases = [part.removesuffix("weight") + "bias" for part in parts]
    found = [bias for bias in biases if bias in file.tensors]
    if 0 < len(found) < len(biases) and f"{linear}.bias" not in file.tensors:
        raise Llama3Error(
            f"{file.path}: {name} needs all of {', '.join(biases)} or none of them, but the file has only "
            f"{', '.join(found)}; {_CONVERT}"
        )


def _rows_of(tensor: GGUFTensor, parts: Mapping[str, tuple[int, ...]]) -> dict[str, GGUFTensor]:
    rows, start = {}, 0
    for name, shape in parts.items():
        rows[name] = tensor.rows(name, start, start + shape[0])
        start += shape[0]
    return rows


def _check_tensors(file: GGUFFile, h: Hyperparameters) -> None:
    weights = h.weights(file)
    known: set[str] = set()
    for name, shape in _named(h.architecture.required, h):
        if name not in weights:
            raise Llama3Error(f"{file.path}: the tensor {name} is missing; {_CONVERT}")
        _check_tensor(file, weights[name], shape)
        known.add(name)
    for name, shape in _named(h.architecture.optional, h):
        if name in weights:
            _check_tensor(file, weights[name], shape)
            known.add(name)
    for name in weights:
        if name not in known and not name.endswith(_IGNORED_SUFFIXES):
            raise Llama3Error(
                f"{file.path}: the tensor {quoted(name)} is not part of a {h.architecture.title} model with "
                f"{h.num_hidden_layers} layers, and ignoring it could change the result; "
                f"use a plain {h.architecture.title} model"
            )


def _check_scales(file: GGUFFile) -> None:
    """Refuse a scale without a weight, and one that would make every product of its weight NaN or infinite."""
    for name, tensor in file.tensors.items():
        if not name.endswith(".scale"):
            continue
        weight = f"{name.removesuffix('scale')}weight"
        if weight not in file.tensors:
            raise Llama3Error(f"{file.path}: tensor {name} has no {weight} to scale; {_CONVERT}")
        (value,) = tensor.dequantize()
        if not np.isfinite(value):
            raise Llama3Error(f"{file.path}: tensor {name} is {value}, expected a finite number; {_CONVERT}")


def _check_tensor(file: GGUFFile, tensor: GGUFTensor, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise Llama3Error(
            f"{file.path}: tensor {tensor.name} has shape {list(tensor.shape)}, expected {list(expected)}; {_CONVERT}"
        )
    if not holds_weights(tensor.type):
        raise Llama3Error(
            f"{file.path}: tensor {tensor.name} has the type {tensor.type.name}, which is not supported for weights; "
            "download or convert the model in another encoding, such as Q4_K_M"
        )


@cache
def holds_weights(tensor_type: gguf.GGMLQuantizationType) -> bool:
    """Return whether gguf can dequantize this type. It cannot for integers and for ggml's internal types."""
    _, block_bytes = gguf.GGML_QUANT_SIZES[tensor_type]
    try:
        gguf.quants.dequantize(np.zeros((1, block_bytes), dtype=np.uint8), tensor_type)
    except NotImplementedError:
        return False
    return True
