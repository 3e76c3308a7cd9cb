"""What a user asks of a generation; apart from how it is done, since a command's --help need not wait for numpy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

from llama3_models.errors import Llama3Error


@dataclass(frozen=True, kw_only=True)
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
        _require(self.max_new_tokens >= -1, "max-new-tokens", self.max_new_tokens, "-1 (to the context's end) or more")
        _require("" not in self.stop, "stop", "", "a text of at least one character")


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise Llama3Error(f"{name} must be {expected}, not {value!r}")
