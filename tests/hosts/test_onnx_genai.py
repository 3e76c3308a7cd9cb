"""onnx-genai loads the folder and generates llama3-run's text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hosts import host_programs
from tests.hosts.conftest import PROMPTS

if TYPE_CHECKING:
    from tests.support.sane_qwen import SaneQwen

host_programs.require("onnx_genai")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text(prompt: str, contrib: Path, texts: dict[str, str]) -> None:
    assert host_programs.run(host_programs.example("onnx-genai.md", "A prompt"), contrib, prompt) == texts[prompt]


def test_qwen_s_text_is_llama_cpp_s(sane_qwen: SaneQwen) -> None:
    program = host_programs.example("onnx-genai.md", "A prompt")
    found = {prompt: host_programs.run(program, sane_qwen.exported("contrib"), prompt) for prompt in sane_qwen.texts}
    assert found == sane_qwen.texts
