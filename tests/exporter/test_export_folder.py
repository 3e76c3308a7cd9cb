"""The export folder appears whole or not at all, and nothing that is not ours is replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from llama3_exporter.folder import unnamed_file
from llama3_models.errors import Llama3Error

from tests.support.llama_gguf import write_llama_gguf
from tests.support.processes import take_interrupts


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_llama_gguf(tmp_path / "model.gguf", types=T.Q4_K)


def test_a_folder_holds_what_hosts_read(gguf: Path, tmp_path: Path) -> None:
    summary = export(gguf, tmp_path / "deep" / "out")
    names = {path.name for path in (tmp_path / "deep" / "out").iterdir()}
    assert names == {
        "model.onnx",
        "model.onnx.data",
        "llama3.json",
        "genai_config.json",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert summary.written_bytes == sum(path.stat().st_size for path in summary.output.iterdir())
    facts = json.loads((summary.output / "llama3.json").read_text())
    sha256 = subprocess.run(["sha256sum", gguf], capture_output=True, text=True, check=True).stdout.split()[0]
    assert facts["source"] == {
        "name": "model.gguf",
        "size": gguf.stat().st_size,
        "parts": [{"name": "model.gguf", "sha256": sha256}],
    }
    assert facts["options"]["activations"] == "int8"
    assert sum(use["parameters"] for use in facts["types"].values()) == summary.parameters


def test_an_export_is_replaced_only_with_force(gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(gguf, out)
    with pytest.raises(Llama3Error, match="--force"):
        export(gguf, out)
    export(gguf, out, force=True, activations="float32")
    assert json.loads((out / "llama3.json").read_text())["options"]["activations"] == "float32"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "out"]


def test_a_stranger_s_folder_is_never_replaced(gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos"
    out.mkdir()
    (out / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(Llama3Error, match="not written by llama3-export"):
        export(gguf, out, force=True)
    assert [path.name for path in out.iterdir()] == ["cat.jpg"]


def test_a_file_that_somebody_put_into_an_export_is_never_deleted(gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(gguf, out)
    (out / "my notes.txt").write_text("notes")
    with pytest.raises(Llama3Error, match=r"holds my notes\.txt"):
        export(gguf, out, force=True)
    assert (out / "my notes.txt").read_text() == "notes"


def test_a_tokenizer_that_is_not_supported_costs_only_the_tokenizer(gguf: Path, tmp_path: Path) -> None:
    data = gguf.read_bytes()
    assert b"llama-bpe" in data
    gguf.write_bytes(data.replace(b"llama-bpe", b"llama-xyz"))
    summary = export(gguf, tmp_path / "out")
    assert "--tokenizer-path" in summary.remarks[0]
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_a_file_of_that_name_is_never_replaced(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(Llama3Error, match="there is a file"):
        export(gguf, gguf, force=True)


def test_an_empty_folder_is_taken(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(gguf, tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(Llama3Error, match=r"takes .* GB and .* GB are free"), unnamed_file(tmp_path / "out", 1 << 60):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs takes root")
def test_a_disk_that_gets_full_leaves_nothing(gguf: Path, tmp_path: Path) -> None:
    """The other files do not fit beside the weights: the free space was enough only for those."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = (export(gguf, tmp_path / "whole").output / "model.onnx.data").stat().st_size
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + 8192}", "tmpfs", disk], check=True)
    try:
        with pytest.raises((Llama3Error, OSError)) as error:
            export(gguf, disk / "out")
        assert "No space" in str(error.value) or "full" in str(error.value)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_export_leaves_nothing(tmp_path: Path, signal_number: signal.Signals) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", types=T.Q4_K, num_layers=8, hidden_size=1024, vocab_size=4096)
    code = (
        "import sys, time\nfrom llama3_exporter import export\n"
        "def slowly(done, total):\n    print(done, flush=True)\n    time.sleep(0.2)\n"
        "export(sys.argv[1], sys.argv[2], progress=slowly)\n"
    )
    command = [sys.executable, "-c", code, str(gguf), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=take_interrupts)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal_number)
    assert process.wait(timeout=20) != 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_shrinking_gguf_is_noticed(gguf: Path, tmp_path: Path) -> None:
    """Somebody writes to the file while it is exported."""

    def shrink(done: int, total: int) -> None:
        if done < total:
            os.truncate(gguf, gguf.stat().st_size // 2)

    big = write_llama_gguf(gguf, types=T.Q4_K, num_layers=8, hidden_size=1024, vocab_size=4096)
    with pytest.raises(Llama3Error, match="got shorter"):
        export(big, tmp_path / "out", progress=shrink)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("max_length", [0, -1, 513])
def test_max_length_must_be_within_the_context(gguf: Path, tmp_path: Path, max_length: int) -> None:
    with pytest.raises(Llama3Error, match=r"in 1 \.\. 512"):
        export(gguf, tmp_path / "out", max_length=max_length)


def test_heads_that_onnx_runtime_refuses(tmp_path: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", head_dim=24)
    with pytest.raises(Llama3Error, match="multiples of 16"):
        export(gguf, tmp_path / "out")
