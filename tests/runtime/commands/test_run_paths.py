"""All commands accept any file name: of 255 bytes, and of bytes that are not UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.llama_gguf import write_llama_gguf
from tests.support.lora_gguf import write_lora

SIZE = {"hidden_size": 64, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 64}
NOT_UTF8 = os.fsdecode(b"caf\xe9")


def command(tmp_path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).parent / str(words[0])
    environment = {**os.environ, "LLAMA3_CACHE": str(tmp_path / NOT_UTF8 / "cache")}
    return subprocess.run(
        [script, *map(str, words[1:])],
        env=environment,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )


def text_of(tmp_path: Path, *words: object) -> str:
    result = command(tmp_path, "llama3-run", "--temperature", "0", "--max-new-tokens", "4", "--prompt", "a", *words)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("stem", ["日" * 83 + "a", "é" * 125, "x" * 250], ids=["three", "two", "one"])
def test_names_of_255_bytes(tmp_path: Path, stem: str) -> None:
    gguf = write_llama_gguf(tmp_path / (stem + ".gguf"), **SIZE)
    for ops in ("native", "contrib"):
        text = text_of(tmp_path, "--model-path", gguf, "--ops", ops)
        folder = tmp_path / (stem + "yyyyy"[: 255 - len(os.fsencode(stem))])
        assert command(tmp_path, "llama3-export", gguf, "--ops", ops, "--output", folder, "--force").returncode == 0
        assert text_of(tmp_path, "--model-path", folder) == text
    assert command(tmp_path, "llama3-export", gguf, "--ops", "native").returncode == 0
    assert text_of(tmp_path, "--model-path", gguf.with_suffix(".onnx"), "--tokenizer-path", gguf)
    plot = gguf.with_suffix(".svg")
    assert command(tmp_path, "llama3-inspect", gguf, "--plot", plot).returncode == 0
    assert plot.is_file()


def test_paths_that_are_not_utf8(tmp_path: Path) -> None:
    """Such names work for folders, and for GGUFs with contrib ops; a native graph stores the GGUF's name as text."""
    gguf = write_llama_gguf(tmp_path / "model.gguf", **SIZE)
    inside = tmp_path / NOT_UTF8
    inside.mkdir()
    in_folder, named = inside / "model.gguf", tmp_path / f"{NOT_UTF8}.gguf"
    for link in (in_folder, named):
        os.link(gguf, link)
    for ops in ("native", "contrib"):
        text = text_of(tmp_path, "--model-path", gguf, "--ops", ops, "--tokenizer-path", named)
        assert text_of(tmp_path, "--model-path", in_folder, "--ops", ops) == text
        folder = tmp_path / f"{NOT_UTF8}-{ops}"
        result = command(tmp_path, "llama3-export", gguf, "--ops", ops, "--output", folder, "--verify")
        assert result.returncode == 0, result.stderr
        assert text_of(tmp_path, "--model-path", folder) == text
        assert command(tmp_path, "llama3-inspect", folder).returncode == 0
    assert text_of(tmp_path, "--model-path", named, "--ops", "contrib") == text
    assert text_of(tmp_path, "--model", in_folder) == text_of(tmp_path, "-m", gguf)
    contrib = tmp_path / f"{NOT_UTF8}-other"
    assert command(tmp_path, "llama3-export", named, "--output", contrib).returncode == 0
    assert text_of(tmp_path, "--model-path", contrib) == text
    for words in (
        ("llama3-run", "--model-path", named, "--ops", "native"),
        ("llama3-export", named, "--ops", "native"),
        ("llama3-export", named, "--ops", "native", "--output", tmp_path / "native"),
    ):
        result = command(tmp_path, *words)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1)
        assert "not UTF-8, so a native graph cannot refer to it; rename the file, or" in result.stderr
    assert not (tmp_path / "native").exists()
    for option in ([], ["--json"], ["--plot", inside / "plot.svg"]):
        result = command(tmp_path, "llama3-inspect", named, *option)
        assert result.returncode == 0, result.stderr
    listing = command(tmp_path, "llama3-inspect", "--cache")
    assert listing.returncode == 0
    assert "caf\\udce9.gguf" in listing.stdout
    assert command(tmp_path, "llama3-inspect", "--cache", "--remove", "all").returncode == 0
    result = command(tmp_path, "llama3-bench", "--model-path", in_folder, "--prompt-size", "4", "--output-size", "2")
    assert result.returncode == 0, result.stderr
    result = command(tmp_path, "llama3-run", "--model-path", tmp_path / f"{NOT_UTF8}-none.gguf")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)


def test_an_adapter_s_path_that_is_not_utf8(tmp_path: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", **SIZE)
    lora = write_lora(tmp_path / "lora.gguf", gguf, gain=3.0)
    named = tmp_path / f"{NOT_UTF8}.gguf"
    os.link(lora, named)
    text = text_of(tmp_path, "-m", gguf, "--lora", f"{lora}:2")
    assert text != text_of(tmp_path, "-m", gguf)
    assert text_of(tmp_path, "-m", gguf, "--lora", f"{named}:2") == text
    folder = tmp_path / "out"
    result = command(tmp_path, "llama3-export", gguf, "--ops", "native", "--output", folder, "--lora", f"{named}:2")
    assert result.returncode == 0, result.stderr
    assert text_of(tmp_path, "-m", folder) == text


@pytest.mark.parametrize(
    "words", [("llama3-run", "-m"), ("llama3-export",), ("llama3-inspect",), ("llama3-bench", "-m")]
)
def test_a_model_without_a_name_is_a_wrong_command_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = command(tmp_path, *words, "")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "expected a path or a name, not ''" in result.stderr
