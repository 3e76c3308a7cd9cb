"""The options of a generation, in a separate module because --help needs them without importing numpy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

from llama3_models.errors import Llama3Error


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when generation ends.

    Attributes:
        temperature: Divide the logits by this; 0 always picks the most probable token, the lowest id of equal ones.
        min_p: Drop tokens less probable than this fraction of the most probable one; 0 is off.
        top_k: Keep the k most probable tokens; 0 is off.
        top_p: Keep the most probable tokens that together reach this probability; 1 is off.
        repeat_penalty: Above 1, make the last 64 tokens less probable; 1 is off.
        seed: The same seed repeats the draws; None uses a new one for each text.
        max_new_tokens: Generate at most this many tokens; -1 fills the KV cache.
        stop: Texts before which the text ends.
        ignore_eos: Continue after an end-of-generation token.

    Raises:
        Llama3Error: a value is out of range.
    """

    temperature: float = 0.5
    min_p: float = 0.05
    top_k: int = 0
    top_p: float = 1.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    max_new_tokens: int = -1
    stop: Sequence[str] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _require(not isinstance(self.stop, str), "stop", self.stop, "a tuple of texts")
        object.__setattr__(self, "stop", tuple(self.stop))
        for name in ("top_k", "max_new_tokens", "seed"):
            value = getattr(self, name)
            _require(value is None or isinstance(value, Integral), name.replace("_", "-"), value, "a whole number")
        _require(0 <= self.temperature < math.inf, "temperature", self.temperature, "0 or more")
        _require(0 <= self.min_p <= 1, "min-p", self.min_p, "between 0 and 1")
        _require(self.top_k >= 0, "top-k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top-p", self.top_p, "above 0 and at most 1 (off)")
        _require(0 < self.repeat_penalty < math.inf, "repeat-penalty", self.repeat_penalty, "above 0 (1 is off)")
        _require(self.seed is None or self.seed >= 0, "seed", self.seed, "0 or more")
        _require(self.max_new_tokens >= -1, "max-new-tokens", self.max_new_tokens, "-1 (fill the cache) or more")
        _require("" not in self.stop, "stop", "", "a text of at least one character")


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise Llama3Error(f"{name} must be {expected}, not {value!r}")
