"""Throughput as llama-bench measures it: pp N, a prompt of N tokens, and tg N, N tokens one by one, at some depth.

Tokens are random, since only their number counts, and the time of choosing a token is left out on both sides. Several
engines are measured in alternation, one repetition each in turn, so that a machine that slows down slows them all.
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
    """A loaded model with a KV cache: `llama3_runtime.model.Model`, or a peer that does the same."""

    vocab_size: int

    def prefill(self, ids: Sequence[int] | Ids) -> Logits:
        """Append `ids` in chunks; the last one's logits, [vocab]."""

    def forward(self, ids: Sequence[int] | Ids, *, keep: int | None = None) -> Logits:
        """Append `ids` in one call; the logits of the last `keep` of them (None: of one), or however many it can."""

    def rewind(self, position: int = 0) -> None:
        """Forget what stands at `position` and later."""


@dataclass(frozen=True)
class Measurement:
    """One test of one engine: tokens per second of each repetition, in the order in which they were taken."""

    engine: str
    test: str  # pp512, tg128
    depth: int
    tokens_per_second: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle repetition."""
        return statistics.median(self.tokens_per_second)

    @property
    def mean(self) -> float:
        """The average, which llama-bench prints."""
        return statistics.fmean(self.tokens_per_second)

    @property
    def deviation(self) -> float:
        """The sample's standard deviation, llama-bench's ±; 0 for one repetition."""
        return statistics.stdev(self.tokens_per_second) if len(self.tokens_per_second) > 1 else 0.0


def measure(
    engines: Mapping[str, Engine], *, prompt_size: int, output_size: int, depth: int, repetitions: int
) -> list[Measurement]:
    """Measure every engine; a size of 0 leaves its test out.

    The `depth` tokens before are evaluated once for each engine, and every repetition starts again behind them.
    A first repetition of each test is thrown away: it pays for pages, threads and allocations.

    Args:
        engines: By name; each has room for depth and the larger of the two sizes.
        prompt_size: Tokens of a prompt.
        output_size: Tokens to decode.
        depth: Tokens that are in the cache before.
        repetitions: How often each test is timed.

    Returns:
        Measurements in the order of tests, then of engines.
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
