"""How far one model's next-token distribution is from another's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Natural logarithms of the probabilities, along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def kl_divergence(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Kullback-Leibler divergence in nats from the distributions of `expected` to those of `found`.

    Takes logits, [n, vocab] both; returns [n].
    """
    log_p, log_q = log_softmax(expected), log_softmax(found)
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(axis=-1))
