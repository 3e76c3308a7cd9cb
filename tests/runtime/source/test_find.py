"""The model that a command line means, and the check of its encoding."""

import logging
import os
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.hub import catalogue, download
from llama3_runtime.source import find as model_source
from llama3_runtime.source.export_cache import Export
from llama3_runtime.source.find import find_export, find_model

from tests.support.llama_gguf import write_llama_gguf
from tests.support.manifests import described
from tests.support.raw_gguf import STRING, RawGGUF, RawTensor, string


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str, str]]:
    """Record what would be exported and how, instead of using the cache of exports."""
    exported: list[tuple[Path, str, str]] = []

    def record(file, ops, precision, logits, loras):
        assert not loras
        exported.append((file.path, precision, logits))
        return Export(Path("exported"))

    monkeypatch.setattr(model_source, "cached_export", record)
    return exported


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, q4_k: Path) -> list[tuple[str, str | None]]:
    """Record the models and encodings that would be downloaded."""
    asked: list[tuple[str, str | None]] = []

    def fetch(entry: catalogue.Model, encoding: str | None = None) -> Path:
        asked.append((entry.name, encoding))
        return q4_k

    monkeypatch.setattr(download, "fetch", fetch)
    return asked


@pytest.fixture(scope="module")
def q4_k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like Q4_K_M: most of it Q4_K, a part Q6_K, norms in F32."""
    path = tmp_path_factory.mktemp("q4_k") / "model.gguf"
    types = {"output.weight": GGMLQuantizationType.Q6_K, "*": GGMLQuantizationType.Q4_K}
    write_llama_gguf(path, num_layers=1, types=types)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"")
    types = {name: {"tensors": 1, "parameters": 1, "bytes": size} for name, size in (("F32", 10), ("Q6_K", 100))}
    (tmp_path / "llama3.json").write_text(described(types=types))
    return tmp_path


def test_a_gguf_is_exported_into_the_cache(q4_k, cache):
    assert find_export(q4_k, precision="fp16").path == Path("exported")
    assert find_export(q4_k, logits="selected").path == Path("exported")
    assert cache == [(q4_k, "fp16", "last"), (q4_k, "fp32", "selected")]


def test_an_export_is_taken_as_it_is(folder):
    assert find_export(folder).path == folder
    assert find_export(folder / "model.onnx").path == folder / "model.onnx"


@pytest.mark.parametrize("encoding", ["q4_k", None])
def test_an_encoding_that_holds(q4_k, encoding):
    """A file's encoding is the type of most of its bytes; without an encoding, any file is accepted."""
    assert find_export(q4_k, encoding=encoding).path == Path("exported")


@pytest.mark.parametrize("encoding", ["q4_0", "q6_k", "float32"])
def test_an_encoding_that_contradicts_the_file(q4_k, encoding, cache):
    with pytest.raises(Llama3Error, match=f"weights are q4_k, not {encoding}"):
        find_export(q4_k, encoding=encoding)
    assert cache == []


def test_an_encoding_and_an_export_folder(folder):
    assert find_export(folder, encoding="q6_k").path == folder
    assert find_export(folder / "model.onnx", encoding="q6_k").path == folder / "model.onnx"
    with pytest.raises(Llama3Error, match="weights are q6_k, not q4_k"):
        find_export(folder, encoding="q4_k")


@pytest.mark.parametrize("text", ["", "[]", "{}", described(types={"F32": 1})])
def test_a_damaged_manifest_is_one_line(folder, text):
    (folder / "llama3.json").write_text(text)
    with pytest.raises(Llama3Error, match=r"llama3\.json: .*damaged"):
        find_export(folder, encoding="q4_k")


def test_a_newer_export_is_one_line(folder):
    (folder / "llama3.json").write_text(described(format_version=99, version="9.0"))
    for asked in ({"encoding": "q4_k"}, {"ops": "native"}):
        with pytest.raises(Llama3Error, match=r"llama3\.json: llama3-onnx 9\.0 wrote this export"):
            find_export(folder, **asked)


def test_a_folder_that_is_no_export(tmp_path):
    with pytest.raises(Llama3Error, match=r"has no llama3\.json"):
        find_export(tmp_path, encoding="q4_k")


def test_float32_of_a_file(tmp_path):
    path = tmp_path / "model.gguf"
    write_llama_gguf(path, num_layers=1)
    assert find_export(path, encoding="float32").path == Path("exported")


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, ("llama-3.1-8b-instruct", None)),
        ({"version": "3.1"}, ("llama-3.1-8b-instruct", None)),
        ({"version": "3.0"}, ("llama-3-8b-instruct", None)),
        ({"encoding": "q4_k"}, ("llama-3.1-8b-instruct", "q4_k")),
        ({"encoding": "float32"}, ("llama-3.1-8b-instruct", "float32")),
        ({"model": "Llama-3-8B-Instruct", "encoding": "bf16"}, ("llama-3-8b-instruct", "bf16")),
        ({"model": "smollm2-135m"}, ("smollm2-135m", None)),
    ],
)
def test_what_is_downloaded(downloads, q4_k, options, asked):
    assert find_model(**options) == q4_k
    assert downloads == [asked]


def test_a_download_that_is_not_what_was_asked_for(downloads):
    with pytest.raises(Llama3Error, match="weights are q4_k, not q6_k"):
        find_export(find_model(encoding="q6_k"), encoding="q6_k")


def test_the_default_encoding_contradicts_no_model_and_an_explicit_one_does():
    """The embedded model is Q4_1."""
    assert find_export(find_model(model="smollm2-135m")).path == Path("exported")
    with pytest.raises(Llama3Error, match=r"smollm2-135m .* q4_1, not q4_k"):
        find_model(model="smollm2-135m", encoding="q4_k")


def test_two_models_are_a_usage_error(q4_k):
    with pytest.raises(UsageError, match="--model-path and --model"):
        find_model(model_path=q4_k, model="smollm2-135m")


def test_a_version_beside_a_model_is_not_ignored_silently(q4_k, caplog):
    with caplog.at_level(logging.WARNING):
        find_model(model_path=q4_k, version="3.0")
    assert "--version only chooses a download" in caplog.text


@pytest.mark.parametrize("name", ["absent.gguf", "folder/absent.gguf", "absent.onnx", "absent"])
def test_no_such_file(tmp_path, name):
    with pytest.raises(Llama3Error, match=f"{name}: no such file"):
        find_model(model_path=tmp_path / name)


def test_a_pipe_is_no_model(tmp_path):
    """Reading a pipe would wait for a writer."""
    for name in ("model.gguf", "llama3.json"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(Llama3Error, match="not a regular file"):
        find_export(find_model(model_path=tmp_path / "model.gguf"))
    with pytest.raises(Llama3Error, match=r"llama3\.json: cannot be read \(Not a regular file\)"):
        find_export(tmp_path, encoding="q4_k")


@pytest.mark.parametrize("encoding", [None, "q4_k"])
def test_a_gguf_that_is_no_model_is_named_before_anything_is_asked_of_it(tmp_path, cache, encoding):
    """The error is not about its encoding, and the cache gets no entry."""
    metadata = [("general.architecture", STRING, string("llama")), ("general.type", STRING, string("adapter"))]
    path = RawGGUF(metadata=metadata, tensors=[RawTensor("t.lora_a", (8,))]).write(tmp_path / "a.gguf")
    with pytest.raises(Llama3Error, match="a LoRA adapter, not a model"):
        find_export(path, encoding=encoding)
    assert not cache
