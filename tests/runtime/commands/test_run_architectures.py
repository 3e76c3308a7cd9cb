"""`llama3-run` on a GGUF of each architecture, compared with llama.cpp."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from llama3_models.architectures import ARCHITECTURES

from tests.support import llama_cpp_oracle
from tests.support.llama_gguf import num_tokens

PROMPT = "the rain and another thing on"
COUNT = 24


@pytest.mark.parametrize("ops", ["native", "contrib"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_ids(sane_llama: Callable[..., Path], tmp_path: Path, architecture: str, ops: str) -> None:
    """With float32 weights, activations are not quantized, so both programs round alike."""
    gguf = sane_llama("F32", architecture=architecture)
    command = [Path(sys.executable).parent / "llama3-run", "--model-path", gguf, "--ops", ops, "--prompt", PROMPT]
    options = ["--temperature", "0", "--max-new-tokens", str(COUNT), "--ignore-eos", "--json"]
    environment = {**os.environ, "LLAMA3_CACHE": str(tmp_path)}
    result = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    prompt = [gguf_bos(gguf), *llama_cpp_oracle.tokenize(gguf, [PROMPT])[0]]
    expected = llama_cpp_oracle.greedy(gguf, prompt, COUNT, below=num_tokens("tiny"))
    assert json.loads(result.stdout)["ids"] == expected


def gguf_bos(path: Path) -> int:
    """Return the id that the file's prompts begin with."""
    assert llama_cpp_oracle.adds_bos(path)
    return llama_cpp_oracle.tokenize(path, ["<|begin_of_text|>"], special=True)[0][0]
