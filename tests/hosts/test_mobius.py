"""A graph that mobius builds from the GGUF's own blocks runs with our op in its domain `pkg.nxrt`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama3_custom_ops
import numpy as np
import onnx
import pytest
from gguf import GGMLQuantizationType as T
from llama3_models.gguf.file import GGUFFile
from llama3_models.reference import forward

from tests.hosts import host_programs
from tests.support.llama_gguf import write_llama_gguf

host_programs.require("mobius")
host_programs.require("gguf")

PROMPTS = np.random.default_rng(0).integers(0, 256, (4, 20)).tolist()
LINEARS_OF_A_BLOCK = 7


@pytest.mark.parametrize(
    ("weights", "model"),
    [
        pytest.param(T.IQ4_NL, {}, id="IQ4_NL"),
        pytest.param(T.MXFP4, {}, id="MXFP4"),
        pytest.param(T.IQ4_NL, {"architecture": "qwen2"}, id="Qwen2"),
        pytest.param(T.IQ4_NL, {"architecture": "qwen3", "head_dim": 96}, id="Qwen3"),
    ],
)
def test_the_likeliest_token_is_the_reference_s(weights: T, model: dict[str, Any], tmp_path: Path) -> None:
    types = {"blk.*": weights, "*": T.F16}
    gguf = write_llama_gguf(tmp_path / "model.gguf", types=types, num_layers=2, **model)
    mobius = host_programs.PYTHON.parent / "mobius"
    host_programs.run_command(mobius, "build-gguf", "--keep-quantized", "--output", tmp_path / "out", gguf)
    nodes = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph.node
    assert sum(node.domain == "pkg.nxrt" for node in nodes) == 2 * LINEARS_OF_A_BLOCK
    program = host_programs.example("mobius.md", "The graph")
    library = llama3_custom_ops.library_path()
    with GGUFFile.open(gguf) as file:
        for prompt in PROMPTS:
            (logits,) = forward(file, prompt, last_only=True)
            found = host_programs.run(program, tmp_path / "out", library, *map(str, prompt))
            assert int(found) == logits.argmax()
