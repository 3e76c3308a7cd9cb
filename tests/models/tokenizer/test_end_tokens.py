"""The same tokens end generation as in llama.cpp, whatever their type in the file, also after an export."""

import json
import random
from pathlib import Path

import pytest
import tokenizers
from gguf import TokenType
from llama3_exporter.tokenizers.json_files import tokenizer_json
from llama3_models.tokenizer.byte_alphabet import CHARACTER_OF_BYTE
from llama3_models.tokenizer.end_tokens import _BY_ROLE, _ENDS
from llama3_models.tokenizer.files import read_vocabulary
from llama3_runtime.text.tokenizer import Tokenizer

from tests.support.vocabularies import hugging_face_ids, write_vocabulary_gguf

BYTES = list(CHARACTER_OF_BYTE.values())
TYPES = (TokenType.NORMAL, TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED, TokenType.UNKNOWN)
OTHERS = ("<|start_header_id|>", "<unused1>", "<tool>", "<|plamo:eos|>", "<fim_unused>")
WORDS = ("hello", " world", "\n", "<|", "|>", "end", "</", "日", " ")


def write_random(path: Path, rng: random.Random, *, kind: str) -> tuple[Path, list[str]]:
    """Write a vocabulary in which some tokens look special and some have roles; return the texts of the former.

    Each role has at most one text, because llama.cpp may choose any of several. The end of sequence is always named:
    otherwise llama.cpp assumes token 11, which is a letter.
    """
    texts = rng.sample(sorted(_ENDS), rng.randint(1, 12)) + rng.sample(OTHERS, rng.randint(0, 3))
    texts += [rng.choice(sorted(of_role)) for of_role in _BY_ROLE.values() if rng.random() < 0.5]
    if rng.random() < 0.3:
        texts += [text for text in ("<|end|>", "<|return|>", "<|calls|>") if text not in texts]
    rng.shuffle(texts)
    first = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))] if kind == "llama" else [*BYTES, "he"]
    types = [2, 3, *[TokenType.BYTE] * 256] if kind == "llama" else [TokenType.NORMAL] * 257
    tokens = [*first, *texts]
    types += [rng.choice(TYPES) for _ in texts]
    keys = {"eos_token_id": rng.randrange(len(first), len(tokens))}
    for role in ("eot", "eom", "fim_pre", "fim_mid", "fim_pad", "fim_rep", "fim_sep", "suffix"):
        if rng.random() < 0.15:
            keys[f"{role}_token_id"] = rng.randrange(len(first), len(tokens))
    if kind == "llama":
        path = write_vocabulary_gguf(path, model=kind, tokens=tokens, types=types, scores=[0.0] * len(tokens), **keys)
    else:
        path = write_vocabulary_gguf(path, model=kind, pre="gpt-2", tokens=tokens, types=types, merges=["h e"], **keys)
    return path, texts


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_generation_ends_where_it_does_in_llama_cpp(tmp_path: Path, kind: str) -> None:
    """The texts of special tokens also become the same ids, with and without `special`."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    for seed in range(60):
        rng = random.Random(seed)
        path, looks_special = write_random(tmp_path / f"{seed}.gguf", rng, kind=kind)
        tokenizer = Tokenizer.from_path(path)
        tokens = tokenizer.vocabulary.tokens
        theirs = llama_cpp_oracle.eog_ids(path)
        assert {tokens[i] for i in tokenizer.eog_ids} == {tokens[i] for i in theirs}, seed
        texts = ["".join(rng.choices([*looks_special, *WORDS], k=rng.randint(1, 6))) for _ in range(30)]
        for special in (False, True):
            ids = [tokenizer.encode(text, bos=False, special=special) for text in texts]
            assert ids == llama_cpp_oracle.tokenize(path, texts, special=special), (seed, special)


@pytest.mark.parametrize("type_", [TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED])
def test_an_end_that_its_file_calls_text(tmp_path: Path, type_: TokenType, caplog: pytest.LogCaptureFixture) -> None:
    """It ends generation and decodes to nothing; a prompt's own text never becomes it."""
    tokens = [*BYTES, "</", "</s", "</s>", "<|im_end|>", "<|last|>"]
    types = [*[TokenType.NORMAL] * 258, type_, type_, TokenType.CONTROL]
    path = write_vocabulary_gguf(
        tmp_path / "model.gguf",
        model="gpt2",
        pre="superbpe",  # does not split the text
        tokens=tokens,
        types=types,
        merges=["< /", "</ s"],
        eos_token_id=260,
    )
    tokenizer = Tokenizer.from_path(path)
    assert tokenizer.eog_ids == {258, 259, 260}
    text = "a</s>b<|im_end|>"
    plain = tokenizer.encode(text)
    assert not tokenizer.eog_ids & set(plain)
    assert tokenizer.decode(plain) == text
    assert tokenizer.encode(text, special=True) == [BYTES.index("a"), 258, BYTES.index("b"), 259]
    assert tokenizer.decode([258, 259]) == ""
    assert "'</s>' (258), '<|im_end|>' (259): not marked as control" in caplog.text

    described = tokenizer_json(tokenizer.vocabulary)
    hugging_face = tokenizers.Tokenizer.from_str(json.dumps(described))
    for special in (False, True):
        assert hugging_face_ids(hugging_face, [text], special=special) == [tokenizer.encode(text, special=special)]
    added = {token["id"]: token["special"] for token in described["added_tokens"]}
    assert added == {258: True, 259: True, 260: True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    assert read_vocabulary(tmp_path / "tokenizer.json").eog_ids == {258, 259}  # 260 is in the config beside it


def test_an_end_that_merges_form(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Qwen's vocabulary has learned </s> as text: llama.cpp ends there, but otherwise it is ordinary text."""
    path = write_vocabulary_gguf(
        tmp_path / "model.gguf",
        model="gpt2",
        pre="superbpe",  # does not split the text
        tokens=[*BYTES, "</", "</s", "</s>", "<|last|>"],
        types=[*[TokenType.NORMAL] * 259, TokenType.CONTROL],
        merges=["< /", "</ s", "</s >"],
        eos_token_id=259,
    )
    tokenizer = Tokenizer.from_path(path)
    assert tokenizer.eog_ids == {258, 259}
    assert tokenizer.encode("</s>") == tokenizer.encode("</s>", special=True) == [258]
    assert tokenizer.decode([258]) == "</s>"
    assert not caplog.records
