"""The content of config.json and similar files. tests/hosts/test_transformers.py checks that it is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama3_exporter import export
from llama3_models.architectures import ARCHITECTURES

from tests.support.llama_gguf import llama31_rope_factors, write_llama_gguf


def written(folder: Path, name: str = "config.json", max_length: int | None = None, **shape: Any) -> dict[str, Any]:
    """Export a model and return one of the files."""
    gguf = write_llama_gguf(folder / "model.gguf", **shape)
    output = export(gguf, folder / "out", max_length=max_length, force=True).output
    content: dict[str, Any] = json.loads((output / name).read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize(
    ("factor", "head_dim"), [pytest.param(8.0, 128, id="Llama 3.1"), pytest.param(32.0, 64, id="Llama 3.2 1B")]
)
def test_the_scaling_of_llama_3_is_named(factor: float, head_dim: int, tmp_path: Path) -> None:
    """It is the one in the models' own config.json. Their GGUFs have only the divisors."""
    factors = llama31_rope_factors(head_dim, factor=factor)
    config = written(tmp_path, rope_theta=500_000.0, head_dim=head_dim, rope_factors=factors)
    assert config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({}, id="none"),
        pytest.param({"rope_factors": np.linspace(1, 8, 32, dtype=np.float32)}, id="divisors of another rule"),
        pytest.param(
            {
                "rope_theta": 500_000.0,
                "rope_factors": llama31_rope_factors(64),
                "rope_scaling": {"type": "linear", "factor": 2.0},
            },
            id="two at once",
        ),
        pytest.param(
            {"rope_scaling": {"type": "yarn", "factor": 2.0}, "rope_factors": np.linspace(1, 8, 32)},
            id="YaRN and divisors",
        ),
        pytest.param({"rope_scaling": {"factor": 2.0, "attn_factor": 1.5}}, id="linear and an attention factor"),
        pytest.param(
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "original_context_length": 3}}, id="YaRN from 3 positions"
        ),
    ],
)
def test_a_scaling_without_a_name_is_left_out(shape: dict[str, Any], tmp_path: Path) -> None:
    summary = export(write_llama_gguf(tmp_path / "model.gguf", **shape), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["rope_scaling"] is None
    warned = any("RoPE scaling" in line for line in summary.warnings)
    assert warned == bool(shape)


def test_yarn_is_named_with_what_transformers_would_choose_itself(tmp_path: Path) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_context_length": 128, "attn_factor": 1.25}
    assert written(tmp_path, rope_scaling=scaling, max_length=300)["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "attention_factor": pytest.approx(1.25 * (1 + 0.1 * np.log(4))),
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "genai_config.json"])
def test_rows_are_filled_up_with_the_file_s_padding(name: str, tmp_path: Path) -> None:
    content = written(tmp_path, name, tokenizer="qwen2", vocab_size=1024, architecture="qwen2")
    content = content.get("model", content)
    tokens = json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    ids = {token["content"]: token["id"] for token in tokens}
    assert content["pad_token_id"] == content["bos_token_id"] == ids["<|endoftext|>"]
    assert content["eos_token_id"] == [ids["<|endoftext|>"], ids["<|im_end|>"]]


CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_architecture_is_named_truly(architecture: str, tmp_path: Path) -> None:
    """The names are those of transformers and onnxruntime-genai."""
    config = written(tmp_path, architecture=architecture)
    assert (config["model_type"], config["architectures"]) == (architecture, [CLASSES[architecture]])
    assert written(tmp_path, "genai_config.json", architecture=architecture)["model"]["type"] == architecture
