"""`--shard-size` splits the weights into files of at most that size, and the graph computes the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from llama3_exporter.commands import export as commands
from llama3_exporter.verify import verify
from llama3_models.errors import Llama3Error

from tests.support.graphs import Graph
from tests.support.llama_gguf import write_llama_gguf

SHARD_SIZE = 100_000


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tied model, whose embedding is larger than a shard and is read by two nodes."""
    return write_llama_gguf(tmp_path_factory.mktemp("shards") / "model.gguf", vocab_size=1024, tied=True, types=T.Q4_K)


@pytest.fixture(scope="module")
def sharded(gguf: Path) -> Path:
    return export(gguf, gguf.parent / "sharded", shard_size=SHARD_SIZE).output


def external_data(folder: Path) -> dict[str, list[tuple[int, int]]]:
    """Return the offset and length of each tensor, by the file that it is in."""
    places: dict[str, list[tuple[int, int]]] = {}
    for tensor in onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            places.setdefault(entries["location"], []).append((int(entries["offset"]), int(entries["length"])))
    return places


def test_files_are_as_large_as_asked_but_for_one_tensor(sharded: Path) -> None:
    places = external_data(sharded)
    assert len(places) > 2
    for name, tensors in places.items():
        size = (sharded / name).stat().st_size
        assert size == max(offset + length for offset, length in tensors)
        assert size <= SHARD_SIZE or {offset for offset, _ in tensors} == {0}


def test_llama3_json_lists_the_files_with_their_sizes(sharded: Path) -> None:
    """A web page that loads them cannot list a folder."""
    weights = json.loads((sharded / "llama3.json").read_text(encoding="utf-8"))["weights"]
    assert {entry["name"]: entry["size"] for entry in weights} == {
        path.name: path.stat().st_size for path in sharded.glob("model.onnx.data*")
    }
    assert set(external_data(sharded)) == {entry["name"] for entry in weights}


def test_logits_are_the_single_file_s(gguf: Path, sharded: Path, tmp_path: Path) -> None:
    whole = export(gguf, tmp_path / "whole").output
    assert [path.name for path in whole.glob("model.onnx.data*")] == ["model.onnx.data"]
    ids = np.arange(20)[None]
    np.testing.assert_array_equal(Graph(sharded)(ids)[0], Graph(whole)(ids)[0])
    assert verify(sharded, gguf, num_tokens=8).passed


def test_an_export_of_several_files_can_be_replaced(gguf: Path, tmp_path: Path) -> None:
    """With force, its files count as the exporter's own, and none is left over."""
    output = export(gguf, tmp_path / "out", shard_size=SHARD_SIZE).output
    export(gguf, output, force=True)
    assert [path.name for path in output.glob("model.onnx.data*")] == ["model.onnx.data"]


def test_the_summary_names_a_file_that_is_larger(gguf: Path, tmp_path: Path) -> None:
    text = " ".join(" ".join(export(gguf, tmp_path / "out", shard_size=SHARD_SIZE).lines()).split())
    assert "more than --shard-size" in text
    assert "more than --shard-size" not in "".join(export(gguf, tmp_path / "large", shard_size=10**9).lines())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_size": 0}, "0 bytes is too small"),
        ({"shard_size": 10**6, "ops": "native"}, "only for --ops contrib"),
        ({"shard_size": 1}, "for at most 500 files"),
    ],
)
def test_a_size_that_cannot_be_is_refused(
    gguf: Path, tmp_path: Path, options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if options["shard_size"] == 1:  # the model here has too few tensors for the true limit
        monkeypatch.setattr("llama3_exporter.export_model._MAX_SHARDS", 20)
        message = message.replace("500", "20")
    with pytest.raises(Llama3Error, match=message):
        export(gguf, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "status"), [("0.1MB", 0), ("2 GB", 0), ("100", 2), ("1e9", 2), ("-1MB", 2), ("1TB", 2)]
)
def test_sizes_on_the_command_line(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, status: int
) -> None:
    output = str(tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["llama3-export", str(gguf), "--output", output, f"--shard-size={text}"])
    assert commands.main() == status
