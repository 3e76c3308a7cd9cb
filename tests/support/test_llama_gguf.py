"""The fixtures are right: weights are random but sane in every type, and files have the requested shapes."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from llama3_models.gguf.file import GGUFFile

from tests.support.llama_gguf import llama31_rope_factors, write_llama_gguf
from tests.support.random_blocks import RANDOM_BLOCK_TYPES, random_blocks

PLAIN_TYPES = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)


@pytest.mark.parametrize("std", [0.0156, 1.0])
@pytest.mark.parametrize("tensor_type", [*RANDOM_BLOCK_TYPES, *PLAIN_TYPES], ids=lambda t: t.name)
def test_random_blocks_have_the_requested_standard_deviation(tensor_type: GGMLQuantizationType, std: float) -> None:
    """Every row, dequantized by gguf, has about this deviation; 0.0156 is usual for 4,096 inputs."""
    rows = random_blocks(tensor_type, 32, 4096, np.random.default_rng(7), std)
    values = gguf.quants.dequantize(rows, tensor_type)
    assert rows.dtype == np.uint8
    assert values.shape == (32, 4096)
    assert np.isfinite(values).all()
    assert (values.std(axis=-1) > std / 2).all()
    assert (values.std(axis=-1) < std * 2).all()
    assert abs(values.mean()) < std / 4


def test_every_type_that_gguf_dequantizes_is_covered() -> None:
    def dequantizes(tensor_type: GGMLQuantizationType) -> bool:
        block_bytes = gguf.GGML_QUANT_SIZES[tensor_type][1]
        try:
            gguf.quants.dequantize(np.zeros((1, block_bytes), dtype=np.uint8), tensor_type)
        except NotImplementedError:
            return False
        return True

    assert {t for t in GGMLQuantizationType if dequantizes(t)} == {*RANDOM_BLOCK_TYPES, *PLAIN_TYPES}


def test_a_file_has_the_requested_shape(tmp_path: Path) -> None:
    path = write_llama_gguf(
        tmp_path / "a.gguf",
        num_heads=4,
        num_kv_heads=2,
        head_dim=96,
        rope_dim=64,
        rope_factors=llama31_rope_factors(64),
        rope_scaling={"type": "yarn", "factor": 4.0, "original_context_length": 128},
        tied=True,
        attention_bias=True,
        types={"blk.0.attn_v.*": GGMLQuantizationType.Q8_0, "blk.*": GGMLQuantizationType.Q4_0},
        weights=lambda name, shape: np.full(shape, 2.0) if name == "output_norm.weight" else None,
    )
    with GGUFFile.open(path) as file:
        assert file.get_int("llama.attention.key_length") == 96
        assert file.get_int("llama.rope.dimension_count") == 64
        assert file.get_int("llama.rope.scaling.original_context_length") == 128
        assert file.get_float("llama.rope.scaling.factor") == 4.0
        tensors = file.tensors
        assert "output.weight" not in tensors
        assert tensors["rope_freqs.weight"].shape == (32,)
        assert tensors["blk.1.attn_k.bias"].shape == (192,)
        assert tensors["blk.1.attn_output.weight"].shape == (256, 384)
        assert tensors["blk.0.attn_v.weight"].type is GGMLQuantizationType.Q8_0
        assert tensors["blk.1.attn_v.weight"].type is GGMLQuantizationType.Q4_0
        assert tensors["token_embd.weight"].type is GGMLQuantizationType.F32
        assert (tensors["output_norm.weight"].data.view("<f4") == 2.0).all()


def test_rope_factors_are_those_of_llama_31s_files() -> None:
    """The ends are known: 1 for the fastest 29 of 64 frequencies, 8 for the slowest 29 (Llama 3.1 8B's tensor)."""
    factors = llama31_rope_factors()
    assert factors.dtype == np.float32
    assert (factors[:29] == 1).all()
    assert (factors[35:] == 8).all()
    assert (np.diff(factors) >= 0).all()
