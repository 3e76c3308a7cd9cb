"""The examples of docs/python.md run, one after another, in the order of the page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from llama3_runtime import SamplingParams

from tests.support.paths import DOCS
from tests.support.vocabularies import smollm2_gguf


def examples(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder that has the embedded model as model.gguf."""
    (tmp_path / "model.gguf").symlink_to(smollm2_gguf())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMA3_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_the_page(work_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    printed = []
    for code in examples(DOCS / "python.md"):
        exec(compile(code, "docs/python.md", "exec"), names)
        printed.append(capsys.readouterr().out)
    loaded, result, streamed, interrupted, ids, error, exported = printed
    assert loaded.removesuffix("\n") in streamed
    assert streamed.endswith("\nlength\n")
    assert re.match(r"stop '(\\n|\.)' \d+$", result)
    assert interrupted == "interrupt 8\n"
    assert re.fullmatch(r"\[\d+\]\n", ids)
    assert error.startswith("gone.gguf: no such file")
    assert re.fullmatch(r"out \d+\n", exported)
    assert (work_folder / "out" / "model.onnx").is_file()


def test_the_defaults_of_sampling() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| .* \|$", page.split("| field | default |")[1], flags=re.MULTILINE)
    assert {name: ast.literal_eval(default) for name, default in rows} == vars(SamplingParams())
