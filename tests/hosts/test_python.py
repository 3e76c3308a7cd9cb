"""onnxruntime alone runs the graph: contrib as it is, native once the library is registered."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING

import llama3_custom_ops
import pytest
from llama3_models.exports import Ops

from tests.hosts import host_programs
from tests.hosts.conftest import PROMPTS

if TYPE_CHECKING:
    from tests.support.sane_qwen import SaneQwen

host_programs.require("tokenizers")


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", ["contrib", "native"])
def test_greedy_ids(kind: str, prompt: str, ids: dict[str, list[int]], request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    library = [folder / llama3_custom_ops.LIBRARY] if kind == "native" else []
    program = host_programs.example("python.md", "A prompt")
    assert "llama3" not in program
    assert json.loads(host_programs.run(program, folder, prompt, *library)) == ids[prompt]


@pytest.mark.parametrize("kind", ["contrib", "native"])
def test_a_batch_in_which_a_row_ends(kind: str, texts: dict[str, str], request: pytest.FixtureRequest) -> None:
    program = host_programs.example("python.md", "A batch")
    assert "llama3" not in program.replace("libllama3_custom_ops.so", "")
    lines = host_programs.run(program, request.getfixturevalue(kind), *PROMPTS).splitlines()
    assert [ast.literal_eval(line) for line in lines] == [prompt + texts[prompt] for prompt in PROMPTS]


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_qwen_s_ids_are_llama_cpp_s(ops: Ops, sane_qwen: SaneQwen) -> None:
    folder = sane_qwen.exported(ops)
    library = [folder / llama3_custom_ops.LIBRARY] if ops == "native" else []
    for prompt, ids in sane_qwen.prompts.items():
        output = host_programs.run(host_programs.example("python.md", "A prompt"), folder, prompt, *library)
        assert json.loads(output) == [*ids, *sane_qwen.new[prompt]]


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_a_batch_of_qwen_s_is_llama_cpp_s_texts(ops: Ops, sane_qwen: SaneQwen) -> None:
    program = host_programs.example("python.md", "A batch")
    lines = host_programs.run(program, sane_qwen.exported(ops), *sane_qwen.texts).splitlines()
    assert [ast.literal_eval(line) for line in lines] == [prompt + text for prompt, text in sane_qwen.texts.items()]
