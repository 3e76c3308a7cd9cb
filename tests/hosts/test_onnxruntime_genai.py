"""onnxruntime-genai loads the folder, with its own tokenizer, chat template and shared KV cache."""

from __future__ import annotations

import ast
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tokenizers
from llama3_exporter.tokenizers.json_files import tokenizer_config, tokenizer_json
from llama3_models.exports import Ops
from llama3_models.tokenizer.files import read_vocabulary

from tests.hosts import host_programs
from tests.hosts.conftest import PROMPTS
from tests.support.texts import mixed_texts
from tests.support.vocabularies import write_llama3_gguf, write_qwen3_gguf

if TYPE_CHECKING:
    from tests.support.sane_qwen import SaneQwen

host_programs.require("onnxruntime_genai")

PAGE = "onnxruntime-genai.md"
ENCODE = """
import json, sys
import onnxruntime_genai as og

tokenizer = og.Tokenizer(og.Model(sys.argv[1]))
print(json.dumps([tokenizer.encode(text).astype("int32").tolist() for text in json.load(sys.stdin)]))
"""


@pytest.mark.parametrize("kind", ["contrib", "native"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text(kind: str, prompt: str, texts: dict[str, str], request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    assert host_programs.run(host_programs.example(PAGE, "A prompt"), folder, prompt) == texts[prompt]


def test_the_cache_is_one_buffer(contrib: Path) -> None:
    search = json.loads((contrib / "genai_config.json").read_text())["search"]
    assert search["past_present_share_buffer"] is True


@pytest.mark.parametrize("kind", ["contrib", "native"])
def test_a_batch_gives_what_each_prompt_gives(kind: str, texts: dict[str, str], request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    lines = host_programs.run(host_programs.example(PAGE, "Several prompts at once"), folder, *PROMPTS).splitlines()
    for prompt, line in zip(PROMPTS, lines, strict=True):
        found = ast.literal_eval(line)
        # The shorter prompt's row continues to the end of the batch, with more tokens of the same text.
        assert found.startswith(prompt + texts[prompt])


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_qwen_s_text_is_llama_cpp_s(ops: Ops, sane_qwen: SaneQwen) -> None:
    program = host_programs.example(PAGE, "A prompt")
    found = {prompt: host_programs.run(program, sane_qwen.exported(ops), prompt) for prompt in sane_qwen.texts}
    assert found == sane_qwen.texts


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_a_batch_of_qwen_s_is_llama_cpp_s_texts(ops: Ops, sane_qwen: SaneQwen) -> None:
    program = host_programs.example(PAGE, "Several prompts at once")
    lines = host_programs.run(program, sane_qwen.exported(ops), *sane_qwen.texts).splitlines()
    for (prompt, text), line in zip(sane_qwen.texts.items(), lines, strict=True):
        assert ast.literal_eval(line).startswith(prompt + text)


def test_chat_template(contrib: Path) -> None:
    """The text is that of jinja with the model's template and its default system message."""
    found = host_programs.run(host_programs.example(PAGE, "A chat"), contrib, '[{"role": "user", "content": "Hi"}]')
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert found == (f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def replace_tokenizer(folder: Path, gguf: Path) -> None:
    """Put the tokenizer of a GGUF into an export folder."""
    vocabulary = read_vocabulary(gguf)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(vocabulary)), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(vocabulary)), encoding="utf-8")


def test_chat_template_of_qwen3(contrib: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(contrib, folder, copy_function=shutil.copy)
    replace_tokenizer(folder, write_qwen3_gguf(tmp_path / "qwen3.gguf"))
    found = host_programs.run(host_programs.example(PAGE, "A chat"), folder, '[{"role": "user", "content": "Hi"}]')
    assert found == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("column", "write_gguf"),
    [(1, None), (2, write_llama3_gguf), (3, write_qwen3_gguf)],
    ids=["smollm2", "llama3", "qwen3"],
)
def test_the_page_counts_where_its_tokenizer_differs(
    column: int, write_gguf: Callable[[Path], Path] | None, contrib: Path, tmp_path: Path
) -> None:
    """The page's table is correct, and all other texts get the ids of Hugging Face's tokenizers."""
    folder = tmp_path / "folder"
    shutil.copytree(contrib, folder, copy_function=shutil.copy)
    if write_gguf is not None:
        replace_tokenizer(folder, write_gguf(tmp_path / "model.gguf"))
    texts = mixed_texts()
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [encoding.ids for encoding in reference.encode_batch(texts, add_special_tokens=False)]
    found = json.loads(host_programs.run(ENCODE, folder, stdin=json.dumps(texts)))
    counts: Counter[str] = Counter()
    for text, ours, theirs in zip(texts, expected, found, strict=True):
        if ours != theirs:
            counts[reason(text, theirs)] += 1
    rows = [line.strip("| ").split(" | ") for line in section_table(PAGE)]
    assert counts == {row[0][:6]: int(row[column]) for row in rows if row[column] != "0"}


def reason(text: str, ids: list[int]) -> str:
    """Return the first letters of the table row that a text belongs to, or the text."""
    if "\0" in text:
        return "a NUL "
    if -1 in ids:
        return "a byte"
    if "\x85" in text:
        return "U+0085"
    return text if tokenizers.normalizers.NFC().normalize_str(text) == text else "letter"


def section_table(page: str) -> list[str]:
    lines = (host_programs.PAGES / page).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("|")][2:]
