"""NaN and infinite weights are found wherever they are, and no others. gguf.quants.dequantize is the reference."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as T
from llama3_exporter import export
from llama3_exporter.commands.export import llama3_export
from llama3_exporter.finite import refuse_not_finite, refuse_rows
from llama3_exporter.formats import FORMATS
from llama3_exporter.verify import verify
from llama3_models.cli import command_line
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile, GGUFTensor

from tests.support.adversarial_blocks import FINITE_KINDS, ScaleKind, random_rows
from tests.support.llama_gguf import write_llama_gguf
from tests.support.raw_gguf import RawGGUF, RawTensor

FLOATS = {T.F32: np.float32, T.F16: np.float16, T.F64: np.float64}


def tensor_of(tensor_type: T, rows: np.ndarray, columns: int) -> GGUFTensor:
    return GGUFTensor("t", tensor_type, (len(rows), columns), rows.size, 0, Path("a.gguf"), rows)


def place_of_first(weights: np.ndarray, block_size: int) -> str:
    row, column = np.argwhere(~np.isfinite(weights))[0]
    value = "NaN" if np.isnan(weights[row, column]) else "infinity"
    return f" {value} in row {row + 7}, block {column // block_size},"


@pytest.mark.parametrize("tensor_type", FORMATS, ids=lambda tensor_type: tensor_type.name)
def test_blocks_are_refused_where_dequantize_has_no_number(tensor_type: T) -> None:
    """A single bad block among many is found. Its scales and minima are ordinary, infinite or NaN."""
    size = GGML_QUANT_SIZES[tensor_type][0]
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(20):
        rows = random_rows(tensor_type, (6, 2 * size), "ordinary", rng)
        if trial:
            bad = random_rows(tensor_type, (6, 2 * size), "not finite", rng)
            block_bytes = GGML_QUANT_SIZES[tensor_type][1]
            at, half = rng.integers(6), rng.integers(2) * block_bytes
            rows[at, half : half + block_bytes] = bad[at, half : half + block_bytes]
        with np.errstate(all="ignore"):
            weights = gguf.quants.dequantize(rows, tensor_type)
        if np.isfinite(weights).all():
            refuse_rows(tensor_of(tensor_type, rows, 2 * size), 7, rows)
        else:
            refused += 1
            with pytest.raises(Llama3Error, match=re.escape(place_of_first(weights, size))):
                refuse_rows(tensor_of(tensor_type, rows, 2 * size), 7, rows)
    assert refused > 3 or tensor_type.name == "NVFP4"  # in ggml, all its scales are numbers


@pytest.mark.parametrize("tensor_type", FORMATS, ids=lambda tensor_type: tensor_type.name)
@pytest.mark.parametrize("kind", FINITE_KINDS)
def test_finite_blocks_pass(tensor_type: T, kind: ScaleKind) -> None:
    columns = 2 * GGML_QUANT_SIZES[tensor_type][0]
    rows = random_rows(tensor_type, (8, columns), kind, np.random.default_rng(1))
    assert np.isfinite(gguf.quants.dequantize(rows, tensor_type)).all()
    refuse_rows(tensor_of(tensor_type, rows, columns), 0, rows)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("raw", [0x7F81, 0xFF81, 0x7FC0, 0x7F80])
def test_a_signalling_nan_is_refused_and_nothing_else_is_said(raw: int) -> None:
    rows = np.array([[0, raw, 0, 0]], np.uint16).view(np.uint8)
    with pytest.raises(Llama3Error, match="in row 0, element 1"):
        refuse_rows(tensor_of(T.BF16, rows, 4), 0, rows)


@pytest.mark.skipif("MXFP4" not in T.__members__, reason="the oldest supported gguf lacks MXFP4")
@pytest.mark.parametrize("exponent", range(248, 256))
def test_the_largest_scales_of_mxfp4_are_numbers_up_to_where_they_overflow(exponent: int) -> None:
    """Scale 255 is NaN, and the others are powers of two. Whether a weight overflows depends on its code."""
    tensor_type = T.MXFP4
    for code in range(16):
        rows = np.full((1, 17), code * 0x11, np.uint8)
        rows[0, 0] = exponent
        with np.errstate(all="ignore"):
            finite = np.isfinite(gguf.quants.dequantize(rows, tensor_type)).all()
        if finite:
            refuse_rows(tensor_of(tensor_type, rows, 32), 0, rows)
        else:
            with pytest.raises(Llama3Error):
                refuse_rows(tensor_of(tensor_type, rows, 32), 0, rows)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tensor_type", [*FLOATS, T.BF16], ids=lambda tensor_type: tensor_type.name)
def test_floats_are_looked_at_one_by_one(tensor_type: T, value: float) -> None:
    values = np.ones((4, 8), np.float32)
    values[2, 5] = value
    for changed in (values, np.ones((4, 8), np.float32)):
        if tensor_type == T.BF16:  # the upper halves of float32
            rows = np.ascontiguousarray(changed.view(np.uint16).reshape(4, 8, 2)[..., 1]).view(np.uint8)
        else:
            rows = changed.astype(FLOATS[tensor_type]).view(np.uint8)
        tensor = tensor_of(tensor_type, rows.reshape(4, -1), 8)
        if changed is values:
            with pytest.raises(Llama3Error, match="in row 2, element 5,"):
                refuse_rows(tensor, 0, tensor.data)
        else:
            refuse_rows(tensor, 0, tensor.data)


def test_integers_are_numbers_and_other_types_are_not_counted(tmp_path: Path) -> None:
    """Bits that are all 1 would be NaN as floats. Nothing dequantizes Q8_K, and type 99 is unknown."""
    tensors = [RawTensor("i", (8,), T.I32), RawTensor("q", (256,), T.Q8_K, 32), RawTensor("n", (8,), 99, 352)]
    path = RawGGUF(tensors=tensors, data=b"\xff" * 512).write(tmp_path / "a.gguf")
    with GGUFFile.open(path) as file:
        assert refuse_not_finite(file) == 1


# Tensors of a model, and their types in the file.
PLACES: dict[str, tuple[str, T]] = {
    "embedding": ("token_embd.weight", T.Q6_K),
    "head": ("output.weight", T.Q5_0),
    "gate": ("blk.0.ffn_gate.weight", T.Q4_K),
    "down": ("blk.1.ffn_down.weight", T.IQ4_XS),
    "k": ("blk.1.attn_k.weight", T.IQ2_S),
    "norm": ("blk.1.attn_norm.weight", T.F32),
    "last norm": ("output_norm.weight", T.F32),
    "bias": ("blk.0.attn_q.bias", T.F32),
    "float16": ("blk.0.attn_v.weight", T.F16),
    "bfloat16": ("blk.0.attn_output.weight", T.BF16),
    "float32": ("blk.0.attn_q.weight", T.F32),
}


def spoiled(path: Path, place: str) -> Path:
    """Write a model with all bits set in the last block of a tensor: NaN as a float of any width."""
    name, _ = PLACES[place]
    types = dict(PLACES.values())
    write_llama_gguf(path, types={**types, "*": T.Q8_0}, attention_bias=True)
    (tensor,) = (tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    end = int(tensor.data_offset + tensor.n_bytes)
    n_bytes = GGML_QUANT_SIZES[tensor.tensor_type][1]
    with path.open("r+b") as file:
        file.seek(end - n_bytes)
        file.write(b"\xff" * n_bytes)
    return path


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("options", [{}, {"activations": "float32"}, {"precision": "fp16"}], ids=str)
def test_a_contrib_export_names_the_tensor_and_writes_nothing(
    tmp_path: Path, place: str, options: dict[str, Any]
) -> None:
    path = spoiled(tmp_path / "model.gguf", place)
    name, tensor_type = PLACES[place]
    with pytest.raises(Llama3Error) as caught:
        export(path, tmp_path / "out", **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: tensor '{name}' ({tensor_type.name}) ")
    assert " NaN in " in message
    assert "download it again" in message
    assert os.listdir(tmp_path) == ["model.gguf"]  # noqa: PTH208


@pytest.mark.parametrize("place", ["embedding", "norm", "float16"])
def test_verify_names_the_tensor_of_a_native_export(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, place: str
) -> None:
    """It does so even for a row of the embedding that is never drawn."""
    path = spoiled(tmp_path / "model.gguf", place)
    export(path, tmp_path / "out", ops="native")
    with pytest.raises(Llama3Error, match=f"tensor '{PLACES[place][0]}'"):
        verify(tmp_path / "out", path)
    arguments = [str(path), "--ops", "native", "--output", str(tmp_path / "out"), "--force", "--verify"]
    assert command_line.run(llama3_export, arguments, name="llama3-export") == 1
    err = capsys.readouterr().err
    assert f"tensor '{PLACES[place][0]}'" in err
    assert "report" not in err
