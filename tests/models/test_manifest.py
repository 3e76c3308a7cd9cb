"""A manifest is not trusted: one that is damaged, forged or from a newer version is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from llama3_exporter import export
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.manifest import ExportOptions, Manifest, NotAnExportError, Part, Source, TypeUse
from llama3_runtime.model import Model

from tests.support.llama_gguf import write_llama_gguf
from tests.support.manifests import described

WHERE = Path("model.onnx")
OPTIONS = {"ops": "native", "activations": "int8", "precision": "fp32", "logits": "last", "max_length": 99}
MANIFEST = Manifest(
    source=Source("a.gguf", 7, (Part("a.gguf", size=7, fingerprint="0a"),)),
    options=ExportOptions("native", "int8", "fp32", "last", 99),
    types={"Q4_K": TypeUse(2, 512, 288)},
    architecture="llama",
    version="0.1.0",
)


def read(text: str) -> Manifest:
    return Manifest.from_json(text, WHERE)


def test_each_key_has_its_place() -> None:
    assert read(described()) == MANIFEST
    assert json.loads(MANIFEST.to_json()) == json.loads(described())


def test_a_written_manifest_is_read_back() -> None:
    parts = (Part("a-1.gguf", sha256="ff"), Part("a-2.gguf", sha256="fe"))
    for manifest in (
        replace(MANIFEST, source=Source("a-1.gguf", 9, parts), architecture="qwen3", types={}),
        replace(MANIFEST, weights=(Part("model.onnx.data", 3), Part("model.onnx.data_1", 0, fingerprint="0a"))),
    ):
        assert read(manifest.to_json()) == manifest


def test_unknown_keys_of_the_same_format_are_ignored() -> None:
    assert read(described(new={"key": 1})) == MANIFEST


def test_a_manifest_without_a_format_version() -> None:
    """Versions that knew only one architecture wrote such manifests."""
    old = {
        key: value for key, value in json.loads(described()).items() if key not in ("format_version", "architecture")
    }
    assert read(json.dumps(old)) == replace(MANIFEST, format_version=0)


def test_a_newer_format_is_one_line_that_names_the_versions() -> None:
    with pytest.raises(Llama3Error, match=r"^model\.onnx: llama3-onnx 9\.1 wrote this export, .*upgrade") as caught:
        read(described(format_version=2, version="9.1", options="of another kind"))
    assert not isinstance(caught.value, NotAnExportError)


def test_a_graph_of_another_program_is_refused() -> None:
    with pytest.raises(NotAnExportError, match="not a graph of llama3-export"):
        Manifest.of_graph({"producer": "another"}, WHERE)
    with pytest.raises(NotAnExportError, match=r"model\.onnx: not written by llama3-export"):
        read('{"producer": "another"}')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "[" * 100_000,
        "7" * 5_000,
        described(format_version="1"),
        described(format_version=-1),
        described(version=None),
        described(architecture=3),
        described(architecture=""),
        described(architecture="a\nb"),
        described(version="\x1b[2J"),
        described(options=[]),
        described(options={}),
        *(
            described(options={**OPTIONS, "max_length": value})
            for value in (float("inf"), None, -1, 0, 1.5, True, 10**40)
        ),
        *(described(options={**OPTIONS, key: "x"}) for key in ("ops", "activations", "precision", "logits")),
        described(options={**OPTIONS, "ops": ["native"]}),
        described(types=1),
        described(types={"F32": 1}),
        described(types={"F32": {"tensors": 1, "parameters": 1}}),
        described(weights=3),
        described(weights=[{"name": "../model.onnx.data", "size": 1}]),
        described(source=None),
        *(
            described(source={"name": "a.gguf", "size": 7, "parts": parts})
            for parts in (
                [],
                3,
                "ab",
                [["name"]],
                [{"name": 3}],
                [{"name": ""}],
                [{"name": ".."}],
                [{"name": "a" * 300}],
                [{"name": "a\0"}],
                [{"name": "../../a.gguf"}],
                [{"name": "/dev/zero"}],
                [{"name": "a.gguf", "size": "7"}],
                [{"name": "a.gguf", "fingerprint": 7}],
            )
        ),
    ],
)
def test_a_damaged_manifest_is_one_line(text: str) -> None:
    with pytest.raises(NotAnExportError, match=r"^model\.onnx: damaged metadata [^\n]{1,230}; export the GGUF again$"):
        read(text)


def test_metadata_of_a_graph_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime returns it as bytes that Python cannot decode."""
    export(write_llama_gguf(tmp_path / "model.gguf", num_layers=1), tmp_path / "out")
    graph = tmp_path / "out" / "model.onnx"
    graph.write_bytes(graph.read_bytes().replace(b'"producer"', b'"produc\xffr"'))
    with pytest.raises(Llama3Error, match="damaged metadata"):
        Model.from_folder(tmp_path / "out")


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_the_folder_and_the_graph_have_the_same_manifest(tmp_path: Path, ops: Any) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", num_layers=1)
    export(gguf, tmp_path / "out", ops=ops, logits="all")
    manifest = Manifest.of_folder(tmp_path / "out")
    assert manifest.options == ExportOptions(ops, "int8", "fp32", "all", 512)
    assert manifest.architecture == "llama"
    with GGUFFile.open(gguf) as file:
        assert (manifest.source.name, manifest.source.size) == (gguf.name, file.size)
    model = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    assert Manifest.of_graph({entry.key: entry.value for entry in model.metadata_props}, WHERE) == manifest
