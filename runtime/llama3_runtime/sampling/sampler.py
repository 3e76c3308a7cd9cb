"""From a row of logits to the next token: small pure functions on one numpy row, in a fixed order.

The order is temperature, softmax, top-k, top-p, min-p, draw. llama.cpp's default is the reverse: its min-p comes before
the temperature, so the same numbers keep fewer or more tokens there. Here min-p compares the probabilities that are
drawn from. Each filter passes on only the tokens that it keeps, and top-p first searches the largest probabilities. A
row of 128,256 needs 0.3 to 0.5 ms, and twice that if top-p keeps most tokens.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from llama3_models.errors import Llama3Error

from llama3_runtime.sampling.params import SamplingParams

FloatRow = npt.NDArray[np.float32]  # [vocab_size], or as many as are left
BoolRow = npt.NDArray[np.bool_]  # [number of tokens]
Positions = npt.NDArray[np.intp]  # in a FloatRow, ascending

REPEAT_WINDOW = 64  # the repeat penalty looks at this many of the last tokens, as in llama.cpp

_BLOCK = 512  # near the square root of a vocabulary, so both steps of a search are short


class Sampler:
    """Chooses tokens according to `SamplingParams`; its only state is the random generator."""

    def __init__(self, params: SamplingParams, allowed: BoolRow | None = None) -> None:
        """Prepare the filters and seed the draws.

        Args:
            params: How tokens are chosen.
            allowed: For each id, whether it may be chosen; ids past the end may not. None allows every id.
        """
        self.params = params
        self._end: int | None = None  # all ids from here on are forbidden
        self._forbidden: Positions = np.empty(0, np.intp)  # the other forbidden ids
        if allowed is not None:
            self._end = int(np.flatnonzero(allowed)[-1]) + 1
            self._forbidden = np.flatnonzero(~allowed[: self._end])
        self._filters = _filters(params)
        self._random = np.random.Generator(np.random.PCG64(params.seed))

    def sample(self, logits: FloatRow, recent_ids: Sequence[int] = ()) -> int:
        """Choose the next token.

        Args:
            logits: One row, [vocab_size]; it is not changed.
            recent_ids: The tokens so far, including the prompt; only the repeat penalty needs them.

        Returns:
            The token's id.

        Raises:
            Llama3Error: a logit is NaN, or no token is possible.
        """
        params = self.params
        if params.repeat_penalty != 1:
            logits = penalize_repeats(logits, recent_ids[-REPEAT_WINDOW:], params.repeat_penalty)
        logits = logits[: self._end]
        if self._forbidden.size:
            logits = logits.copy()
            logits[self._forbidden] = -np.inf
        largest = float(logits.max())  # NaN if any logit is NaN
        if math.isnan(largest) or largest == -math.inf:
            raise Llama3Error(
                "the model's logits are NaN or all -inf, perhaps because weights are damaged; `llama3-inspect --check` "
                "finds them"
            )
        if params.temperature == 0:
            return int(logits.argmax())
        probabilities = softmax(logits, params.temperature)
        ids: Positions | None = None  # of the tokens in `probabilities`; None while it has all tokens
        for kept in self._filters:
            positions = kept(probabilities)
            ids = positions if ids is None else ids[positions]
            probabilities = probabilities[positions]
        position = draw(probabilities, float(self._random.random()))
        return position if ids is None else int(ids[position])


def _filters(params: SamplingParams) -> list[Callable[[FloatRow], Positions]]:
    """Return the filters that are on, in order."""
    filters: list[Callable[[FloatRow], Positions]] = []
    if params.top_k > 0:
        filters.append(partial(top_k, k=params.top_k))
    if params.top_p < 1:
        filters.append(partial(top_p, p=params.top_p))
    if params.min_p > 0:
        filters.append(partial(min_p, share=params.min_p))
    return filters


def penalize_repeats(logits: FloatRow, recent_ids: Sequence[int], penalty: float) -> FloatRow:
    """Divide the positive logits of recent tokens by the penalty and multiply the others by it, each once.

    Source: CTRL, https://arxiv.org/abs/1909.05858, with llama.cpp's rule for negative logits.
    """
    ids = np.unique(np.asarray(recent_ids, dtype=np.int64))
    penalized = logits.copy()
    chosen = logits[ids].astype(np.float64)
    with np.errstate(over="ignore"):  # infinity is the right result
        penalized[ids] = np.where(chosen > 0, chosen / penalty, chosen * penalty)
    return penalized


def softmax(logits: FloatRow, temperature: float = 1.0) -> FloatRow:
    """Turn logits, divided by a temperature above 0, into probabilities.

    The logits are first shifted to make the largest 0. This does not change the probabilities, and keeps a small
    temperature from overflowing. Tokens with a logit of +inf share all of the probability.
    """
    largest = logits.max()
    if np.isposinf(largest):
        infinite = np.isposinf(logits)
        return (infinite / np.count_nonzero(infinite)).astype(np.float32)
    limits = np.finfo(np.float32)
    weights: FloatRow = logits - largest
    with np.errstate(over="ignore"):  # -inf is the right result
        weights /= np.float32(min(max(temperature, float(limits.tiny)), float(limits.max)))
    np.exp(weights, out=weights)
    weights /= weights.sum()
    return weights


def top_k(probabilities: FloatRow, k: int) -> Positions:
    """Return the positions of the k largest probabilities; of equal ones at the border, the first."""
    if k >= probabilities.size:
        return np.arange(probabilities.size)
    return _largest(probabilities, k, np.partition(probabilities, -k)[-k])


def top_p(probabilities: FloatRow, p: float) -> Positions:
    """Return the positions of the fewest probabilities that sum to at least p of all; of equal ones, the first.

    Source: https://arxiv.org/abs/1904.09751.
    """
    wanted = p * float(probabilities.sum(dtype=np.float64))
    for count in (256, 4096):  # a few tokens are usually enough
        if count < probabilities.size:
            largest = np.partition(probabilities, -count)[-count:]
            if largest.sum(dtype=np.float64) >= wanted:
                break
    else:
        largest = probabilities
    descending = np.sort(largest)[::-1]
    last = _where_sum_comes_to(descending, wanted, "left")
    return _largest(probabilities, last + 1, descending[last])


def min_p(probabilities: FloatRow, share: float) -> Positions:
    """Return the positions of the probabilities that are at least `share` of the largest.

    Source: https://arxiv.org/abs/2407.01082.
    """
    return np.flatnonzero(probabilities >= np.float32(share) * probabilities.max())


def draw(probabilities: FloatRow, uniform: float) -> int:
    """Pick the position at which the running sum of the probabilities exceeds a uniform share of their total.

    Args:
        probabilities: Not negative and not all zero; they need not sum to 1.
        uniform: A number in [0, 1).

    Returns:
        A position whose probability is not zero.
    """
    return _where_sum_comes_to(probabilities, uniform * float(probabilities.sum(dtype=np.float64)), "right")


def _largest(probabilities: FloatRow, count: int, border: np.float32) -> Positions:
    """Return the positions of the `count` largest, down to `border`; of those equal to it, the first."""
    positions = np.flatnonzero(probabilities >= border)
    excess = positions.size - count
    if excess > 0:
        equals = np.flatnonzero(probabilities[positions] == border)
        positions = np.delete(positions, equals[-excess:])
    return positions


def _where_sum_comes_to(weights: FloatRow, target: float, side: Literal["left", "right"]) -> int:
    """Return the position at which the running sum first reaches (`left`) or exceeds (`right`) the target.

    It searches block by block, then within one: a running sum of all 128,256 is slower than the rest of the sampling. A
    target that rounding moved to the total or above counts as just below it, so the weight found is not zero.
    """
    sums = np.cumsum(np.add.reduceat(weights, np.arange(0, weights.size, _BLOCK), dtype=np.float64))
    target = min(target, float(np.nextafter(sums[-1], 0)))
    block = int(np.searchsorted(sums, target, side))
    within = weights[block * _BLOCK : (block + 1) * _BLOCK]
    before = float(sums[block - 1]) if block else 0.0
    position = int(np.searchsorted(np.cumsum(within, dtype=np.float64), target - before, side))
    if position == within.size:  # the two sums round differently
        position = int(np.flatnonzero(within)[-1])
    return block * _BLOCK + position
