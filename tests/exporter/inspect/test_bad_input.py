"""Damaged exports and wrong command lines are one error line of `llama3-inspect`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export

from tests.support.inspecting import run
from tests.support.llama_gguf import write_llama_gguf


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_gguf(tmp_path_factory.mktemp("gguf") / "tied.gguf", types=T.Q5_K, tied=True)


def graph_without(kind: str) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        model = onnx.load(path / "model.onnx", load_external_data=False)
        if kind == "inputs":
            del model.graph.input[:]
        elif kind == "attributes":
            for node in model.graph.node:
                del node.attribute[:]
        elif kind == "options":
            model.metadata_props[0].value = '{"producer": "llama3-onnx", "options": 3}'
        else:
            model.metadata_props[0].value = "{}"
        (path / "model.onnx").write_bytes(model.SerializeToString())

    return spoil


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def changed(change: Callable[[onnx.GraphProto], object]) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        model = onnx.load(path / "model.onnx", load_external_data=False)
        change(model.graph)
        (path / "model.onnx").write_bytes(model.SerializeToString())

    return spoil


def with_option(name: str, value: object) -> Callable[[Path], object]:
    """Return a function that sets an option in an export's manifest."""

    def spoil(path: Path) -> None:
        model = onnx.load(path / "model.onnx", load_external_data=False)
        manifest = json.loads(model.metadata_props[0].value)
        manifest["options"][name] = value
        model.metadata_props[0].value = json.dumps(manifest)
        (path / "model.onnx").write_bytes(model.SerializeToString())

    return spoil


def clear_data(tensor: onnx.TensorProto) -> None:
    del tensor.external_data[:]
    tensor.ClearField("raw_data")


def place(graph: onnx.GraphProto, key: str, value: str) -> None:
    for tensor in graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value


def resize(graph: onnx.GraphProto, dims: list[int]) -> None:
    for tensor in graph.initializer:
        if len(tensor.dims) == len(dims):
            tensor.dims[:] = dims


def text_attributes(graph: onnx.GraphProto, name: str) -> None:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == name:
                attribute.CopyFrom(onnx.helper.make_attribute(name, "x"))


def drop_layer(graph: onnx.GraphProto, layer: int) -> None:
    kept = [tensor for tensor in graph.initializer if f"layers.{layer}." not in tensor.name]
    gone = {tensor.name for tensor in graph.initializer} - {tensor.name for tensor in kept}
    nodes = [node for node in graph.node if not gone & set(node.input)]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def resize_caches(graph: onnx.GraphProto, heads: int) -> None:
    for value in graph.input:
        if value.name.startswith("past_key_values."):
            value.type.tensor_type.shape.dim[1].dim_value = heads


BAD_EXPORTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "without inputs": (graph_without("inputs"), "damaged graph"),
    "without attributes": (graph_without("attributes"), "damaged graph"),
    "without options": (graph_without("options"), "damaged metadata"),
    "not ours": (graph_without("producer"), "not written by llama3-export"),
    "not ONNX": (lambda path: (path / "model.onnx").write_bytes(b"GGUF\xff"), "not an ONNX graph"),
    "without a graph": (lambda path: (path / "model.onnx").unlink(), "model.onnx: cannot be read (No such file"),
    "with a pipe for a graph": (lambda path: replaced(path / "model.onnx", os.mkfifo), "cannot be read (Not a regular"),
    "with a folder for a graph": (lambda path: replaced(path / "model.onnx", os.mkdir), "cannot be read (Is a dir"),
    "with a link to itself for a graph": (
        lambda path: replaced(path / "model.onnx", lambda name: name.symlink_to(name)),
        "model.onnx: cannot be read (Too many levels",
    ),
    "without ops": (with_option("ops", None), "damaged metadata ('None' "),
    "with unknown ops": (with_option("ops", "foo"), "damaged metadata ('foo' "),
    "with no positions": (with_option("max_length", 0), "max_length is 0"),
    "with negative positions": (with_option("max_length", -5), "max_length is -5"),
    "with positions of text": (with_option("max_length", "512"), "max_length is 512"),
    "with too many positions": (with_option("max_length", 10**400), "max_length is 1000"),
    "with NaN": (with_option("more", math.nan), "NaN is no"),
    "with an infinite number": (with_option("more", -math.inf), "-Infinity is no"),
    "without bytes": (changed(lambda graph: [clear_data(tensor) for tensor in graph.initializer]), "is 0"),
    "with negative bytes": (changed(lambda graph: place(graph, "length", "-5")), "bytes of"),
    "with bytes before the file": (changed(lambda graph: place(graph, "offset", "-64")), "starts at byte -64"),
    "of negative size": (changed(lambda graph: resize(graph, [-1, -1])), "is -1"),
    "of endless size": (changed(lambda graph: resize(graph, [1 << 62, 1 << 62])), "has shape"),
    "with text for a number": (changed(lambda graph: text_attributes(graph, "block_size")), "block_size is b'x'"),
    "with text for columns": (changed(lambda graph: text_attributes(graph, "K")), "K is b'x'"),
    "with text for bits": (changed(lambda graph: text_attributes(graph, "bits")), "damaged graph"),
    "without a layer": (changed(lambda graph: drop_layer(graph, 1)), "the number of layers, 2"),
    "with negative heads": (changed(lambda graph: resize_caches(graph, -2)), "num_key_value_heads is -2"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_EXPORTS.values(), ids=BAD_EXPORTS)
def test_a_bad_export_is_one_line(
    capsys: pytest.CaptureFixture[str], tied: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    export(tied, tmp_path / "out")
    spoil(tmp_path / "out")
    status, out, err = run(capsys, tmp_path / "out")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "missing MODEL"),
        (["gone.gguf"], 1, "no such file"),
        (["gone.onnx"], 1, "gone.onnx: no such file"),
        (["empty.gguf"], 1, "an empty file"),
        (["smollm2-135"], 1, "smollm2-135m"),
        (["model.gguf", "--context", "0"], 2, "--context must be 1 or more"),
        (["model.gguf", "--context", "513"], 1, "512 positions, fewer than --context 513"),
        (["model.gguf", "--plot", "out.txt"], 2, "--plot"),
        (["model.gguf", "--plots", "out.png"], 2, "did you mean --plot?"),
        (["model.gguf", "--json", "--json"], 2, "given twice"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tied: Path,
    tmp_path: Path,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").symlink_to(tied)
    (tmp_path / "empty.gguf").touch()
    found, out, err = run(capsys, *arguments)
    assert (found, out, err.count("\n")) == (status, "", 1), err
    assert message in err
