"""The tokenizer as two graphs, tokenizer.onnx and detokenizer.onnx, for hosts without a tokenizer library.

They use the ops of onnxruntime-extensions. Its op that reads a tokenizer.json, HfJsonTokenizer, returns wrong ids for
many texts (docs/tokenizer-graph.md), so here it only turns text into bytes. RE2 splits the text into pieces
(`text_rewrites`), and SentencePiece merges within them (`sentencepiece_model`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from llama3_models.errors import Llama3Error
from llama3_models.gguf.part import quoted
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE, spell_bytes
from llama3_models.tokenizer.vocabulary import FOUND_BY_TEXT, ByteLevelBPE, SentencePieceBPE, TokenType, Vocabulary
from onnxscript import GraphBuilder, OpBuilder

from llama3_exporter.graph import IR_VERSION, OPSET
from llama3_exporter.tokenizers.sentencepiece_model import sentencepiece_model
from llama3_exporter.tokenizers.text_rewrites import (
    MARKS,
    Rewrite,
    byte_level_rewrites,
    can_cut,
    first,
    sentencepiece_rewrites,
    valid_utf8,
    without_letters,
)

TOKENIZER: Final = "tokenizer.onnx"
DETOKENIZER: Final = "detokenizer.onnx"

EXTENSIONS: Final = "ai.onnx.contrib"
"""The domain of onnxruntime-extensions' ops."""

# RE2 refuses programs of more than 349,525 instructions, about one per byte; the op then replaces nothing.
_MOST_SPECIAL_BYTES: Final = 250_000

_INT64, _STRING = ir.DataType.INT64, ir.DataType.STRING
_END: Final = int(np.iinfo(np.int64).max)


def tokenizer_graphs(vocabulary: Vocabulary) -> dict[str, bytes]:
    """Build both graphs; return them by file name.

    The tokenizer turns `text`, strings [batch], into `input_ids` and `attention_mask`, int64 [batch, sequence]. It
    recognizes special tokens in the text, and begins with the beginning-of-sequence token if the model's file asks for
    it. The detokenizer turns `ids`, int64 [batch, sequence], into `text`, strings [batch]. Special tokens have no text,
    and bytes that are not UTF-8 become U+FFFD.

    Raises:
        Llama3Error: The graphs' ids would differ from the tokenizer's, for more texts than `what_differs` says.
    """
    if any(mark in token for token in vocabulary.tokens for mark in MARKS):
        raise Llama3Error(
            f"{vocabulary.source}: a token contains one of the noncharacters U+FDD0 to U+FDD2, which the tokenizer "
            "graph uses as marks; export it without --tokenizer-graph"
        )
    if isinstance(vocabulary.model, ByteLevelBPE) and not can_cut(vocabulary.model.pre_tokenizer):
        raise Llama3Error(
            f"{vocabulary.source}: its pre-tokenizer looks ahead in the text, which a tokenizer graph cannot do; "
            "export it without --tokenizer-graph"
        )
    special = vocabulary.ids_by_text(*FOUND_BY_TEXT)
    if vocabulary.adds_bos and vocabulary.bos_id not in special.values():
        raise Llama3Error(
            f"{vocabulary.source}: its beginning-of-sequence token ({vocabulary.bos_id}) is not a special token, so a "
            "tokenizer graph cannot put it first; export it without --tokenizer-graph"
        )
    if sum(len(token.encode()) for token in special) > _MOST_SPECIAL_BYTES:
        raise Llama3Error(
            f"{vocabulary.source}: its special tokens have more than {_MOST_SPECIAL_BYTES:,} bytes, too many for a "
            "tokenizer graph; export it without --tokenizer-graph"
        )
    graphs = {TOKENIZER: _tokenizer(vocabulary, special), DETOKENIZER: _detokenizer(vocabulary)}
    return {name: ir.to_proto(graph).SerializeToString() for name, graph in graphs.items()}


def what_differs(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return a warning about texts whose ids in tokenizer.onnx differ from the tokenizer's, if there are any.

    onnxruntime-extensions has no op that normalizes text. Nearly all text is already NFC, so a graph is still useful.
    """
    if isinstance(vocabulary.model, ByteLevelBPE) and vocabulary.model.pre_tokenizer.nfc:
        return (
            f"{TOKENIZER} does not normalize text, but this tokenizer does (NFC); "
            "if letters and accents are separate characters, the ids differ",
        )
    return ()


def _tokenizer(vocabulary: Vocabulary, special: dict[str, int]) -> ir.Model:
    builder = _builder("tokenizer")
    op = builder.op
    text = builder.input("text", _STRING, ["batch_size"])
    if vocabulary.adds_bos and vocabulary.bos_id is not None:
        text = _rewrite(op, text, [first(vocabulary.tokens[vocabulary.bos_id])])
    if isinstance(vocabulary.model, ByteLevelBPE):
        text = _rewrite(op, text, byte_level_rewrites(vocabulary.model.pre_tokenizer, special))
        used = _letters(vocabulary, vocabulary.model)
        of_special = set(spell_bytes("".join([*MARKS, *special]).encode()))
        text = _spell(op, text, used | of_special)
        text = _rewrite(op, text, without_letters(of_special - used))
    else:
        prefix = vocabulary.model.add_space_prefix
        text = _rewrite(op, text, sentencepiece_rewrites(special, add_space_prefix=prefix))
    model = sentencepiece_model(vocabulary, special)
    found, starts = op.SentencepieceTokenizer(
        text,
        *(_constant(op, name, np.zeros(1, dtype)) for name, dtype in _UNUSED_SETTINGS),
        model=base64.b64encode(model.content).decode(),
        _domain=EXTENSIONS,
        _outputs=["pieces", "starts"],
    )  # [pieces of all texts], [batch + 1]
    ids = op.Gather(_constant(op, "token_ids", np.array(model.token_ids)), found)
    pad = vocabulary.eos_id if vocabulary.pad_id is None else vocabulary.pad_id
    for name, output in zip(("input_ids", "attention_mask"), _rows(op, ids, starts, pad or 0), strict=True):
        output.type, output.shape = ir.TensorType(_INT64), ir.Shape(["batch_size", "sequence_length"])
        builder.add_output(output, name)
    return _model(builder)


# Inputs of SentencepieceTokenizer after the text.
_UNUSED_SETTINGS: Final = (
    ("nbest_size", np.int64),
    ("alpha", np.float32),
    ("add_bos", np.bool_),
    ("add_eos", np.bool_),
    ("reverse", np.bool_),
)


def _detokenizer(vocabulary: Vocabulary) -> ir.Model:
    builder = _builder("detokenizer")
    op = builder.op
    ids = builder.input("ids", _INT64, ["batch_size", "sequence_length"])
    text = _look_up_and_join(op, _strings(op, vocabulary.token_bytes(), "token_texts"), ids)
    text = _rewrite(op, text, valid_utf8())
    if isinstance(vocabulary.model, SentencePieceBPE) and vocabulary.model.add_space_prefix:
        text = _rewrite(op, text, [Rewrite(r"\A ", "")])
    text.type, text.shape = ir.TensorType(_STRING), ir.Shape(["batch_size"])
    builder.add_output(text, "text")
    return _model(builder)


def _rewrite(op: OpBuilder, text: ir.Value, rewrites: Iterable[Rewrite]) -> ir.Value:
    """Apply rewrites to a text: strings [batch] -> [batch]."""
    for rewrite in rewrites:
        pattern, replacement = (_strings(op, [part.encode()]) for part in (rewrite.pattern, rewrite.replacement))
        text = op.StringRegexReplace(text, pattern, replacement, _domain=EXTENSIONS)
    return text


def _letters(vocabulary: Vocabulary, model: ByteLevelBPE) -> set[str]:
    """Return the letters of `byte_alphabet` that are tokens or merge; all if a token stands for bytes without one.

    Raises:
        Llama3Error: Other letters are left out of texts, but the token of a whole piece contains one.
    """
    if vocabulary.missing_byte_id is not None:
        return set(CHARACTER_OF_BYTE.values())
    tokens = vocabulary.ids_by_text(TokenType.NORMAL)
    if model.merges is None:
        return set().union(*tokens)
    letters = {token for token in tokens if len(token) == 1}
    letters.update(half for merge in model.merges for half in merge.split(" ", 1) if len(half) == 1)
    if model.pre_tokenizer.ignore_merges and (wrong := [token for token in tokens if not letters.issuperset(token)]):
        raise Llama3Error(
            f"{vocabulary.source}: its token {quoted(wrong[0])} has bytes that are not tokens, which a tokenizer graph "
            "leaves out of texts; export it without --tokenizer-graph"
        )
    return letters


def _spell(op: OpBuilder, text: ir.Value, used: Collection[str]) -> ir.Value:
    """Turn each byte of a text into its letter in `byte_alphabet`, strings [batch]; leave out letters not in `used`."""
    letters = {byte: letter if letter in used else "" for byte, letter in CHARACTER_OF_BYTE.items()}
    letters[0] = ""  # pads short rows; not in any text, because texts are C strings
    vocab = {letter: byte for byte, letter in CHARACTER_OF_BYTE.items()}
    numbers = op.HfJsonTokenizer(
        text,
        tokenizer_vocab=json.dumps({"model": {"type": "BPE", "vocab": vocab, "merges": []}}),
        tokenizer_config=json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_eos_token": False}
        ),
        _domain=EXTENSIONS,
    )  # int64 [batch, longest]: bytes
    return _look_up_and_join(op, _strings(op, [letters[byte].encode() for byte in range(256)], "letters"), numbers)


def _look_up_and_join(op: OpBuilder, texts: ir.Value, numbers: ir.Value) -> ir.Value:
    """Look up texts by their numbers, int64 [batch, n], and join each row: strings [batch].

    StringJoin crashes if there are no rows, so it gets an extra one.
    """
    rows = op.Gather(texts, op.Pad(numbers, [0, 0, 1, 0]))
    joined = op.StringJoin(rows, _strings(op, [b""]), [1], _domain=EXTENSIONS)
    return op.Slice(joined, [0], [-1], [0])


def _rows(op: OpBuilder, ids: ir.Value, starts: ir.Value, pad: int) -> tuple[ir.Value, ir.Value]:
    """Turn the ids of all texts, one after the other, into rows and their mask: int64 [batch, longest].

    Args:
        op: The builder of nodes.
        ids: Int64 [n]; negative ones are not tokens and are left out.
        starts: Where in `ids` each text begins, and where the last one ends, int64 [batch + 1].
        pad: The id that pads short rows.
    """
    kept = op.GreaterOrEqual(ids, 0)
    tokens = op.Concat(op.Compress(ids, kept), [pad], axis=0)
    counts = op.Concat([0], op.CumSum(op.Cast(kept, to=_INT64), 0), axis=0)  # tokens before each piece
    borders = op.Gather(counts, starts)
    begins = op.Slice(borders, [0], [-1], [0])  # [batch]
    lengths = op.Sub(op.Slice(borders, [1], [_END], [0]), begins)
    columns = op.Range(0, op.ReduceMax(lengths, keepdims=0), 1)  # [longest]
    real = op.Less(columns, op.Unsqueeze(lengths, [1]))  # [batch, longest]
    places = op.Where(real, op.Add(op.Unsqueeze(begins, [1]), columns), op.Sub(op.Size(tokens), 1))
    return op.Gather(tokens, places), op.Cast(real, to=_INT64)


def _builder(name: str) -> GraphBuilder:
    return GraphBuilder(ir.Graph([], [], nodes=[], opset_imports={"": OPSET, EXTENSIONS: 1}, name=name))


def _model(builder: GraphBuilder) -> ir.Model:
    return ir.Model(builder.graph, ir_version=IR_VERSION, producer_name="llama3-onnx")


def _constant(op: OpBuilder, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    return op.initializer(ir.tensor(array, name=name))


def _strings(op: OpBuilder, texts: Iterable[bytes], name: str | None = None) -> ir.Value:
    """Add a constant, strings [n], which may be parts of characters; without a name it gets a number."""
    texts = list(texts)
    if name is None:
        name = f"string_{len(op.builder.graph.initializers)}"
    return op.initializer(ir.StringTensor(texts, shape=ir.Shape([len(texts)]), name=name))
