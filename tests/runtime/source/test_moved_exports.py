"""An export that was moved or damaged on the way runs, or one line says what is wrong."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from llama3_custom_ops import LIBRARY, library_path
from llama3_exporter import export
from llama3_exporter.commands.export import llama3_export
from llama3_models.cli import command_line
from llama3_models.errors import Llama3Error
from llama3_models.exports import Ops
from llama3_runtime.commands.run import run_model
from llama3_runtime.model import Model
from llama3_runtime.source.find import find_export

from tests.support.llama_gguf import write_llama_gguf
from tests.support.vocabularies import smollm2_gguf

IDS = [5, 6, 7]
AARCH64 = (183).to_bytes(2, "little")  # e_machine of <elf.h>


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_gguf(tmp_path_factory.mktemp("moved") / "model.gguf", types=T.Q4_K)


@pytest.fixture(scope="module", params=["contrib", "native"])
def folder(request: pytest.FixtureRequest, gguf: Path) -> Path:
    return export(gguf, gguf.parent / request.param, ops=request.param).output


def ops_of(folder: Path) -> Ops:
    return "contrib" if folder.name == "contrib" else "native"


def logits(path: Path) -> np.ndarray:
    return Model.from_folder(path, max_length=10).forward(IDS).copy()


def one_line(error: pytest.ExceptionInfo[Llama3Error]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_names_with_spaces_and_letters_of_any_script(folder: Path, gguf: Path, tmp_path: Path) -> None:
    """The export's folder, the folder that it is moved to and the GGUF may have such names."""
    ops = ops_of(folder)
    source = tmp_path / "Modèle № 1" / "мой llama 日本.gguf"
    source.parent.mkdir()
    shutil.copy(gguf, source)
    made = export(source, tmp_path / "été 2026" / ops, ops=ops).output
    moved = tmp_path / "öffentlich, für alle"
    shutil.move(made, moved)
    expected = logits(folder)
    assert np.array_equal(logits(moved), expected)
    if ops == "native":
        assert np.array_equal(logits(export(source, ops="native").output), expected)


def test_a_folder_that_is_read_only(folder: Path, tmp_path: Path) -> None:
    """A read-only export runs; a user who may write anywhere, such as root, also leaves it unchanged."""
    moved = tmp_path / "read-only"
    shutil.copytree(folder, moved)
    for path in (*moved.iterdir(), moved):
        path.chmod(path.stat().st_mode & 0o555)
    before = states(moved)
    try:
        assert np.array_equal(logits(moved), logits(folder))
        assert states(moved) == before
    finally:
        moved.chmod(0o755)


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the modification time and size of the folder and each file."""
    stats = {path.name: path.stat() for path in (*folder.iterdir(), folder)}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}


def test_without_its_weights(folder: Path, tmp_path: Path) -> None:
    weights = "model.onnx.data" if folder.name == "contrib" else "model.gguf"
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved, ignore=shutil.ignore_patterns(weights))
    with pytest.raises(Llama3Error) as error:
        logits(moved)
    assert str(moved / weights) in one_line(error)


def test_weights_that_are_still_being_copied(gguf: Path, tmp_path: Path) -> None:
    moved = export(gguf, tmp_path / "moved", ops="native", copy=True).output
    with (moved / "model.gguf").open("r+b") as file:
        file.truncate(10_000)
    with pytest.raises(Llama3Error, match=r"model\.gguf: has 10,000 of [\d,]+ bytes; wait"):
        logits(moved)


def test_the_command_that_an_export_prints(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command works in a folder and beside model.gguf, where the graph has the same name as in a folder."""
    smollm2 = tmp_path / "model.gguf"
    smollm2.symlink_to(smollm2_gguf())
    for arguments in (["--output", "out", "--ops", "native"], ["--ops", "native"]):
        if len(arguments) == 2:
            smollm2.unlink()
            shutil.copy(smollm2_gguf(), smollm2)
        monkeypatch.chdir(tmp_path)
        assert command_line.run(llama3_export, ["model.gguf", *arguments], name="llama3-export") == 0
        printed = capsys.readouterr().out.splitlines()[-1]
        command = shlex.split(printed.removeprefix("Run it:"))
        assert command[0] == "llama3-run"
        options = [*command[1:], "--max-new-tokens", "3", "--temperature", "0"]
        assert command_line.run(run_model, options, name="llama3-run") == 0
        assert capsys.readouterr().out.startswith("I believe that")


def test_ops_that_an_export_does_not_have(folder: Path) -> None:
    ops = ops_of(folder)
    other: Ops = "native" if ops == "contrib" else "contrib"
    with pytest.raises(Llama3Error, match=rf"an export with {ops} ops, not {other}; "):
        find_export(folder, ops=other)
    assert find_export(folder, ops=ops).path == folder


def test_a_native_export_without_the_library(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = export(gguf, tmp_path / "moved", ops="native").output
    monkeypatch.setattr("llama3_custom_ops.__path__", [str(tmp_path)])
    with pytest.raises(Llama3Error, match=r"was not built .*C\+\+20 compiler"):
        logits(moved)
    # The library in the folder works if --custom-ops-path names it.
    assert len(Model.from_folder(moved, max_length=10, custom_ops_path=moved / LIBRARY).forward(IDS)) == 1


def test_a_library_for_another_processor(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the library, whether it is an option or LLAMA3_CUSTOM_OPS."""
    content = bytearray(library_path().read_bytes())
    content[18:20] = AARCH64
    foreign = tmp_path / "libforeign.so"
    foreign.write_bytes(content)
    with pytest.raises(Llama3Error) as error:
        Model.from_folder(folder, max_length=10, custom_ops_path=foreign)
    assert str(foreign) in one_line(error)
    monkeypatch.setenv("LLAMA3_CUSTOM_OPS", str(foreign))
    with pytest.raises(Llama3Error) as error:
        Model.from_folder(folder, max_length=10)
    assert str(foreign) in one_line(error)
