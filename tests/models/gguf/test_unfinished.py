"""An unfinished download whose file has its full size already is told apart from a model that has zeros."""

import math
from pathlib import Path

import gguf as gguf_package
import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.gguf.unfinished import refuse_unfinished

from tests.support.llama_gguf import blank_tensors, split_gguf, write_llama_gguf


def check(path: Path) -> None:
    with GGUFFile.open(path) as file:
        refuse_unfinished(file)


def cut(path: Path, n_bytes: int) -> None:
    """Replace the last bytes of a file by zeros."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - n_bytes)
        file.truncate(path.stat().st_size + n_bytes)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_llama_gguf(tmp_path / "model.gguf", types=T.Q4_K)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["blk.0.ffn_down.weight"],
        ["blk.0.attn_output.weight", "blk.0.ffn_down.weight", "blk.1.attn_output.weight", "blk.1.ffn_down.weight"],
    ],
    ids=len,
)
def test_matrices_of_zeros_are_not_a_sign(gguf: Path, names: list[str]) -> None:
    """The last case is a model with two added layers that are not trained yet."""
    blank_tensors(gguf, *names)
    check(gguf)


def test_zeros_up_to_the_end_are_a_sign(gguf: Path) -> None:
    with GGUFFile.open(gguf) as file:
        last = max(file.tensors.values(), key=lambda tensor: tensor.offset)
    cut(gguf, last.n_bytes - 100)
    check(gguf)
    cut(gguf, last.n_bytes + 100)
    with pytest.raises(Llama3Error, match=rf"zero bytes from tensor '{last.name}' to the end of the file.*download"):
        check(gguf)


def test_zeros_in_the_last_megabytes_of_a_long_last_tensor_are_a_sign(tmp_path: Path) -> None:
    gguf = write_llama_gguf(tmp_path / "model.gguf", types=T.F32, vocab_size=8000)
    with GGUFFile.open(gguf) as file:
        last = max(file.tensors.values(), key=lambda tensor: tensor.offset)
    assert math.prod(last.shape) * 4 == last.n_bytes > 5 << 20
    cut(gguf, 3 << 20)  # rows of a padded vocabulary
    check(gguf)
    cut(gguf, 5 << 20)
    with pytest.raises(Llama3Error, match="zero bytes"):
        check(gguf)


def test_adjacent_tensors_of_zeros_are_a_sign(gguf: Path) -> None:
    """A download with several connections may leave a hole in the middle."""
    blank_tensors(gguf, "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")
    with pytest.raises(
        Llama3Error, match=r"zero bytes in tensors 'blk\.0\.ffn_gate\.weight' and 'blk\.0\.ffn_up\.weight'"
    ):
        check(gguf)


def test_every_part_of_a_split_model_is_checked(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    parts = split_gguf(gguf, tmp_path / "parts", max_tensors=8)
    check(parts[0])
    cut(parts[1], parts[1].stat().st_size // 2)
    with pytest.raises(Llama3Error, match=f"^{parts[1]}: "):
        check(parts[0])


def test_biases_of_zeros_are_not_a_sign(tmp_path: Path) -> None:
    """This holds even if they are adjacent and the last tensors of the file."""
    gguf = write_llama_gguf(tmp_path / "model.gguf", architecture="qwen2")
    reader = gguf_package.GGUFReader(gguf)
    writer = gguf_package.GGUFWriter(tmp_path / "zeros.gguf", "qwen2")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            sub_type = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    for tensor in sorted(reader.tensors, key=lambda tensor: tensor.name.endswith(".bias")):
        is_bias = tensor.name.endswith(".bias")
        writer.add_tensor(tensor.name, np.zeros_like(tensor.data) if is_bias else tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check(tmp_path / "zeros.gguf")


@pytest.mark.parametrize("ending", ["scale", "input_scale"])
def test_scales_of_zero_are_not_a_sign(tmp_path: Path, ending: str) -> None:
    """Here they are the last tensors of the file, one number each."""
    zeros = {f"blk.{layer}.{name}.{ending}": [0.0] for layer in range(2) for name in ("attn_q", "ffn_up")}
    check(write_llama_gguf(tmp_path / "model.gguf", vectors=zeros))
