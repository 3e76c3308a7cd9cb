"""Llama's numbers, read from a GGUF's metadata and checked against its tensors.

The exporter and the numpy reference both build the model from this one dataclass, so a file that gets past
`Hyperparameters.from_gguf` is complete and means what we compute: every tensor is there with the right shape, there
is no tensor and no setting that would change the result and that we ignore. Whatever is not such a Llama is refused
in one line. The meaning of each key, and the value taken when it is absent, are llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import gguf
import numpy as np
import numpy.typing as npt

from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.gguf.part import quoted

ARCHITECTURE = "llama"

_CONVERT = "download or convert the model again"

# Converters of 2023 stored the rotation's table as a tensor; llama.cpp has never read it.
_IGNORED_SUFFIXES = ("attn_rot_embd.weight", "attention.rotary_emb.inv_freq")


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers that define a Llama, named as in Hugging Face's configuration.

    `rope_dim` is the number of leading elements of a head that rotate (usually all `head_dim`). `rope_scaling` is the
    factor by which linear scaling divides every position (1.0: none). `rope_factors` are Llama 3.1's divisors of the
    rotary frequencies, `rope_dim / 2` of them (the tensor `rope_freqs.weight`), or None. `tied` says that the head
    multiplies by the embedding's matrix.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_dim: int
    rope_theta: float
    rope_scaling: float
    rope_factors: tuple[float, ...] | None
    rms_norm_eps: float
    context_length: int
    tied: bool

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Hyperparameters:
        """Read the metadata of `file` and check every tensor's presence and shape.

        Raises:
            Llama3Error: the architecture is not llama, a setting is missing, impossible or not supported, or a tensor
                is missing, misshapen or unknown.
        """
        architecture = file.get_str("general.architecture")
        if architecture != ARCHITECTURE:
            raise Llama3Error(
                f"{file.path}: the architecture is {quoted(architecture)}, and only {ARCHITECTURE!r} is supported "
                "(Llama 3, 3.1, 3.2, 3.3 and what shares their architecture); give a GGUF of such a model"
            )
        _refuse_what_would_change_the_result(file)

        hidden_size = _positive_int(file, "llama.embedding_length")
        num_attention_heads = _positive_int(file, "llama.attention.head_count")
        head_dim = _positive_int(file, "llama.attention.key_length", default=hidden_size // num_attention_heads)
        hyperparameters = cls(
            vocab_size=_vocab_size(file),
            hidden_size=hidden_size,
            intermediate_size=_positive_int(file, "llama.feed_forward_length"),
            num_layers=_positive_int(file, "llama.block_count"),
            num_attention_heads=num_attention_heads,
            num_key_value_heads=_positive_int(file, "llama.attention.head_count_kv", default=num_attention_heads),
            head_dim=head_dim,
            rope_dim=_positive_int(file, "llama.rope.dimension_count", default=head_dim),
            rope_theta=_positive_float(file, "llama.rope.freq_base", default=10_000.0),
            rope_scaling=_rope_scaling(file),
            rope_factors=_rope_factors(file),
            rms_norm_eps=_positive_float(file, "llama.attention.layer_norm_rms_epsilon"),
            context_length=_positive_int(file, "llama.context_length"),
            tied="output.weight" not in file.tensors,
        )
        _check_numbers(file, hyperparameters)
        _check_tensors(file, hyperparameters)
        return hyperparameters

    @property
    def inverse_frequencies(self) -> npt.NDArray[np.float64]:
        """Radians by which each rotated pair of a head turns per position, [rope_dim / 2], all scaling included."""
        exponents = np.arange(0, self.rope_dim, 2, dtype=np.float64) / self.rope_dim
        frequencies = self.rope_theta**-exponents / self.rope_scaling
        if self.rope_factors is not None:
            frequencies /= np.array(self.rope_factors)
        return np.asarray(frequencies, dtype=np.float64)


def _refuse_what_would_change_the_result(file: GGUFFile) -> None:
    """Refuse settings that llama.cpp obeys for this architecture and that we do not implement."""
    num_experts = file.get_int("llama.expert_count", default=0)
    if num_experts > 0:
        raise Llama3Error(f"{file.path}: a mixture of {num_experts} experts is not supported; give a dense Llama model")
    if not file.get_bool("llama.attention.causal", default=True):
        raise Llama3Error(f"{file.path}: llama.attention.causal is false; give a causal (text generating) model")
    for key, neutral in (("llama.attention.scale", 0.0), ("llama.rope.scaling.attn_factor", 1.0)):
        value = file.get_float(key, default=neutral)
        if value != neutral:
            raise Llama3Error(
                f"{file.path}: {key} = {value:g} is not supported; give a model with {neutral:g}, or without that key"
            )


def _positive_int(file: GGUFFile, key: str, *, default: int | None = None) -> int:
    value = file.get_int(key) if default is None else file.get_int(key, default=default)
    if value < 1:
        raise Llama3Error(f"{file.path}: {key} is {value}, expected at least 1; {_CONVERT}")
    return value


def _positive_float(file: GGUFFile, key: str, *, default: float | None = None) -> float:
    value = file.get_float(key) if default is None else file.get_float(key, default=default)
    if value <= 0:
        raise Llama3Error(f"{file.path}: {key} is {value}, expected a positive number; {_CONVERT}")
    return value


def _vocab_size(file: GGUFFile) -> int:
    """The number of tokens, or without a tokenizer in the file the embedding's rows.

    The key llama.vocab_size is not used: fine-tunes that add tokens leave the old number there.
    """
    tokens = file.get_strings("tokenizer.ggml.tokens", default=None)
    if tokens is not None:
        return len(tokens)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise Llama3Error(f"{file.path}: the tensor token_embd.weight is missing; {_CONVERT}")
    return embedding.shape[0]


def _rope_scaling(file: GGUFFile) -> float:
    """The divisor of positions. As in llama.cpp, a factor without a type is linear, and 0 means no scaling."""
    kind = file.get_str("llama.rope.scaling.type", default="linear")
    if kind == "none":
        return 1.0
    if kind != "linear":
        raise Llama3Error(
            f"{file.path}: RoPE scaling {quoted(kind)} is not supported, only 'none' and 'linear'; give another model"
        )
    key = "llama.rope.scaling.factor"
    if key not in file.metadata:
        key = "llama.rope.scale_linear"  # its name before GGUF had types of scaling
    factor = file.get_float(key, default=0.0)
    if factor < 0:
        raise Llama3Error(f"{file.path}: {key} is {factor}, expected a positive number; {_CONVERT}")
    return factor or 1.0


def _rope_factors(file: GGUFFile) -> tuple[float, ...] | None:
    tensor = file.tensors.get("rope_freqs.weight")
    if tensor is None:
        return None
    if tensor.type != gguf.GGMLQuantizationType.F32:
        raise Llama3Error(
            f"{file.path}: tensor rope_freqs.weight has type {tensor.type.name}, expected F32; {_CONVERT}"
        )
    factors = tensor.dequantize()
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise Llama3Error(
            f"{file.path}: tensor rope_freqs.weight holds values that are not positive numbers; {_CONVERT}"
        )
    return tuple(float(factor) for factor in factors)


def _check_numbers(file: GGUFFile, h: Hyperparameters) -> None:
    value_dim = file.get_int("llama.attention.value_length", default=h.head_dim)
    if value_dim != h.head_dim:
        raise Llama3Error(
            f"{file.path}: keys of {h.head_dim} and values of {value_dim} elements a head are not supported, "
            "only equal lengths; give another model"
        )
    if h.num_attention_heads % h.num_key_value_heads:
        raise Llama3Error(
            f"{file.path}: {h.num_attention_heads} attention heads cannot share {h.num_key_value_heads} "
            f"key-value heads; {_CONVERT}"
        )
    if h.rope_dim % 2 or h.rope_dim > h.head_dim:
        raise Llama3Error(
            f"{file.path}: llama.rope.dimension_count is {h.rope_dim}, expected an even number up to {h.head_dim}, "
            f"the length of a head; {_CONVERT}"
        )


def _required_tensors(h: Hyperparameters) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor that a Llama has, with its shape. Lazy: a hostile block_count costs nothing."""
    q_size, kv_size = h.num_attention_heads * h.head_dim, h.num_key_value_heads * h.head_dim
    yield "token_embd.weight", (h.vocab_size, h.hidden_size)
    yield "output_norm.weight", (h.hidden_size,)
    for layer in range(h.num_layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (h.hidden_size,)
        yield block + "attn_q.weight", (q_size, h.hidden_size)
        yield block + "attn_k.weight", (kv_size, h.hidden_size)
        yield block + "attn_v.weight", (kv_size, h.hidden_size)
        yield block + "attn_output.weight", (h.hidden_size, q_size)
        yield block + "ffn_norm.weight", (h.hidden_size,)
        yield block + "ffn_gate.weight", (h.intermediate_size, h.hidden_size)
        yield block + "ffn_up.weight", (h.intermediate_size, h.hidden_size)
        yield block + "ffn_down.weight", (h.hidden_size, h.intermediate_size)


def _optional_tensors(h: Hyperparameters) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors that some Llamas have: an untied head, Llama 3.1's RoPE factors, a bias for any of the linears."""
    yield "output.weight", (h.vocab_size, h.hidden_size)
    yield "rope_freqs.weight", (h.rope_dim // 2,)
    for name, shape in _required_tensors(h):
        if len(shape) == 2 and name.startswith("blk."):
            yield name.removesuffix("weight") + "bias", shape[:1]


def _check_tensors(file: GGUFFile, h: Hyperparameters) -> None:
    known: set[str] = set()
    for name, shape in _required_tensors(h):
        if name not in file.tensors:
            raise Llama3Error(f"{file.path}: the tensor {name} is missing; {_CONVERT}")
        _check_tensor(file, name, shape)
        known.add(name)
    for name, shape in _optional_tensors(h):
        if name in file.tensors:
            _check_tensor(file, name, shape)
            known.add(name)
    for name in file.tensors:
        if name not in known and not name.endswith(_IGNORED_SUFFIXES):
            raise Llama3Error(
                f"{file.path}: the tensor {quoted(name)} is not part of a Llama model of {h.num_layers} layers, "
                "and leaving it out could change the result; give a plain Llama model"
            )


def _check_tensor(file: GGUFFile, name: str, expected: tuple[int, ...]) -> None:
    tensor = file.tensors[name]
    if tensor.shape != expected:
        raise Llama3Error(
            f"{file.path}: tensor {name} has shape {list(tensor.shape)}, expected {list(expected)}; {_CONVERT}"
        )
    if not _holds_weights(tensor.type):
        raise Llama3Error(
            f"{file.path}: tensor {name} has type {tensor.type.name}, in which no weights are read; "
            "download or convert the model in another encoding"
        )


@cache
def _holds_weights(tensor_type: gguf.GGMLQuantizationType) -> bool:
    """Whether gguf knows which weights a block of this type stands for; integers and ggml's own buffers are none."""
    _, block_bytes = gguf.GGML_QUANT_SIZES[tensor_type]
    try:
        gguf.quants.dequantize(np.zeros((1, block_bytes), dtype=np.uint8), tensor_type)
    except NotImplementedError:
        return False
    return True
