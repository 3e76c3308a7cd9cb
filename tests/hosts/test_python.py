"""onnxruntime alone runs the graph: contrib as it is, native once the library is registered."""

from __future__ import annotations

import json
from pathlib import Path

import llama3_custom_ops
import pytest

from tests.hosts import host_programs
from tests.hosts.conftest import PROMPTS

host_programs.require("tokenizers")


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", ["contrib", "native"])
def test_greedy_ids(kind: str, prompt: str, ids: dict[str, list[int]], request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    library = [folder / llama3_custom_ops.LIBRARY] if kind == "native" else []
    program = host_programs.example("python.md", "A prompt")
    assert "llama3" not in program
    assert json.loads(host_programs.run(program, folder, prompt, *library)) == ids[prompt]
