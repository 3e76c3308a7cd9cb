"""onnxruntime-node runs the export, with the program of docs/apps/node.md and the tokenizer of npm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tokenizers
from llama3_exporter.tokenizers.json_files import tokenizer_config, tokenizer_json
from llama3_models.gguf.file import GGUFFile
from llama3_models.tokenizer.vocabulary import Vocabulary
from llama3_runtime import Generator, SamplingParams

from tests.hosts.host_programs import example
from tests.hosts_js.javascript import FOLDER, PACKAGES, require_node, run_node
from tests.support.texts import mixed_texts
from tests.support.vocabularies import (
    hugging_face_ids,
    hugging_face_llama3,
    hugging_face_qwen3,
    hugging_face_smollm2,
    without_newer_marks,
    write_llama3_gguf,
    write_qwen3_gguf,
)

if TYPE_CHECKING:
    from tests.support.sane_qwen import SaneQwen

require_node("onnxruntime-node", "@huggingface/tokenizers")

# Characters without a token, between two that merge: dropped after the merge here, before it by Hugging Face's own.
LEFT_OUT_LATER = (">\x06'", ">\x14'")


@pytest.mark.parametrize("prompt", ["Gravity is", "The capital of France is"])
def test_greedy_ids_are_our_generator_s(folder: Path, generator: Generator, prompt: str, tmp_path: Path) -> None:
    """One array per layer is both past and present, and the second text ends at an end token."""
    ids, *text = run_node(program(tmp_path), folder, prompt, 48).splitlines()

    prompt_ids = generator.tokenizer.encode(prompt)
    expected = [*prompt_ids, *generator.generate(prompt_ids, SamplingParams(temperature=0, max_new_tokens=48)).ids]
    assert [int(i) for i in ids.split()] == expected
    assert "\n".join(text) == generator.tokenizer.decode(expected)


def test_qwen_s_text_is_llama_cpp_s(sane_qwen: SaneQwen, tmp_path: Path) -> None:
    script, folder = program(tmp_path), sane_qwen.exported("contrib")
    for prompt, text in sane_qwen.texts.items():
        ids, found = run_node(script, folder, prompt, len(sane_qwen.new[prompt])).splitlines()
        assert [int(i) for i in ids.split()] == [*sane_qwen.prompts[prompt], *sane_qwen.until_end(prompt)]
        assert found == prompt + text


def test_the_tokenizer_gives_smollm2_s_ids(folder: Path) -> None:
    """It does for all texts but two, as the page says."""
    texts = [*LEFT_OUT_LATER, *mixed_texts()]
    found = ids_of(folder, texts)
    expected = hugging_face_ids(hugging_face_smollm2(), texts, special=True)
    different = [text for text, a, b in zip(texts, found, expected, strict=True) if a != b]
    assert len(different) == len(LEFT_OUT_LATER) + 2
    assert all(any(characters in text for characters in LEFT_OUT_LATER) for text in different), different


@pytest.mark.parametrize(
    ("write_gguf", "original"), [(write_llama3_gguf, hugging_face_llama3), (write_qwen3_gguf, hugging_face_qwen3)]
)
def test_the_tokenizer_gives_the_original_s_ids(
    write_gguf: Callable[[Path], Path], original: Callable[[], tokenizers.Tokenizer], tmp_path: Path
) -> None:
    """For Qwen3, whose tokenizer composes text, marks that Hugging Face's older tables do not have are left out."""
    with GGUFFile.open(write_gguf(tmp_path / "model.gguf")) as file:
        vocabulary = Vocabulary.from_gguf(file)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(vocabulary)), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(vocabulary)), encoding="utf-8")
    texts = mixed_texts() if original is hugging_face_llama3 else without_newer_marks(mixed_texts())
    assert ids_of(tmp_path, texts) == hugging_face_ids(original(), texts, special=True)


def program(folder: Path) -> Path:
    """Write the page's program to `folder`, beside the packages that it imports."""
    path = folder / "program.mjs"
    path.write_text(example("node.md", "A prompt", "js"), encoding="utf-8")
    (folder / "node_modules").symlink_to(PACKAGES)
    return path


def ids_of(folder: Path, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = json.loads(run_node(FOLDER / "encode.mjs", folder, stdin=json.dumps(texts)))
    return ids
