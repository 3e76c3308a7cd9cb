"""The tokenizer's graphs, run with onnxruntime-extensions, return the same ids and texts as the tokenizer."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import tokenizers
from gguf import GGMLQuantizationType, TokenType
from llama3_exporter.commands import export as commands
from llama3_exporter.host_files import _special_ids
from llama3_exporter.tokenizers.graphs import _builder, _model, _rewrite, tokenizer_graphs, what_differs
from llama3_exporter.tokenizers.json_files import tokenizer_json
from llama3_exporter.tokenizers.text_rewrites import CUT, byte_level_rewrites, can_cut
from llama3_models.errors import Llama3Error
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from llama3_models.tokenizer.files import read_vocabulary
from llama3_models.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from llama3_models.tokenizer.vocabulary import Vocabulary
from llama3_runtime.text.cutting import Cutter
from llama3_runtime.text.tokenizer import Tokenizer
from onnxruntime_extensions import get_library_path

from tests.support.graphs import Graph
from tests.support.llama_gguf import write_llama_gguf
from tests.support.paths import DOCS
from tests.support.texts import mixed_texts
from tests.support.vocabularies import (
    hugging_face_ids,
    hugging_face_llama3,
    hugging_face_qwen3,
    hugging_face_smollm2,
    smollm2_gguf,
    write_llama3_gguf,
    write_qwen3_gguf,
    write_sentencepiece_gguf,
    write_vocabulary_gguf,
)

DOC = DOCS / "tokenizer-graph.md"
BYTES = list(CHARACTER_OF_BYTE.values())


def session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.register_custom_ops_library(get_library_path())
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class Graphs:
    """Both graphs of a vocabulary, and its tokenizer."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.models = tokenizer_graphs(vocabulary)
        self.tokenizer = session(self.models["tokenizer.onnx"])
        self.detokenizer = session(self.models["detokenizer.onnx"])
        self.original = Tokenizer(vocabulary)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        rows, mask = self.tokenizer.run(["input_ids", "attention_mask"], {"text": np.array(texts, dtype=object)})
        return [row[real == 1].tolist() for row, real in zip(rows, mask, strict=True)]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Decode rows of equal length."""
        return list(self.detokenizer.run(["text"], {"ids": np.array(rows, dtype=np.int64)})[0])


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return the 10,000 texts of the tokenizer tests, except those with U+0000, which ends a text for the ops."""
    return sorted((text for text in mixed_texts() if "\0" not in text), key=len)


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    return Graphs(read_vocabulary(write_llama3_gguf(tmp_path_factory.mktemp("llama3") / "llama3.gguf")))


@pytest.fixture(scope="module")
def smollm2() -> Graphs:
    return Graphs(read_vocabulary(smollm2_gguf()))


@pytest.fixture(scope="module", params=[True, False], ids=["space", "no space"])
def spm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    path = tmp_path_factory.mktemp("spm") / "spm.gguf"
    return Graphs(read_vocabulary(write_sentencepiece_gguf(path, add_space_prefix=request.param)))


def in_batches(graphs: Graphs, texts: Sequence[str], size: int = 250) -> list[list[int]]:
    return [ids for start in range(0, len(texts), size) for ids in graphs.encode(texts[start : start + size])]


def test_llama3_gives_the_ids_of_hugging_face(llama3: Graphs, texts: list[str]) -> None:
    expected = hugging_face_ids(hugging_face_llama3(), texts, special=True)
    for text, ids, found in zip(texts, expected, in_batches(llama3, texts), strict=True):
        begins_with_bos = ids[:1] == [128_000]
        assert found == (ids if begins_with_bos else [128_000, *ids]), ascii(text)


def test_smollm2_gives_the_ids_of_hugging_face(smollm2: Graphs, texts: list[str]) -> None:
    expected = hugging_face_ids(hugging_face_smollm2(), texts, special=True)
    for text, ids, found in zip(texts, expected, in_batches(smollm2, texts), strict=True):
        assert found == ids, ascii(text)


def test_qwen3_gives_the_ids_of_hugging_face_for_text_in_nfc(tmp_path: Path, texts: list[str]) -> None:
    """Other text gets the same ids as without a normalizer; the export warns about it."""
    vocabulary = read_vocabulary(write_qwen3_gguf(tmp_path / "qwen3.gguf"))
    graphs = Graphs(vocabulary)
    without = tokenizers.Tokenizer.from_str(hugging_face_qwen3().to_str())
    without.normalizer = None
    expected = hugging_face_ids(without, texts, special=True)
    original = hugging_face_ids(hugging_face_qwen3(), texts, special=True)
    different = 0
    for text, ids, normalized, found in zip(texts, expected, original, in_batches(graphs, texts), strict=True):
        assert found == ids, ascii(text)
        if found != normalized:
            different += 1
            assert hugging_face_qwen3().normalizer.normalize_str(text) != text
    assert f"{different:,} of the other" in DOC.read_text(encoding="utf-8")
    assert "does not normalize text" in what_differs(vocabulary)[0]


def test_a_graph_that_differs_nowhere_has_no_warning(llama3: Graphs, spm: Graphs) -> None:
    for graphs in (llama3, spm):
        assert what_differs(graphs.original.vocabulary) == ()


def test_sentencepiece_vocabularies_give_the_ids_of_the_tokenizer(spm: Graphs, texts: list[str]) -> None:
    """The tokenizer's own tests compare it with sentencepiece itself."""
    texts = [*texts[::5], "<user>hi<user> there#include</s></s> x", "</s>", " <unk> <s>a"]
    for text, found in zip(texts, in_batches(spm, texts), strict=True):
        assert found == spm.original.encode(text, special=True), ascii(text)


@pytest.mark.parametrize("name", ["llama3", "smollm2"])
def test_texts_come_back(name: str, texts: list[str], request: pytest.FixtureRequest) -> None:
    check_that_texts_come_back(request.getfixturevalue(name), texts[::100])


def test_texts_come_back_from_sentencepiece(spm: Graphs, texts: list[str]) -> None:
    """They come back without the space that the tokenizer put first."""
    check_that_texts_come_back(spm, [*texts[::100], " two  spaces ", "▁"])


def check_that_texts_come_back(graphs: Graphs, texts: Sequence[str]) -> None:
    for text in texts:
        ids = graphs.original.encode(text, special=True)
        assert graphs.decode([ids, ids]) == [graphs.original.decode(ids)] * 2, ascii(text)


def test_a_text_that_ends_within_a_character_ends_with_a_replacement(smollm2: Graphs) -> None:
    """Hosts stream text by decoding the ids so far, and Python refuses strings that are not UTF-8."""
    ids = smollm2.original.encode("日本👍🏽é", bos=False)
    for end in range(1, len(ids) + 1):
        assert smollm2.decode([ids[:end]]) == [smollm2.original.decode(ids[:end])]


def test_rows_are_filled_up_behind_a_mask(llama3: Graphs) -> None:
    """The output of tokenizer.onnx goes into model.onnx unchanged."""
    texts = np.array(["one two three", "", "<|begin_of_text|>x"], dtype=object)
    rows, mask = llama3.tokenizer.run(None, {"text": texts})
    assert rows.tolist() == [[128_000, 606, 1403, 2380], [128_000, *[128_001] * 3], [128_000, 87, *[128_001] * 2]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]


def test_no_texts_are_no_rows(smollm2: Graphs) -> None:
    """One of the ops crashes the process if it gets no rows."""
    assert smollm2.encode([]) == []
    assert smollm2.encode([""]) == [[]]
    assert smollm2.detokenizer.run(None, {"ids": np.zeros((0, 3), np.int64)})[0].tolist() == []
    assert smollm2.detokenizer.run(None, {"ids": np.zeros((2, 0), np.int64)})[0].tolist() == ["", ""]


def test_an_id_that_is_no_token_is_an_error(smollm2: Graphs) -> None:
    with pytest.raises(Exception, match="out of data bounds"):
        smollm2.decode([[49_152]])


LONG = ["a" * 50_000, " " * 50_000, "7" * 20_000, "漢字" * 10_000, "<|im_end|>" * 2000, "<|" * 9]


@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:3])
def test_long_texts(smollm2: Graphs, text: str) -> None:
    assert smollm2.encode([text]) == [smollm2.original.encode(text, special=True)]


def test_marks_in_a_text_are_left_out(smollm2: Graphs) -> None:
    """The graph's marks are noncharacters; if a text contains them, they must not split or join anything."""
    assert smollm2.encode(["hello\ufdd0 wor\ufdd1ld\ufdd2"]) == smollm2.encode(["hello world"])


BY_STEPS = {kind.steps: name for name, kind in reversed(PRE_TOKENIZERS.items())}
CANNOT_BE_CUT = ("jais-2", "laguna", "superbpe", "tiny_aya")


def test_which_pre_tokenizers_have_no_graph() -> None:
    assert {name for name in BY_STEPS.values() if not can_cut(PRE_TOKENIZERS[name])} == set(CANNOT_BE_CUT)


@pytest.mark.parametrize("name", [name for name in BY_STEPS.values() if name not in CANNOT_BE_CUT])
def test_every_pre_tokenizer_is_cut_without_looking_ahead(name: str, texts: list[str]) -> None:
    """RE2 has no lookahead. Only characters of Unicode 3.2 are tried, because RE2 does not know newer letters."""
    texts = [text for text in texts if all(unicodedata.ucd_3_2_0.category(c) != "Cn" for c in text)]
    assert len(texts) > 5000
    pre_tokenizer = PRE_TOKENIZERS[name]
    builder = _builder("cuts")
    cut = _rewrite(builder.op, builder.input("text", ir.DataType.STRING, ["n"]), byte_level_rewrites(pre_tokenizer, []))
    builder.add_output(cut, "cut")
    found = session(ir.to_proto(_model(builder)).SerializeToString()).run(None, {"text": np.array(texts, dtype=object)})
    cutter = Cutter(pre_tokenizer)
    for text, pieces in zip(texts, found[0], strict=True):
        assert [piece for piece in pieces.split(CUT) if piece] == list(cutter.pieces(text)), ascii(text)


def test_tokens_without_merges_and_bytes_without_tokens(tmp_path: Path) -> None:
    """A token that no merge forms only occurs if pieces may stay whole; a byte without a token is skipped."""
    tokens = [*BYTES[:4], *BYTES[5:], "ab", "orphan", "<user>", "<|eot_id|>", "[PAD]", "don't x", "<s>"]
    types = [TokenType.NORMAL] * 257
    types += [TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNUSED, TokenType.USER_DEFINED, TokenType.CONTROL]
    texts = ["orphan ab orphan<user>ab<user> don't x orphanorphan<|eot_id|>[PAD]<s> a\x04b", "<user", "\x04", "ab\x04"]
    for pre in ("tekken", "gpt-2", "youtu", "deepseek-llm", "default"):
        path = tmp_path / f"{pre}.gguf"
        write_vocabulary_gguf(path, model="gpt2", tokens=tokens, types=types, merges=["a b"], pre=pre)
        graphs = Graphs(read_vocabulary(path))
        assert graphs.encode(texts) == [graphs.original.encode(text, bos=False, special=True) for text in texts]
        ids = list(range(len(tokens)))
        assert graphs.decode([ids[:256]])[0].count("\ufffd") > 0
        assert graphs.decode([ids[256:]]) == [graphs.original.decode(ids[256:])]


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "deepseek-llm"])
@pytest.mark.parametrize(
    "missing", [range(0x80, 0x100), [0xEF], [0xB7, 0x92], b"<_>", b"a", range(0x20, 0x100, 3)], ids=repr
)
def test_bytes_without_tokens_in_marks_and_special_tokens(tmp_path: Path, pre: str, missing: Sequence[int]) -> None:
    """Bytes that are left out of texts stay in marks and special tokens; Hugging Face's tokenizers are the oracle."""
    path = tmp_path / "m.gguf"
    single = [letter for byte, letter in CHARACTER_OF_BYTE.items() if byte not in missing]
    merges = [merge for merge in ("b c", "Ġ b", "bc b", "d d") if set(merge.replace(" ", "")) <= set(single)]
    formed = [merge.replace(" ", "") for merge in merges]
    unformed = ["ab"] * (pre == "gpt-2")  # no merge forms it
    added = ["<_eot_>", "<|eot_id|>", "日"]
    tokens = [*single, *formed, *unformed, *added]
    types = [TokenType.NORMAL] * (len(tokens) - 3) + [TokenType.CONTROL, TokenType.CONTROL, TokenType.USER_DEFINED]
    write_vocabulary_gguf(path, model="gpt2", tokens=tokens, types=types, merges=merges, pre=pre, add_bos_token=False)
    vocabulary = read_vocabulary(path)
    texts = ["bab cab<_eot_>bc b", "price 日 5 é<|eot_id|>bcb b", "<_>", "_日b\ufdcfb\ufdd3 b", "abcb dd, ddd", "ab"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(vocabulary)), encoding="utf-8")
    hugging_face = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert Graphs(vocabulary).encode(texts) == hugging_face_ids(hugging_face, texts, special=True)


def test_an_end_that_its_file_calls_text(tmp_path: Path) -> None:
    """It is recognized as a special token, and apps are told to stop there."""
    tokens = [*BYTES, "ab", "<|im_end|>", "<|last|>"]
    types = [*[TokenType.NORMAL] * 258, TokenType.CONTROL]
    path = write_vocabulary_gguf(
        tmp_path / "m.gguf", model="gpt2", tokens=tokens, types=types, merges=["a b"], pre="gpt-2", eos_token_id=258
    )
    vocabulary = read_vocabulary(path)
    assert _special_ids(vocabulary)["eos_token_id"] == [257, 258]
    graphs = Graphs(vocabulary)
    assert graphs.encode(["ab<|im_end|>ab<|last|>"]) == [[256, 257, 256, 258]]
    assert graphs.decode([[256, 257, 256, 258]]) == ["abab"]


def test_whole_pieces_that_two_tokens_make_up(tmp_path: Path) -> None:
    """tiktoken cannot handle such a token; the graph can."""
    path = tmp_path / "m.gguf"
    tokens = [*BYTES, "ab", "bc", "abc", "abcbc"]
    write_vocabulary_gguf(path, model="gpt2", tokens=tokens, merges=["b c"], pre="llama-bpe", add_bos_token=False)
    graphs = Graphs(read_vocabulary(path))
    texts = ["ab", "cab", "abc", "abcbc abc ab", "aabc bc"]
    assert graphs.encode(texts) == [graphs.original.encode(text) for text in texts]
    assert graphs.encode(["ab", "abc"]) == [[256], [258]]


def test_an_unknown_token_stands_for_bytes_that_no_token_has(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    tokens = [*(letter for byte, letter in CHARACTER_OF_BYTE.items() if byte < 0x80), "ab", "<unk>"]
    types = [*[TokenType.NORMAL] * 129, TokenType.UNKNOWN]
    described = {"tokens": tokens, "types": types, "merges": ["a b"], "pre": "gpt-2", "unknown_token_id": 129}
    write_vocabulary_gguf(path, model="gpt2", **described)  # type: ignore[arg-type]
    graphs = Graphs(read_vocabulary(path))
    texts = ["price 日 5", "a日b", "é", "ab"]
    assert graphs.encode(texts) == [graphs.original.encode(text) for text in texts]
    assert graphs.encode(["é"]) == [[129, 129]]


def test_a_sentencepiece_vocabulary_without_byte_tokens(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    tokens, types = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab"], [2, 3, 3, 1, 1, 1, 1]
    scores = [0.0] * 6 + [-1.0]
    write_vocabulary_gguf(path, model="llama", tokens=tokens, types=types, scores=scores)
    graphs = Graphs(read_vocabulary(path))
    texts = ["ab a", "日本ab日", "\n", "a日"]
    assert graphs.encode(texts) == [graphs.original.encode(text) for text in texts]


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "a pre-tokenizer that looks ahead": (
        {"tokens": [*BYTES, "ab"], "merges": ["a b"], "pre": "superbpe"},
        "its pre-tokenizer looks ahead",
    ),
    "damaged merges": ({"merges": ["a b", "b b"]}, "its merges are damaged"),
    "merges that no ranks can follow": ({"merges": ["ab c", "a b"], "tokens": [*BYTES, "ab", "abc", "bc"]}, "no ranks"),
    "a first token that is text": (
        {"merges": ["a b"], "tokens": [*BYTES, "ab"], "bos_token_id": 256, "add_bos_token": True},
        r"beginning-of-sequence token \(256\)",
    ),
    "a whole piece of bytes without tokens": (
        {"tokens": [*filter("a".__ne__, BYTES), "bc", "ab"], "merges": ["b c"], "pre": "llama-bpe"},
        "its token 'ab' has bytes",
    ),
    "a token with a mark": ({"tokens": [*BYTES, "ab", "<\ufdd0>"], "merges": ["a b"]}, r"U\+FDD0"),
    "more special tokens than RE2 searches for": (
        {"tokens": [*BYTES, "ab", "c" * 300_000], "types": [*[TokenType.NORMAL] * 257, 3], "merges": ["a b"]},
        "special tokens have more than 250,000 bytes",
    ),
    "some of the byte tokens": (
        {
            "model": "llama",
            "tokens": ["<unk>", "<0x00>", "a"],
            "types": [2, 6, 1],
            "scores": [0.0] * 3,
            "add_bos_token": False,
        },
        "sentencepiece refuses its tokens",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_a_vocabulary_whose_ids_would_differ_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    described = {"model": "gpt2", "tokens": [*BYTES, "ab", "abc"], "pre": "gpt-2"} | changes
    path = write_vocabulary_gguf(tmp_path / "m.gguf", **described)  # type: ignore[arg-type]
    with pytest.raises(Llama3Error, match=message) as caught:
        tokenizer_graphs(read_vocabulary(path))
    assert "\n" not in str(caught.value)


def test_the_graphs_are_valid_onnx(smollm2: Graphs, spm: Graphs) -> None:
    for model in (*smollm2.models.values(), *spm.models.values()):
        onnx.checker.check_model(onnx.load_from_string(model), full_check=True)


# The option of llama3-export


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", types=GGMLQuantizationType.Q4_0)


def export(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["llama3-export", "--tokenizer-graph", *map(str, arguments)])
    return commands.main()


def test_an_export_notes_that_text_is_not_normalized(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gguf: Path, tmp_path: Path
) -> None:
    """The model is like Command R, whose pre-tokenizer's name is as long as Llama 3's."""
    model = tmp_path / "model.gguf"
    model.write_bytes(gguf.read_bytes().replace(b"llama-bpe", b"command-r"))
    assert export(monkeypatch, model, "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out.count("  note     tokenizer.onnx does not normalize text") == 1
    assert export(monkeypatch, gguf, "--output", tmp_path / "other") == 0
    assert "  note" not in capsys.readouterr().out


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_an_export_has_both_graphs(monkeypatch: pytest.MonkeyPatch, gguf: Path, tmp_path: Path, ops: str) -> None:
    """ONNX Runtime alone turns text into logits: the model accepts the tokenizer's output."""
    assert export(monkeypatch, gguf, "--output", tmp_path / "out", "--ops", ops) == 0
    rows, mask = session((tmp_path / "out/tokenizer.onnx").read_bytes()).run(
        None, {"text": np.array(["the thing and", "on"], dtype=object)}
    )
    logits, _ = Graph(tmp_path / "out")(rows, mask)
    assert np.isfinite(logits).all()
    text = session((tmp_path / "out/detokenizer.onnx").read_bytes()).run(None, {"ids": rows})[0]
    assert text.tolist() == ["the thing and", "on"]


def test_the_example_of_the_docs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gguf: Path, tmp_path: Path
) -> None:
    code = re.search(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    assert export(monkeypatch, gguf, "--output", "out") == 0
    capsys.readouterr()
    exec(compile(code[1], DOC.name, "exec"), {})
    assert capsys.readouterr().out.startswith("Gravity is")


@pytest.mark.parametrize(
    ("tokenizer", "arguments", "status", "message"),
    [
        ("tiny", ["--ops", "native"], 2, "needs a folder"),
        (None, ["--output", "out"], 1, "has no tokenizer; omit --tokenizer-graph"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tokenizer: Literal["tiny"] | None,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_llama_gguf(tmp_path / "model.gguf", num_layers=1, tokenizer=tokenizer)
    assert export(monkeypatch, "model.gguf", *arguments) == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
