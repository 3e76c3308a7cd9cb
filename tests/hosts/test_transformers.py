"""transformers reads the tokenizer, and Optimum's generate gives llama3-run's text, however a batch is padded."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import llama3_custom_ops
import pytest
from llama3_runtime import Generator

from tests.hosts import host_programs
from tests.hosts.conftest import PROMPTS
from tests.support.texts import mixed_texts

if TYPE_CHECKING:
    from tests.support.sane_qwen import SaneQwen

host_programs.require("optimum.onnxruntime")

PAGE = "transformers.md"
MESSAGES = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "\n"},
]


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one", "batch"])
def test_greedy_text(padding_side: str, prompts: tuple[str, ...], contrib: Path, texts: dict[str, str]) -> None:
    program = host_programs.example(PAGE, "Prompts")
    lines = host_programs.run(program, contrib, padding_side, *prompts).splitlines()
    assert [ast.literal_eval(line) for line in lines] == [texts[prompt] for prompt in prompts]


def test_ids_and_chat_template(contrib: Path, generator: Generator) -> None:
    """The ids are the runtime's on every text, and the chat is what jinja makes of the template."""
    texts = mixed_texts()
    stdin = json.dumps([texts, MESSAGES])
    ids, chat = json.loads(host_programs.run(host_programs.example(PAGE, "The tokenizer"), contrib, stdin=stdin))
    tokenizer = generator.tokenizer
    assert ids == [tokenizer.encode(text, bos=False, special=True) for text in texts]
    assert tokenizer.chat_template is not None
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(tokenizer.chat_template)
    assert chat == template.render(messages=MESSAGES, add_generation_prompt=True)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_native_ops(prompt: str, native: Path, texts: dict[str, str]) -> None:
    program = host_programs.example(PAGE, "Native ops")
    assert host_programs.run(program, native, native / llama3_custom_ops.LIBRARY, prompt) == texts[prompt]


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_batch_of_qwen_s_is_llama_cpp_s_texts(padding_side: str, sane_qwen: SaneQwen) -> None:
    program = host_programs.example(PAGE, "Prompts")
    lines = host_programs.run(program, sane_qwen.exported("contrib"), padding_side, *sane_qwen.texts).splitlines()
    assert [ast.literal_eval(line) for line in lines] == list(sane_qwen.texts.values())


def test_qwen_s_ids_and_chat_template(sane_qwen: SaneQwen) -> None:
    program, stdin = host_programs.example(PAGE, "The tokenizer"), json.dumps([list(sane_qwen.prompts), MESSAGES[:1]])
    ids, chat = json.loads(host_programs.run(program, sane_qwen.exported("contrib"), stdin=stdin))
    assert ids == list(sane_qwen.prompts.values())
    assert chat == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_qwen_in_native_ops(sane_qwen: SaneQwen) -> None:
    program, native = host_programs.example(PAGE, "Native ops"), sane_qwen.exported("native")
    for prompt, text in sane_qwen.texts.items():
        assert host_programs.run(program, native, native / llama3_custom_ops.LIBRARY, prompt) == text


def test_the_page_s_line_about_heads_is_needed(sane_qwen: SaneQwen) -> None:
    """Without it, Optimum runs Qwen2, and nothing whose heads are longer than a part of the hidden state."""
    program = host_programs.example(PAGE, "Prompts").replace("model.embed_size_per_head = model.config.head_dim\n", "")
    arguments = sane_qwen.exported("contrib"), "left", *sane_qwen.texts
    if sane_qwen.gguf.stem == "qwen2":
        assert host_programs.run(program, *arguments)
    else:
        with pytest.raises(AssertionError, match="Got: 64 Expected: 96"):
            host_programs.run(program, *arguments)
