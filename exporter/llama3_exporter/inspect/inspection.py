"""What `llama3-inspect` finds out about a model, whether it is a GGUF or an export of one."""

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
"""Of the types in which the ops attend and multiply."""

K = TypeVar("K", bound=Hashable)

# How a GGUF and a graph call what lies outside of the layers, and the layers.
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("token_embd", "embed_tokens"), "embedding"),
    **dict.fromkeys(("output_norm", "norm"), "norms"),
    **dict.fromkeys(("output", "lm_head"), "head"),
}
_IN_LAYER = re.compile(r"(?:blk|layers)\.(?P<layer>\d{1,6})\.(?P<module>.+)")


@dataclass(frozen=True)
class Weight:
    """One weight of a model; its bytes are those that no weight before it has.

    Attributes:
        name: As the file calls it; `zero_points` for those that an export's weights share.
        layer: The block that it belongs to; None outside of the blocks.
        role: Its part of the model.
        form: The GGML type, or in a contrib graph what it was made.
        shape: Rows first, [N, K] or [N]; of shared zero points [0], because they stand for no numbers.
        bytes: Its size in the file.
        contrib_form: What a GGUF's weight becomes in a contrib graph; None for an export's, and in a GGUF that cannot
            be exported.
        contrib_bytes: And its size there, without zero points that weights share.
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
        """How many numbers it stands for."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Total:
    """Some weights together; `contrib_bytes` is None where weights have no `contrib_bytes`."""

    tensors: int
    parameters: int
    bytes: int
    contrib_bytes: int | None

    @property
    def bits(self) -> float:
        """Bits a weight; 0 where there are none."""
        return 8 * self.bytes / self.parameters if self.parameters else 0.0

    @property
    def contrib_bits(self) -> float | None:
        """Bits a weight in a contrib graph."""
        return None if self.contrib_bytes is None else 8 * self.contrib_bytes / max(self.parameters, 1)


def layer_and_role(name: str) -> tuple[int | None, Role]:
    """The layer and the role of a weight: `blk.N.attn_q.weight` and `layers.N.self_attn.q_proj` are attention's."""
    match = _IN_LAYER.fullmatch(name)
    if match is None:
        return None, _ROLES.get(name.split(".")[0], "other")
    module = match["module"]
    role: Role = "norms" if "norm" in module else "attention" if "attn" in module else "MLP"
    return int(match["layer"]), role


def block_form(bits: int, block_size: int) -> str:
    """What a contrib graph holds of a part of a quantized weight, in words."""
    return f"{bits}-bit blocks of {block_size}"


def sum_form(form: str, *, parts: int, corrected: bool) -> str:
    """The same for the sum of its parts, each of one form, and perhaps a correction."""
    return f"{'two ' * (parts > 1)}{form}{' + sums' * corrected}"


def total(weights: Iterable[Weight]) -> Total:
    """All of some weights."""
    weights = list(weights)
    contrib = [weight.contrib_bytes for weight in weights if weight.contrib_bytes is not None]
    return Total(
        len(weights),
        sum(weight.parameters for weight in weights),
        sum(weight.bytes for weight in weights),
        sum(contrib) if contrib else None,
    )


def totals(weights: Iterable[Weight], key: Callable[[Weight], K]) -> dict[K, Total]:
    """The weights of each key, in the order in which keys are met."""
    groups: dict[K, list[Weight]] = {}
    for weight in weights:
        groups.setdefault(key(weight), []).append(weight)
    return {name: total(group) for name, group in groups.items()}


@dataclass(frozen=True)
class ModelNumbers:
    """The numbers of the model, as in `Hyperparameters`; an export does not say what its rotation was made of."""

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
    """What it takes to run with one kind of ops, in bytes, besides ONNX Runtime's work space."""

    ops: Ops
    weights: int
    kv_cache_type: str
    kv_cache_per_position: int

    def total(self, context: int) -> int:
        """With a cache of so many positions."""
        return self.weights + context * self.kv_cache_per_position


def memory(architecture: ModelNumbers, ops: Ops, weights: int, kv_cache_type: str) -> Memory:
    """`kv_cache_type` is float16 or float32."""
    per_layer = 2 * architecture.num_key_value_heads * architecture.head_dim * ITEM_BYTES[kv_cache_type]
    return Memory(ops, weights, kv_cache_type, architecture.num_hidden_layers * per_layer)


def tokenizer_facts(
    vocabulary: Vocabulary | None, no_tokenizer: str | None
) -> tuple[TokenizerFacts | None, tuple[str, ...]]:
    """The facts of what `read_tokenizer` gives, and warnings: what was assumed, and why llama3-run cannot use it."""
    if vocabulary is None:
        return None, () if no_tokenizer is None else (no_tokenizer,)
    return TokenizerFacts.of(vocabulary), (*vocabulary.warnings, *filter(None, [why_unusable(vocabulary)]))


@dataclass(frozen=True)
class TokenizerFacts:
    """A vocabulary in short. `special` counts the tokens that are found by their text; ids go with their texts.

    Of a byte-level one, `normalizer` says what is done to text before `pre_tokenizer` cuts it; None for nothing.
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
        """The facts of a vocabulary."""
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
    """The first of the names that GGUF files have for this way to cut text."""
    steps = model.pre_tokenizer.steps
    return next((name for name, known in PRE_TOKENIZERS.items() if known.steps == steps), None)


@dataclass(frozen=True)
class Inspection:
    """All that is known of a model.

    Attributes:
        path: The file or folder.
        about: What it is and where it comes from, in words, by headings of a few letters.
        manifest: An export's; None for a GGUF.
        architecture: Its numbers; None where it is refused.
        weights: Every weight, in the order of the file.
        memory: For each kind of ops that can run it; none where it is refused.
        tokenizer: None where there is none, or none that is supported.
        warnings: What a user should know besides.
        refused: Why a GGUF cannot be exported, and what to do; None for one that can, and for an export.
        check: What was found right when all of it was read; None where that was not asked for.
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
        """The file or folder without its path, for `.` and `..`, too."""
        return self.path.name if self.path.name.strip(".") else self.path.resolve().name

    def usual_context(self, most: int) -> int:
        """`most` positions, or all that the model has."""
        return most if self.architecture is None else min(most, self.architecture.max_position_embeddings)

    def check_context(self, context: int) -> None:
        """Refuse more positions than the model has.

        Raises:
            Llama3Error: It has fewer.
        """
        if self.architecture is not None and context > self.architecture.max_position_embeddings:
            raise Llama3Error(
                f"{self.path}: has {self.architecture.max_position_embeddings:,} positions, fewer than --context "
                f"{context:,}; give fewer"
            )
