"""`llama3_runtime.load` accepts everything that names a model, with the same options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import llama3_runtime
import pytest
from llama3_exporter import export
from llama3_models.errors import Llama3Error
from llama3_runtime import Generator, SamplingParams, Tokenizer, load

from tests.support.story import STORY, TOKENS, write_story_gguf


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LLAMA3_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_story_gguf(tmp_path_factory.mktemp("story") / "story.gguf")


@pytest.fixture(scope="module")
def folder(gguf: Path) -> Path:
    return export(gguf, gguf.parent / "out").output


def test_the_public_names() -> None:
    for name in llama3_runtime.__all__:
        assert getattr(llama3_runtime, name) is not None
    with pytest.raises(AttributeError, match="lode"):
        llama3_runtime.lode  # noqa: B018


@pytest.mark.parametrize("ops", ["native", "contrib"])
@pytest.mark.parametrize("as_text", [True, False])
def test_a_gguf(gguf: Path, ops: str, as_text: bool) -> None:
    with load(str(gguf) if as_text else gguf, ops=ops, max_length=77) as generator:
        assert generator.generate("A").text == STORY
        assert generator.model.max_length == 77
        assert generator.load_seconds > 0


def test_an_export_folder_and_its_graph(folder: Path) -> None:
    for path in (folder, folder / "model.onnx"):
        assert load(path).generate("A").text == STORY
        assert Generator.from_folder(path).generate("A").text == STORY


def test_from_folder_accepts_a_gguf(gguf: Path) -> None:
    assert Generator.from_folder(gguf).generate("A").text == STORY


def test_a_name() -> None:
    """Other tests compare the embedded model's answer to this prompt with llama.cpp's."""
    with load("smollm2-135m") as generator:
        assert "Paris" in generator.generate("The capital of France is", SamplingParams(temperature=0)).text


def test_a_path_wins_over_a_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("smollm2-135m").symlink_to(folder)
    assert load("smollm2-135m").generate("A").text == STORY


@pytest.mark.parametrize("as_path", [True, False])
def test_another_tokenizer(folder: Path, gguf: Path, as_path: bool) -> None:
    tokenizer = gguf if as_path else Tokenizer.from_path(gguf)
    assert load(folder, tokenizer=tokenizer).generate("A").text == STORY


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("gone.gguf", {}, "gone.gguf: no such file"),
        ("gone.onnx", {}, "gone.onnx: no such file"),
        ("gone/some/folder", {}, "gone/some/folder: no such file"),
        ("smollm2-135", {}, "smollm2-135m"),  # as a suggestion
        ("smollm2-135m", {"encoding": "q6_k"}, "q6_k"),
        (None, {"encoding": "q4_k"}, "its weights are float32, not q4_k"),
        (None, {"ops": "native"}, "an export with contrib ops"),
        (None, {"max_length": 513}, "max-length must be in 1 .. 512"),
        (None, {"tokenizer": "gone.json"}, "gone.json"),
        (None, {"provider": "cuda"}, "does not support CUDA"),
        (None, {"provider": "gpu"}, "provider must be one of cpu, cuda, auto, not 'gpu'"),
        (None, {"ops": "x"}, "ops must be one of contrib, native, not 'x'"),
        ("", {}, "the model is an empty string"),
        ("x" * 5000, {}, "x"),
        (Path("smollm2-135m"), {}, "smollm2-135m: no such file"),
        ("gone.GGUF", {}, "gone.GGUF: no such file"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(
    folder: Path, model: str | Path | None, options: dict[str, object], message: str
) -> None:
    with pytest.raises(Llama3Error) as caught:
        load(folder if model is None else model, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [None, 5, b"out"])
def test_what_is_no_name_and_no_path(model: object) -> None:
    with pytest.raises(TypeError, match="a model is a name or a path, not"):
        load(model)  # type: ignore[arg-type]


def test_the_pieces_of_a_story(gguf: Path) -> None:
    """A character of four tokens comes once it is complete, and a possible stop text is held back."""
    generator = load(gguf)
    texts = [piece.text for piece in generator.stream("A", SamplingParams(stop=("User?",)))]
    assert texts == ["b", "c", "d", "", "", "", "\U0001f600", "\n", "", "", "", "", "User:", "x", ""]
    last = list(generator.stream("A"))[-1]
    assert (last.text, last.ids, last.finish_reason, last.stop) == ("", (), "eos", None)
    last = list(generator.stream("A", SamplingParams(stop=("q", "User:"))))[-1]
    assert (last.text, last.ids, last.finish_reason, last.stop) == ("", (58,), "stop", "User:")
    last = list(generator.stream("A", SamplingParams(max_new_tokens=5)))[-1]
    assert (last.text, last.ids, last.finish_reason, last.stop) == ("\ufffd", (159,), "length", None)
    assert len(generator.generate("A").ids) == len(TOKENS)
