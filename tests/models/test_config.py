"""An unsupported model is refused in one line; a supported one is read as llama.cpp reads it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from llama3_models.architectures import ARCHITECTURES
from llama3_models.config import Hyperparameters, RopeScaling
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile

from tests.support.llama_gguf import fuse_qkv, llama31_rope_factors, write_llama_gguf

YARN = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write_llama_gguf(tmp_path_factory.mktemp("llama") / "model.gguf", rope_factors=llama31_rope_factors(64))


def read(path: Path, *, metadata=None, without=(), tensors=None) -> Hyperparameters:
    """Read a file as if it had other metadata (None removes a key) or other tensors."""
    with GGUFFile.open(path) as file:
        changed = {**file.metadata, **(metadata or {})}
        file._metadata = {key: value for key, value in changed.items() if value is not None}
        kept = {name: tensor for name, tensor in file.tensors.items() if name not in without}
        file._tensors = kept | {
            name: replace(kept.get(name, kept["output.weight"]), **changes) for name, changes in (tensors or {}).items()
        }
        return Hyperparameters.from_gguf(file)


def test_numbers_of_a_file(path):
    found = read(path)
    assert (found.vocab_size, found.hidden_size, found.intermediate_size, found.num_hidden_layers) == (320, 256, 512, 2)
    assert (found.num_attention_heads, found.num_key_value_heads, found.head_dim, found.rotary_dim) == (4, 2, 64, 64)
    assert (found.rope_theta, found.max_position_embeddings) == (10_000.0, 512)
    assert found.rope_scaling == RopeScaling(1.0, tuple(map(float, llama31_rope_factors(64))))
    assert found.rms_norm_eps == pytest.approx(1e-5)
    assert not found.tie_word_embeddings


def test_defaults_are_those_of_llama_cpp(path):
    absent = dict.fromkeys(("llama.rope.dimension_count", "llama.rope.freq_base", "llama.vocab_size"))
    assert read(path, metadata=absent) == read(path)
    # Without head_count_kv, a file has as many key-value heads as heads. These matrices do not fit that.
    with pytest.raises(Llama3Error, match=r"blk\.0\.attn_k\.weight has shape \[128, 256\], expected \[256, 256\]"):
        read(path, metadata={"llama.attention.head_count_kv": None})


def test_without_an_output_matrix_the_embedding_is_the_head(path):
    assert read(path, without=["output.weight"]).tie_word_embeddings


def test_inverse_frequencies_follow_the_papers(path):
    """They are RoPE's theta^(-2i/d), divided by Llama 3.1's factors and by the linear scaling."""
    found = read(path, metadata={"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0})
    plain = 10_000.0 ** (-2 * np.arange(32) / 64)
    np.testing.assert_allclose(found.inverse_frequencies, plain / 2 / llama31_rope_factors(64), rtol=1e-12)
    assert found.inverse_frequencies.dtype == np.float64


def test_the_scaling_of_rotary_frequencies_is_none_if_nothing_scales(path):
    metadata = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert read(path, without=["rope_freqs.weight"]).rope_scaling is None
    assert read(path, without=["rope_freqs.weight"], metadata=metadata).rope_scaling == RopeScaling(4.0)


def test_yarn_multiplies_angles_and_their_cosines(path):
    """The cosines are multiplied by the paper's 0.1 ln(s) + 1 and by the file's own factor."""
    metadata = {**YARN, "llama.rope.scaling.attn_factor": 1.5, "llama.rope.scaling.original_context_length": 128}
    found = read(path, without=["rope_freqs.weight"], metadata=metadata)
    assert found.rope_scaling == RopeScaling(4.0, None, 128, pytest.approx(1.5 * (1 + 0.1 * np.log(4))))
    assert found.attention_factor == found.rope_scaling.attention_factor
    plain = 10_000.0 ** (-2 * np.arange(32) / 64)
    turns = 128 * plain / (2 * np.pi)
    np.testing.assert_allclose(found.inverse_frequencies[turns < 0.5], plain[turns < 0.5] / 4)
    np.testing.assert_allclose(found.inverse_frequencies[0], 1)
    assert (np.diff(plain / found.inverse_frequencies) >= 0).all()


@pytest.mark.parametrize("theta", [1.0, 0.5, 1e-3, 1e300])
def test_yarn_with_an_odd_base_is_silent(path, theta):
    """It does not warn, even if llama.cpp's float32 arithmetic would have infinities in between."""
    found = read(path, without=["rope_freqs.weight"], metadata={**YARN, "llama.rope.freq_base": theta})
    assert np.isfinite(found.inverse_frequencies).all()


def test_yarn_in_a_head_that_rotates_in_part_is_refused(tmp_path):
    file = write_llama_gguf(tmp_path / "model.gguf", rope_dim=32)
    with pytest.raises(Llama3Error, match="not supported if only 32 of a head's 64 elements rotate; use another"):
        read(file, metadata=YARN)


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.int64, np.uint8])
def test_an_array_with_the_same_number_for_every_layer_is_that_number(path, dtype):
    """llama.cpp accepts such arrays as well."""
    keys = {"attention.head_count": 4, "attention.head_count_kv": 2, "feed_forward_length": 512}
    keys = {key: n for key, n in keys.items() if n <= np.iinfo(dtype).max}
    assert read(path, metadata={f"llama.{key}": np.array([n, n], dtype) for key, n in keys.items()}) == read(path)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_the_keys_of_other_architectures_begin_with_their_names(tmp_path, architecture):
    file = write_llama_gguf(tmp_path / "model.gguf", architecture=architecture, rope_theta=1e6, context_length=1024)
    found = read(file)
    assert found.architecture is ARCHITECTURES[architecture]
    assert (found.num_attention_heads, found.num_key_value_heads, found.head_dim) == (4, 2, 64)
    assert (found.rope_theta, found.max_position_embeddings) == (1e6, 1024)
    with pytest.raises(Llama3Error, match=f"{architecture}.rope.dimension_count is 66"):
        read(file, metadata={f"{architecture}.rope.dimension_count": 66})


@pytest.mark.parametrize(
    ("architecture", "missing", "foreign"),
    [
        ("qwen2", "blk.1.attn_v.weight", "blk.0.attn_q_norm.weight"),
        ("qwen2", "blk.0.attn_q.weight", "rope_freqs.weight"),
        ("qwen2", "blk.0.ffn_up.weight", "blk.0.attn_output.bias"),
        ("qwen3", "blk.1.attn_q_norm.weight", "blk.0.ffn_up.bias"),
        ("qwen3", "blk.0.attn_k_norm.weight", "cls.output.weight"),
    ],
)
def test_each_architecture_has_its_own_tensors(tmp_path, architecture, missing, foreign):
    file = write_llama_gguf(tmp_path / "model.gguf", architecture=architecture)
    with pytest.raises(Llama3Error, match=f"the tensor {missing} is missing"):
        read(file, without=[missing])
    title = ARCHITECTURES[architecture].title
    with pytest.raises(Llama3Error, match=f"the tensor '{foreign}' is not part of a {title} model with 2 layers"):
        read(file, tensors={foreign: {"name": foreign}})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "qwen2moe"}, "'qwen2moe' is not supported; use a GGUF of one of these: 'llama'"),
        ({"general.architecture": None}, "general.architecture.* is missing"),
        (
            {"llama.attention.head_count": np.array([4, 2])},
            "head_count is 2 in some layers and 4 in others, which is not",
        ),
        ({"llama.attention.head_count_kv": np.array([2, 4])}, "head_count_kv is 2 in some layers and 4 in others"),
        ({"llama.feed_forward_length": np.array([512, 0])}, "feed_forward_length is 0 in some layers and 512 in"),
        ({"llama.feed_forward_length": np.array([0, 0])}, "feed_forward_length is 0, expected at least 1"),
        ({"llama.feed_forward_length": np.array([512])}, "is an array of 1 values, expected .* each of 2 layers"),
        ({"llama.attention.head_count": np.array([])}, "is an array of 0 values, expected an integer"),
        ({"llama.attention.head_count": np.array([4.0, 4.0])}, "is an array of 2 values, expected an integer"),
        ({"llama.attention.key_length": np.array([64, 64])}, "key_length is an array, but only one number for all"),
        ({"llama.attention.causal": np.array([1, 1])}, "should be a boolean, not an array of numbers"),
        ({"llama.expert_count": 8}, "mixture of 8 experts"),
        ({"llama.attention.causal": False}, "causal"),
        ({"llama.attention.scale": 0.5}, "llama.attention.scale = 0.5"),
        ({"llama.rope.scaling.type": "longrope"}, "'longrope' is not supported, only 'none', 'linear' and 'yarn'"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": -4.0}, "factor is -4"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": float("inf")}, "factor' is inf"),
        (
            {**YARN, "llama.rope.scaling.original_context_length": -1},
            "original_context_length is -1, expected a number",
        ),
        ({**YARN, "llama.rope.scaling.original_context_length": 2**31}, "original_context_length is 2147483648"),
        ({**YARN, "llama.rope.scaling.original_context_length": 64.5}, "should be an integer"),
        ({"llama.rope.scaling.attn_factor": float("nan")}, "attn_factor' is nan"),
        ({"llama.rope.scaling.attn_factor": -1.5}, "attn_factor is -1.5, expected a positive number"),
        ({"llama.rope.scaling.attn_factor": 0.0}, "attn_factor is 0"),
        ({"llama.rope.scaling.attn_factor": 1e30}, "multiply queries and keys by 1e\\+30"),
        ({"llama.rope.scaling.type": "spiral"}, "'spiral' is not supported"),
        ({"llama.rope.scaling.factor": -1.0}, "factor is -1"),
        ({"llama.rope.dimension_count": 7}, "dimension_count is 7, expected an even number up to 64"),
        ({"llama.rope.dimension_count": 66}, "dimension_count is 66"),
        ({"llama.rope.freq_base": 5e-324}, "freq_base = 4.94066e-324 and .* cannot be computed"),
        ({"llama.rope.freq_base": 1e-9}, "freq_base = 1e-09 and"),
        ({"llama.rope.scaling.factor": 1e-15}, "result in angles that cannot be computed"),
        ({"llama.rope.freq_base": 0.0}, "freq_base is 0.0, expected a positive number"),
        ({"llama.attention.head_count": 0}, "head_count is 0, expected at least 1"),
        ({"llama.attention.head_count": 257}, "embedding_length is 256, too small for the 257 heads"),
        ({"llama.attention.head_count_kv": 3}, "4 attention heads cannot share 3"),
        ({"llama.attention.value_length": 32}, "keys of 64 and values of 32"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon.* is missing"),
        ({"llama.context_length": None}, "context_length.* is missing"),
        ({"llama.block_count": 2**32 - 1}, r"blk\.2\.attn_norm\.weight is missing"),
        ({"general.architecture": "x" * 5000}, r"the architecture 'x{75}\.\.\.' is not supported; use"),
        ({"llama.block_count": 1}, r"blk\.1\..* is not part of a Llama model with 1 layers"),
        ({"llama.embedding_length": 512, "llama.attention.key_length": 64}, r"expected \[320, 512\]"),
        ({"llama.feed_forward_length": "512"}, "feed_forward_length.* should be an integer"),
    ],
)
def test_metadata_that_is_not_supported_is_refused(path, metadata, message):
    with pytest.raises(Llama3Error, match=message) as error:
        read(path, metadata=metadata)
    assert "\n" not in str(error.value)
    assert re.search("; (use|convert|download)", str(error.value))  # what to do
    assert str(path) in str(error.value)


QKV, BIAS = "blk.0.attn_qkv.weight", "blk.0.attn_qkv.bias"
WEIGHTS = [f"blk.0.attn_{part}.weight" for part in "qkv"]
BIASES = [f"blk.0.attn_{part}.bias" for part in "qkv"]


@pytest.mark.parametrize("without", [[], [BIAS]])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fused_tensor_is_replaced_by_its_parts(tmp_path, architecture, without):
    plain = write_llama_gguf(tmp_path / "plain.gguf", architecture=architecture, attention_bias=True)
    fused = fuse_qkv(plain, tmp_path / "fused.gguf", layers=[0])
    assert read(fused, without=without) == read(plain, without=BIASES * bool(without))
    with GGUFFile.open(plain) as expected, GGUFFile.open(fused) as file:
        found = Hyperparameters.from_gguf(file).weights(file)
        assert set(found) == set(expected.tensors)
        for name, tensor in expected.tensors.items():
            assert (found[name].name, found[name].type, found[name].shape) == (name, tensor.type, tensor.shape)
            np.testing.assert_array_equal(found[name].data, tensor.data)
            with fused.open("rb") as bytes_:
                bytes_.seek(found[name].offset)
                assert bytes_.read(found[name].n_bytes) == tensor.data.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensors": {WEIGHTS[1]: {}}}, f"has both {QKV} and {WEIGHTS[1]}"),
        ({"tensors": {BIASES[0]: {}}}, f"has both {BIAS} and {BIASES[0]}"),
        ({"without": [QKV]}, f"has {BIAS}, but no {QKV}"),
        ({"without": [QKV, BIAS]}, f"the tensor {WEIGHTS[0]} is missing"),
        (
            {"without": [BIAS], "tensors": {BIASES[1]: {}}},
            f"{QKV} needs all of {', '.join(BIASES)} or none of them, but the file has only {BIASES[1]};",
        ),
        ({"tensors": {QKV: {"shape": (256, 256)}}}, rf"{QKV} has shape \[256, 256\], expected \[512, 256\]"),
        ({"tensors": {BIAS: {"shape": (511,)}}}, rf"{BIAS} has shape \[511\], expected \[512\]"),
        (
            {"tensors": {QKV: {"type": GGMLQuantizationType.I32}}},
            f"tensor {QKV} has the type I32, which is not supported",
        ),
        ({"tensors": {"blk.2.attn_qkv.weight": {}}}, "'blk.2.attn_qkv.weight' is not part of a Llama model with 2"),
        ({"tensors": {"blk.00.attn_qkv.weight": {}}}, "'blk.00.attn_qkv.weight' is not part of a Llama"),
        ({"tensors": {"blk.0.attn_qkv.lora": {}}}, "'blk.0.attn_qkv.lora' is not part of a Llama"),
    ],
)
def test_a_fused_tensor_that_llama_cpp_would_not_accept_is_refused(tmp_path, change, message):
    plain = write_llama_gguf(tmp_path / "plain.gguf", attention_bias=True)
    fused = fuse_qkv(plain, tmp_path / "fused.gguf", layers=[0])
    changes = change.get("tensors", {})
    named = {name: {"name": name, **fields} for name, fields in changes.items()}
    with pytest.raises(Llama3Error, match=message) as error:
        read(fused, without=change.get("without", ()), tensors=named)
    assert "\n" not in str(error.value)
    assert re.search("; (use|convert|download)", str(error.value))


def test_a_fused_tensor_may_have_the_name_of_one_of_its_parts(path):
    """An example is ffn_up in Phi-3's files, which has the rows of gate and up."""
    with GGUFFile.open(path) as file:
        found = Hyperparameters.from_gguf(file)
        fused = {"blk.*.ffn_up": ("blk.*.ffn_gate", "blk.*.ffn_up")}
        phi = replace(found, architecture=replace(found.architecture, fused=fused), intermediate_size=256)
        file._tensors = {name: tensor for name, tensor in file.tensors.items() if "ffn_gate" not in name}
        weights, both = phi.weights(file), file.tensors["blk.1.ffn_up.weight"].dequantize()
        np.testing.assert_array_equal(weights["blk.1.ffn_gate.weight"].dequantize(), both[:256])
        np.testing.assert_array_equal(weights["blk.1.ffn_up.weight"].dequantize(), both[256:])


def test_vectors_are_cut_between_blocks(tmp_path):
    types = {"blk.0.ffn_up.weight": GGMLQuantizationType.Q8_0}
    with GGUFFile.open(write_llama_gguf(tmp_path / "model.gguf", types=types)) as file:
        matrix = file.tensors["blk.0.ffn_up.weight"]
        vector = replace(matrix, shape=(256,), data=matrix.data[0], n_bytes=272)
        part = vector.rows("part", 64, 128)
        np.testing.assert_array_equal(part.dequantize(), matrix.dequantize()[0, 64:128])
        assert (part.offset, part.n_bytes, part.shape) == (matrix.offset + 68, 68, (64,))
        with pytest.raises(Llama3Error, match="is Q8_0, but part in it begins or ends inside a block of 32"):
            vector.rows("part", 64, 100)


@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight", "blk.1.ffn_gate.weight"])
def test_a_missing_tensor_is_named(path, name):
    with pytest.raises(Llama3Error, match=f"the tensor {name} is missing"):
        read(path, without=[name])


def test_a_tensor_of_another_shape_is_named_with_both_shapes(path):
    with pytest.raises(Llama3Error, match=r"blk\.1\.ffn_down\.weight has shape \[512, 256\], expected \[256, 512\]"):
        read(path, tensors={"blk.1.ffn_down.weight": {"shape": (512, 256)}})


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.0.attn_norm.weight", "blk.1.ffn_down.weight"])
@pytest.mark.parametrize("type_", ["I32", "F64", "Q8_1", "Q8_K"])
def test_a_tensor_of_a_type_that_holds_no_weights_is_refused(path, name, type_):
    with pytest.raises(Llama3Error, match=f"tensor {name} has the type {type_}, which is not supported"):
        read(path, tensors={name: {"type": GGMLQuantizationType[type_]}})


def test_more_tokens_than_rows_of_the_embedding_are_refused(path):
    message = r"tokenizer\.ggml\.tokens lists 320 tokens, but token_embd\.weight has only 319 rows; convert"
    with pytest.raises(Llama3Error, match=message):
        read(path, tensors={"token_embd.weight": {"shape": (319, 256)}, "output.weight": {"shape": (319, 256)}})


def test_the_embedding_may_have_more_rows_than_there_are_tokens(path):
    """Models in Hugging Face's format are often padded."""
    padded = {"token_embd.weight": {"shape": (384, 256)}, "output.weight": {"shape": (384, 256)}}
    assert read(path, tensors=padded).vocab_size == 384
    with pytest.raises(Llama3Error, match=r"output\.weight has shape \[320, 256\], expected \[384, 256\]"):
        read(path, tensors={"token_embd.weight": {"shape": (384, 256)}})


@pytest.mark.parametrize("name", ["blk.0.attn_q_norm.weight", "token_embd.scale", "output.bias", "rope_factors_long"])
def test_a_tensor_that_would_change_the_result_is_refused(path, name):
    with pytest.raises(Llama3Error, match=f"the tensor '{name}' is not part of a Llama"):
        read(path, tensors={name: {"name": name}})


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("blk.0.attn_q.scale", [np.nan], "tensor blk.0.attn_q.scale is nan, expected a finite number"),
        ("output.scale", [-np.inf], "tensor output.scale is -inf, expected a finite number"),
        ("blk.1.ffn_up.scale", [1.0, 2.0], r"blk.1.ffn_up.scale has shape \[2\], expected \[1\]"),
        ("blk.1.ffn_up.input_scale", [1.0, 2.0], r"blk.1.ffn_up.input_scale has shape \[2\], expected \[1\]"),
        ("blk.2.ffn_up.scale", [1.0], "'blk.2.ffn_up.scale' is not part of a Llama model with 2 layers"),
        ("blk.0.attn_qkv.scale", [1.0], "tensor blk.0.attn_qkv.scale has no blk.0.attn_qkv.weight to scale"),
        ("blk.0.ffn_norm.scale", [1.0], "'blk.0.ffn_norm.scale' is not part of a Llama"),
    ],
)
def test_scales_that_cannot_be_used_are_refused(tmp_path, name, values, message):
    with pytest.raises(Llama3Error, match=message):
        read(write_llama_gguf(tmp_path / "model.gguf", vectors={name: values}))


def test_a_scale_of_a_head_that_is_the_embedding_is_refused(tmp_path):
    with pytest.raises(Llama3Error, match=r"tensor output\.scale has no output\.weight to scale"):
        read(write_llama_gguf(tmp_path / "model.gguf", tied=True, vectors={"output.scale": [1.0]}))


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-30])
def test_any_finite_scale_is_accepted(tmp_path, value):
    """Scales of zero, adjacent or at the end of a file, are not taken for an unfinished download."""
    names = ("attn_q.scale", "attn_q.input_scale", "ffn_up.scale")
    read(write_llama_gguf(tmp_path / "model.gguf", vectors={f"blk.0.{name}": [value] for name in names}))


def test_tables_of_old_converters_are_ignored(path):
    assert read(path, tensors={"blk.0.attn_rot_embd.weight": {}}) == read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": GGMLQuantizationType.F16}, "has type F16, expected F32"),
        ({"shape": (16,)}, r"has shape \[16\], expected \[32\]"),
    ],
)
def test_rope_factors_of_another_type_or_shape_are_refused(path, changes, message):
    with pytest.raises(Llama3Error, match=message):
        read(path, tensors={"rope_freqs.weight": changes})
