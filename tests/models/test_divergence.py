"""The divergence that exports are judged by is the textbook's, whatever constant is added to the logits."""

import math

import numpy as np
from llama3_models.divergence import Distance, kl_divergence


def test_divergence_of_two_known_distributions():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    expected = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    found = kl_divergence(np.log(p)[None].astype(np.float32) + 7, np.log(q)[None].astype(np.float32) - 3)
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, 0.0, -1e4]], dtype=np.float32)
    np.testing.assert_array_equal(kl_divergence(logits, logits), [0.0])


def test_windows_of_different_lengths_count_by_their_positions():
    near = Distance.between(np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32))
    far = Distance.between(np.array([[0, 1]], np.float32), np.array([[3, 1]], np.float32))
    joined = Distance.joined([near, far])
    assert joined.top1_agreement == 0.75
    assert joined.max_logit_difference == 3
    assert joined.mean_kl == far.mean_kl / 4 > 0
