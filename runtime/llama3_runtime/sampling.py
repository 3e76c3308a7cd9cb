"""From a row of logits to the next token: small pure functions over one numpy row, and the order they come in.

The order is temperature, softmax, top-k, top-p, min-p, draw. llama.cpp's default is the reverse (its min-p comes before
the temperature), so the same numbers keep fewer or more tokens there: here min-p compares the probabilities that
the draw really uses. Nothing sorts the vocabulary of 128,256 tokens; the defaults take 0.3 ms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llama3_models.errors import Llama3Error

FloatRow = npt.NDArray[np.float32]  # [vocab_size]

REPEAT_WINDOW = 64  # how many of the last tokens the repeat penalty looks at, as in llama.cpp


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when generation ends.

    Attributes:
        temperature: Divides the logits; 0 takes the most probable token, the lowest id among equals.
        min_p: Drops tokens less probable than this share of the most probable one's probability; 0 is off.
        top_k: Keeps the k most probable tokens; 0 is off.
        top_p: Keeps the fewest tokens whose probabilities sum to at least this; 1 is off.
        repeat_penalty: Above 1, makes the last 64 tokens less likely; 1 is off.
        seed: Makes the draws repeatable; None takes a new seed from the system.
        max_new_tokens: How many tokens to generate at most; -1 goes on to the end of the context.
        stop: Texts that end the generation; they are not part of what is generated.
        ignore_eos: Goes on at an end-of-generation token.

    Raises:
        Llama3Error: Where a number is out of its range.
    """

    temperature: float = 0.5
    min_p: float = 0.05
    top_k: int = 0
    top_p: float = 1.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    max_new_tokens: int = -1
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _require(0 <= self.temperature < math.inf, "temperature", self.temperature, "0 or more")
        _require(0 <= self.min_p <= 1, "min-p", self.min_p, "between 0 and 1")
        _require(self.top_k >= 0, "top-k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top-p", self.top_p, "above 0 and at most 1 (off)")
        _require(0 < self.repeat_penalty < math.inf, "repeat-penalty", self.repeat_penalty, "above 0 (1 is off)")
        _require(self.seed is None or self.seed >= 0, "seed", self.seed, "0 or more")
        _require(self.max_new_tokens >= -1, "max-new-tokens", self.max_new_tokens, "-1 (to the context's end) or more")
        _require("" not in self.stop, "stop", "", "a text of at least one character")


class Sampler:
    """Chooses tokens by `SamplingParams`; holds nothing but them and the random numbers."""

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self._random = np.random.Generator(np.random.PCG64(params.seed))

    def sample(self, logits: FloatRow, recent_ids: Sequence[int] = ()) -> int:
        """Chooses the next token.

        Args:
            logits: One row, [vocab_size]; it is not changed.
            recent_ids: The tokens so far, prompt included; the last 64 matter, and only to the repeat penalty.

        Returns:
            The token's id.

        Raises:
            Llama3Error: Where the logits hold a NaN or allow no token at all.
        """
        params = self.params
        if params.repeat_penalty != 1:
            logits = penalize_repeats(logits, recent_ids[-REPEAT_WINDOW:], params.repeat_penalty)
        largest = float(logits.max())  # a NaN anywhere becomes the largest
        if math.isnan(largest) or largest == -math.inf:
            raise Llama3Error("the model's logits are NaN or all -inf: its weights are damaged; export it again")
        if params.temperature == 0:
            return int(logits.argmax())
        probabilities = softmax(apply_temperature(logits, params.temperature))
        if params.top_k > 0:
            probabilities = keep_top_k(probabilities, params.top_k)
        if params.top_p < 1:
            probabilities = keep_top_p(probabilities, params.top_p)
        if params.min_p > 0:
            probabilities = keep_min_p(probabilities, params.min_p)
        return draw(probabilities, float(self._random.random()))


def penalize_repeats(logits: FloatRow, recent_ids: Sequence[int], penalty: float) -> FloatRow:
    """Divides the positive logits of recent tokens by the penalty and multiplies the others, each once.

    Source: CTRL, https://arxiv.org/abs/1909.05858, with llama.cpp's rule for negative logits.
    """
    ids = np.unique(np.asarray(recent_ids, dtype=np.int64))
    penalized = logits.copy()
    chosen = logits[ids].astype(np.float64)
    with np.errstate(over="ignore"):  # an infinite logit is the right answer there
        penalized[ids] = np.where(chosen > 0, chosen / penalty, chosen * penalty)
    return penalized


def apply_temperature(logits: FloatRow, temperature: float) -> FloatRow:
    """Divides logits by a temperature above 0, once the largest is moved to 0.

    The move changes no probability; without it a small temperature would overflow. Tokens with a logit of +inf
    share all of the probability: they become 0 and the others -inf.
    """
    largest = logits.max()
    if np.isposinf(largest):
        return np.where(np.isposinf(logits), np.float32(0), np.float32(-np.inf))
    limits = np.finfo(np.float32)
    divisor = np.float32(min(max(temperature, float(limits.tiny)), float(limits.max)))
    with np.errstate(over="ignore"):  # -inf is the right answer there
        scaled: FloatRow = (logits - largest) / divisor
    return scaled


def softmax(logits: FloatRow) -> FloatRow:
    """Turns logits of which the largest is finite into probabilities."""
    weights = np.exp(logits - logits.max())
    probabilities: FloatRow = weights / weights.sum()
    return probabilities


def keep_top_k(probabilities: FloatRow, k: int) -> FloatRow:
    """Zeroes all but the k largest probabilities; among equals at the border the lowest ids stay."""
    if k >= probabilities.size:
        return probabilities
    border = np.partition(probabilities, -k)[-k]
    kept = probabilities > border
    kept[np.flatnonzero(probabilities == border)[: k - int(np.count_nonzero(kept))]] = True
    return np.where(kept, probabilities, np.float32(0))


def keep_top_p(probabilities: FloatRow, p: float) -> FloatRow:
    """Zeroes all but the fewest largest probabilities that sum to at least p of the whole row.

    Among equals at the border the lowest ids stay. The likely tokens are few, so only the largest are sorted, and
    more of them where their sum is not enough.
    """
    wanted = p * float(probabilities.sum(dtype=np.float64))
    for count in (256, 4096, probabilities.size):
        count = min(count, probabilities.size)
        largest = np.sort(np.partition(probabilities, -count)[-count:])
        sums = np.cumsum(largest[::-1], dtype=np.float64)
        if sums[-1] >= wanted:
            break
    return keep_top_k(probabilities, int(np.searchsorted(sums, wanted)) + 1)


def keep_min_p(probabilities: FloatRow, min_p: float) -> FloatRow:
    """Zeroes the probabilities below `min_p` times the largest.

    Source: https://arxiv.org/abs/2407.01082.
    """
    return np.where(probabilities >= np.float32(min_p) * probabilities.max(), probabilities, np.float32(0))


def draw(probabilities: FloatRow, uniform: float) -> int:
    """Picks the token at which the running sum of the probabilities passes a uniform number.

    Args:
        probabilities: [vocab_size], not negative and not all zero; they need not sum to 1.
        uniform: A number in [0, 1).

    Returns:
        An id whose probability is not zero.
    """
    ids = np.flatnonzero(probabilities > 0)  # ten times as fast as on the floats themselves
    sums = np.cumsum(probabilities[ids], dtype=np.float64)
    position = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
    return int(ids[min(position, ids.size - 1)])  # the product may round up to the whole sum


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise Llama3Error(f"{name} must be {expected}, not {value!r}")
