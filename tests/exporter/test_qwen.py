"""Exports of a small Qwen2 and a small Qwen3 generate what llama.cpp generates with the same float32 weights."""

from __future__ import annotations

import pytest

pytest.importorskip("llama_cpp")

from llama3_models.exports import Ops
from llama3_runtime import Generator, SamplingParams

from tests.support import llama_cpp_oracle
from tests.support.sane_qwen import NEW_TOKENS, SaneQwen


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_greedy_ids_are_llama_cpp_s(ops: Ops, sane_qwen: SaneQwen) -> None:
    generator = Generator.from_folder(sane_qwen.exported(ops), max_length=64)
    params = SamplingParams(temperature=0, max_new_tokens=NEW_TOKENS, ignore_eos=True)
    for prompt, ids in sane_qwen.prompts.items():
        assert generator.tokenizer.encode(prompt) == ids
        assert list(generator.generate(prompt, params).ids) == sane_qwen.new[prompt]


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_the_text_ends_where_llama_cpp_s_ends(ops: Ops, sane_qwen: SaneQwen) -> None:
    generator = Generator.from_folder(sane_qwen.exported(ops), max_length=64)
    params = SamplingParams(temperature=0, max_new_tokens=NEW_TOKENS)
    found = {prompt: generator.generate(prompt, params) for prompt in sane_qwen.prompts}
    assert {prompt: generation.text for prompt, generation in found.items()} == sane_qwen.texts
    assert {generation.finish_reason for generation in found.values()} == {"eos", "length"}


def test_the_ids_depend_on_tokens_before_the_last(sane_qwen: SaneQwen) -> None:
    """Otherwise a lost cache, a wrong position or a wrong head would not show."""
    for prompt, ids in sane_qwen.prompts.items():
        assert llama_cpp_oracle.greedy(sane_qwen.gguf, ids[-1:], 4) != sane_qwen.new[prompt][:4]
