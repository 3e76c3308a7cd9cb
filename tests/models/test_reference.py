"""The numpy reference computes what a GGUF defines, so it is compared with llama.cpp in float32 and with theory."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from llama3_models import reference
from llama3_models.architectures import ARCHITECTURES
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile

from tests.support.english import STORY
from tests.support.graphs import kl_divergence
from tests.support.llama_gguf import fuse_qkv, linear_scales, llama31_rope_factors, write_llama_gguf
from tests.support.vocabularies import smollm2_gguf

IDS = np.random.default_rng(5).integers(0, 320, 300).tolist()


def yarn(factor: float, original: int, **more: float) -> dict[str, str | float | int]:
    return {"type": "yarn", "factor": factor, "original_context_length": original, **more}


def forward(path: Path, ids: list[int], **options) -> np.ndarray:
    with GGUFFile.open(path) as file:
        return reference.forward(file, ids, **options)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({"num_heads": 8, "num_kv_heads": 2}, id="grouped heads, 4 to 1"),
        pytest.param({"num_heads": 4, "num_kv_heads": 1, "head_dim": 32, "tied": True}, id="heads of 128 in all, tied"),
        pytest.param({"rope_scaling": {"type": "linear", "factor": 4.0}}, id="linear scaling"),
        pytest.param({"rope_scaling": {"type": "none", "factor": 4.0}}, id="no scaling, whatever the factor"),
        pytest.param({"rope_scaling": {"factor": 4.0}}, id="a factor alone is linear scaling"),
        pytest.param({"rope_theta": 500.0, "rope_factors": llama31_rope_factors(64, 500.0)}, id="Llama 3.1's factors"),
        pytest.param({"rope_scaling": yarn(4.0, 64)}, id="YaRN"),
        pytest.param({"rope_scaling": yarn(4.0, 64, attn_factor=1.3)}, id="YaRN with an attention factor"),
        pytest.param(
            {
                "rope_scaling": yarn(4.0, 64)
                | {"yarn_ext_factor": 0.5, "yarn_attn_factor": 2.0, "yarn_log_multiplier": 0.1}
                | {"yarn_beta_fast": 8.0, "yarn_beta_slow": 2.0}
            },
            id="YaRN, keys that llama.cpp does not read",
        ),
        pytest.param(
            {"rope_theta": 500.0, "rope_factors": np.linspace(1, 8, 32), "rope_scaling": yarn(2.0, 40)},
            id="YaRN and factors",
        ),
        pytest.param({"rope_scaling": {"type": "yarn"}}, id="YaRN without a factor"),
        pytest.param({"rope_scaling": yarn(0.0, 64, attn_factor=0.7)}, id="YaRN by 0"),
        pytest.param({"rope_scaling": yarn(1.0, 64)}, id="YaRN by 1"),
        pytest.param({"rope_scaling": yarn(0.5, 64)}, id="YaRN by less than 1"),
        pytest.param({"rope_scaling": {"type": "yarn", "factor": 4.0}, "context_length": 96}, id="YaRN from all"),
        pytest.param({"rope_scaling": yarn(4.0, 0), "context_length": 96}, id="YaRN from 0 positions"),
        pytest.param({"rope_scaling": yarn(4.0, 3)}, id="YaRN from 3 positions"),
        pytest.param({"rope_scaling": yarn(4.0, 64), "rope_theta": 1.0}, id="YaRN with a base of 1"),
        pytest.param({"rope_scaling": {"attn_factor": 1.5}}, id="an attention factor alone"),
        pytest.param({"rope_scaling": {"type": "none", "factor": 2.0, "attn_factor": 0.8}}, id="and without scaling"),
        pytest.param({"rope_scaling": {"type": "linear", "factor": 2.0, "attn_factor": 1.2}}, id="and linear scaling"),
        pytest.param({"attention_bias": True}, id="biases"),
        pytest.param({"architecture": "qwen2", "rope_scaling": yarn(4.0, 64), "num_heads": 8}, id="Qwen2, YaRN"),
        pytest.param({"architecture": "qwen3", "rope_scaling": yarn(8.0, 50), "head_dim": 96}, id="Qwen3, YaRN"),
        pytest.param({"architecture": "qwen2", "num_heads": 8}, id="Qwen2"),
        pytest.param({"architecture": "qwen2", "rope_scaling": {"factor": 4.0}, "tied": True}, id="Qwen2, scaled"),
        pytest.param({"architecture": "qwen2", "attention_bias": False}, id="Qwen2 without biases"),
        pytest.param({"architecture": "qwen3", "num_heads": 8}, id="Qwen3"),
        pytest.param({"architecture": "qwen3", "attention_bias": True}, id="Qwen3 with biases"),
        pytest.param({"architecture": "qwen3", "num_kv_heads": 1, "head_dim": 96}, id="Qwen3, heads of 96"),
    ],
)
def test_float32_models_agree_with_llama_cpp(tmp_path, shape):
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    path = write_llama_gguf(tmp_path / "model.gguf", **shape)
    # Both are float32 and differ in the order of additions; a wrong angle or head would cost 0.1 or more.
    np.testing.assert_allclose(forward(path, IDS), llama_cpp_oracle.logits(path, IDS), atol=2e-4)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_yarn_agrees_with_llama_cpp_far_past_the_original_context(tmp_path, architecture):
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    path = write_llama_gguf(
        tmp_path / "model.gguf",
        architecture=architecture,
        num_layers=1,
        hidden_size=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=32,
        context_length=16_384,
        rope_theta=100_000.0,
        rope_factors=np.linspace(1, 1.5, 8) if architecture == "llama" else None,
        rope_scaling=yarn(8.0, 2048, attn_factor=1.1),
    )
    ids = np.random.default_rng(6).integers(0, 320, 9_100).tolist()
    expected = llama_cpp_oracle.logits(path, ids)[-100:]
    # llama.cpp adds up angles in float32. Without YaRN, logits here would differ by more than 1.
    np.testing.assert_allclose(forward(path, ids)[-100:], expected, atol=2e-3)


@pytest.mark.parametrize("how", [{}, {"layers": [1]}, {"biases": False}], ids=["all", "a layer", "but the biases"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fused_q_k_and_v_agree_with_llama_cpp(tmp_path, architecture, how):
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    shape = {"architecture": architecture, "attention_bias": True, "num_heads": 8}
    plain = write_llama_gguf(tmp_path / "plain.gguf", **shape)
    fused = fuse_qkv(plain, tmp_path / "fused.gguf", **how)
    found = forward(fused, IDS[:50])
    np.testing.assert_allclose(found, llama_cpp_oracle.logits(fused, IDS[:50]), atol=2e-4)
    np.testing.assert_array_equal(found, forward(plain, IDS[:50]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_scale_of_fused_q_k_and_v_agrees_with_llama_cpp(tmp_path, architecture):
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    vectors = {"blk.0.attn_qkv.scale": [1.4], "blk.1.attn_qkv.scale": [-0.7], "blk.1.attn_qkv.input_scale": [9.0]}
    shape = {"architecture": architecture, "attention_bias": True, "vectors": vectors}
    fused = fuse_qkv(write_llama_gguf(tmp_path / "plain.gguf", **shape), tmp_path / "fused.gguf")
    np.testing.assert_allclose(forward(fused, IDS), llama_cpp_oracle.logits(fused, IDS), atol=2e-4)


@pytest.mark.parametrize(
    ("shape", "atol"),
    [
        pytest.param({"num_heads": 8}, 2e-4, id="Llama"),
        pytest.param({"attention_bias": True, "tied": True}, 2e-4, id="biases, tied"),
        pytest.param({"architecture": "qwen3", "num_kv_heads": 1, "head_dim": 96}, 2e-4, id="Qwen3"),
        # llama.cpp rounds activations to the type of a float weight.
        pytest.param({"types": GGMLQuantizationType.F16}, 5e-2, id="float16"),
        pytest.param({"types": GGMLQuantizationType.BF16, "attention_bias": True}, 2e-1, id="bfloat16"),
    ],
)
def test_scales_of_weights_agree_with_llama_cpp(tmp_path, shape, atol):
    """Scales multiply the product, before the bias; the scales of inputs change nothing."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    path = write_llama_gguf(tmp_path / "model.gguf", vectors=linear_scales(), **shape)
    np.testing.assert_allclose(forward(path, IDS), llama_cpp_oracle.logits(path, IDS), atol=atol)


@pytest.mark.parametrize("type_", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "NVFP4"])
def test_scales_of_quantized_weights_agree_with_llama_cpp(tmp_path, type_):
    """For NVFP4, the head has one as well; llama.cpp does not accept that for other types."""
    pytest.importorskip("llama_cpp")
    if type_ not in GGMLQuantizationType.__members__:
        pytest.skip(f"the installed gguf has no {type_}")
    from tests.support import llama_cpp_oracle

    scales = linear_scales(head=type_ == "NVFP4")
    path = write_llama_gguf(tmp_path / "model.gguf", types=GGMLQuantizationType[type_], vectors=scales)
    # 6e-4 to 3e-3 was measured, from llama.cpp's int8 activations; without the scales it is 1.5 or more.
    assert kl_divergence(forward(path, IDS), llama_cpp_oracle.logits(path, IDS)) < 1e-2


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_scale_is_part_of_its_weight(tmp_path, architecture):
    """llama.cpp computes the same from a twin whose float32 weights are multiplied by the scales.

    With the scales themselves it does not: it ignores those of Qwen2's MLP, and also multiplies the biases of Llama's
    MLP by them.
    """
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    scales = linear_scales(head=True)
    vectors = {}
    if architecture == "llama":
        sizes = {"ffn_gate": 512, "ffn_up": 512, "ffn_down": 256}
        rng = np.random.default_rng(1)
        vectors = {f"blk.0.{name}.bias": rng.normal(0, 0.5, size).tolist() for name, size in sizes.items()}

    def weights(scaled: bool):
        rng = np.random.default_rng(2)

        def values(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
            if len(shape) == 1:
                return None
            (scale,) = scales.get(name.removesuffix("weight") + "scale", [1.0]) if scaled else [1.0]
            return rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32) * np.float32(scale)

        return values

    shape = {"architecture": architecture, "attention_bias": True}
    path = write_llama_gguf(tmp_path / "model.gguf", weights=weights(False), vectors=vectors | scales, **shape)
    twin = write_llama_gguf(tmp_path / "twin.gguf", weights=weights(True), vectors=vectors, **shape)
    np.testing.assert_allclose(forward(path, IDS), llama_cpp_oracle.logits(twin, IDS), atol=2e-4)


def test_a_head_that_rotates_in_part_agrees_with_llama_cpp(tmp_path):
    """llama.cpp refuses such a file, but runs a twin: its factors set these frequencies and stop the other pairs."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    pairs = np.arange(32)
    factors = np.where(pairs < 16, 10_000.0 ** (2 * pairs / 32 - 2 * pairs / 64), 1e30).astype(np.float32)
    part = write_llama_gguf(tmp_path / "part.gguf", rope_dim=32)
    twin = write_llama_gguf(tmp_path / "twin.gguf", rope_factors=factors)
    np.testing.assert_allclose(forward(part, IDS), llama_cpp_oracle.logits(twin, IDS), atol=2e-4)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q4_0", "Q8_0"])
def test_quantized_models_differ_from_llama_cpp_by_its_int8_activations(kind, sane_llama):
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    path = sane_llama(kind)
    found = forward(path, IDS)
    assert kl_divergence(found, llama_cpp_oracle.logits(path, IDS)) < 4e-3  # 2e-3 measured, for each


@pytest.mark.parametrize("tokenizer", ["tiny", "llama3"])
def test_the_sane_llama_is_as_sure_as_a_real_model(tokenizer, sane_llama):
    """Logits that are flat or saturated would hide errors."""
    logits = forward(sane_llama("Q4_K_M", tokenizer=tokenizer), IDS[:64])
    likeliest = np.exp(-np.log(np.exp(logits - logits.max(axis=-1, keepdims=True)).sum(axis=-1)))
    assert 0.1 < np.median(likeliest) < 0.5


def test_smollm2_agrees_with_llama_cpp_on_english():
    """On 200 tokens, the mean KL divergence of this real model is 0.0026, from llama.cpp's int8 activations."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    path = smollm2_gguf()
    ids = llama_cpp_oracle.tokenize(path, [STORY])[0][:200]
    expected = llama_cpp_oracle.logits(path, ids)
    found = forward(path, ids)
    assert kl_divergence(found, expected) < 4e-3
    assert (found.argmax(axis=-1) == expected.argmax(axis=-1)).mean() > 0.95


def test_half_precision_weights_are_used_as_they_are(tmp_path):
    """If all float32 weights are exact in float16 or bfloat16, a model stored in that type computes the same."""
    rng = np.random.default_rng(0)

    def weights(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        # 8 significant bits: exact in both types.
        return rng.integers(-128, 128, shape).astype(np.float32) / 1024 if len(shape) == 2 else None

    logits = []
    for kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16):
        rng = np.random.default_rng(0)
        path = write_llama_gguf(tmp_path / f"{kind.name}.gguf", types=kind, weights=weights)
        logits.append(forward(path, IDS[:20]))
    np.testing.assert_array_equal(logits[1], logits[0])
    np.testing.assert_array_equal(logits[2], logits[0])


def test_a_prefix_and_the_last_row_equal_those_of_the_whole(tmp_path):
    path = write_llama_gguf(tmp_path / "model.gguf")
    whole = forward(path, IDS)
    np.testing.assert_allclose(forward(path, IDS[:130]), whole[:130], atol=1e-4)
    last = forward(path, IDS, last_only=True)
    assert last.shape == (1, 320)
    np.testing.assert_allclose(last, whole[-1:], atol=1e-4)


@pytest.mark.parametrize("ids", [[], [-1], [5, 320]])
def test_ids_outside_the_vocabulary_are_refused(tmp_path, ids):
    with pytest.raises(Llama3Error, match="token ids from 0 to 319"):
        forward(write_llama_gguf(tmp_path / "model.gguf"), ids)
