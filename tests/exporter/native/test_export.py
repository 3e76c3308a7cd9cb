"""A native export copies nothing: its graph names the GGUF's own bytes, beside it or linked into a folder."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from gguf import GGMLQuantizationType as T
from llama3_custom_ops import LIBRARY, library_path
from llama3_exporter import export, host_files
from llama3_exporter.verify import verify
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile

from tests.support.llama_gguf import write_llama_gguf

TYPES = {"output.weight": T.Q6_K, "*.ffn_down.weight": T.IQ4_XS, "*.attn_q.weight": T.BF16, "*": T.Q4_K}


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_llama_gguf(tmp_path / "model.gguf", types=TYPES, attention_bias=True)


def external_tensors(graph: Path) -> dict[str, tuple[onnx.TensorProto, dict[str, str]]]:
    model = onnx.load(graph, load_external_data=False)
    return {
        tensor.name: (tensor, {entry.key: entry.value for entry in tensor.external_data})
        for tensor in model.graph.initializer
        if tensor.external_data
    }


def test_the_graph_names_the_gguf_s_own_bytes(gguf: Path) -> None:
    export(gguf, ops="native")
    tensors = external_tensors(gguf.with_suffix(".onnx"))
    with GGUFFile.open(gguf) as file:
        sources = {(tensor.offset, tensor.n_bytes): tensor for tensor in file.tensors.values()}
        assert len(tensors) == len(sources)
        for tensor, place in tensors.values():
            assert place["location"] == "model.gguf"
            source = sources[int(place["offset"]), int(place["length"])]
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
            assert np.prod(tensor.dims) * dtype.itemsize == source.n_bytes


def test_one_small_file_beside_the_gguf(gguf: Path) -> None:
    before = gguf.stat()
    summary = export(gguf, ops="native")
    assert summary.output == gguf.with_suffix(".onnx")
    assert {path.name for path in gguf.parent.iterdir()} == {"model.gguf", "model.onnx"}
    assert summary.written_bytes == summary.output.stat().st_size < 200_000
    after = gguf.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_nlink) == (before.st_mtime_ns, before.st_ctime_ns, 1)
    assert verify(summary.output, gguf).passed


def test_a_folder_gets_a_hard_link(gguf: Path, tmp_path: Path) -> None:
    summary = export(gguf, tmp_path / "out", ops="native")
    assert (tmp_path / "out" / "model.gguf").stat().st_ino == gguf.stat().st_ino
    assert summary.warnings == ()
    assert json.loads((tmp_path / "out" / "llama3.json").read_text())["options"]["ops"] == "native"
    assert summary.written_bytes == sum(
        path.stat().st_size for path in (tmp_path / "out").iterdir() if path.name != "model.gguf"
    )
    assert verify(tmp_path / "out", gguf).passed


def test_a_folder_gets_the_library_for_onnxruntime_genai(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(gguf, tmp_path / "out", ops="native")
    assert (tmp_path / "out" / LIBRARY).read_bytes() == library_path().read_bytes()
    assert genai_session_options(tmp_path / "out")["custom_ops_library"] == LIBRARY
    export(gguf, tmp_path / "contrib")
    assert not (tmp_path / "contrib" / LIBRARY).exists()
    assert "custom_ops_library" not in genai_session_options(tmp_path / "contrib")

    monkeypatch.setattr(host_files, "built_library", lambda: None)
    monkeypatch.setattr("llama3_exporter.export_model.built_library", lambda: None)
    summary = export(gguf, tmp_path / "out", ops="native", force=True)
    assert not (tmp_path / "out" / LIBRARY).exists()
    assert "custom_ops_library" not in genai_session_options(tmp_path / "out")
    assert any("was not built" in warning for warning in summary.warnings)


def genai_session_options(folder: Path) -> dict[str, object]:
    config = json.loads((folder / "genai_config.json").read_text())
    options: dict[str, object] = config["model"]["decoder"]["session_options"]
    return options


def test_of_a_link_the_file_is_linked(gguf: Path, tmp_path: Path) -> None:
    """A hub's cache holds symlinks, which ONNX Runtime would refuse."""
    (tmp_path / "snapshot").mkdir()
    link = tmp_path / "snapshot" / "named.gguf"
    link.symlink_to(gguf)
    export(link, tmp_path / "out", ops="native")
    placed = tmp_path / "out" / "named.gguf"
    assert not placed.is_symlink()
    assert placed.stat().st_ino == gguf.stat().st_ino
    with pytest.raises(Llama3Error, match="--output"):
        export(link, ops="native")


def test_where_no_link_is_possible_it_is_copied_and_said(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    summary = export(gguf, tmp_path / "out", ops="native")
    assert (tmp_path / "out" / "model.gguf").read_bytes() == gguf.read_bytes()
    (warning,) = summary.warnings
    assert "cross-device" in warning


def test_copy_as_asked(gguf: Path, tmp_path: Path) -> None:
    summary = export(gguf, tmp_path / "out", ops="native", copy=True)
    assert (tmp_path / "out" / "model.gguf").stat().st_ino != gguf.stat().st_ino
    assert "as asked" in summary.warnings[0]
    onnx.checker.check_model(gguf.parent / "out" / "model.onnx")


def test_a_graph_that_is_not_ours_is_never_replaced(gguf: Path) -> None:
    graph = gguf.with_suffix(".onnx")
    graph.write_bytes(b"somebody's model")
    for force in (False, True):
        with pytest.raises(Llama3Error, match="not written by llama3-export"):
            export(gguf, ops="native", force=force)
    assert graph.read_bytes() == b"somebody's model"


def test_a_link_is_never_replaced(gguf: Path) -> None:
    """Not even one that leads nowhere."""
    graph = gguf.with_suffix(".onnx")
    graph.symlink_to("nowhere")
    for force in (False, True):
        with pytest.raises(Llama3Error, match="not written by llama3-export"):
            export(gguf, ops="native", force=force)
    assert graph.is_symlink()


@pytest.mark.parametrize("name", ["model.onnx", "config.json", "llama3.json"])
def test_a_gguf_that_is_called_like_a_file_of_the_export_is_one_line(gguf: Path, tmp_path: Path, name: str) -> None:
    renamed = gguf.rename(tmp_path / name)
    with pytest.raises(Llama3Error, match="rename the GGUF"):
        export(renamed, tmp_path / "out", ops="native")
    assert not (tmp_path / "out").exists()


def test_ours_is_replaced_with_force(gguf: Path) -> None:
    export(gguf, ops="native")
    with pytest.raises(Llama3Error, match="--force"):
        export(gguf, ops="native")
    export(gguf, ops="native", force=True, activations="float32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ops": "contrib"}, "--output"),
        ({"ops": "native", "precision": "fp16"}, "fp16"),
        ({"ops": "native", "copy": True}, "copy"),
    ],
)
def test_options_that_contradict_each_other(gguf: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(Llama3Error, match=message):
        export(gguf, **options)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(gguf: Path) -> None:
    gguf.parent.chmod(0o555)
    try:
        with pytest.raises(Llama3Error, match="--output"):
            export(gguf, ops="native")
    finally:
        gguf.parent.chmod(0o755)
