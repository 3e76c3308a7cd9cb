"""A GGUF that is not a model, or is joined, or has tensors of unsupported types, is named as such, with advice."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from llama3_models.config import Hyperparameters
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.gguf.model_kinds import other_kind

from tests.support.llama_gguf import split_gguf, write_llama_gguf
from tests.support.raw_gguf import ARRAY, STRING, UINT32, RawGGUF, RawTensor, array, string

Metadata = list[tuple[str | bytes, int, bytes]]


def text(key: str, value: str) -> tuple[str, int, bytes]:
    return key, STRING, string(value)


LLAMA = text("general.architecture", "llama")
TOKENIZER = text("tokenizer.ggml.model", "gpt2")
TENSORS = [RawTensor("blk.0.attn_q.weight", (8,))]

KINDS: dict[str, tuple[Metadata, list[RawTensor], str]] = {
    "adapter": (
        [LLAMA, text("general.type", "adapter"), text("adapter.type", "lora")],
        [RawTensor("blk.0.attn_q.weight.lora_a", (8,)), RawTensor("blk.0.attn_q.weight.lora_b", (8,), offset=32)],
        "a LoRA adapter, not a model; use the model that it was made for, and this file with --lora",
    ),
    "adapter without a type": (
        [LLAMA],
        [RawTensor("blk.0.attn_q.weight.lora_a", (8,)), RawTensor("blk.0.attn_q.weight.lora_b", (8,), offset=32)],
        "a LoRA adapter, not a model",
    ),
    "another adapter": (
        [LLAMA, text("general.type", "adapter"), text("adapter.type", "ia3")],
        TENSORS,
        "an adapter of type 'ia3', not a model",
    ),
    "imatrix": (
        [text("general.type", "imatrix"), ("imatrix.chunk_count", UINT32, struct.pack("<I", 1))],
        [RawTensor("blk.0.attn_q.weight.in_sum2", (8,)), RawTensor("blk.0.attn_q.weight.counts", (1,), offset=32)],
        "an importance matrix (imatrix), not a model; it is for llama-quantize",
    ),
    "control vector": (
        [text("general.architecture", "controlvector"), text("controlvector.model_hint", "llama")],
        [RawTensor("direction.1", (8,))],
        "a control vector, not a model",
    ),
    "mmproj": (
        [text("general.type", "mmproj"), text("general.architecture", "clip")],
        [RawTensor("v.patch_embd.weight", (8,))],
        "the vision or audio part of a model (mmproj), not a model",
    ),
    "older mmproj": ([text("general.architecture", "clip")], TENSORS, "the vision or audio part of a model"),
    "vocabulary": (
        [LLAMA, TOKENIZER, ("tokenizer.ggml.tokens", ARRAY, array(STRING, 1, string("a")))],
        [],
        "a vocabulary without weights, not a model; use it with --tokenizer-path",
    ),
    "header": ([LLAMA], [], "a header without tensors, not a model"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_gguf_that_is_not_a_model_is_named(tmp_path: Path, kind: str) -> None:
    metadata, tensors, expected = KINDS[kind]
    assert refusal(RawGGUF(metadata=metadata, tensors=tensors).write(tmp_path / "a.gguf")).startswith(expected)


@pytest.mark.parametrize("said", ["model", "something new", None])
def test_a_model_is_not_one_of_them(tmp_path: Path, said: str | None) -> None:
    metadata = [LLAMA, TOKENIZER, *([] if said is None else [text("general.type", said)])]
    with GGUFFile.open(RawGGUF(metadata=metadata, tensors=TENSORS).write(tmp_path / "a.gguf")) as file:
        assert other_kind(file) is None


def test_the_kind_of_a_file_is_checked_before_its_weights(tmp_path: Path) -> None:
    """An adapter begins with matrices of zeros; in a model, these are a sign of an unfinished download."""
    metadata, tensors, expected = KINDS["adapter"]
    path = RawGGUF(metadata=metadata, tensors=tensors, data=bytes(384)).write(tmp_path / "a.gguf")
    assert refusal(path).startswith(expected)


def test_a_mixture_of_experts_of_another_architecture_is_called_so(tmp_path: Path) -> None:
    metadata = [
        text("general.architecture", "qwen3moe"),
        ("qwen3moe.expert_count", UINT32, struct.pack("<I", 128)),
    ]
    message = refusal(RawGGUF(metadata=metadata, tensors=TENSORS).write(tmp_path / "a.gguf"))
    assert message.startswith("the architecture 'qwen3moe' (a mixture of 128 experts) is not supported; use a GGUF of")


# Types: numbers and block sizes are those of ggml.h before it removed them.

REMOVED = {
    4: ("Q4_2", 16, 10, "a newer file"),
    5: ("Q4_3", 16, 12, "a newer file"),
    31: ("Q4_0_4_4", 32, 18, "the model's Q4_0 file"),
    32: ("Q4_0_4_8", 32, 18, "the model's Q4_0 file"),
    33: ("Q4_0_8_8", 32, 18, "the model's Q4_0 file"),
    36: ("IQ4_NL_4_4", 32, 18, "the model's IQ4_NL file"),
    37: ("IQ4_NL_4_8", 32, 18, "the model's IQ4_NL file"),
    38: ("IQ4_NL_8_8", 32, 18, "the model's IQ4_NL file"),
}


@pytest.mark.parametrize("number", REMOVED)
def test_a_type_that_ggml_removed_is_named_with_what_to_get(tmp_path: Path, number: int) -> None:
    name, block_size, block_bytes, advice = REMOVED[number]
    tensors = [RawTensor("t", (64, 2), number), RawTensor("u", (8,), offset=256)]
    path = RawGGUF(tensors=tensors).write(tmp_path / "a.gguf")
    message = refusal(path)
    assert f"tensor 't' has the type {name}, which llama.cpp removed" in message
    assert advice in message
    assert "upgrade" not in message
    with GGUFFile.open(path) as file:
        assert list(file.tensors) == ["u"]
        assert file.unread["t"].n_bytes == 128 // block_size * block_bytes
        assert file.unread["t"].shape == (2, 64)


@pytest.mark.parametrize("number", [142, 200, 2**32 - 1])
def test_an_unknown_type_is_called_by_its_number(tmp_path: Path, number: int) -> None:
    tensors = [RawTensor("u", (8,)), RawTensor("t", (32,), number, offset=64), RawTensor("v", (8,), offset=192)]
    path = RawGGUF(tensors=tensors).write(tmp_path / "a.gguf")
    message = refusal(path)
    assert f"tensor 't' has the type number {number}, which is unknown" in message
    assert "another encoding, such as Q4_K_M" in message
    with GGUFFile.open(path) as file:
        assert list(file.tensors) == ["u", "v"]
        assert file.unread["t"].n_bytes == 128


def test_the_last_tensor_of_an_unknown_type_ends_with_the_file(tmp_path: Path) -> None:
    tensors = [RawTensor("u", (8,)), RawTensor("t", (32,), 99, offset=64)]
    with GGUFFile.open(RawGGUF(tensors=tensors, data=bytes(1000)).write(tmp_path / "a.gguf")) as file:
        assert file.unread["t"].n_bytes == 1000 - 64


def test_tensors_of_unsupported_types_must_fit_as_well(tmp_path: Path) -> None:
    """They must not overlap others or end after the file."""
    overlapping = [RawTensor("t", (64, 2), 31), RawTensor("u", (8,), offset=64)]
    assert "tensors 't' and 'u' overlap" in refusal(RawGGUF(tensors=overlapping).write(tmp_path / "a.gguf"))
    whole = RawGGUF(tensors=[RawTensor("t", (64, 2), 31)], data=b"")
    assert "truncated" in refusal(whole.write(tmp_path / "b.gguf"))


# Parts


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    (tmp_path / "parts").mkdir()
    model = write_llama_gguf(tmp_path / "model.gguf")
    return split_gguf(model, tmp_path / "parts", max_tensors=8)


def test_parts_joined_with_cat_are_called_so(parts: list[Path], tmp_path: Path) -> None:
    """The file may have any name, also that of the first part with the others in its folder."""
    joined = b"".join(part.read_bytes() for part in parts)
    second = parts[0].stat().st_size
    for path in (tmp_path / "joined.gguf", parts[0]):
        path.write_bytes(joined)
        message = refusal(path)
        assert message.startswith(f"several GGUFs joined into one file (another begins at byte {second:,})")
        assert "llama-gguf-split --merge" in message
        assert "names" not in message
    assert refusal(parts[1]).startswith("several GGUFs joined into one file")  # in part 1


def test_a_first_part_without_tensors_joined_with_others_is_called_so(tmp_path: Path) -> None:
    """The end of such a header may not be aligned."""
    first = RawGGUF(tensors=[], data=b"")
    second = b"".join(RawGGUF().pieces())
    for header in (b"".join(first.pieces()), b"".join(first.pieces()[:-2])):
        (tmp_path / "a.gguf").write_bytes(header + second)
        assert f"another begins at byte {len(header):,}" in refusal(tmp_path / "a.gguf")


def test_other_bytes_after_the_last_tensor_are_not_another_gguf(tmp_path: Path) -> None:
    """They may be padding, a signature, or the word GGUF itself."""
    for tail in (bytes(64), b"signed", b"GGUF is a format", b"GGUF"):
        raw = RawGGUF(data=bytes(range(128)) * 3 + tail)
        GGUFFile.open(raw.write(tmp_path / "a.gguf")).close()


def test_a_missing_part_is_named_as_one_of_several(parts: list[Path]) -> None:
    parts[0].unlink()
    count = len(parts)
    assert f"{parts[0].name}, one of the {count} parts of this model, is not in the folder" in refusal(parts[1])
    assert f"no such file; {count - 1} of the {count} parts of this model are in the folder" in refusal(parts[0])


def refusal(path: Path) -> str:
    with pytest.raises(Llama3Error) as caught, GGUFFile.open(path) as file:
        Hyperparameters.from_gguf(file)
    message = str(caught.value)
    assert message.isprintable()
    return message.split(": ", 1)[1]
