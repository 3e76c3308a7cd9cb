"""The facts that `llama3-inspect` finds out about a model, whether it is a GGUF or an export."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from llama3_models.errors import Llama3Error
from llama3_models.exports import Ops
from llama3_models.manifest import Manifest
from llama3_models.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from llama3_models.tokenizer.vocabulary import FOUND_BY_TEXT, ByteLevelBPE, Vocabulary

from llama3_exporter.tokenizers.read_back import why_unusable

Role = Literal["embedding", "attention", "MLP", "norms", "head", "other"]
"""The part of a model that a weight belongs to."""

ITEM_BYTES = {"float16": 2, "float32": 4}
"""Bytes per element of the types that the ops attend and multiply in."""

K = TypeVar("K", bound=Hashable)

# Names in a GGUF and in a graph: outside the layers, then inside.
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("token_embd", "embed_tokens"), "embedding"),
    **dict.fromkeys(("output_norm", "norm"), "norms"),
    **dict.fromkeys(("output", "lm_head"), "head"),
}
_IN_LAYER = re.compile(r"(?:blk|layers)\.(?P<layer>\d{1,6})\.(?P<module>.+)")


@dataclass(frozen=True)
class Weight:
    """One weight of a model. Bytes that it shares with an earlier weight are not counted.

    Attributes:
        name: The name in the file; `zero_points` for those that an export's weights share.
        layer: The index of its block; None outside the blocks.
        role: The part of the model that it belongs to.
        form: The GGML type, or the form in a contrib graph.
        shape: Rows first, [N, K] or [N]; [0] for shared zero points, which do not represent numbers.
        bytes: Its size in the file.
        contrib_form: The form of a GGUF's weight in a contrib graph; None for an export, and for a GGUF that cannot be
            exported.
        contrib_bytes: Its size in a contrib graph, without shared zero points.
    """

    name: str
    layer: int | None
    role: Role
    form: str
    shape: tuple[int, ...]
    bytes: int
    contrib_form: str | None = None
    contrib_bytes: int | None = None

    @property
    def parameters(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Total:
    """The sum of some weights; `contrib_bytes` is None if no weight has any."""

    tensors: int
    parameters: int
    bytes: int
    contrib_bytes: int | None

    @property
    def bits(self) -> float:
        """Bits per weight; 0 without weights."""
        return 8 * self.bytes / self.parameters if self.parameters else 0.0

    @property
    def contrib_bits(self) -> float | None:
        """Bits per weight in a contrib graph."""
        return None if self.contrib_bytes is None else 8 * self.contrib_bytes / max(self.parameters, 1)


def layer_and_role(name: str) -> tuple[int | None, Role]:
    """Return the layer and role of a weight: `blk.N.attn_q.weight` and `layers.N.self_attn.q_proj` are attention."""
    match = _IN_LAYER.fullmatch(name)
    if match is None:
        return None, _ROLES.get(name.split(".")[0], "other")
    module = match["module"]
    role: Role = "norms" if "norm" in module else "attention" if "attn" in module else "MLP"
    return int(match["layer"]), role


def block_form(bits: int, block_size: int) -> str:
    """Describe a part of a quantized weight in a contrib graph."""
    return f"{bits}-bit blocks of {block_size}"


def sum_form(form: str, *, parts: int, corrected: bool) -> str:
    """Describe the sum of parts, all of the same form, and perhaps a correction."""
    return f"{'two ' * (parts > 1)}{form}{' + sums' * corrected}"


def total(weights: Iterable[Weight]) -> Total:
    """Add up some weights."""
    weights = list(weights)
    contrib = [weight.contrib_bytes for weight in weights if weight.contrib_bytes is not None]
    return Total(
        len(weights),
        sum(weight.parameters for weight in weights),
        sum(weight.bytes for weight in weights),
        sum(contrib) if contrib else None,
    )


def totals(weights: Iterable[Weight], key: Callable[[Weight], K]) -> dict[K, Total]:
    """Add up the weights of each key, in the order in which the keys first appear."""
    groups: dict[K, list[Weight]] = {}
    for weight in weights:
        groups.setdefault(key(weight), []).append(weight)
    return {name: total(group) for name, group in groups.items()}


@dataclass(frozen=True)
class ModelNumbers:
    """The numbers of the model, as in `Hyperparameters`; `rope_theta` and `rope_scaling` are None for an export."""

    name: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    rope_theta: float | None = None
    rope_scaling: str | None = None


@dataclass(frozen=True)
class Memory:
    """The memory needed to run with one kind of ops, in bytes, without ONNX Runtime's work space."""

    ops: Ops
    weights: int
    kv_cache_type: str
    kv_cache_per_position: int

    def total(self, context: int) -> int:
        """Return the memory with a KV cache of `context` positions."""
        return self.weights + context * self.kv_cache_per_position


def memory(architecture: ModelNumbers, ops: Ops, weights: int, kv_cache_type: str) -> Memory:
    """Calculate the memory; `kv_cache_type` is float16 or float32."""
    per_layer = 2 * architecture.num_key_value_heads * architecture.head_dim * ITEM_BYTES[kv_cache_type]
    return Memory(ops, weights, kv_cache_type, architecture.num_hidden_layers * per_layer)


def tokenizer_facts(
    vocabulary: Vocabulary | None, no_tokenizer: str | None
) -> tuple[TokenizerFacts | None, tuple[str, ...]]:
    """Turn the result of `read_tokenizer` into facts and warnings.

    Warnings say what was assumed about the tokenizer, and why llama3-run cannot use it.
    """
    if vocabulary is None:
        return None, () if no_tokenizer is None else (no_tokenizer,)
    return TokenizerFacts.of(vocabulary), (*vocabulary.warnings, *filter(None, [why_unusable(vocabulary)]))


@dataclass(frozen=True)
class TokenizerFacts:
    """A summary of a vocabulary. `special` counts the tokens that are found by their text; ids are with their texts.

    For byte-level BPE, `normalizer` is applied to text before `pre_tokenizer` splits it; None if there is none.
    """

    kind: str
    pre_tokenizer: str | None
    normalizer: str | None
    tokens: int
    special: int
    bos: tuple[int, str] | None
    adds_bos: bool
    ends: tuple[tuple[int, str], ...]
    chat_template: str | None

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> TokenizerFacts:
        """Summarize a vocabulary."""
        model, tokens = vocabulary.model, vocabulary.tokens
        byte_level = isinstance(model, ByteLevelBPE)
        return cls(
            kind="byte-level BPE" if byte_level else "SentencePiece BPE",
            pre_tokenizer=_name_of(model) if isinstance(model, ByteLevelBPE) else None,
            normalizer="NFC" if isinstance(model, ByteLevelBPE) and model.pre_tokenizer.nfc else None,
            tokens=len(tokens),
            special=len(vocabulary.ids_by_text(*FOUND_BY_TEXT)),
            bos=None if vocabulary.bos_id is None else (vocabulary.bos_id, tokens[vocabulary.bos_id]),
            adds_bos=vocabulary.adds_bos,
            ends=tuple((token_id, tokens[token_id]) for token_id in sorted(vocabulary.eog_ids)),
            chat_template=vocabulary.chat_template,
        )


def _name_of(model: ByteLevelBPE) -> str | None:
    """Return the first of the names that GGUF files use for this way to split text."""
    steps = model.pre_tokenizer.steps
    return next((name for name, known in PRE_TOKENIZERS.items() if known.steps == steps), None)


@dataclass(frozen=True)
class Inspection:
    """All facts about a model.

    Attributes:
        path: The file or folder.
        about: Its format and origin in words, under short headings.
        manifest: The manifest of an export; None for a GGUF.
        architecture: The numbers of the model; None if it is refused.
        weights: All weights, in the order of the file.
        memory: The memory for each kind of ops that can run it; empty if it is refused.
        tokenizer: None if it is missing or not supported.
        warnings: Notes for the user.
        refused: Why a GGUF cannot be exported, and what to do; otherwise None.
        check: The result of a check in words; None without a check.
    """

    path: Path
    about: Mapping[str, str]
    manifest: Manifest | None
    architecture: ModelNumbers | None
    weights: tuple[Weight, ...]
    memory: tuple[Memory, ...]
    tokenizer: TokenizerFacts | None
    warnings: tuple[str, ...]
    refused: str | None = None
    check: str | None = None

    @property
    def name(self) -> str:
        """The name of the file or folder, even if the path is `.` or `..`."""
        return self.path.name if self.path.name.strip(".") else self.path.resolve().name

    def usual_context(self, most: int) -> int:
        """Return `most`, or the model's positions if it has fewer."""
        return most if self.architecture is None else min(most, self.architecture.max_position_embeddings)

    def check_context(self, context: int) -> None:
        """Refuse more positions than the model has.

        Raises:
            Llama3Error: the model has fewer.
        """
        if self.architecture is not None and context > self.architecture.max_position_embeddings:
            raise Llama3Error(
                f"{self.path}: has {self.architecture.max_position_embeddings:,} positions, fewer than --context "
                f"{context}; lower it"
            )
