"""The supported architectures: their names, and the tensors of their GGUFs.

Their computation is in the exporter's `decoders/`, and for comparison in `reference/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

Size: TypeAlias = Literal[
    "vocab_size", "hidden_size", "intermediate_size", "query_size", "key_value_size", "head_dim", "rotary_pairs"
]
"""A number of `config.Hyperparameters`, by its name."""

TensorShapes: TypeAlias = Mapping[str, tuple[Size | Literal[1], ...]]
"""Shapes by tensor name, rows first; a `*` stands for the number of each layer."""

ROPE_FACTORS: Final = "rope_freqs.weight"
"""The tensor with the divisors of the rotary frequencies."""


@dataclass(frozen=True)
class Architecture:
    """A row of `ARCHITECTURES`.

    Attributes:
        name: The GGUF's `general.architecture`, and the beginning of its metadata keys.
        title: The usual name of a model that has it.
        models: The models that have it, for messages.
        model_type: The `model_type` in Hugging Face's configuration, and the type in onnxruntime-genai's.
        model_class: The class in Hugging Face's transformers.
        required: The tensors that every model has.
        optional: The tensors that only some models have.
        fused: Linears that a file may have instead of several others; the value names those, in the order of their
            rows. Names are without `.weight` and `.bias`. The biases may be fused as well, or stay separate.
    """

    name: str
    title: str
    models: str
    model_type: str
    model_class: str
    required: TensorShapes
    optional: TensorShapes
    fused: Mapping[str, tuple[str, ...]]


_REQUIRED: Final[TensorShapes] = MappingProxyType(
    {
        "token_embd.weight": ("vocab_size", "hidden_size"),
        "output_norm.weight": ("hidden_size",),
        "blk.*.attn_norm.weight": ("hidden_size",),
        "blk.*.attn_q.weight": ("query_size", "hidden_size"),
        "blk.*.attn_k.weight": ("key_value_size", "hidden_size"),
        "blk.*.attn_v.weight": ("key_value_size", "hidden_size"),
        "blk.*.attn_output.weight": ("hidden_size", "query_size"),
        "blk.*.ffn_norm.weight": ("hidden_size",),
        "blk.*.ffn_gate.weight": ("intermediate_size", "hidden_size"),
        "blk.*.ffn_up.weight": ("intermediate_size", "hidden_size"),
        "blk.*.ffn_down.weight": ("hidden_size", "intermediate_size"),
    }
)
# Without it, the embedding is also the head.
_HEAD: Final[TensorShapes] = MappingProxyType({"output.weight": ("vocab_size", "hidden_size")})
# One number that multiplies the product of a weight, before the bias. Converters write it for NVFP4, whose block scales
# have only 8 bits. The input's scale is for engines that round activations to NVFP4; llama.cpp reads it but does not
# use it.
_SCALES: Final[TensorShapes] = MappingProxyType(
    {
        name.removesuffix("weight") + ending: (1,)
        for name, shape in {**_REQUIRED, **_HEAD}.items()
        if name != "token_embd.weight" and len(shape) == 2
        for ending in ("scale", "input_scale")
    }
)
# The original Qwen2 models have them and Qwen3's do not; llama.cpp uses them if they are there.
_QKV_BIASES: Final[TensorShapes] = MappingProxyType(
    {
        "blk.*.attn_q.bias": ("query_size",),
        "blk.*.attn_k.bias": ("key_value_size",),
        "blk.*.attn_v.bias": ("key_value_size",),
    }
)

# As llama.cpp's converter writes them with --fuse-qkv.
_FUSED_QKV: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"blk.*.attn_qkv": ("blk.*.attn_q", "blk.*.attn_k", "blk.*.attn_v")}
)

_LLAMA = Architecture(
    name="llama",
    title="Llama",
    models="Llama 3, 3.1, 3.2 and 3.3, SmolLM2 and others that share it",
    model_type="llama",
    model_class="LlamaForCausalLM",
    required=_REQUIRED,
    optional={
        **_HEAD,
        **_SCALES,
        ROPE_FACTORS: ("rotary_pairs",),
        **{
            name.removesuffix("weight") + "bias": shape[:1]
            for name, shape in _REQUIRED.items()
            if name.startswith("blk.") and len(shape) == 2
        },
    },
    fused=_FUSED_QKV,
)

_QWEN2 = Architecture(
    name="qwen2",
    title="Qwen2",
    models="Qwen2, Qwen2.5 and models distilled into them",
    model_type="qwen2",
    model_class="Qwen2ForCausalLM",
    required=_REQUIRED,
    optional={**_HEAD, **_SCALES, **_QKV_BIASES},
    fused=_FUSED_QKV,
)

_QWEN3 = Architecture(
    name="qwen3",
    title="Qwen3",
    models="dense Qwen3",
    model_type="qwen3",
    model_class="Qwen3ForCausalLM",
    required={
        **_REQUIRED,
        "blk.*.attn_q_norm.weight": ("head_dim",),
        "blk.*.attn_k_norm.weight": ("head_dim",),
    },
    optional={**_HEAD, **_SCALES, **_QKV_BIASES},
    fused=_FUSED_QKV,
)

ARCHITECTURES: Final[Mapping[str, Architecture]] = {row.name: row for row in (_LLAMA, _QWEN2, _QWEN3)}
"""The architectures by name."""
