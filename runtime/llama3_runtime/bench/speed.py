"""Throughput as llama-bench measures it: pp N is a prompt of N tokens, tg N is N tokens one by one, at some depth.

The tokens are random, because only their number matters. The time to choose a token does not count, for any engine.
The engines take turns, one repetition each, so a machine that slows down slows them all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]


class Engine(Protocol):
    """A loaded model with a KV cache: `llama3_runtime.model.Model`, or a peer with the same methods."""

    vocab_size: int

    def prefill(self, ids: Sequence[int] | Ids) -> Logits:
        """Append `ids` in chunks; return the last one's logits, [vocab]."""

    def forward(self, ids: Sequence[int] | Ids, *, keep: int | None = None) -> Logits:
        """Append `ids` in one call; return the last `keep` rows of logits (None: one), or as many as it can."""

    def rewind(self, position: int = 0) -> None:
        """Forget the tokens at `position` and later."""


@dataclass(frozen=True)
class Measurement:
    """One test of one engine, with the tokens per second of each repetition in order."""

    engine: str
    test: str  # pp512, tg128
    depth: int
    tokens_per_second: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of the repetitions."""
        return statistics.median(self.tokens_per_second)

    @property
    def mean(self) -> float:
        """The mean of the repetitions, which llama-bench prints."""
        return statistics.fmean(self.tokens_per_second)

    @property
    def deviation(self) -> float:
        """The sample standard deviation, which llama-bench prints after ±; 0 with one repetition."""
        return statistics.stdev(self.tokens_per_second) if len(self.tokens_per_second) > 1 else 0.0


def measure(
    engines: Mapping[str, Engine], *, prompt_size: int, output_size: int, depth: int, repetitions: int
) -> list[Measurement]:
    """Measure every engine; a size of 0 skips its test.

    Each engine evaluates `depth` tokens once, and every repetition starts after them. One more repetition of each test
    comes first and does not count, because it includes first-time costs (pages, threads, allocations).

    Args:
        engines: Engines by name, each with room for `depth` and the larger of the two sizes.
        prompt_size: Number of tokens in the prompt.
        output_size: Number of tokens to generate.
        depth: Number of tokens already in the cache.
        repetitions: Number of measurements of each test.

    Returns:
        Measurements, ordered by test and then by engine.
    """
    random = np.random.default_rng(0)
    vocab_size = min(engine.vocab_size for engine in engines.values())
    past, ids = random.integers(vocab_size, size=depth), random.integers(vocab_size, size=max(prompt_size, output_size))
    for engine in engines.values():
        engine.rewind()
        if depth:
            engine.prefill(past)

    measurements: list[Measurement] = []
    for name, size, run in (("pp", prompt_size, _prefill), ("tg", output_size, _decode)):
        if size == 0:
            continue
        results = {engine: Measurement(engine, f"{name}{size}", depth) for engine in engines}
        for repetition in range(repetitions + 1):
            for engine_name, engine in engines.items():
                engine.rewind(depth)
                seconds = _seconds(run, engine, ids[:size])
                if repetition > 0:
                    results[engine_name].tokens_per_second.append(size / seconds)
        measurements += results.values()
    return measurements


def _prefill(engine: Engine, ids: Ids) -> None:
    engine.prefill(ids)


def _decode(engine: Engine, ids: Ids) -> None:
    for i in range(len(ids)):
        engine.forward(ids[i : i + 1])


def _seconds(run: Callable[[Engine, Ids], None], engine: Engine, ids: Ids) -> float:
    start = time.perf_counter()
    run(engine, ids)
    return time.perf_counter() - start
