"""A file that is damaged, hostile or not a GGUF is refused in one line, at once and with little memory."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile

from tests.support.raw_gguf import (
    ARRAY,
    BOOL,
    F32,
    Q4_K,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    RawGGUF,
    RawTensor,
    array,
    string,
)

HUGE = 1 << 60


def refusal(path: Path, *, traced: bool = True) -> str:
    """Return the error of opening `path`: one short line that begins with the path."""
    if traced:
        tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(Llama3Error) as caught:
        GGUFFile.open(path)
    seconds = time.perf_counter() - begin
    if traced:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20
    assert seconds < 5
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return message.removeprefix(f"{path}: ")


def with_metadata(key: str | bytes, value_type: int, value: bytes) -> RawGGUF:
    raw = RawGGUF()
    raw.metadata.append((key, value_type, value))
    return raw


def with_tensors(*tensors: RawTensor) -> RawGGUF:
    return RawGGUF(tensors=list(tensors))


DAMAGED = {
    "2^60 tensors": (RawGGUF(n_tensors=HUGE), f"its header counts {HUGE:,} tensors"),
    "2^60 metadata keys": (RawGGUF(n_metadata=HUGE), f"its header counts {HUGE:,} metadata keys"),
    "key of 2^60 bytes": (
        RawGGUF(metadata=[], n_metadata=1, tensors=[], data=struct.pack("<Q", HUGE) + bytes(100), alignment=8),
        "metadata key 1 of 1 would be",
    ),
    "key that is not UTF-8": (with_metadata(b"\xff", UINT8, b"\0"), "metadata key 8 of 8 is not UTF-8"),
    "the same key twice": (with_metadata("a.flag", BOOL, b"\0"), "metadata key 'a.flag' appears twice"),
    "unknown value type": (with_metadata("k", 13, b"\0"), "metadata key 'k' has the unknown value type 13"),
    "unknown item type": (with_metadata("k", ARRAY, array(99, 1)), "metadata key 'k' has the unknown value type 99"),
    "boolean of 2": (with_metadata("k", BOOL, b"\2"), "metadata key 'k' is a boolean with the value 2"),
    "array of bad booleans": (with_metadata("k", ARRAY, array(BOOL, 2, b"\1\7")), "booleans that are neither 0 nor 1"),
    "string of 2^60 bytes": (with_metadata("k", STRING, string("x", HUGE)), "no header is larger"),
    "string of 2^64 - 1 bytes": (with_metadata("k", STRING, string("x", 2**64 - 1)), "no header is larger"),
    "2^60 numbers": (with_metadata("k", ARRAY, array(UINT64, HUGE)), "no header is larger"),
    "2^60 strings": (with_metadata("k", ARRAY, array(STRING, HUGE)), "no header is larger"),
    "2^60 arrays": (with_metadata("k", ARRAY, array(ARRAY, HUGE)), f"{HUGE:,} arrays in metadata key 'k'"),
    "huge string in an array": (with_metadata("k", ARRAY, array(STRING, 2, string("", HUGE))), "no header is larger"),
    "string in an array that wraps around": (
        with_metadata("k", ARRAY, array(STRING, 2, string("", 2**64 - 8))),
        "no header is larger",
    ),
    "arrays nested a thousand deep": (
        with_metadata("k", ARRAY, array(ARRAY, 1) * 1000 + array(UINT8, 1, b"\0")),
        "nests arrays more than 4 deep",
    ),
    "alignment of 0": (with_metadata("general.alignment", UINT32, bytes(4)), "general.alignment is 0"),
    "alignment of 4": (with_metadata("general.alignment", UINT32, b"\4\0\0\0"), "general.alignment is 4"),
    "alignment of 48": (with_metadata("general.alignment", UINT32, b"\x30\0\0\0"), "general.alignment is 48"),
    "alignment in words": (with_metadata("general.alignment", STRING, string("32")), "alignment is not a number"),
    "tensor name that is not UTF-8": (with_tensors(RawTensor(b"\xff", (8,))), "the name of tensor 1 of 1 is not UTF-8"),
    "the same tensor twice": (
        with_tensors(RawTensor("t", (8,)), RawTensor("t", (8,), F32, 32)),
        "tensor 't' appears twice",
    ),
    "no dimensions": (with_tensors(RawTensor("t", ())), "tensor 't' has 0 dimensions"),
    "five dimensions": (with_tensors(RawTensor("t", (1, 1, 1, 1, 1))), "tensor 't' has 5 dimensions"),
    "2^32 - 1 dimensions": (with_tensors(RawTensor("t", (1,), n_dims=2**32 - 1)), "has 4,294,967,295 dimensions"),
    "dimension of 0": (with_tensors(RawTensor("t", (8, 0))), "tensor 't' has the impossible shape [0, 8]"),
    "dimensions whose product overflows": (
        with_tensors(RawTensor("t", (1 << 32, 1 << 32))),
        "tensor 't' has the impossible shape [4294967296, 4294967296]",
    ),
    "half a block": (
        with_tensors(RawTensor("t", (128, 2), Q4_K)),
        "tensor 't' has rows of 128 weights, not a whole number of Q4_K blocks of 256",
    ),
    "offset that is not aligned": (with_tensors(RawTensor("t", (8,), F32, 8)), "which is not aligned to 32"),
    "overlapping tensors": (
        with_tensors(RawTensor("a", (32,), F32, 0), RawTensor("b", (8,), F32, 96)),
        "tensors 'a' and 'b' overlap",
    ),
    "tensor past the end": (
        with_tensors(RawTensor("a", (8,)), RawTensor("b", (8,), F32, 1 << 20)),
        "tensor 'b' ends at byte 1,049,024, but the file has 800",
    ),
    "offset of 2^64 - 32": (with_tensors(RawTensor("t", (8,), F32, 2**64 - 32)), "tensor 't' ends at byte"),
    "a name that would break the line": (
        with_tensors(RawTensor("a\nb\x1b[31m" + "c" * 500, ())),
        r"tensor 'a\nb\x1b[31mccc",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_named(tmp_path: Path, case: str) -> None:
    raw, expected = DAMAGED[case]
    message = refusal(raw.write(tmp_path / "a.gguf"))
    assert expected in message
    assert message.endswith("the file is damaged: download or convert it again")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (0, "unknown GGUF version 0"),
        (1, "GGUF version 1 (2023) is not supported"),
        (4, "unknown GGUF version 4"),
        (3 << 24, "a big-endian GGUF"),
        (2 << 24, "a big-endian GGUF"),
    ],
)
def test_versions_that_are_not_read(tmp_path: Path, version: int, expected: str) -> None:
    assert expected in refusal(RawGGUF(version=version).write(tmp_path / "a.gguf"))


class TestTruncated:
    def test_at_every_byte(self, tmp_path: Path) -> None:
        """A file that ends too early, at any byte, is called truncated, never damaged."""
        whole = b"".join(RawGGUF().pieces())
        for size in range(4, len(whole)):
            path = tmp_path / f"{size}.gguf"
            path.write_bytes(whole[:size])
            assert refusal(path).startswith("truncated: ")
            path.unlink()

    def test_says_what_is_needed_and_what_is_there(self, tmp_path: Path) -> None:
        path = RawGGUF().write(tmp_path / "a.gguf")
        size = path.stat().st_size
        os.truncate(path, size - 100)
        message = refusal(path)
        assert f"truncated: the model needs {size:,} bytes, but the file has {size - 100:,}; " in message
        assert "download it again" in message

    def test_while_the_space_is_reserved_and_still_empty(self, tmp_path: Path) -> None:
        path = tmp_path / "a.gguf"
        path.touch()
        os.truncate(path, 1 << 20)
        assert "begins with zeros, so it looks like an unfinished download" in refusal(path)


class TestTimeAndMemory:
    """Refusing a file as large as a model costs as little as refusing a small one; these files are sparse."""

    def test_a_billion_empty_strings(self, tmp_path: Path) -> None:
        path = with_metadata("k", ARRAY, array(STRING, 1 << 30)).write(tmp_path / "a.gguf")
        os.truncate(path, 1 << 34)
        assert "no header is larger" in refusal(path)

    def test_as_many_empty_strings_as_fit_in_a_header(self, tmp_path: Path) -> None:
        """The slowest possible header has 8 million steps: under a second, or half a minute if memory is traced."""
        strings = ("k", ARRAY, array(STRING, (63 << 20) // 8))
        path = RawGGUF(metadata=[strings], n_metadata=3, tensors=[], data=b"").write(tmp_path / "a.gguf")
        os.truncate(path, 1 << 34)
        assert "metadata key '' appears twice" in refusal(path, traced=False)

    def test_a_million_keys(self, tmp_path: Path) -> None:
        path = RawGGUF(n_metadata=1 << 20).write(tmp_path / "a.gguf")
        os.truncate(path, 1 << 30)
        assert "its header counts 1,048,576 metadata keys" in refusal(path)

    def test_arrays_of_arrays_that_multiply(self, tmp_path: Path) -> None:
        raw = with_metadata("k", ARRAY, array(ARRAY, 60_000, array(ARRAY, 60_000)))
        path = raw.write(tmp_path / "a.gguf")
        os.truncate(path, 1 << 30)
        assert "60,000 arrays in metadata key 'k'" in refusal(path)

    def test_a_header_longer_than_any(self, tmp_path: Path) -> None:
        path = with_metadata("k", STRING, string("x", 1 << 31)).write(tmp_path / "a.gguf")
        os.truncate(path, 1 << 33)
        assert "no header is larger" in refusal(path)


class TestPaths:
    def test_a_file_in_a_folder_is_named(self, tmp_path: Path) -> None:
        assert refusal(tmp_path).startswith("a folder without .gguf files")
        RawGGUF().write(tmp_path / "model.gguf")
        assert refusal(tmp_path).endswith(f"such as {tmp_path / 'model.gguf'}")

    def test_a_misspelled_name_gets_the_nearest(self, tmp_path: Path) -> None:
        RawGGUF().write(tmp_path / "llama-3.1-8b-q4_k_m.gguf")
        RawGGUF().write(tmp_path / "other.gguf")
        message = refusal(tmp_path / "lama-3.1-8b-q4_k_m.gguf")
        assert message.startswith("no such file")
        assert message.endswith(": llama-3.1-8b-q4_k_m.gguf")
        assert refusal(tmp_path / "nothing like it") == "no such file"

    def test_several_near_names_are_listed(self, tmp_path: Path) -> None:
        for name in ("model-q4.gguf", "model-q5.gguf", "model-q6.gguf"):
            RawGGUF().write(tmp_path / name)
        message = refusal(tmp_path / "model-q7.gguf")
        assert message.startswith("no such file; ")
        assert message.count(", ") == message.count(" and ") == 1

    def test_the_model_in_a_folder_is_named_and_not_its_other_files(self, tmp_path: Path) -> None:
        RawGGUF().write(tmp_path / "mmproj-F16.gguf")
        RawGGUF().write(tmp_path / "model.gguf")
        assert refusal(tmp_path).endswith(f"such as {tmp_path / 'model.gguf'}")

    def test_a_folder_of_another_kind_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").touch()
        assert "convert_hf_to_gguf.py" in refusal(tmp_path)
        (tmp_path / "llama3.json").touch()
        assert refusal(tmp_path).startswith("an export, not a GGUF; ")

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        assert refusal(tmp_path / "no" / "a.gguf") == f"no such file, because there is no folder {tmp_path / 'no'}"

    def test_a_dangling_link_says_where_it_leads(self, tmp_path: Path) -> None:
        """The Hub's cache has such links after its blobs were cleaned up."""
        (tmp_path / "a.gguf").symlink_to("../blobs/0a1b")
        assert refusal(tmp_path / "a.gguf").startswith("a link to ../blobs/0a1b, which does not exist")

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.gguf")
        assert "not a regular file" in refusal(tmp_path / "a.gguf")

    def test_errors_of_the_system_are_passed_on(self, tmp_path: Path) -> None:
        RawGGUF().write(tmp_path / "a.gguf")
        assert refusal(tmp_path / "a.gguf" / "b.gguf") == "cannot be read (Not a directory)"
        assert "cannot be read (" in refusal(tmp_path / ("x" * 1000))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
    def test_a_file_without_permission(self, tmp_path: Path) -> None:
        path = RawGGUF().write(tmp_path / "a.gguf")
        path.chmod(0)
        assert refusal(path) == "cannot be read (Permission denied)"


class TestSplitModels:
    @pytest.mark.parametrize(
        ("value_type", "value"), [(UINT32, struct.pack("<I", 2**32 - 1)), (STRING, string("3")), (BOOL, b"\1")]
    )
    def test_a_count_that_is_not_one(self, tmp_path: Path, value_type: int, value: bytes) -> None:
        path = with_metadata("split.count", value_type, value).write(tmp_path / "a-00001-of-00002.gguf")
        assert "a part of a split model without a usable split.count" in refusal(path)

    def test_a_count_unlike_the_names(self, tmp_path: Path) -> None:
        raw = with_metadata("split.count", UINT32, struct.pack("<I", 3))
        assert "one of the 3 parts" in refusal(raw.write(tmp_path / "a-00001-of-00002.gguf"))
        raw.metadata.append(("split.no", UINT32, struct.pack("<I", 1)))
        assert "part 2 of the 3 parts" in refusal(raw.write(tmp_path / "a.gguf"))

    def test_tens_of_thousands_of_parts(self, tmp_path: Path) -> None:
        raw = with_metadata("split.count", UINT32, struct.pack("<I", 99_999))
        message = refusal(raw.write(tmp_path / "a-00001-of-99999.gguf"))
        assert "a-00002-of-99999.gguf, one of the 99999 parts of this model, is not in the folder" in message
