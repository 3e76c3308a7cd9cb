"""A small Llama 3.1 with sane weights, to detect a wrong export of it.

Random blocks hide errors: their logits are so flat, or so wild, that a missing correction term changes no token. Here
the weights are Gaussian with a few outlier columns, like trained matrices. The head is scaled until the model is about
as sure of its next token as a real one, which test_reference.py measures. llama.cpp's own quantizer then makes the
K-quants. int8 activations cost as much as with SmolLM2 (a mean KL divergence of 0.002), while rows of Q and K in the
wrong order cost 0.3.
"""

import math
from pathlib import Path
from typing import Literal

import numpy as np

from tests.support import llama_cpp_oracle
from tests.support.llama_gguf import Architecture, llama31_rope_factors, write_llama_gguf

HIDDEN_SIZE = 512  # a multiple of 256, a K-quant's super-block
ROPE_THETA = 500_000.0

# Number of tokens, and the standard deviation of logits that makes the most probable of so many stand out.
_VOCABULARIES = {"tiny": (1024, 3.0), "llama3": (128_256, 5.0)}
_OUTLIER_COLUMNS = 0.01
_OUTLIER_GAIN = 4.0


def write_sane_llama(
    folder: Path,
    kind: str = "Q4_K_M",
    *,
    architecture: Architecture = "llama",
    tokenizer: Literal["tiny", "llama3"] = "tiny",
    head_dim: int = 64,
    num_layers: int = 3,
    tied: bool = False,
) -> Path:
    """Return the path of the model in `folder`, and write it if it is not there yet.

    Args:
        folder: The folder of the models.
        kind: "F32", or a kind that llama.cpp's quantizer turns that into: "Q4_K_M", "Q6_K", "Q2_K", "Q3_K_M", ...
        architecture: Llama, or a relative without Llama 3.1's factors.
        tokenizer: "tiny" has 1,024 tokens, "llama3" has Llama 3's 128,256.
        head_dim: Elements of a head; there are eight heads, and two key-value heads.
        num_layers: The number of layers.
        tied: Whether the embedding's matrix is also the head.
    """
    shape = f"{architecture}-{tokenizer}-{head_dim}-{num_layers}-{'tied' if tied else 'untied'}"
    path = folder / f"{shape}-{kind}.gguf"
    if path.exists():
        return path
    if kind != "F32":
        source = write_sane_llama(
            folder,
            "F32",
            architecture=architecture,
            tokenizer=tokenizer,
            head_dim=head_dim,
            num_layers=num_layers,
            tied=tied,
        )
        llama_cpp_oracle.quantize(source, path, kind)
        return path
    vocab_size, logit_deviation = _VOCABULARIES[tokenizer]
    rng = np.random.default_rng(31)

    def weights(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        return sane_weights(name, shape, rng, tied=tied, logit_deviation=logit_deviation)

    return write_llama_gguf(
        path,
        hidden_size=HIDDEN_SIZE,
        architecture=architecture,
        num_layers=num_layers,
        num_heads=8,
        num_kv_heads=2,
        head_dim=head_dim,
        intermediate_size=2 * HIDDEN_SIZE,
        vocab_size=vocab_size,
        context_length=131_072,
        rope_theta=ROPE_THETA,
        rope_factors=llama31_rope_factors(head_dim, ROPE_THETA) if architecture == "llama" else None,
        tied=tied,
        tokenizer=tokenizer,
        weights=weights,
    )


def sane_weights(
    name: str, shape: tuple[int, ...], rng: np.random.Generator, *, tied: bool, logit_deviation: float
) -> np.ndarray | None:
    """Return the values of a matrix, float32 [rows, inputs]; None for a vector, which llama_gguf fills sanely."""
    if len(shape) == 1:
        return None
    if name == "output.weight":
        gain = logit_deviation
    elif name == "token_embd.weight":
        gain = logit_deviation if tied else math.sqrt(shape[1])
    else:
        gain = 1.0  # keeps an input's deviation of 1
    matrix = rng.standard_normal(shape, dtype=np.float32)
    matrix[:, rng.random(shape[1]) < _OUTLIER_COLUMNS] *= _OUTLIER_GAIN
    return matrix * np.float32(gain / math.sqrt(np.square(matrix).sum() / len(matrix)))
