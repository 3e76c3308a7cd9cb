"""`llama3-run --lora` and `llama3-bench --lora`: the same text as llama.cpp with the same adapters, and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from llama3_exporter import export
from llama3_models.architectures import ARCHITECTURES
from llama3_models.errors import Llama3Error
from llama3_runtime import SamplingParams, load

from tests.support.llama_gguf import num_tokens, write_llama_gguf
from tests.support.lora_gguf import write_lora

PROMPT = "the rain and another thing on"
COUNT = 24
GREEDY = SamplingParams(temperature=0, max_new_tokens=COUNT, ignore_eos=True)


def command(name: str, *arguments: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / name
    environment = {**os.environ, "LLAMA3_CACHE": str(cache)}
    return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("ops", ["native", "contrib"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_ids(sane_llama: Callable[..., Path], tmp_path: Path, architecture: str, ops: str) -> None:
    """With float32 weights, activations are not quantized, so both programs round alike."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    gguf = sane_llama("F32", architecture=architecture)
    first = write_lora(tmp_path / "first.gguf", gguf, rank=3, alpha=3.0)
    second = write_lora(tmp_path / "second.gguf", gguf, rank=16, seed=1)
    adapters = ["--lora", f"{first}:0.6", "--lora", f"{second}:-0.3"]
    options = ["--ops", ops, "--prompt", PROMPT, "--temperature", "0", "--max-new-tokens", str(COUNT), "--ignore-eos"]
    result = command("llama3-run", "--model-path", gguf, *adapters, *options, "--json", cache=tmp_path / "cache")
    assert result.returncode == 0, result.stderr
    bos = llama_cpp_oracle.tokenize(gguf, ["<|begin_of_text|>"], special=True)[0]
    prompt = [*bos, *llama_cpp_oracle.tokenize(gguf, [PROMPT])[0]]
    below = num_tokens("tiny")
    expected = llama_cpp_oracle.greedy(gguf, prompt, COUNT, [(first, 0.6), (second, -0.3)], below=below)
    assert json.loads(result.stdout)["ids"] == expected
    assert expected != llama_cpp_oracle.greedy(gguf, prompt, COUNT, below=below)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMA3_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("ops", ["native", "contrib"])
def test_an_adapter_that_changed_is_noticed(tmp_path: Path, cache: Path, ops: str) -> None:
    """Each adapter file and each scale also has its own export."""
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    lora = tmp_path / "lora.gguf"

    def text(*adapters: str | Path) -> list[int]:
        with load(gguf, ops=ops, lora=adapters) as llama:
            return llama.generate(PROMPT, GREEDY).ids

    write_lora(lora, gguf)
    before, without, other_scale = text(lora), text(), text(f"{lora}:0.5")
    assert len({tuple(before), tuple(without), tuple(other_scale)}) == 3
    status = lora.stat()
    write_lora(lora, gguf, seed=1)
    os.utime(lora, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert lora.stat().st_size == status.st_size
    after = text(lora)
    assert after not in (before, without, other_scale)
    write_lora(lora, gguf)
    assert text(lora) == before
    assert text(f"{lora}:0") == without


def test_one_adapter_needs_no_list(tmp_path: Path, cache: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    lora = write_lora(tmp_path / "lora.gguf", gguf)
    with load(gguf, lora=lora) as one, load(gguf, lora=[str(lora)]) as several:
        assert one.generate(PROMPT, GREEDY).ids == several.generate(PROMPT, GREEDY).ids


def test_an_export_takes_no_adapter(tmp_path: Path, cache: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    lora = write_lora(tmp_path / "lora.gguf", gguf)
    export(gguf, tmp_path / "out")
    with pytest.raises(Llama3Error, match="out: adapters cannot be added to an export; use its GGUF, or "):
        load(tmp_path / "out", lora=lora)


def test_what_the_commands_refuse(tmp_path: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    lora = write_lora(tmp_path / "lora.gguf", gguf)
    for name, arguments, message in [
        ("llama3-run", ["--lora", f"{lora}:x"], "the scale 'x' is not a number (see llama3-run --help)"),
        ("llama3-export", ["--output", tmp_path / "o", "--lora", f"{lora}:nan"], "the scale is nan"),
        ("llama3-bench", ["--lora", f"{lora}:x"], "the scale 'x' is not a number"),
        ("llama3-bench", ["--lora", lora, "--compare", "llama.cpp"], "--compare measures the model without adapters"),
    ]:
        model = [gguf] if name == "llama3-export" else ["--model-path", gguf]
        result = command(name, *model, *arguments, cache=tmp_path / "cache")
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
        assert message in result.stderr
    gone = command("llama3-run", "--model-path", gguf, "--lora", tmp_path / "gone.gguf", cache=tmp_path / "cache")
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1), gone.stderr
    assert "gone.gguf: no such file" in gone.stderr


def test_bench_measures_a_model_with_its_adapters(tmp_path: Path) -> None:
    """The reference also has the adapters; the reference of an export would not, which is an error."""
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    lora = write_lora(tmp_path / "lora.gguf", gguf)
    book = tmp_path / "book.txt"
    book.write_text("the rain and another thing on the way " * 8)
    options = ["--perplexity", book, "--kl", "--window", "16", "--max-windows", "2", "--json"]
    arguments = ["--model-path", gguf, "--lora", lora, *options]
    result = command("llama3-bench", *arguments, cache=tmp_path / "cache")
    assert result.returncode == 0, result.stderr
    reference, ours = json.loads(result.stdout)["results"]
    assert ours["mean_kl"] < 1e-4
    assert ours["perplexity"] == pytest.approx(reference["perplexity"], rel=1e-2)
    export(gguf, tmp_path / "out", lora=lora)
    arguments = ["--model-path", tmp_path / "out", "--gguf", gguf, *options]
    result = command("llama3-bench", *arguments, cache=tmp_path / "cache")
    assert result.returncode == 1
    assert "do not support an export with LoRA adapters" in result.stderr


def test_export_verifies_with_the_adapters(tmp_path: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf")
    lora = write_lora(tmp_path / "a:1.gguf", gguf)
    adapters = ["--lora", f"{lora}:0.5", "--lora", lora]
    for options in (["--output", tmp_path / "out"], ["--ops", "native"]):
        result = command("llama3-export", gguf, *adapters, *options, "--verify", cache=tmp_path / "cache")
        assert result.returncode == 0, result.stderr
        assert "  adapter  a:1.gguf, scale 0.5\n  adapter  a:1.gguf, scale 1\n" in result.stdout
