"""A model's vocabulary: its tokens, and the rules that turn text into them.

This is what a tokenizer needs, not how it works: the runtime encodes with it, and the exporter writes it as a
tokenizer.json. `from_gguf` reads it from a model; `files` reads it from other kinds of files. Anything that a file
does not say follows llama.cpp (`llama-vocab.cpp`), because GGUF files are written to run there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Final

from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.gguf.part import StringArray, quoted
from llama3_models.tokenizer.byte_alphabet import read_bytes
from llama3_models.tokenizer.end_tokens import ROLES, SpecialTokens, special_tokens
from llama3_models.tokenizer.pre_tokenizers import (
    UNNAMED,
    PreTokenizer,
    check_pre_tokenizer,
    pre_tokenizer_named,
    refuse_pre_tokenizer,
)


class TokenType(IntEnum):
    """The kind of a token, as numbered in `tokenizer.ggml.token_type`.

    Control and unknown tokens do not stand for text. User-defined ones do, and are recognized in any text before it is
    split into pieces. Unused ones never occur. Byte tokens (`<0x0A>`) are SentencePiece's last resort.
    """

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


FOUND_BY_TEXT: Final = (TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNKNOWN)
"""The types of tokens that are recognized in a text if special tokens are looked for in it."""

_TOKEN_TYPES: Final = frozenset(TokenType)
_SPACE: Final = "\u2581"  # how SentencePiece spells it
_BYTE_TOKEN: Final = re.compile("<0x([0-9A-Fa-f]{2})>")


class NoTokenizerError(Llama3Error):
    """A GGUF or a folder has no tokenizer at all."""

    def __init__(self, path: Path) -> None:
        """Build the message about `path`, a GGUF or a folder."""
        super().__init__(
            f"{path}: has no tokenizer; llama3-run and llama3-bench need --tokenizer-path with a .gguf, "
            "tokenizer.json or tokenizer.model"
        )


@dataclass(frozen=True)
class ByteLevelBPE:
    """Byte-level byte-pair encoding, as used by GPT-2 and Llama 3.

    Attributes:
        pre_tokenizer: How text is split into pieces. Bytes merge only within a piece.
        merges: The merges in order, each as "left right" in the alphabet of `byte_alphabet`. None if any two neighbors
            that form a token merge, the token with the lowest id first (tiktoken's rule).
        fuses_unknown: Whether a run of unknown bytes becomes one unknown token instead of one each (`fuse_unk` of a
            tokenizer.json).
    """

    pre_tokenizer: PreTokenizer
    merges: Sequence[str] | None
    fuses_unknown: bool = False


@dataclass(frozen=True)
class SentencePieceBPE:
    """SentencePiece's byte-pair encoding, as used by Llama 2. Spaces are spelled U+2581.

    Attributes:
        scores: A number per token. Of all neighbors that form a token, the pair with the highest score merges first.
        add_space_prefix: Whether a space is put before the text, and after each special token in it.
    """

    scores: Sequence[float]
    add_space_prefix: bool


@dataclass(frozen=True)
class Surroundings:
    """How a token recognized in a text affects the text around it, as for the added tokens of a tokenizer.json.

    Attributes:
        lstrip: White space before the token is removed.
        rstrip: White space after the token is removed.
        single_word: The token is recognized only if the characters beside it are not part of a word.
    """

    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model and the rules of its tokenizer.

    Attributes:
        source: The file that the vocabulary was read from, for messages.
        tokens: The text of each token as the file spells it, by id.
        types: A `TokenType` for each token, by id.
        model: The algorithm that turns text into tokens, and its data.
        bos_id: The beginning-of-sequence token, if there is one.
        eos_id: The end-of-sequence token, if there is one.
        unk_id: The token for text that other tokens cannot express, if there is one.
        pad_id: The token that pads short rows, if there is one.
        eog_ids: Every token that ends generation.
        adds_bos: Whether a prompt begins with the beginning-of-sequence token.
        chat_template: The Jinja template that turns messages into a prompt, if the file has one.
        surroundings: The tokens that affect the text around them, by their text; a GGUF has none.
        warnings: Assumptions made while reading the file.
    """

    source: Path
    tokens: Sequence[str]
    types: Sequence[int]
    model: ByteLevelBPE | SentencePieceBPE
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    pad_id: int | None
    eog_ids: frozenset[int]
    adds_bos: bool
    chat_template: str | None
    surroundings: Mapping[str, Surroundings] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def ids_by_text(self, *types: TokenType) -> dict[str, int]:
        """Return the ids of the tokens of some types by their text, as in `ids`."""
        return {token: token_id for token, token_id in self.ids.items() if self.types[token_id] in types}

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of the token that each text becomes.

        If tokens share a text, it becomes the first of them that is not unused, whatever its type: a tokenizer.json
        cannot tell them apart. No text becomes the others, but they still decode to theirs. (llama.cpp does not load
        such a file.)
        """
        ids: dict[str, int] = {}
        for token_id, (token, type_) in enumerate(zip(self.tokens, self.types, strict=True)):
            if token and type_ != TokenType.UNUSED:
                ids.setdefault(token, token_id)
        return ids

    @property
    def missing_byte_id(self) -> int | None:
        """The token for unknown bytes, if a byte-level vocabulary has one.

        This is the unknown token if its type says so, as in a tokenizer.json whose model has an `unk_token`. Other
        files name an unknown token that their tokenizer never produces: SmolLM2's is <|endoftext|>.
        """
        if self.unk_id is None or not isinstance(self.model, ByteLevelBPE):
            return None
        return self.unk_id if self.types[self.unk_id] == TokenType.UNKNOWN else None

    def token_bytes(self) -> list[bytes]:
        """Return the bytes that each token decodes to, by id; none for special tokens."""
        spelled = isinstance(self.model, ByteLevelBPE)
        return [_bytes_of(token, type_, spelled=spelled) for token, type_ in zip(self.tokens, self.types, strict=True)]

    @classmethod
    def from_gguf(cls, file: GGUFFile, pre_tokenizer: str | None = None) -> Vocabulary:
        """Read the vocabulary of a model; `pre_tokenizer` overrides the name of a pre-tokenizer in the file.

        `tokenizer.ggml.add_eos_token` is ignored: it is meant for training texts, and a prompt that is to be continued
        has no end.

        Raises:
            NoTokenizerError: The file has no tokenizer.
            UsageError: `pre_tokenizer` is an unknown name, or the vocabulary does not use a pre-tokenizer.
            Llama3Error: The vocabulary contradicts itself, or is of an unsupported kind.
        """
        check_pre_tokenizer(pre_tokenizer)
        if "tokenizer.ggml.model" not in file.metadata:
            raise NoTokenizerError(file.path)
        kind = file.get_str("tokenizer.ggml.model")
        if kind not in ("gpt2", "llama"):
            raise Llama3Error(
                f"{file.path}: tokenizer.ggml.model is {quoted(kind)}, but only gpt2 and llama (byte-pair encoding) "
                "are supported; if the model also has such a tokenizer, pass its tokenizer.json or tokenizer.model "
                "as --tokenizer-path"
            )
        tokens = _strings(file.get_strings("tokenizer.ggml.tokens"))
        if not tokens:
            raise Llama3Error(f"{file.path}: tokenizer.ggml.tokens is empty; pass a tokenizer as --tokenizer-path")
        types = [
            int(number) if number in _TOKEN_TYPES else int(TokenType.UNUSED)
            for number in _numbers(file, "tokenizer.ggml.token_type", len(tokens), TokenType.NORMAL)
        ]

        warnings: list[str] = []
        model: ByteLevelBPE | SentencePieceBPE
        usual: dict[str, int]
        if kind == "gpt2":
            name = pre_tokenizer or file.get_str("tokenizer.ggml.pre", default=None)
            if not name:
                name = UNNAMED
                warnings.append(
                    "its pre-tokenizer is not named (tokenizer.ggml.pre), as in files converted before May 2024; using "
                    "llama.cpp's default, which splits some texts differently from the model's own; if you know its "
                    "name, pass it as --pre-tokenizer"
                )
            named_one = pre_tokenizer_named(name, file.path)
            model = ByteLevelBPE(named_one, _strings(file.get_strings("tokenizer.ggml.merges")))
            adds_bos, usual = named_one.adds_bos, {}
        else:
            refuse_pre_tokenizer(pre_tokenizer, file.path)
            scores = _numbers(file, "tokenizer.ggml.scores", len(tokens), 0.0)
            model = SentencePieceBPE(scores, file.get_bool("tokenizer.ggml.add_space_prefix", default=True))
            adds_bos, usual = True, {"bos": 1, "eos": 2, "unknown": 0}

        named, strange = _named_tokens(file, len(tokens), usual)
        warnings += strange
        special = special_tokens(enumerate(tokens), named)
        if isinstance(model, ByteLevelBPE):
            learned = _learned(tokens, types, special.control, model.merges or ())
            special = special._replace(control=special.control - learned)
        types, warning = _as_special(tokens, types, special)
        if warning is not None:
            warnings.append(warning)
        bos_id = named.get("bos")
        says_bos = file.get_bool("tokenizer.ggml.add_bos_token", default=None)
        if says_bos and bos_id is None:
            raise Llama3Error(
                f"{file.path}: tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id names no token; "
                "pass a tokenizer as --tokenizer-path"
            )
        return cls(
            source=file.path,
            tokens=tokens,
            types=types,
            model=model,
            bos_id=bos_id,
            eos_id=named.get("eos"),
            unk_id=named.get("unknown"),
            pad_id=named.get("padding"),
            eog_ids=special.ends,
            adds_bos=bos_id is not None and (adds_bos if says_bos is None else says_bos),
            chat_template=file.get_str("tokenizer.chat_template", default=None),
            warnings=tuple(warnings),
        )


def end_of_generation_ids(tokens: Iterable[str], types: Iterable[int], eos_id: int | None) -> frozenset[int]:
    """Return every token that ends generation, in a vocabulary whose types are right.

    Args:
        tokens: The text of each token, by id.
        types: The type of each token, by id. Normal tokens are text, whatever they look like.
        eos_id: The end-of-sequence token, if there is one.
    """
    special = [
        (token_id, token)
        for token_id, (token, type_) in enumerate(zip(tokens, types, strict=True))
        if type_ != TokenType.NORMAL
    ]
    return special_tokens(special, {} if eos_id is None else {"eos": eos_id}).ends


def _named_tokens(file: GGUFFile, count: int, usual: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """Return the tokens that the metadata names, by role, and warnings about ids outside the `count` tokens.

    llama.cpp also ignores such ids. `usual` has the tokens for roles that the metadata does not name.
    """
    ids = {role: token_id for role, token_id in usual.items() if token_id < count}
    warnings = []
    older = {"prefix": "fim_pre", "suffix": "fim_suf", "middle": "fim_mid"}
    for key in (*older, *ROLES, "bos", "unknown", "padding"):
        token_id = file.get_int(f"tokenizer.ggml.{key}_token_id", default=None)
        if token_id is None:
            continue
        if 0 <= token_id < count:
            ids[older.get(key, key)] = token_id
        else:
            warnings.append(f"tokenizer.ggml.{key}_token_id is {token_id}, but there are {count} tokens; ignoring it")
    return ids, warnings


def _as_special(tokens: Sequence[str], types: list[int], special: SpecialTokens) -> tuple[list[int], str | None]:
    """Correct the types of the tokens in `special`, and return a warning if the file is wrong about them."""
    types = list(types)
    wrong = sorted(token_id for token_id in special.control if types[token_id] != TokenType.CONTROL)
    for ids, type_ in (
        (special.control, TokenType.CONTROL),
        (special.found, TokenType.USER_DEFINED),
        (special.text, TokenType.NORMAL),
    ):
        for token_id in ids:
            types[token_id] = type_
    if not wrong:
        return types, None
    shown = ", ".join(f"{quoted(tokens[token_id])} ({token_id})" for token_id in wrong[:_MOST_SHOWN])
    more = f" and {len(wrong) - _MOST_SHOWN} more" if len(wrong) > _MOST_SHOWN else ""
    return types, (
        f"{shown}{more}: not marked as control (tokenizer.ggml.token_type); treated as special tokens, as in llama.cpp"
    )


_MOST_SHOWN: Final = 3


def _learned(tokens: Sequence[str], types: Sequence[int], ids: Iterable[int], merges: Sequence[str]) -> set[int]:
    """Return the tokens of `ids` that merges form: these are text, such as Qwen's </s>, whatever they look like."""
    texts = {tokens[token_id]: token_id for token_id in ids if types[token_id] == TokenType.NORMAL}
    return {texts[formed] for merge in merges if (formed := merge.replace(" ", "", 1)) in texts} if texts else set()


def _strings(array: StringArray) -> list[str]:
    try:
        return [raw.decode() for raw in array.raw_all()]
    except UnicodeDecodeError:
        return list(array)  # decodes one by one, so the error names the wrong one


def _numbers(file: GGUFFile, key: str, count: int, missing: float) -> list[float]:
    """Return an array with a number for each of `count` tokens; all are `missing` if the file does not have it."""
    array = file.get_array(key, default=None)
    if array is None:
        return [missing] * count
    if array.shape != (count,):
        raise Llama3Error(
            f"{file.path}: {key} has length {array.size}, expected {count} (one entry per token); pass a tokenizer "
            "as --tokenizer-path"
        )
    numbers: list[float] = array.tolist()
    return numbers


def _bytes_of(token: str, type_: int, *, spelled: bool) -> bytes:
    """Return the bytes of a token; `spelled` tells whether normal tokens are spelled in `byte_alphabet`."""
    if type_ == TokenType.NORMAL:
        return read_bytes(token) if spelled else token.replace(_SPACE, " ").encode()
    if type_ == TokenType.BYTE and (byte := _BYTE_TOKEN.fullmatch(token)):
        return bytes.fromhex(byte[1])
    return token.encode() if type_ == TokenType.USER_DEFINED else b""
