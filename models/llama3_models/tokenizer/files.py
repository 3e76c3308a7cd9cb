"""Vocabularies from files other than GGUFs: a tokenizer.json, Meta's or SentencePiece's tokenizer.model, or a folder.

The first bytes of a file tell what it is, not its name: Meta and SentencePiece both call theirs `tokenizer.model`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from llama3_models.errors import Llama3Error
from llama3_models.gguf.contents import HEAD_BYTES, described, leads_to_a_model
from llama3_models.gguf.file import GGUFFile
from llama3_models.regular_files import is_folder, open_regular, read_regular
from llama3_models.tokenizer.byte_alphabet import spell_bytes
from llama3_models.tokenizer.merges import complete_products
from llama3_models.tokenizer.pre_tokenizers import (
    LLAMA3,
    PRE_TOKENIZERS,
    PreTokenizer,
    check_pre_tokenizer,
    pre_tokenizer_of,
    refuse_pre_tokenizer,
)
from llama3_models.tokenizer.vocabulary import (
    ByteLevelBPE,
    NoTokenizerError,
    SentencePieceBPE,
    Surroundings,
    TokenType,
    Vocabulary,
    end_of_generation_ids,
)

_Json = Mapping[str, Any]

# Special tokens of Llama 3.1 to 3.3, which follow the 128,000 tokens of tokenizer.model and are not listed there. Llama
# 3.0 has the same ids; some of them are reserved tokens there.
_META_SPECIAL: Final = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
_META_SPECIAL_COUNT: Final = 256


def read_vocabulary(path: Path, pre_tokenizer: str | None = None) -> Vocabulary:
    """Read a vocabulary from a GGUF, a tokenizer.json, a tokenizer.model, or a folder with one of them.

    The tokenizer_config.json and generation_config.json beside a tokenizer.json, if there are any, name its special
    tokens. The config.json says how many rows the model has for tokens.

    Args:
        path: The file or folder.
        pre_tokenizer: The name of a pre-tokenizer to use instead of the file's own.

    Raises:
        UsageError: `pre_tokenizer` is an unknown name, or the vocabulary does not use a pre-tokenizer.
        Llama3Error: The file does not exist, is not one of these, or is of an unsupported kind.
    """
    check_pre_tokenizer(pre_tokenizer)
    if is_folder(path):
        path = _tokenizer_in(path)
    try:
        with open_regular(path) as file:
            head = file.read(4096)
            reader = next((reader for is_kind, reader in _KINDS if is_kind(head)), None)
            if reader is not None:
                return reader(head + file.read(), path, pre_tokenizer)
    except OSError as error:
        raise Llama3Error(f"{path}: the tokenizer cannot be read ({error.strerror})") from None
    except RecursionError:
        raise Llama3Error(f"{path}: nested too deeply; use the model's own tokenizer.json") from None
    if head.startswith(b"GGUF"):
        with GGUFFile.open(path) as model:
            return Vocabulary.from_gguf(model, pre_tokenizer)
    what = described(head[:HEAD_BYTES])
    if not head or not leads_to_a_model(what):
        what = "not a GGUF, tokenizer.json or tokenizer.model; use one of these"
    raise Llama3Error(f"{path}: {what}")


def _tokenizer_in(folder: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).is_file():
            return folder / name
    raise NoTokenizerError(folder)


# tokenizer.json, of Hugging Face's tokenizers


def _from_tokenizer_json(content: bytes, path: Path, pre_tokenizer: str | None) -> Vocabulary:
    described = _parse_json(content, path)
    model, added = described.get("model"), described.get("added_tokens", [])
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or not isinstance(added, list):
        raise Llama3Error(f"{path}: JSON, but not a tokenizer.json with a vocabulary; use the model's tokenizer.json")
    if not isinstance(model.get("merges"), list) or model.get("type", "BPE") != "BPE":
        raise Llama3Error(
            f"{path}: its model is {model.get('type')!r}, but only BPE with merges is supported; "
            "use a model with such a tokenizer"
        )
    for setting in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(setting):
            raise Llama3Error(f"{path}: its model sets {setting}, which is not supported; use another tokenizer")
    ids, types = _tokens_of_json(model, added, path)
    num_rows = _json_beside(path, "config.json").get("vocab_size")
    if isinstance(num_rows, int) and num_rows < 4 * len(types):
        types += [int(TokenType.UNUSED)] * (num_rows - len(types))  # rows are padded to a round number
    tokens = [""] * len(types)
    for token, token_id in ids.items():
        tokens[token_id] = token

    config = _json_beside(path, "tokenizer_config.json")
    generation = _json_beside(path, "generation_config.json")
    template_bos = _template_bos(described.get("post_processor"))
    bos_text = _text_of(config.get("bos_token")) or template_bos
    bos_id = ids.get(bos_text) if bos_text else _usual_bos(ids, types)
    eos_id = _id_of(config.get("eos_token"), ids)
    ends = generation.get("eos_token_id")
    named = [end for end in (ends if isinstance(ends, list) else [ends]) if type(end) is int]
    if any(not 0 <= end < len(tokens) for end in named):
        raise Llama3Error(f"{path.parent / 'generation_config.json'}: eos_token_id {named} is not in {path.name}")

    bpe: ByteLevelBPE | SentencePieceBPE
    if model.get("byte_fallback") or _space_rule(described) is not None:
        refuse_pre_tokenizer(pre_tokenizer, path)
        bpe, adds_bos = _sentencepiece_of_json(described, ids, types, path), True
    else:
        ignore_merges, nfc = bool(model.get("ignore_merges")), _is_nfc(described.get("normalizer"), path)
        if pre_tokenizer is not None:
            cuts = replace(PRE_TOKENIZERS[pre_tokenizer], ignore_merges=ignore_merges, nfc=nfc)
        else:
            own = described.get("pre_tokenizer")
            cuts = pre_tokenizer_of(own, ignore_merges=ignore_merges, nfc=nfc, source=path)
        bpe, adds_bos = _byte_level_of_json(model, cuts, path), cuts.adds_bos
    says_bos = config.get("add_bos_token")
    if isinstance(says_bos, bool):
        adds_bos = says_bos
    elif template_bos is not None:
        adds_bos = True
    chat_template = config.get("chat_template")
    return Vocabulary(
        source=path,
        tokens=tokens,
        types=types,
        model=bpe,
        bos_id=bos_id,
        eos_id=eos_id if eos_id is not None or not named else named[0],
        unk_id=_id_of(model.get("unk_token"), ids),
        pad_id=_id_of(config.get("pad_token"), ids),
        # A folder that names any end tokens names all of them.
        eog_ids=frozenset(named) or end_of_generation_ids(tokens, types, eos_id),
        adds_bos=adds_bos and bos_id is not None,
        chat_template=chat_template if isinstance(chat_template, str) else None,
        surroundings=_surroundings(added),
    )


def _surroundings(added: list[_Json]) -> dict[str, Surroundings]:
    found = {
        token["content"]: Surroundings(*(bool(token.get(key)) for key in ("lstrip", "rstrip", "single_word")))
        for token in added
    }
    return {token: surroundings for token, surroundings in found.items() if surroundings != Surroundings()}


def _usual_bos(ids: Mapping[str, int], types: list[int]) -> int | None:
    """Return the special token that usually begins a sequence; Qwen's <s> is text."""
    usual = (ids[token] for token in ("<|begin_of_text|>", "<s>") if token in ids)
    return next((token_id for token_id in usual if types[token_id] == TokenType.CONTROL), None)


def _is_nfc(normalizer: object, path: Path) -> bool:
    """Return whether a byte-level vocabulary's normalizer is NFC (true) or does nothing (false)."""
    match normalizer:
        case None:
            return False
        case {"type": "NFC"}:
            return True
        case {"type": "Sequence", "normalizers": [*steps]}:
            return True in [_is_nfc(step, path) for step in steps]  # a list: every step is checked
    raise Llama3Error(f"{path}: its normalizer is not NFC, the only one supported; use another tokenizer")


def _tokens_of_json(model: _Json, added: list[Any], path: Path) -> tuple[dict[str, int], list[int]]:
    """Return the ids of all tokens, and their types by id.

    Added tokens are recognized before text is normalized (`normalized: false`), as the files of models have it.
    """
    ids: dict[str, int] = dict(model["vocab"])
    special: dict[str, bool] = {}
    for token in added:
        match token:
            case {"content": str(text), "id": int(token_id), **rest}:
                ids.setdefault(text, token_id)  # the vocabulary's own id wins
                special[text] = bool(rest.get("special", True))
            case _:
                raise Llama3Error(f"{path}: an entry of added_tokens lacks its content or id; download the file again")
    count = len(ids)
    if not ids or not all(isinstance(token_id, int) and 0 <= token_id < 4 * count for token_id in ids.values()):
        raise Llama3Error(f"{path}: its vocabulary is empty or has invalid token ids; download the file again")
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:
        raise Llama3Error(f"{path}: a token of its vocabulary is not Unicode; download the file again") from None
    types = [int(TokenType.UNUSED)] * (max(ids.values()) + 1)
    byte_fallback = bool(model.get("byte_fallback"))
    for text, token_id in ids.items():
        types[token_id] = TokenType.BYTE if byte_fallback and _BYTE_TOKEN.fullmatch(text) else TokenType.NORMAL
    for text, is_special in special.items():
        types[ids[text]] = TokenType.CONTROL if is_special else TokenType.USER_DEFINED
    unknown = model.get("unk_token")
    if isinstance(unknown, str) and unknown in ids:
        types[ids[unknown]] = TokenType.UNKNOWN
    return ids, types


_BYTE_TOKEN: Final = re.compile(r"<0x[0-9A-F]{2}>")


def _merges_of_json(model: _Json, path: Path) -> list[str]:
    """Return the merges as "left right"; newer files have pairs."""
    merges = []
    for merge in model["merges"]:
        match merge:
            case str():
                merges.append(merge)
            case [str(left), str(right)] if " " not in left + right:
                merges.append(f"{left} {right}")
            case _:
                raise Llama3Error(f"{path}: the merge {merge!r:.80} is not a pair of tokens; download the file again")
    return merges


def _byte_level_of_json(model: _Json, pre_tokenizer: PreTokenizer, path: Path) -> ByteLevelBPE:
    return ByteLevelBPE(pre_tokenizer, _merges_of_json(model, path), fuses_unknown=bool(model.get("fuse_unk")))


def _sentencepiece_of_json(described: _Json, ids: Mapping[str, int], types: list[int], path: Path) -> SentencePieceBPE:
    """Turn the file's merges into scores that put the tokens in the same order."""
    merges = _merges_of_json(described["model"], path)
    normal = {token for token, token_id in ids.items() if types[token_id] == TokenType.NORMAL}
    formed = complete_products(merges, normal)
    if formed is None or {token for token in normal if len(token) > 1} != set(formed):
        raise Llama3Error(
            f"{path}: its vocabulary is SentencePiece's, but its merges are not; "
            "pass the model's tokenizer.model or GGUF as --tokenizer-path"
        )
    scores = [0.0] * len(types)
    for place, token in enumerate(formed):
        scores[ids[token]] = -float(place)
    return SentencePieceBPE(scores, _adds_space_prefix(described, path))


_PREPEND: Final = {"type": "Prepend", "prepend": "\u2581"}
_REPLACE: Final = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
_METASPACE: Final = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never", "split": False}

# Normalizers and pre-tokenizers that treat spaces as SentencePiece does, and whether they put one before text. A
# Metaspace that prepends is not one of them: it adds nothing to a text that begins with a space.
_SPACE_RULES: Final[tuple[tuple[object, object, bool], ...]] = (
    ({"type": "Sequence", "normalizers": [_PREPEND, _REPLACE]}, None, True),
    ({"type": "Sequence", "normalizers": [_REPLACE]}, None, False),
    (_REPLACE, None, False),
    (None, _METASPACE, False),
)


def _space_rule(described: _Json) -> bool | None:
    """Return whether a space is put before text; None if the file does not treat spaces as SentencePiece does."""
    found = described.get("normalizer"), described.get("pre_tokenizer")
    return next((adds for normalizer, pre, adds in _SPACE_RULES if found == (normalizer, pre)), None)


def _adds_space_prefix(described: _Json, path: Path) -> bool:
    adds_space_prefix = _space_rule(described)
    if adds_space_prefix is None:
        raise Llama3Error(
            f"{path}: a SentencePiece vocabulary with an unknown normalizer or pre_tokenizer; "
            "pass the model's tokenizer.model or GGUF as --tokenizer-path"
        )
    return adds_space_prefix


def _template_bos(post_processor: object) -> str | None:
    """Return the special token that a TemplateProcessing puts before a text."""
    match post_processor:
        case {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": str(token)}}, *_]}:
            return token
        case {"type": "Sequence", "processors": [*processors]}:
            return next((bos for bos in map(_template_bos, processors) if bos is not None), None)
    return None


def _text_of(token: object) -> str | None:
    """Return the text of a token in tokenizer_config.json, which is a string or an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _id_of(token: object, ids: Mapping[str, int]) -> int | None:
    """Return the id of a token that a file names; None if it names none or it does not exist."""
    text = _text_of(token)
    return ids.get(text) if text else None


def _json_beside(path: Path, name: str) -> dict[str, Any]:
    other = path.with_name(name)
    try:
        return _parse_json(read_regular(other), other)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Llama3Error(f"{other}: cannot be read ({error.strerror})") from None


def _parse_json(content: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        raise Llama3Error(f"{path}: not complete JSON; download it again") from None
    if not isinstance(parsed, dict):
        raise Llama3Error(f"{path}: not a JSON object; download it again")
    return parsed


# tokenizer.model: Meta's for Llama 3 (one token in base64 and its rank per line), and SentencePiece's


def _from_tiktoken(content: bytes, path: Path, pre_tokenizer: str | None) -> Vocabulary:
    tokens = []
    for number, line in enumerate(content.splitlines()):
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
        except ValueError:
            token, rank = b"", b""
        if not token or rank != b"%d" % number:
            raise Llama3Error(
                f"{path}: line {number + 1} is not a token in base64 and the rank {number}; download the file again"
            )
        tokens.append(spell_bytes(token))
    if not set(map(spell_bytes, (bytes([byte]) for byte in range(256)))) <= set(tokens):
        raise Llama3Error(
            f"{path}: does not have a token for every byte ({len(tokens)} in total); download the file again"
        )
    types = [int(TokenType.NORMAL)] * len(tokens) + [int(TokenType.CONTROL)] * _META_SPECIAL_COUNT
    first = len(tokens)
    reserved = iter(range(_META_SPECIAL_COUNT))
    tokens += [
        _META_SPECIAL.get(place) or f"<|reserved_special_token_{next(reserved)}|>"
        for place in range(_META_SPECIAL_COUNT)
    ]
    return Vocabulary(
        source=path,
        tokens=tokens,
        types=types,
        model=ByteLevelBPE(LLAMA3 if pre_tokenizer is None else PRE_TOKENIZERS[pre_tokenizer], merges=None),
        bos_id=first,
        eos_id=first + 1,
        unk_id=None,
        pad_id=None,
        eog_ids=end_of_generation_ids(tokens, types, first + 1),
        adds_bos=True,
        chat_template=None,
    )


def _from_sentencepiece(content: bytes, path: Path, pre_tokenizer: str | None) -> Vocabulary:
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        proto.ParseFromString(content)
    except DecodeError:
        proto.Clear()
    # protobuf returns text that is not UTF-8 as bytes.
    if not proto.pieces or not all(isinstance(piece.piece, str) for piece in proto.pieces):
        raise Llama3Error(f"{path}: damaged, or not a GGUF, tokenizer.json or tokenizer.model; download it again")
    if proto.trainer_spec.model_type != proto.trainer_spec.BPE:
        raise Llama3Error(f"{path}: a SentencePiece model without byte-pair encoding; use the model's own tokenizer")
    if proto.normalizer_spec.precompiled_charsmap or proto.normalizer_spec.remove_extra_whitespaces:
        raise Llama3Error(f"{path}: normalizes text, which is not supported; pass the model's GGUF as --tokenizer-path")
    refuse_pre_tokenizer(pre_tokenizer, path)
    # SentencePiece and GGUF number types alike. User-defined tokens are looked up before spaces become U+2581.
    types = [int(piece.type) for piece in proto.pieces]
    tokens = [
        piece.piece.replace("\u2581", " ") if piece.type == TokenType.USER_DEFINED else piece.piece
        for piece in proto.pieces
    ]
    spec = proto.trainer_spec
    bos_id, eos_id, unk_id, pad_id = (
        token_id if 0 <= token_id < len(tokens) else None
        for token_id in (spec.bos_id, spec.eos_id, spec.unk_id, spec.pad_id)
    )
    return Vocabulary(
        source=path,
        tokens=tokens,
        types=types,
        model=SentencePieceBPE([piece.score for piece in proto.pieces], proto.normalizer_spec.add_dummy_prefix),
        bos_id=bos_id,
        eos_id=eos_id,
        unk_id=unk_id,
        pad_id=pad_id,
        eog_ids=end_of_generation_ids(tokens, types, eos_id),
        adds_bos=bos_id is not None,
        chat_template=None,
    )


# How each kind of file begins, and its reader. A SentencePiece model is a message whose first field is a token.
_KINDS: Final[tuple[tuple[Callable[[bytes], object], Callable[[bytes, Path, str | None], Vocabulary]], ...]] = (
    (re.compile(rb"\s*\{").match, _from_tokenizer_json),
    (re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n").match, _from_tiktoken),
    (re.compile(rb"\n").match, _from_sentencepiece),
)
