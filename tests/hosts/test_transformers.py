"""transformers reads the tokenizer, and Optimum's generate returns llama3-run's text, however a batch is padded."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import llama3_custom_ops
import numpy as np
import pytest
from llama3_exporter import export
from llama3_runtime import Generator

from tests.hosts import host_programs
from tests.hosts.conftest import PROMPTS
from tests.support.llama_gguf import llama31_rope_factors, write_llama_gguf
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

# Write the logits of transformers' own model, built from the config.json of a folder and the weights of its GGUF.
OWN_MODEL = """
import sys

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
ids = torch.tensor([[int(token) for token in sys.argv[1].split()]])
for folder in sys.argv[2:]:
    config = AutoConfig.from_pretrained(folder)
    state = {}
    for tensor in gguf.GGUFReader(folder + ".gguf").tensors:
        *layer, name, kind = tensor.name.split(".")
        if name == "rope_freqs":
            continue
        values = torch.from_numpy(tensor.data.copy())
        if config.model_type == "llama" and name in ("attn_q", "attn_k"):
            # The two numbers of a rotated pair are neighbors in a Llama GGUF, and half a head apart here.
            pairs = values.reshape(-1, config.head_dim // 2, 2, *values.shape[1:])
            values = pairs.transpose(1, 2).reshape(values.shape)
        prefix = f"model.layers.{layer[1]}." if layer else ""
        state[f"{prefix}{NAMES[name]}.{kind}"] = values
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(state)
    with torch.no_grad():
        np.save(folder + ".npy", model.eval()(ids).logits[0].numpy())
"""
LLAMA31 = {"head_dim": 96, "rope_theta": 500_000.0, "rope_factors": llama31_rope_factors(96)}
YARN = {"type": "yarn", "factor": 4.0, "original_context_length": 100, "attn_factor": 1.2}
MODELS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Llama 3.1": {**LLAMA31, "context_length": 131_072},
    "linear scaling": {"rope_scaling": {"type": "linear", "factor": 4.0}, "tied": True},
    "YaRN": {"rope_scaling": YARN, "rope_theta": 500.0},
    "YaRN by 1 with a factor": {"rope_scaling": {"type": "yarn", "attn_factor": 1.3}},
    "Qwen2 with YaRN": {"architecture": "qwen2", "rope_scaling": YARN, "context_length": 2048},
    "Qwen3 with YaRN": {"architecture": "qwen3", "rope_scaling": YARN | {"yarn_beta_fast": 16.0, "attn_factor": 1.0}},
    "biases": {"attention_bias": True},
    "Qwen2": {"architecture": "qwen2", "rope_theta": 1e6},
    "Qwen3": {"architecture": "qwen3", "rope_theta": 1e6, "head_dim": 96, "num_kv_heads": 1},
}


def test_config_json_says_what_the_model_is(tmp_path: Path) -> None:
    """With only this file, transformers' own model of the weights computes llama.cpp's logits."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    host_programs.require("gguf")
    ids = np.random.default_rng(2).integers(0, 256, 600).tolist()
    for name, shape in MODELS.items():
        export(write_llama_gguf(tmp_path / f"{name}.gguf", **shape), tmp_path / name)
    host_programs.run(OWN_MODEL, " ".join(map(str, ids)), *(tmp_path / name for name in MODELS))
    for name in MODELS:
        expected = llama_cpp_oracle.logits(tmp_path / f"{name}.gguf", ids)
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one", "batch"])
def test_greedy_text(padding_side: str, prompts: tuple[str, ...], contrib: Path, texts: dict[str, str]) -> None:
    program = host_programs.example(PAGE, "Prompts")
    lines = host_programs.run(program, contrib, padding_side, *prompts).splitlines()
    assert [ast.literal_eval(line) for line in lines] == [texts[prompt] for prompt in prompts]


def test_ids_and_chat_template(contrib: Path, generator: Generator) -> None:
    """The ids are the runtime's for every text, and the chat is that of jinja with the template."""
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
    """Without it, Optimum runs Qwen2, but not a model whose heads are longer than their part of the hidden state."""
    program = host_programs.example(PAGE, "Prompts").replace("model.embed_size_per_head = model.config.head_dim\n", "")
    arguments = sane_qwen.exported("contrib"), "left", *sane_qwen.texts
    if sane_qwen.gguf.stem == "qwen2":
        assert host_programs.run(program, *arguments)
    else:
        with pytest.raises(AssertionError, match="Got: 64 Expected: 96"):
            host_programs.run(program, *arguments)
