"""Distances between the next-token distributions of two models, for `--verify` and `llama3-bench --kl`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Compute the natural logarithms of the probabilities, along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def kl_divergence(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Compute the Kullback-Leibler divergence in nats from the distributions of `expected` to those of `found`.

    Both are logits [n, vocab]; the result is [n].
    """
    log_p, log_q = log_softmax(expected), log_softmax(found)
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(axis=-1))


@dataclass(frozen=True)
class Distance:
    """The distance of logits from the expected ones at the same n positions."""

    kl_divergences: npt.NDArray[np.float64]  # [n], in nats
    same_top_token: npt.NDArray[np.bool_]  # [n]
    max_logit_difference: float

    @classmethod
    def between(cls, expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> Distance:
        """Compare logits, both [n, vocab]."""
        return cls(
            kl_divergences=kl_divergence(expected, found),
            same_top_token=expected.argmax(axis=-1) == found.argmax(axis=-1),
            max_logit_difference=float(np.max(np.abs(expected - found))),
        )

    @classmethod
    def joined(cls, distances: Sequence[Distance]) -> Distance:
        """Join the distances of several windows into one."""
        return cls(
            kl_divergences=np.concatenate([distance.kl_divergences for distance in distances]),
            same_top_token=np.concatenate([distance.same_top_token for distance in distances]),
            max_logit_difference=max(distance.max_logit_difference for distance in distances),
        )

    @property
    def mean_kl(self) -> float:
        """Mean KL divergence over the positions, in nats."""
        return float(self.kl_divergences.mean())

    @property
    def top1_agreement(self) -> float:
        """The share of positions whose most probable token is the expected one."""
        return float(self.same_top_token.mean())
