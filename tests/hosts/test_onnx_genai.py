"""onnx-genai loads the folder and gives llama3-run's text."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts import host_programs
from tests.hosts.conftest import PROMPTS

host_programs.require("onnx_genai")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text(prompt: str, contrib: Path, texts: dict[str, str]) -> None:
    assert host_programs.run(host_programs.example("onnx-genai.md", "A prompt"), contrib, prompt) == texts[prompt]
