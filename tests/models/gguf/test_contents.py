"""A file that is not a GGUF is named for what it is, with the step that helps.

The bytes come from programs that write such files (Python itself, onnx, NumPy) or follow the specifications. The texts
are answers of servers.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile

from tests.support.raw_gguf import RawGGUF

GGUF = b"".join(RawGGUF().pieces())


def zipped(*names: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return target.getvalue()


def tarred() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.gguf"))
    return target.getvalue()


def saved(save: Callable[..., None], *arguments: object) -> bytes:
    target = io.BytesIO()
    save(target, *arguments)
    return target.getvalue()


def onnx_graph(**fields: str) -> bytes:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:]), **fields)
    return bytes(model.SerializeToString())


def old_imatrix() -> bytes:
    name = b"blk.0.attn_k.weight"
    return struct.pack("<ii", 224, len(name)) + name + struct.pack("<ii4f", 1, 4, 1, 2, 3, 4)


PAGE = b'<html lang="en"><head><title>Sign in</title></head><body>' + b"x" * 2000

KINDS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file; download it again"),
    "two bytes": (b"GG", "truncated after 2 bytes"),
    "zeros": (bytes(4096), "begins with zeros"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    "safetensors": (struct.pack("<Q", 60) + b'{"__metadata__":{}}', "a safetensors file"),
    "GGML": (b"tjgg\3\0\0\0", "a GGML file from before GGUF"),
    "gzip": (gzip.compress(GGUF), "compressed with gzip; unpack it with `gunzip`"),
    "bzip2": (bz2.compress(GGUF), "compressed with bzip2; unpack it with `bunzip2`"),
    "xz": (lzma.compress(GGUF), "compressed with xz; unpack it with `unxz`"),
    "Zstandard": (b"\x28\xb5\x2f\xfd\x24\x05" + GGUF, "compressed with Zstandard; unpack it with `unzstd`"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + GGUF, "compressed with 7-Zip"),
    "rar": (b"Rar!\x1a\x07\x01\0" + GGUF, "compressed with RAR"),
    "tar": (tarred(), "a tar archive"),
    "zip": (zipped("model.gguf"), "a zip archive; unpack it with `unzip`"),
    "empty zip": (zipped(), "a zip archive"),
    "PyTorch": (zipped("archive/data.pkl", "archive/data/0", "archive/version"), "a PyTorch checkpoint"),
    "old PyTorch": (pickle.dumps({"weight": 1}, protocol=2), "a PyTorch checkpoint"),
    "npz": (saved(np.savez, np.zeros(3)), "NumPy arrays"),
    "npy": (saved(np.save, np.zeros(3)), "a NumPy array"),
    "llamafile": (b"MZqFpD='\n" + bytes(100), "llamafile"),
    "ONNX": (onnx_graph(), "an ONNX graph, not a GGUF"),
    "ONNX of a producer": (onnx_graph(producer_name="pytorch"), "an ONNX graph, not a GGUF"),
    "old imatrix": (old_imatrix(), "an importance matrix (imatrix)"),
    "page": (PAGE, "a web page, not a model"),
    "page after lines": (b"\r\n\t<!DOCTYPE html><html>", "a web page"),
    "page after a mark": (b"\xef\xbb\xbf\n  " + PAGE, "a web page"),
    "page in UTF-16": ("\ufeff".encode("utf-16-le") + PAGE.decode().encode("utf-16-le"), "a web page"),
    "page after a comment": (b"<!-- saved from url=(0014)about:internet -->\n" + PAGE, "a web page"),
    "body alone": (b"<body>404", "a web page"),
    "gated": (
        b"Access to model meta-llama/Llama-3.1-8B is restricted. You must have access to it and be authenticated to "
        b"access it. Please log in.",
        "accept the model's license on its page, log in with `hf auth login`",
    ),
    "not logged in": (b"Invalid username or password.", "log in with `hf auth login`"),
    "no such file": (b"Entry not found", "look up the file's name"),
    "no such repository": (b'{"error":"Repository not found"}', "look up the model's name"),
    "GitHub": (b'{"message": "Not Found", "status": "404"}', "look up the link"),
    "404": (b"404: Not Found", "look up the link"),
    "printed in lines": (
        b'{\n  "error": "Cannot access gated repo"\n}',
        """a server's answer, not a model ('{ "error": "Cannot access gated repo" }'); accept the model's license""",
    ),
    "redirection": (b"Temporary Redirect. Redirecting to /api/resolve-cache/models/x", "`curl -L`"),
    "too many": (b'{"error": "Too many requests, slow down"}', "wait a few minutes"),
    "S3": (
        b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>',
        "get a new link",
    ),
    "another answer": (b'{"error": "Something else"}', "a server's answer, not a model"),
    "bad gateway": (b"502 Bad Gateway", "download it again later"),
    "JSON with an object at byte 8": (b'{"data":{"id": 1}}', "JSON, not a model"),
    "JSON": (b'{"architectures": ["LlamaForCausalLM"]}', "JSON, not a model"),
    "index": (b'{"metadata": {"total_size": 1}, "weight_map": {}}', "the index of a safetensors model"),
    "Ollama's manifest": (
        b'{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","layers":[]}',
        "an Ollama manifest",
    ),
    "text": (
        b"just some text\nand more",
        "a text file, not a model ('just some text and more'); use a GGUF",
    ),
    "README": (
        b"# Model card\n\nEntry not found" + b" word" * 400,
        "a text file, not a model ('# Model card Entry not found word",
    ),
    "text cut in a character": ("ä".encode() * 512 + b"\xc3", "a text file, not a model"),
    "text with escapes": (b"\x1b[2Jboo", "not a GGUF file"),
    "noise": (bytes(np.random.default_rng(0).integers(128, 256, 2048, np.uint8)), "not a GGUF file"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_named_for_what_it_is(tmp_path: Path, kind: str) -> None:
    content, expected = KINDS[kind]
    message = refusal(tmp_path / "model.gguf", content)
    assert expected in message
    assert message.isprintable()
    assert len(message) < 300


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.gguf.part", "an unfinished download (.part)"),
        ("Unconfirmed 1.crdownload", "an unfinished download (.crdownload)"),
        ("0a1b.incomplete", "an unfinished download (.incomplete)"),
        ("sha256-0a1b-partial", "an unfinished download (-partial)"),
        ("model.gguf.aria2", "aria2's record of an unfinished download; continue it with aria2c, then use model.gguf"),
        ("model.onnx.data", "the weights of an export, not a GGUF; use the folder"),
        ("model.onnx.data_2", "the weights of an export"),
    ],
)
@pytest.mark.parametrize("content", [b"\0\1" * 100, bytes(4096)], ids=["bytes", "zeros"])
def test_a_name_says_what_bytes_do_not(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    assert refusal(tmp_path / name, content).startswith(expected)


@pytest.mark.parametrize("name", ["model.gguf.part", "model.gguf.crdownload"])
def test_an_unfinished_download_is_called_one(tmp_path: Path, name: str) -> None:
    assert "an unfinished download" in refusal(tmp_path / name, GGUF[:-200])
    (tmp_path / name).write_bytes(GGUF)
    GGUFFile.open(tmp_path / name).close()  # complete, whatever its name says


def test_a_download_of_aria2_is_recognized_by_its_record(tmp_path: Path) -> None:
    (tmp_path / "model.gguf.aria2").touch()
    for content in (bytes(4096), GGUF[:-200]):
        assert "(model.gguf.aria2 exists); continue it with aria2c" in refusal(tmp_path / "model.gguf", content)


@pytest.mark.parametrize(
    "names",
    [
        ["m.gguf.part1of2", "m.gguf.part2of2"],
        ["m.gguf-split-a", "m.gguf-split-b"],
        ["m.gguf.part-aa", "m.gguf.part-ab"],
        ["m.gguf.00", "m.gguf.01"],
        ["m.gguf.001", "m.gguf.002"],
        ["m.gguf.aa", "m.gguf.ab"],
        ["m.gguf.part1", "m.gguf.part2"],
        ["m.gguf.1of2", "m.gguf.2of2"],
    ],
    ids=lambda names: names[0],
)
def test_pieces_are_joined_with_cat(tmp_path: Path, names: list[str]) -> None:
    """The error for each piece has a command that joins all pieces into the model."""
    for name, content in zip(names, (GGUF[:700], GGUF[700:]), strict=True):
        (tmp_path / name).write_bytes(content)
    for name in names:
        message = refusal(tmp_path / name)
        assert f"join them all in order: `cat {names[0]} {names[1]} > m.gguf`" in message
    assert b"".join((tmp_path / name).read_bytes() for name in names) == GGUF
    for name in names[1:]:
        (tmp_path / name).unlink()
    assert "into one folder and join them in order" in refusal(tmp_path / names[0])
    (tmp_path / "m.gguf").write_bytes(GGUF)
    assert "use m.gguf, which is in the same folder" in refusal(tmp_path / names[0])


def test_many_pieces_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for i in range(1, 12):
        (tmp_path / f"m.gguf.part{i}of11").write_bytes(bytes([i]) * 100)
    message = refusal(tmp_path / "m.gguf.part10of11")
    assert "`cat m.gguf.part1of11 m.gguf.part2of11 ... > m.gguf`" in message


def test_other_digits_in_a_name_are_letters(tmp_path: Path) -> None:
    for name in ("²1.gguf.00", "²1.gguf.01"):
        (tmp_path / name).write_bytes(b"\1\2\3\4")
    assert "`cat ²1.gguf.00 ²1.gguf.01 > ²1.gguf`" in refusal(tmp_path / "²1.gguf.00").replace("'", "")


@pytest.mark.parametrize("name", ["m.gguf.gz", "m.gguf.xz", "m.gguf.bak", "m.gguf.txt"])
def test_other_endings_are_not_pieces(tmp_path: Path, name: str) -> None:
    assert "piece" not in refusal(tmp_path / name, b"\1\2\3\4" * 100)


def refusal(path: Path, content: bytes | None = None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Llama3Error) as caught:
        GGUFFile.open(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")
