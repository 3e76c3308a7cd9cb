"""An adapter has the same effect as in llama.cpp; one that does not fit is refused in one line."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from llama3_models import reference
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.gguf.file import GGUFFile
from llama3_models.lora import Adapter, Lora, parse_loras, read_adapter, read_adapters

from tests.support.llama_gguf import fuse_qkv, linear_scales, write_llama_gguf
from tests.support.lora_gguf import LINEARS, write_lora

IDS = np.random.default_rng(5).integers(0, 320, 100).tolist()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_llama_gguf(tmp_path_factory.mktemp("base") / "model.gguf")


def read(path: Path, base: Path, scale: float = 1.0) -> Adapter:
    with GGUFFile.open(base) as file:
        return read_adapter(Lora(path, scale), file)


def forward(base: Path, adapters: list[tuple[Path, float]]) -> np.ndarray:
    with GGUFFile.open(base) as file:
        return reference.forward(file, IDS, adapters=read_adapters([Lora(*each) for each in adapters], file))


# Arithmetic


@pytest.mark.parametrize(
    ("shape", "adapters", "scales"),
    [
        pytest.param({"num_heads": 8}, [{"rank": 1, "alpha": 1.0}], [1.0], id="rank 1"),
        pytest.param({"attention_bias": True}, [{"rank": 3, "alpha": 4.5}], [0.7], id="rank 3, biases"),
        pytest.param({"architecture": "qwen2"}, [{"rank": 16}, {"rank": 3, "seed": 1}], [0.5, -0.2], id="Qwen2, two"),
        pytest.param(
            {"architecture": "qwen3", "num_kv_heads": 1, "head_dim": 48, "tied": True},
            [{"rank": 16, "alpha": None}],
            [1.5],
            id="Qwen3, tied, without alpha",
        ),
        pytest.param({}, [{"weights": ["token_embd"], "rank": 5, "gain": 1.0}], [1.0], id="the embedding"),
        pytest.param({}, [{"weights": ["output"]}], [-3.0], id="the head"),
        pytest.param({}, [{"alpha": -8.0}], [1.0], id="a negative alpha"),
        pytest.param({}, [{}], [0.0], id="a scale of 0"),
        pytest.param(
            {"vectors": {k: v for k, v in linear_scales().items() if "ffn" not in k}}, [{}], [1.0], id="scales"
        ),
    ],
)
def test_adapters_agree_with_llama_cpp(tmp_path, shape, adapters, scales):
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    base = write_llama_gguf(tmp_path / "model.gguf", **shape)
    paths = [write_lora(tmp_path / f"{i}.gguf", base, **options) for i, options in enumerate(adapters)]
    used = list(zip(paths, scales, strict=True))
    expected = llama_cpp_oracle.logits(base, IDS, used)
    np.testing.assert_allclose(forward(base, used), expected, atol=5e-4)
    without = np.abs(forward(base, []) - expected).max()
    assert without > 0.5 if any(scales) else without < 2e-4


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", LINEARS)
def test_every_linear_is_adapted(tmp_path, architecture, name):
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    base = write_llama_gguf(tmp_path / "model.gguf", architecture=architecture)
    lora = write_lora(tmp_path / "lora.gguf", base, weights=[f"blk.1.{name}"])
    expected = llama_cpp_oracle.logits(base, IDS, [(lora, 1.0)])
    np.testing.assert_allclose(forward(base, [(lora, 1.0)]), expected, atol=2e-4)
    assert np.abs(forward(base, []) - expected).max() > 1e-2


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_an_adapter_of_fused_q_k_and_v_agrees_with_llama_cpp(tmp_path, architecture):
    """The three linears share A. They may also have separate adapters, which llama.cpp does not accept."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    plain = write_llama_gguf(tmp_path / "plain.gguf", architecture=architecture, num_heads=8, attention_bias=True)
    fused = fuse_qkv(plain, tmp_path / "fused.gguf", layers=[1])
    lora = write_lora(tmp_path / "lora.gguf", fused, rank=16)
    assert "blk.1.attn_qkv" not in read(lora, fused).weights
    expected = llama_cpp_oracle.logits(fused, IDS, [(lora, 1.0)])
    np.testing.assert_allclose(forward(fused, [(lora, 1.0)]), expected, atol=5e-4)

    own = write_lora(tmp_path / "own.gguf", plain)
    np.testing.assert_array_equal(forward(fused, [(own, 1.0)]), forward(plain, [(own, 1.0)]))
    twice = {"blk.1.attn_q.weight.lora_a": np.ones((3, 256)), "blk.1.attn_q.weight.lora_b": np.ones((256, 3))}
    both = write_lora(tmp_path / "both.gguf", fused, weights=["blk.1.attn_qkv"], tensors=twice)
    with pytest.raises(Llama3Error, match=r"adapts blk\.1\.attn_q\.weight twice"):
        read(both, fused)
    with pytest.raises(Llama3Error, match=r"adapts 'blk\.1\.attn_qkv\.weight', which .*plain\.gguf does not have"):
        read(lora, plain)


@pytest.mark.parametrize(
    ("type_", "rank", "atol"), [(T.F16, 3, 5e-2), (T.BF16, 16, 0.2), (T.Q8_0, 32, 0.5), (T.Q8_0, 3, 0.5)]
)
def test_adapters_of_other_types_differ_from_llama_cpp_by_its_activations(tmp_path, base, type_, rank, atol):
    """llama.cpp rounds activations to suit the type of the weight. With Q8_0 and a rank of 3, B is in float16."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    lora = write_lora(tmp_path / "lora.gguf", base, type_=type_, rank=rank)
    expected = llama_cpp_oracle.logits(base, IDS, [(lora, 1.0)])
    np.testing.assert_allclose(forward(base, [(lora, 1.0)]), expected, atol=atol)
    assert np.abs(forward(base, []) - expected).max() > 5 * atol


def test_an_adapter_that_is_used_twice_counts_twice(tmp_path, base):
    lora = write_lora(tmp_path / "lora.gguf", base)
    np.testing.assert_allclose(forward(base, [(lora, 0.5), (lora, 0.5)]), forward(base, [(lora, 1.0)]), atol=2e-4)


def test_norms_are_ignored_with_a_warning(tmp_path, base):
    """mergekit-extract-lora writes them, and llama.cpp also ignores them."""
    norms = {"blk.0.attn_norm.weight": np.full(256, 3.0)}
    adapter = read(write_lora(tmp_path / "lora.gguf", base, tensors=norms), base)
    (warning,) = adapter.warnings
    assert warning.startswith("lora.gguf: its norms (1 in total) are ignored")
    assert read(write_lora(tmp_path / "plain.gguf", base), base).warnings == ()


def test_matrices_of_zeros_are_a_warning(tmp_path, base):
    """Training begins with a B of zeros, but if A and B are zeros, a part of the file is missing."""
    path = write_lora(tmp_path / "lora.gguf", base)
    untrained = {f"blk.0.{name}.weight.lora_b": np.zeros((n, 3)) for name, n in (("attn_q", 256), ("attn_k", 128))}
    assert read(write_lora(tmp_path / "b.gguf", base, tensors=untrained), base).warnings == ()
    places = [(int(tensor.data_offset), int(tensor.n_bytes)) for tensor in gguf.GGUFReader(path).tensors]
    offset = max(places)[0] - places[-2][1]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(path.stat().st_size - offset))
    (warning,) = read(path, base).warnings
    assert warning.startswith("lora.gguf: the matrices in 1 of its 16 pairs contain only zeros")


# Paths and scales


def test_a_scale_follows_the_last_colon(tmp_path):
    assert Lora.parse("a.gguf") == Lora(Path("a.gguf"), 1.0)
    assert Lora.parse("a.gguf:0.5") == Lora(Path("a.gguf"), 0.5)
    assert Lora.parse("a:b.gguf:-2e-1") == Lora(Path("a:b.gguf"), -0.2)
    assert Lora.parse("x" * 300 + ":2") == Lora(Path("x" * 300), 2.0)  # too long for a file: a later error
    assert Lora.parse("a:0") == Lora(Path("a"), 0.0)
    assert Lora.parse("a:b.gguf") == Lora(Path("a:b.gguf"), 1.0)
    assert parse_loras("a.gguf:2") == parse_loras([Lora(Path("a.gguf"), 2.0)]) == [Lora(Path("a.gguf"), 2.0)]


def test_a_file_with_the_whole_text_as_its_name_wins(tmp_path):
    path = tmp_path / "a.gguf:0.5"
    path.touch()
    assert Lora.parse(path) == Lora(path, 1.0)
    assert Lora.parse(f"{path}:2") == Lora(path, 2.0)


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf", "1e39"])
def test_a_scale_outside_the_range_of_float32_is_refused(scale):
    with pytest.raises(UsageError, match=f"a.gguf:{scale}: the scale is .*float32"):
        Lora.parse(f"a.gguf:{scale}")


@pytest.mark.parametrize("path", ["", Path()])
def test_a_file_without_a_name_is_refused(path):
    with pytest.raises(UsageError, match="lora: expected FILE or FILE:SCALE, not ''"):
        parse_loras([path])


@pytest.mark.parametrize("scale", ["", "half", "1,5x", "1_0", "0x1", "--1"])
def test_a_scale_that_is_not_a_number_is_refused(tmp_path, scale):
    path = tmp_path / "a.gguf"
    path.touch()
    if "," in scale:
        assert Lora.parse(f"{path}:{scale}") == Lora(Path(f"{path}:{scale}"))  # a missing file: a later error
        return
    with pytest.raises(UsageError, match=f"the scale '{scale}' is not a number"):
        Lora.parse(f"{path}:{scale}")


# Adapters that do not fit

A, B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"
ONLY_Q = {"weights": ["blk.0.attn_q"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metadata": {"general.type": "model"}}, "not a LoRA adapter (general.type is 'model'); use an adapter"),
        ({"metadata": {"general.type": None}}, "not a LoRA adapter (general.type is missing)"),
        ({"metadata": {"adapter.type": "lokr"}}, "an adapter of type 'lokr', but only 'lora' is supported"),
        ({"metadata": {"adapter.type": None}}, "an adapter of type ''"),
        ({"metadata": {"general.architecture": "qwen2"}}, "an adapter for the architecture 'qwen2', but "),
        ({"metadata": {"adapter.alora.invocation_tokens": [5, 6]}}, "starts after certain tokens"),
        ({"metadata": {"adapter.lora.alpha": float("nan")}}, "'adapter.lora.alpha' is nan"),
        ({"metadata": {"adapter.lora.alpha": "16"}}, "'adapter.lora.alpha' should be a number"),
        ({"weights": []}, "without any lora_a and lora_b"),
        ({"tensors": {"direction.1": np.ones(256)}}, "the tensor 'direction.1' is neither the lora_a nor the lora_b"),
        ({"tensors": {"output.weight": np.ones((320, 256))}}, "the tensor 'output.weight' is neither"),
        ({"tensors": {"blk.0.attn_q.lora_a": np.ones((3, 256))}}, "'blk.0.attn_q.lora_a' is neither"),
        ({"weights": [], "tensors": {A: np.ones((3, 256))}}, "'blk.0.attn_q.weight' has a lora_a but no lora_b"),
        ({"weights": [], "tensors": {B: np.ones((256, 3))}}, "'blk.0.attn_q.weight' has a lora_b but no lora_a"),
        ({**ONLY_Q, "tensors": {A: np.ones((4, 256))}}, "lora_a' has shape [4, 256], expected [3, 256]: its rank is 3"),
        ({**ONLY_Q, "tensors": {A: np.ones((256, 3))}}, "lora_a' has shape [256, 3], expected [3, 256]"),
        ({**ONLY_Q, "tensors": {B: np.ones((128, 3))}}, "lora_b' has shape [128, 3], expected [256, 3]"),
        ({**ONLY_Q, "tensors": {A: np.ones((3, 512))}}, "lora_a' has shape [3, 512], expected [3, 256]"),
        ({**ONLY_Q, "tensors": {A: np.ones(256)}}, "lora_a' has shape [256], expected [3, 256]"),
        ({**ONLY_Q, "tensors": {A: np.full((3, 256), np.nan)}}, "lora_a' contains values that are not finite"),
        ({**ONLY_Q, "tensors": {B: np.full((256, 3), np.inf)}}, "lora_b' contains values that are not finite"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_one_line(tmp_path, base, options, message):
    path = write_lora(tmp_path / "lora.gguf", base, **options)
    with pytest.raises(Llama3Error) as error:
        read(path, base)
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("error")
def test_a_factor_past_float32_is_refused(tmp_path, base):
    path = write_lora(tmp_path / "lora.gguf", base, alpha=3e38)
    with pytest.raises(Llama3Error, match="the scale times alpha / rank is inf for "):
        read(path, base, scale=2.0)


@pytest.mark.parametrize("endings", [("lora_a",), ("lora_b",), ("lora_a", "lora_b")])
def test_matrices_of_unsupported_types_are_refused(tmp_path, base, endings):
    """Ignoring them would silently change the result, because the other weights would still be adapted."""
    path = write_lora(tmp_path / "lora.gguf", base)
    content = bytearray(path.read_bytes())
    for ending in endings:
        name = f"blk.0.attn_q.weight.{ending}".encode()
        begin = content.index(name) + len(name)  # then come the number of dimensions, the dimensions and the type
        (dimensions,) = struct.unpack_from("<I", content, begin)
        struct.pack_into("<I", content, begin + 4 + 8 * dimensions, 99)
    path.write_bytes(content)
    with pytest.raises(Llama3Error, match=rf"tensor 'blk\.0\.attn_q\.weight\.{endings[0]}' has the type number 99"):
        read(path, base)


def test_adapters_of_missing_or_unsupported_weights_are_refused(tmp_path, base):
    deeper = write_llama_gguf(tmp_path / "deeper.gguf", num_layers=3)
    with pytest.raises(Llama3Error, match=r"adapts 'blk\.2\.attn_q\.weight', which .*model\.gguf does not have"):
        read(write_lora(tmp_path / "deep.gguf", deeper), base)
    norm = {"blk.0.attn_norm.weight.lora_a": np.ones((3, 256)), "blk.0.attn_norm.weight.lora_b": np.ones((1, 3))}
    with pytest.raises(Llama3Error, match=r"adapts 'blk\.0\.attn_norm\.weight', but only linear layers"):
        read(write_lora(tmp_path / "norm.gguf", base, tensors=norm), base)


def test_an_embedding_that_is_also_the_head_is_refused(tmp_path):
    """llama.cpp aborts with a failed assertion."""
    tied = write_llama_gguf(tmp_path / "tied.gguf", tied=True)
    with pytest.raises(
        Llama3Error, match=r"adapts token_embd\.weight, which is also the output matrix in .*tied\.gguf"
    ):
        read(write_lora(tmp_path / "lora.gguf", tied, weights=["token_embd"]), tied)
    untied = write_llama_gguf(tmp_path / "untied.gguf")
    with pytest.raises(Llama3Error, match=r"adapts 'output\.weight', which .*tied\.gguf does not have"):
        read(write_lora(tmp_path / "head.gguf", untied, weights=["output"]), tied)


def test_a_file_that_is_not_a_gguf_is_one_line(tmp_path, base):
    for content in (None, b"", b"GGUF", b"{}"):
        path = tmp_path / "adapter.safetensors"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(Llama3Error, match="^" + str(path)):
            read(path, base)


def test_the_key_names_are_those_of_the_gguf_package():
    assert gguf.Keys.Adapter.TYPE == "adapter.type"
    assert gguf.Keys.Adapter.LORA_ALPHA == "adapter.lora.alpha"
