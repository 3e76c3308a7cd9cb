"""Every readable GGUF has a page. If it cannot be exported, the page gives the reason."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from llama3_models.errors import Llama3Error

from tests.support.inspecting import run
from tests.support.llama_gguf import blank_tensors, write_llama_gguf
from tests.support.raw_gguf import FLOAT32, STRING, UINT32, RawGGUF, RawTensor, string

Q4_0_4_4 = 31


def text(key: str, value: str) -> tuple[str, int, bytes]:
    return key, STRING, string(value)


def number(key: str, value: int) -> tuple[str, int, bytes]:
    return key, UINT32, struct.pack("<I", value)


def adapter(path: Path) -> Path:
    metadata = [
        text("general.architecture", "llama"),
        text("general.type", "adapter"),
        text("adapter.type", "lora"),
        text("general.base_model.0.name", "Llama 3.1 8B"),
        ("adapter.lora.alpha", FLOAT32, struct.pack("<f", 16)),
    ]
    tensors = [RawTensor(f"blk.3.attn_q.weight.lora_{side}", (8,), offset=64 * i) for i, side in enumerate("ab")]
    return RawGGUF(metadata=metadata, tensors=tensors).write(path)


def vocabulary(path: Path) -> Path:
    """Write a model's tokenizer without its tensors: the count of tensors is the header's second number."""
    content = write_llama_gguf(path, num_layers=1).read_bytes()
    header_end = content.index(struct.pack("<Q", len("token_embd.weight")) + b"token_embd.weight")
    path.write_bytes(content[:8] + bytes(8) + content[16:header_end])
    return path


def imatrix(path: Path) -> Path:
    tensors = [RawTensor("blk.0.attn_q.weight.in_sum2", (8,)), RawTensor("output.weight.counts", (1,), offset=32)]
    return RawGGUF(metadata=[text("general.type", "imatrix")], tensors=tensors).write(path)


def mmproj(path: Path) -> Path:
    metadata = [text("general.architecture", "clip"), text("general.type", "mmproj")]
    return RawGGUF(metadata=metadata, tensors=[RawTensor("v.patch_embd.weight", (2, 2, 3, 4))]).write(path)


def experts(path: Path) -> Path:
    metadata = [
        text("general.architecture", "qwen3moe"),
        number("qwen3moe.expert_count", 128),
        number("qwen3moe.block_count", 48),
        number("qwen3moe.context_length", 40_960),
    ]
    return RawGGUF(metadata=metadata, tensors=[RawTensor("blk.0.ffn_gate_exps.weight", (8, 2, 3))]).write(path)


def removed_type(path: Path) -> Path:
    metadata = [text("general.architecture", "llama")]
    tensors = [RawTensor("blk.0.attn_q.weight", (64, 2), Q4_0_4_4), RawTensor("output_norm.weight", (8,), offset=128)]
    return RawGGUF(metadata=metadata, tensors=tensors).write(path)


def newer_type(path: Path) -> Path:
    metadata = [text("general.architecture", "llama")]
    return RawGGUF(metadata=metadata, tensors=[RawTensor("blk.0.attn_q.weight", (64, 2), 99)]).write(path)


def integers(path: Path) -> Path:
    metadata = [text("general.architecture", "llama"), number("llama.block_count", 1)]
    return RawGGUF(metadata=metadata, tensors=[RawTensor("t", (8, 8), T.I32)]).write(path)


def unfinished(path: Path) -> Path:
    write_llama_gguf(path, types=T.Q4_K)
    blank_tensors(path, "blk.1.ffn_gate.weight", "blk.1.ffn_up.weight")
    return path


def other_rope(path: Path) -> Path:
    return write_llama_gguf(path, rope_scaling={"type": "longrope"})


REFUSED: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "adapter": (adapter, "LoRA adapter", r"base model +Llama 3\.1 8B"),
    "vocabulary": (vocabulary, "a vocabulary without weights", r"tokens +320, 3 of them special"),
    "imatrix": (imatrix, "importance matrix", r"type +imatrix"),
    "mmproj": (mmproj, "vision or audio part", r"model +clip"),
    "experts": (experts, "mixture of 128 experts", r"model +qwen3moe, 48 layers, 128 experts, 40,960 positions"),
    "removed type": (removed_type, "Q4_0_4_4, which llama.cpp removed", r"Q4_0_4_4 +1 +128 +0\.1 kB"),
    "newer type": (newer_type, "type number 99", r"number 99 +1 +128"),
    "integers": (integers, "is missing", r"I32 +1 +64"),
    "unfinished": (unfinished, "only zero bytes", r"Q4_K +16 "),
    "RoPE": (other_rope, "RoPE scaling 'longrope'", r"F32 +21 "),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_exported_has_a_page_with_the_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    """The page gives the same reason as llama3-export."""
    make, reason, fact = REFUSED[kind]
    path = make(tmp_path / "model.gguf")
    status, out, err = run(capsys, path, "--tensors")
    assert (status, err) == (0, "")
    flat = " ".join(out.split())
    assert "Cannot be exported" in out
    assert reason in flat
    assert re.search(fact, out), out
    assert max(map(len, out.splitlines())) <= 80
    with pytest.raises(Llama3Error) as caught:
        export(path, tmp_path / "out")
    said = str(caught.value).removeprefix(f"{path}: ")
    assert said in flat

    data = json.loads(run(capsys, path, "--json", "--tensors")[1])
    assert data["refused"] == said
    assert (data["architecture"], data["memory"]) == (None, [])
    assert sum(tensor["bytes"] for tensor in data["tensors"]) == data["weights"]["bytes"]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_weights_has_a_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    path = REFUSED[kind][0](tmp_path / "model.gguf")
    status, out, err = run(capsys, path, "--plot", tmp_path / "out.svg")
    if kind == "vocabulary":
        assert (status, out) == (1, "")
        assert "no weights to draw" in err
    else:
        assert (status, err) == (0, f"Wrote {tmp_path}/out.svg\n")


def test_a_model_is_not_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_llama_gguf(tmp_path / "model.gguf", num_layers=1)
    assert "Cannot be exported" not in run(capsys, path)[1]
    assert json.loads(run(capsys, path, "--json")[1])["refused"] is None


@pytest.mark.parametrize(
    "metadata", [[number("general.name", 3)], [text("general.file_type", "Q4")], [number("general.type", 1)]], ids=str
)
def test_what_says_nothing_about_the_weights_may_be_anything(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, metadata: list[tuple[str, int, bytes]]
) -> None:
    raw = RawGGUF(metadata=[text("general.architecture", "llama"), *metadata])
    status, out, _ = run(capsys, raw.write(tmp_path / "model.gguf"))
    assert status == 0
    assert "llama.embedding_length" in " ".join(out.split())  # the page does not mention these keys
    assert "general." not in out


def test_a_layer_of_an_endless_number_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tensors = [RawTensor(f"blk.{'9' * 5000}.attn_q.weight", (8,)), RawTensor("blk.999999.x", (8,), offset=32)]
    raw = RawGGUF(metadata=[text("general.architecture", "llama")], tensors=tensors)
    path = raw.write(tmp_path / "model.gguf")
    assert run(capsys, path, "--plot", tmp_path / "out.svg")[0] == 0
    assert list(json.loads(run(capsys, path, "--json")[1])["layers"]) == ["999999"]


def test_a_page_of_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file without keys and tensors has a page."""
    path = RawGGUF(metadata=[], tensors=[], data=b"").write(tmp_path / "model.gguf")
    status, out, _ = run(capsys, path, "--tensors")
    assert status == 0
    assert "without tensors" in " ".join(out.split())
    assert run(capsys, path, "--json")[0] == 0


def test_a_blob_of_ollama_is_a_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Ollama names GGUFs by their digest, without an ending."""
    path = write_llama_gguf(tmp_path / "model.gguf", num_layers=1)
    blob = path.rename(tmp_path / ("sha256-" + "0a" * 32))
    assert run(capsys, blob)[0] == 0
    export(blob, tmp_path / "out")
    assert export(blob, ops="native").output == tmp_path / (blob.name + ".onnx")


@pytest.mark.parametrize("kind", [kind for kind in REFUSED if kind not in ("unfinished", "RoPE")])
def test_whatever_a_header_says_there_is_a_page_or_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    """One or two numbers of a small file are overwritten at a time; every run overwrites the same ones."""
    content = REFUSED[kind][0](tmp_path / "base.gguf").read_bytes()
    numbers = random.Random(kind)
    statuses = set()
    for trial in range(60):
        mutated = bytearray(content)
        for _ in range(1 + trial % 2):
            value = numbers.choice([0, 1, 2, 31, 99, 255, 2**31 - 1, 2**32 - 1, numbers.getrandbits(32)])
            struct.pack_into("<I", mutated, numbers.randrange(4, min(len(content), 600) - 4), value)
        path = tmp_path / f"{trial}.gguf"  # a new file, because a view of the last one may still exist
        path.write_bytes(mutated)
        for options in (["--tensors"], ["--json", "--check"]):
            status, out, err = run(capsys, path, *options)
            assert (status, err.count("\n")) in ((0, 0), (1, 1)), err
            assert (out == "") == (status == 1)
            assert err.strip().isprintable()
            statuses.add(status)
    assert statuses == {0, 1}
