"""A C++ program on onnxruntime's C API runs both kinds of export."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import llama3_custom_ops
import pytest
from llama3_models.exports import Ops

from tests.hosts import host_programs
from tests.hosts.conftest import NEW_TOKENS, PROMPTS
from tests.support.vocabularies import hugging_face_smollm2, package_folder

if TYPE_CHECKING:
    from tests.support.sane_qwen import SaneQwen

COMPILER = shutil.which("c++")
INCLUDE = Path(__file__).parent / "include"

pytestmark = pytest.mark.skipif(COMPILER is None, reason="a C++ compiler (c++) is not installed")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert COMPILER is not None
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "program.cc").write_text(host_programs.example("cpp.md", "The program", "cpp"))
    (library,) = (package_folder("onnxruntime") / "capi").glob("libonnxruntime.so.*")
    # When the program starts, it looks for the library's own name, without the last numbers.
    host_programs.run_command(
        COMPILER,
        "-std=c++20",
        "-Wall",
        "-Werror",
        folder / "program.cc",
        "-I",
        INCLUDE,
        library,
        "-o",
        folder / "program",
    )
    (folder / "libonnxruntime.so.1").symlink_to(library)
    return folder / "program"


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("kind", ["contrib", "native"])
def test_greedy_ids(
    kind: str,
    prompt: str,
    program: Path,
    ids: dict[str, list[int]],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(program.parent))
    folder: Path = request.getfixturevalue(kind)
    library = "-" if kind == "contrib" else folder / llama3_custom_ops.LIBRARY
    prompt_ids = [str(token) for token in ids[prompt][:-NEW_TOKENS]]
    output = host_programs.run_command(program, folder, library, *prompt_ids)
    assert [int(token) for token in output.split()] == ids[prompt]
    assert output.endswith("\n")


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_qwen_s_ids_are_llama_cpp_s(
    ops: Ops, program: Path, sane_qwen: SaneQwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(program.parent))
    folder = sane_qwen.exported(ops)
    library = "-" if ops == "contrib" else folder / llama3_custom_ops.LIBRARY
    for prompt, ids in sane_qwen.prompts.items():
        output = host_programs.run_command(program, folder, library, *map(str, ids))
        assert [int(token) for token in output.split()] == [*ids, *sane_qwen.new[prompt]]


def test_too_few_arguments_are_one_line(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(program.parent))
    done = subprocess.run([program, "FOLDER", "-"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("usage: .*\n", done.stderr)


def test_the_page_s_ids_are_those_of_its_text() -> None:
    page = (host_programs.PAGES / "cpp.md").read_text(encoding="utf-8")
    (numbers,) = re.findall(r"^ +\./program FOLDER \S+ ([\d ]+)$", page, re.MULTILINE)
    (text,) = re.findall(r'SmolLM2\'s ids of "(.*)"', page)
    assert [int(number) for number in numbers.split()] == hugging_face_smollm2().encode(text).ids
