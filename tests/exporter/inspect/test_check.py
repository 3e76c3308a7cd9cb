"""`llama3-inspect --check` reads the whole model: every byte of an export, every weight of a GGUF."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export

from tests.support.inspecting import run
from tests.support.llama_gguf import blank_tensors, split_gguf, write_llama_gguf
from tests.support.paths import DATA
from tests.support.raw_gguf import STRING, RawGGUF, RawTensor, string


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return write_llama_gguf(folder / "model.gguf", types={"token_embd.weight": T.F16, "*": T.Q5_K}, num_layers=2)


@pytest.fixture(params=["one file", "shards"])
def contrib(request: pytest.FixtureRequest, gguf: Path, tmp_path: Path) -> Path:
    return export(gguf, tmp_path / "out", shard_size=None if request.param == "one file" else 500_000).output


@pytest.fixture
def native(gguf: Path, tmp_path: Path) -> Path:
    return export(gguf, tmp_path / "out", ops="native", copy=True).output


def checked(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    """Return the result for a model that is right."""
    status, out, err = run(capsys, path, "--check")
    assert (status, err) == (0, "")
    said = json.loads(run(capsys, path, "--check", "--json")[1])["check"]
    assert f"Check {said}" in " ".join(out.split())
    return str(said)


def refused(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    """Return the error line for a damaged model."""
    status, out, err = run(capsys, path, "--check")
    assert (status, out, err.count("\n")) == (1, "", 1)
    return err.removeprefix("llama3-inspect: error: ").strip()


def change(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


# GGUFs


def test_a_gguf_is_all_right(capsys: pytest.CaptureFixture[str], gguf: Path, tmp_path: Path) -> None:
    assert "all 21 tensors" in checked(capsys, gguf)
    assert "all 21 tensors" in checked(capsys, split_gguf(gguf, tmp_path, max_tensors=8)[1])
    assert json.loads(run(capsys, gguf, "--json")[1])["check"] is None
    assert "Check" not in run(capsys, gguf)[1]


def test_a_weight_of_a_gguf_that_is_not_a_number(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nan = np.ones(256, np.float32)
    nan[7] = np.nan
    path = write_llama_gguf(
        tmp_path / "model.gguf", weights=lambda name, _: nan if name == "blk.1.ffn_norm.weight" else None
    )
    message = refused(capsys, path)
    assert message.startswith(f"{path}: tensor 'blk.1.ffn_norm.weight' (F32) ")
    assert " NaN in element 7" in message


def test_files_that_cannot_be_exported_are_checked_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The check accepts an adapter whose matrices are zeros, an unsupported type and a file without tensors."""
    metadata: list[tuple[str | bytes, int, bytes]] = [
        ("general.architecture", STRING, string("llama")),
        ("general.type", STRING, string("adapter")),
    ]
    tensors = [RawTensor(f"blk.0.attn_{name}.weight.lora_b", (8,), offset=32 * i) for i, name in enumerate("qkv")]
    path = RawGGUF(metadata=metadata, tensors=tensors, data=bytes(96)).write(tmp_path / "lora.gguf")
    assert "all 3 tensors" in checked(capsys, path)
    path = RawGGUF(tensors=[*tensors, RawTensor("t", (32,), 31, 96)], data=bytes(256)).write(tmp_path / "old.gguf")
    assert "3 of 4 tensors are finite" in checked(capsys, path)
    path = RawGGUF(tensors=[], data=b"").write(tmp_path / "empty.gguf")
    assert "no tensors" in checked(capsys, path)


def test_an_unfinished_download_is_not_all_right(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_llama_gguf(tmp_path / "model.gguf", types=T.Q4_K)
    blank_tensors(path, "blk.1.ffn_gate.weight", "blk.1.ffn_up.weight")
    assert "only zero bytes" in refused(capsys, path)


# Exports


def test_an_export_of_repacked_weights_is_all_right(capsys: pytest.CaptureFixture[str], contrib: Path) -> None:
    said = checked(capsys, contrib)
    assert "byte for byte; all " in said
    assert said.endswith(" tensors are finite")
    assert checked(capsys, contrib / "model.onnx") == said


def test_one_byte_anywhere_is_noticed(capsys: pytest.CaptureFixture[str], contrib: Path) -> None:
    for weights in sorted(contrib.glob("model.onnx.data*")):
        for place in np.random.default_rng(0).integers(0, weights.stat().st_size, 5):
            content = weights.read_bytes()
            change(weights, int(place), bytes([content[place] ^ 1]))
            assert refused(capsys, contrib).startswith(f"{weights}: has changed since the export; ")
            weights.write_bytes(content)
    checked(capsys, contrib)


def test_files_that_are_not_the_export_s_own(capsys: pytest.CaptureFixture[str], contrib: Path, tmp_path: Path) -> None:
    weights = contrib / "model.onnx.data"
    size = weights.stat().st_size
    with weights.open("ab") as file:
        file.write(b"x")
    assert f" {size + 1:,} bytes, not {size:,}" in refused(capsys, contrib)
    os.truncate(weights, size - 1)
    assert "too short for" in refused(capsys, contrib)
    weights.unlink()
    assert refused(capsys, contrib).startswith(f"{weights}: no such file")


def test_a_manifest_of_another_export(capsys: pytest.CaptureFixture[str], contrib: Path) -> None:
    change_manifest(contrib, lambda manifest: manifest["options"].update(logits="all"), graph=False)
    assert "llama3.json: belongs to a different export" in refused(capsys, contrib)


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object], *, graph: bool = True) -> None:
    manifest = json.loads((folder / "llama3.json").read_bytes())
    change(manifest)
    (folder / "llama3.json").write_text(json.dumps(manifest))
    if graph:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        (entry,) = (entry for entry in model.metadata_props if entry.key == "llama3")
        entry.value = json.dumps(manifest)
        (folder / "model.onnx").write_bytes(model.SerializeToString())


def without(*keys: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: [part.pop(key) for part in manifest["weights"] for key in keys]


@pytest.mark.parametrize(
    ("older", "known"),
    [
        (without("sha256"), "in size and samples"),
        (without("sha256", "fingerprint", "size"), "in size"),
        (lambda manifest: manifest.pop("weights"), "in size"),
    ],
)
def test_an_export_without_checksums_says_what_was_compared(
    capsys: pytest.CaptureFixture[str], contrib: Path, older: Callable[[dict[str, Any]], object], known: str
) -> None:
    change_manifest(contrib, older)
    said = checked(capsys, contrib)
    assert f" {known} (an older version" in said
    assert "export the GGUF again" in said
    norm = next(t for t in initializers(contrib) if t.name == "norm.weight")
    place = {entry.key: entry.value for entry in norm.external_data}
    change(contrib / place["location"], int(place["offset"]) + 4, np.float32(np.inf).tobytes())
    message = refused(capsys, contrib)
    assert ("'norm.weight'" in message and "NaN or infinity" in message) or "has changed" in message


def initializers(folder: Path) -> list[onnx.TensorProto]:
    return list(onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer)


def test_the_exports_of_the_first_version_are_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "(an older version" in checked(capsys, DATA / "exports-0.1.0" / "contrib")
    native = shutil.copytree(DATA / "exports-0.1.0" / "native", tmp_path / "native")
    shutil.copy(DATA / "exports-0.1.0" / "model.gguf", native)
    assert "the GGUF matches this graph" in checked(capsys, native)


def test_a_native_export_is_all_right(capsys: pytest.CaptureFixture[str], gguf: Path, tmp_path: Path) -> None:
    expected = "in size and samples; all 21 tensors are finite"
    assert expected in checked(capsys, export(gguf, tmp_path / "out", ops="native").output)
    shutil.copy(gguf, tmp_path / "model.gguf")
    assert expected in checked(capsys, export(tmp_path / "model.gguf", ops="native").output)


def test_a_native_export_over_another_gguf(capsys: pytest.CaptureFixture[str], native: Path) -> None:
    path = native / "model.gguf"
    content = path.read_bytes()
    change(path, len(content) - 1, bytes([content[-1] ^ 1]))
    assert refused(capsys, native).startswith(f"{path}: has changed since the export; put the GGUF ")
    path.unlink()
    assert refused(capsys, native).startswith(f"{path}: no such file; put the GGUF ")


def test_a_native_export_over_weights_that_are_not_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nan = np.full((256, 512), np.nan, np.float32)
    path = write_llama_gguf(
        tmp_path / "model.gguf", weights=lambda name, _: nan if name == "blk.0.ffn_down.weight" else None
    )
    out = export(path, tmp_path / "out", ops="native").output
    message = refused(capsys, out)
    assert message.startswith(f"{out / 'model.gguf'}: tensor 'blk.0.ffn_down.weight' (F32) ")
    assert " NaN in row 0, element" in message


def test_a_file_that_cannot_be_read_is_one_line(capsys: pytest.CaptureFixture[str], contrib: Path) -> None:
    weights = contrib / "model.onnx.data"
    size = weights.stat().st_size
    weights.unlink()
    weights.mkdir()
    assert "no such file" in refused(capsys, contrib)
    weights.rmdir()
    weights.touch()
    os.truncate(weights, size)  # zeros
    assert "has changed since the export" in refused(capsys, contrib)
