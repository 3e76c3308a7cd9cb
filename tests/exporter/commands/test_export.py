"""`llama3-export` at the command line: its output, and one line with the right status for each error."""

from __future__ import annotations

import os
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import llama3_custom_ops
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter.commands import export as commands
from llama3_models.hub import download
from llama3_runtime.commands import run as run_commands

from tests.support.llama_gguf import write_llama_gguf


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", types=T.Q4_K)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["llama3-export", *map(str, arguments)])
    return commands.main()


def test_export_and_verify(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gguf: Path, tmp_path: Path
) -> None:
    assert run(monkeypatch, gguf, "--output", tmp_path / "out", "--verify") == 0
    text = capsys.readouterr().out
    assert "Q4_K" in text
    assert re.search(r"weights  mean KL divergence \d\.\d\de-\d\d nats \(bound 1e-06\)", text)
    assert f"llama3-run --model-path {tmp_path / 'out'}" in text


RUNS = "Run it:  llama3-run --model-path"


def unwrapped(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_without_a_tokenizer_the_command_asks_for_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gguf: Path, tmp_path: Path, ops: str
) -> None:
    """The command runs as it is printed, with a tokenizer in place of FILE."""
    bare = write_llama_gguf(tmp_path / "bare.gguf", tokenizer=None)
    assert run(monkeypatch, bare, "--output", tmp_path / "out", "--ops", ops) == 0
    text = capsys.readouterr().out
    assert f"note {bare}: has no tokenizer; " in unwrapped(text)
    assert RUNS not in text
    command = text.rstrip().splitlines()[-1].partition(":  ")[2]
    assert command == f"llama3-run --model-path {tmp_path / 'out'} --tokenizer-path FILE"
    monkeypatch.setattr(sys, "argv", [*command.replace("FILE", str(gguf)).split(), "--max-new-tokens", "2"])
    assert run_commands.main() == 0


@pytest.mark.parametrize("output", [True, False])
def test_without_the_native_library_nothing_says_that_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gguf: Path, tmp_path: Path, output: bool
) -> None:
    monkeypatch.delenv("LLAMA3_CUSTOM_OPS", raising=False)
    monkeypatch.setattr(llama3_custom_ops, "__path__", [])
    where = ["--output", tmp_path / "out"] if output else ["--force"]
    assert run(monkeypatch, gguf, "--ops", "native", *where) == 0
    text = capsys.readouterr().out
    assert RUNS not in text
    note = "note the library of native ops was not built"
    assert unwrapped(text).count(note) == 1


def test_a_context_that_is_too_short_for_the_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gguf: Path, tmp_path: Path
) -> None:
    assert run(monkeypatch, gguf, "--output", tmp_path / "out", "--max-length", 4) == 0
    text = capsys.readouterr().out
    assert RUNS not in text
    assert "fewer than 4 tokens:  llama3-run --model-path" in text


@pytest.mark.parametrize("options", [(), ("--logits", "selected"), ("--precision", "fp16"), ("--max-length", 11)])
def test_what_is_said_to_run_runs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gguf: Path,
    tmp_path: Path,
    options: tuple[object, ...],
) -> None:
    assert run(monkeypatch, gguf, "--output", tmp_path / "an out", *options) == 0
    command = capsys.readouterr().out.rpartition("Run it:  ")[2]
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), "--max-new-tokens", "1"])
    assert run_commands.main() == 0


def test_both_spellings_of_an_option(monkeypatch: pytest.MonkeyPatch, gguf: Path, tmp_path: Path) -> None:
    assert run(monkeypatch, gguf, "--output", tmp_path / "a", "--max-length", 64) == 0
    assert run(monkeypatch, "--max_length=64", gguf, f"--output={tmp_path / 'b'}") == 0


def test_help_fits_a_terminal_and_shows_defaults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for phrase in ("--activations int8|float32", "(default: fp32)", "--logits last|all|selected", "MODEL"):
        assert phrase in text


def test_exporting_loads_no_runtime() -> None:
    """Only --verify loads it."""
    code = (
        "import sys; from llama3_exporter import export;"
        "sys.exit(any(name in sys.modules for name in ('onnxruntime', 'llama3_runtime')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_does_not_wait_for_onnx() -> None:
    code = (
        "import sys; from llama3_exporter.commands import export;"
        "sys.argv = ['llama3-export', '--help']; export.main();"
        "sys.exit(any(name in sys.modules for name in ('onnx', 'onnx_ir', 'onnxscript', 'numpy', 'huggingface_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize("output", [True, False])
def test_a_pipe_as_the_model_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, output: bool
) -> None:
    """Opening a pipe would wait for a writer."""
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    where = ["--output", tmp_path / "out"] if output else ["--ops", "native"]
    assert run(monkeypatch, pipe, *where) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"llama3-export: error: {pipe}: not a regular file; ")
    assert error.count("\n") == 1


def float_at(path: Path, key: bytes, value: float) -> None:
    """Overwrite the float32 value of a metadata key."""
    data = bytearray(path.read_bytes())
    place = data.index(key) + len(key) + 4
    data[place : place + 4] = struct.pack("<f", value)
    path.write_bytes(data)


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "not a GGUF": (lambda path: path.write_bytes(b"PK\x03\x04 not a model" * 100), "zip archive"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "cut in its header": (lambda path: path.write_bytes(path.read_bytes()[:200]), "download"),
    "cut in its tensors": (lambda path: path.write_bytes(path.read_bytes()[:-5000]), "download"),
    "big endian": (lambda path: path.write_bytes(b"GGUF" + struct.pack(">I", 3) + b"\0" * 100), "endian"),
    "gone": (lambda path: path.unlink(), "no such file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "folder|directory"),
    "another architecture": (
        lambda path: path.write_bytes(
            path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba")
        ),
        "mamba",
    ),
    "a renamed tensor": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight")),
        r"blk\.1\.ffn_up\.weight is missing",
    ),
    "NaN for epsilon": (lambda path: float_at(path, b"layer_norm_rms_epsilon", float("nan")), "epsilon"),
    "downloaded in part": (
        lambda path: path.write_bytes(path.read_bytes()[:-600_000] + bytes(600_000)),
        "zero bytes.*download",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gguf: Path,
    tmp_path: Path,
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(gguf.read_bytes())
    spoil(bad)
    assert run(monkeypatch, bad, "--output", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("llama3-export: error: ")
    assert re.search(message, captured.err), captured.err
    assert {path.name for path in tmp_path.iterdir()} <= {"bad.gguf"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL"),
        (["model.gguf"], "--output"),
        (["model.gguf", "--output", "out", "--activation", "int8"], "--activations"),
        (["model.gguf", "--output", "out", "--activations", "int4"], "int8"),
        (["model.gguf", "--output", "out", "--max-length", "many"], "--max-length"),
        (["model.gguf", "--output", "out", "--output", "out2"], "--output"),
        (["model.gguf", "other.gguf", "--output", "out"], "other.gguf"),
        (["llama-3.1-8b-instruct", "--ops", "native", "--copy"], "--copy needs a folder"),
        (["llama-3.1-8b-instruct", "--ops", "native", "--tokenizer-graph"], "--tokenizer-graph needs a folder"),
        (
            ["llama-3.1-8b-instruct", "--ops", "native", "--pre-tokenizer", "gpt-2"],
            "--pre-tokenizer is for the tokenizer",
        ),
        (["llama-3.1-8b-instruct", "--output", "out", "--pre-tokenizer", "gpt2"], "did you mean gpt-2"),
        (["llama-3.1-8b-instruct", "--output", "out", "--copy"], "--copy is only for"),
        (["llama-3.1-8b-instruct", "--ops", "native", "--shard-size", "1MB"], "--shard-size is only for"),
        (["llama-3.1-8b-instruct", "--ops", "native", "--precision", "fp16"], "--precision fp16 is only for"),
        (["llama-3.1-8b-instruct", "--output", "out", "--shard-size", "0MB"], "--shard-size of 0 bytes"),
        (["llama-3.1-8b-instruct", "--output", "out", "--max-length", "0"], "--max-length must be 1 or more"),
    ],
)
def test_a_wrong_command_line_is_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """The error comes before any download."""
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("fetched"))
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_misspelt_model_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "smollm2-135", "--output", tmp_path / "out") == 1
    assert "smollm2-135m" in capsys.readouterr().err
