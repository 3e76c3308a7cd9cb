"""SentencePiece vocabularies without byte tokens, with some of them, and without an unknown token."""

import json
import re
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from gguf import TokenType
from llama3_exporter.tokenizers.json_files import tokenizer_json
from llama3_models.errors import Llama3Error
from llama3_models.tokenizer.files import read_vocabulary
from llama3_runtime.text.tokenizer import Tokenizer
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers

from tests.support.texts import mixed_texts
from tests.support.vocabularies import hugging_face_ids, sentencepiece_model, write_vocabulary_gguf

TEXTS = [text for text in mixed_texts(2000, seed=2) if not re.search("</?s>|<unk>|#include|<user>|<0x", text)]
TEXTS += ["日本 日x", "the é café", "日", "\u2581é", "", "a\nb"]


def without_bytes(*, kept: range = range(0)) -> sentencepiece_model_pb2.ModelProto:  # type: ignore[name-defined]
    """Return the trained model without its byte tokens, except those of the bytes in `kept`."""
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(sentencepiece_model())
    pieces = [
        piece
        for piece in proto.pieces
        if piece.type != TokenType.BYTE or int(piece.piece[3:5], 16) in kept  # <0x41>
    ]
    del proto.pieces[:]
    proto.pieces.extend(pieces)
    proto.trainer_spec.byte_fallback = False
    return proto


def write_gguf(path: Path, proto: sentencepiece_model_pb2.ModelProto) -> Path:  # type: ignore[name-defined]
    return write_vocabulary_gguf(
        path,
        model="llama",
        tokens=[piece.piece for piece in proto.pieces],
        types=[piece.type for piece in proto.pieces],
        scores=[piece.score for piece in proto.pieces],
        bos_token_id=1,
        eos_token_id=2,
    )


def read_back(path: Path) -> Tokenizer:
    """Read the tokenizer from the export's tokenizer.json."""
    written = path.with_name("tokenizer.json")
    written.write_text(json.dumps(tokenizer_json(read_vocabulary(path))), encoding="utf-8")
    return Tokenizer.from_path(written)


def test_without_byte_tokens_the_ids_are_those_of_sentencepiece(tmp_path: Path) -> None:
    """The GGUF, its export, and the export in Hugging Face's tokenizers have the same ids."""
    proto = without_bytes()
    expected = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString()).encode(TEXTS)
    assert sum(0 in ids for ids in expected) > 500
    path = write_gguf(tmp_path / "m.gguf", proto)
    for tokenizer in (Tokenizer.from_path(path), read_back(path)):
        assert [tokenizer.encode(text, bos=False) for text in TEXTS] == expected
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert hugging_face_ids(written, TEXTS[:-2], special=False) == expected[:-2]


def test_with_some_byte_tokens_the_ids_are_those_of_hugging_face(tmp_path: Path) -> None:
    """A character becomes its bytes if all of them are tokens; sentencepiece itself requires all 256.

    Such a character after an unknown one is skipped, because Hugging Face's tokenizers then put the unknown token last.
    """
    proto = without_bytes(kept=range(0xC0))
    pieces = {piece.piece for piece in proto.pieces} | {" "}
    in_bytes = re.escape("".join({chr(code) for code in range(128)} - pieces))
    texts = [text for text in TEXTS if not re.search(rf"[^\x00-\x7f][{in_bytes}]", text)]
    path = write_gguf(tmp_path / "m.gguf", proto)
    described = tokenizer_json(read_vocabulary(path))["model"]
    oracle = tokenizers.Tokenizer(
        models.BPE(
            vocab={piece.piece: token_id for token_id, piece in enumerate(proto.pieces)},
            merges=[tuple(merge.split(" ")) for merge in described["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    oracle.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    oracle.decoder = decoders.ByteFallback()
    expected = hugging_face_ids(oracle, texts, special=False)
    newline = next(token_id for token_id, piece in enumerate(proto.pieces) if piece.piece == "<0x0A>")
    assert sum(0 in ids and newline in ids for ids in expected) > 10
    for tokenizer in (Tokenizer.from_path(path), read_back(path)):
        assert [tokenizer.encode(text, bos=False) for text in texts] == expected
        assert tokenizer.encode("é\n", bos=False)[-2:] == [0, newline]


def test_without_an_unknown_token_characters_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    described = tokenizer_json(read_vocabulary(write_gguf(tmp_path / "m.gguf", without_bytes())))
    described["model"]["unk_token"] = None
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(described), encoding="utf-8")
    oracle = tokenizers.Tokenizer.from_file(str(path))
    tokenizer = Tokenizer.from_path(path)
    for text in ("the é日 the", "日"):
        assert [tokenizer.encode(text, bos=False)] == hugging_face_ids(oracle, [text], special=False)
    assert caplog.messages == [f"{path}: characters without a token are left out of the text: U+00E9 é, U+65E5 日"]


def test_a_token_that_sentencepiece_refuses_is_named(tmp_path: Path) -> None:
    """Older versions of sentencepiece accept it, so the ids are compared there."""
    proto = without_bytes()
    proto.pieces.add(piece="x" * 400_000, score=-1e6, type=1)
    path = write_gguf(tmp_path / "m.gguf", proto)
    try:
        sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    except RuntimeError:
        with pytest.raises(Llama3Error, match=rf"the longest is token {len(proto.pieces) - 1}, .*400,000") as caught:
            Tokenizer.from_path(path)
        assert "\n" not in str(caught.value)
    else:
        tokenizer = Tokenizer.from_path(path)
        expected = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString()).encode(TEXTS)
        assert [tokenizer.encode(text, bos=False) for text in TEXTS] == expected
