"""How a session is opened.

The requested provider is the one that runs, or there is an error: a session never runs on the CPU silently.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from llama3_exporter import export
from llama3_models.cpus import usable_cpus
from llama3_models.errors import Llama3Error
from llama3_runtime.model import Model
from llama3_runtime.session import has_cuda, open_session
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from tests.support.llama_gguf import write_llama_gguf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("session")
    export(write_llama_gguf(path / "model.gguf"), path / "out")
    return path / "out"


class WithCuda:
    """A stand-in for onnxruntime-gpu if CUDA fails: a session gets only the CPU, or an error.

    `works` is only for checks before a run, because the CPU cannot replace CUDA in a run.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, works: bool = False, error: Exception | None = None) -> None:
        self.asked: list[list[str]] = []
        real = ort.InferenceSession

        def session(
            source: str | bytes, options: ort.SessionOptions, providers: list[str], enable_fallback: bool
        ) -> object:
            self.asked.append(providers)
            assert not enable_fallback  # ONNX Runtime's own second try prints to standard output
            if error is not None and providers[0] == "CUDAExecutionProvider":
                raise error
            result = real(source, options, providers=["CPUExecutionProvider"])
            if works:
                monkeypatch.setattr(result, "get_providers", lambda: providers)
            return result

        available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(ort, "get_available_providers", lambda: available)
        monkeypatch.setattr(ort, "InferenceSession", session)


def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])


def test_cuda_without_cuda_is_an_error(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    without_cuda(monkeypatch)
    with pytest.raises(Llama3Error, match="does not support CUDA"):
        open_session(folder / "model.onnx", provider="cuda")
    with pytest.raises(Llama3Error, match="does not support CUDA"):
        has_cuda("cuda")


def test_auto_without_cuda_runs_on_the_cpu_and_says_so(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    without_cuda(monkeypatch)
    session = open_session(folder / "model.onnx", provider="auto")
    assert session.device == "cpu"
    assert session.warning is not None
    assert "running on the CPU" in session.warning
    assert not has_cuda("auto")


def test_cpu_asks_for_nothing_else(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    cuda = WithCuda(monkeypatch, works=True)
    assert open_session(folder / "model.onnx", provider="cpu").warning is None
    assert cuda.asked == [["CPUExecutionProvider"]]
    assert not has_cuda("cpu")


def test_cuda_that_does_not_start(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The package is installed but the driver is not: ONNX Runtime itself would continue on the CPU."""
    WithCuda(monkeypatch, works=False)
    with pytest.raises(Llama3Error, match="could not start CUDA"):
        open_session(folder / "model.onnx", provider="cuda")
    session = open_session(folder / "model.onnx", provider="auto")
    assert session.device == "cpu"
    assert session.warning is not None


def test_cuda_that_fails_with_an_error(monkeypatch: pytest.MonkeyPatch, folder: Path, capfd) -> None:
    """Without a device, `auto` uses the CPU and keeps the reason, `cuda` is one line, and nothing is printed."""
    cuda = WithCuda(monkeypatch, error=ort_state.EPFail("CUDA failure 100:\nno CUDA-capable device is detected"))
    session = open_session(folder / "model.onnx", provider="auto")
    assert session.device == "cpu"
    assert cuda.asked == [["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"]]
    assert "(CUDA failure 100: no CUDA-capable device is detected); running on the CPU" in str(session.warning)
    with pytest.raises(Llama3Error, match=r"^provider cuda: [^\n]*no CUDA-capable device[^\n]*--provider cpu[^\n]*$"):
        open_session(folder / "model.onnx", provider="cuda")
    assert capfd.readouterr() == ("", "")


def test_a_damaged_graph_is_no_fault_of_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    WithCuda(monkeypatch, error=ort_state.InvalidProtobuf("no graph"))
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(Llama3Error, match="cannot load this graph; export the GGUF again"):
        open_session(tmp_path / "model.onnx", provider="auto")


def test_cuda_wants_a_float16_export(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    WithCuda(monkeypatch, works=True)
    with pytest.raises(Llama3Error, match="--precision fp16"):
        Model.from_folder(folder, provider="cuda", max_length=8)


def test_a_float16_export_also_runs_on_the_cpu(tmp_path: Path) -> None:
    export(write_llama_gguf(tmp_path / "model.gguf"), tmp_path / "out", precision="fp16")
    model = Model.from_folder(tmp_path / "out", max_length=8)
    assert np.isfinite(model.prefill([1, 2, 3])).all()
    assert model.kv_cache_bytes == 2 * 2 * 2 * 8 * 64 * 2


def test_by_default_a_thread_for_each_cpu_that_may_be_used(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """In a container, these are fewer than all CPUs of the machine."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 5})
    session = open_session(folder / "model.onnx")
    assert session.threads == session.ort.get_session_options().intra_op_num_threads == 3
    assert open_session(folder / "model.onnx", threads=2).threads == 2


def test_more_threads_than_cpus_are_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_session(folder / "model.onnx", threads=usable_cpus())
    assert caplog.messages == []
    open_session(folder / "model.onnx", threads=usable_cpus() + 1)
    (message,) = caplog.messages
    assert message.startswith(f"{usable_cpus() + 1} threads are more than the {usable_cpus()} ")


@pytest.mark.parametrize("threads", [0, 100_000, 2**31, 2**64])
def test_threads_must_be_a_number_that_the_machine_can_start(folder: Path, threads: int) -> None:
    with pytest.raises(Llama3Error, match=rf"threads must be in 1 \.\. \d+, not {threads}"):
        open_session(folder / "model.onnx", threads=threads)


def test_a_path_that_is_not_utf8(tmp_path: Path, folder: Path) -> None:
    """ONNX Runtime accepts the path of a graph only as text, but the graph and the folder of its weights as bytes."""
    moved = tmp_path / "\udcff"
    shutil.copytree(folder, moved)
    assert open_session(moved / "model.onnx").ort.get_inputs()[0].name == "input_ids"
    with pytest.raises(Llama3Error, match="path is UTF-8"):
        open_session(folder / "model.onnx", custom_ops_path=moved / "model.onnx")


def test_a_damaged_graph_is_one_error_and_prints_nothing(tmp_path: Path, folder: Path, capfd) -> None:
    """ONNX Runtime's second try would print to standard output, and a name that is not UTF-8 breaks its message."""
    graph = (folder / "model.onnx").read_bytes()
    damaged = tmp_path / "model.onnx"
    for name in (b"RMSNormalization", b"input_ids", b"GroupQueryAttention"):
        damaged.write_bytes(graph.replace(name, b"\xff" * len(name)))
        with pytest.raises(Llama3Error, match="cannot load this graph"):
            open_session(damaged)
    assert capfd.readouterr().out == ""


GENERATE_AND_TELL_THE_GROWTH = """
import sys
from llama3_runtime.metrics import peak_memory_bytes
from llama3_runtime.model import Model

model = Model.from_folder(sys.argv[1], max_length=4096)
model.prefill([1] * 4096)  # touches all of the cache and of the scratch memory
model.rewind()
model.prefill([1] * 128)
before = peak_memory_bytes()
while model.position < 4096:
    model.forward([1])
print(peak_memory_bytes() - before)
"""


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_new_lengths_take_no_memory(tmp_path: Path, ops: str) -> None:
    """ONNX Runtime's memory plans would add 1.8 kB for each of these lengths, and five times that with 30 layers."""
    folder = export(write_llama_gguf(tmp_path / "model.gguf", context_length=4096), tmp_path / ops, ops=ops).output
    command = [sys.executable, "-c", GENERATE_AND_TELL_THE_GROWTH, str(folder)]
    growth = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert growth < 1_000_000
