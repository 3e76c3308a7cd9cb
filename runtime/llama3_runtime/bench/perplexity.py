"""Perplexity of a text as llama-perplexity defines it, and the KL divergence from the float32 reference.

The text's tokens are cut into windows that do not overlap; the remainder at the end is ignored. If the model expects a
BOS token, it replaces the first token of each window. The second half of a window is predicted, each token from all
those before it in the window, so every prediction sees at least half a window. The perplexity is the exponential of the
mean negative log-probability. Results with other windows or other rules are not comparable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from llama3_models import reference
from llama3_models.divergence import Distance, log_softmax
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.lora import Adapter

from llama3_runtime.bench.speed import Engine, Logits

REFERENCE = "float32 reference"


@dataclass(frozen=True)
class Quality:
    """How well an engine predicts a text.

    Attributes:
        engine: Name of the engine.
        perplexity: Perplexity, as this module defines it.
        standard_error: Standard error of the perplexity, from the spread of the predictions.
        mean_kl: Mean KL divergence from the float32 reference in nats, if that was computed.
        top1_agreement: Fraction of predictions whose most probable token is the reference's, if that was computed.
    """

    engine: str
    perplexity: float
    standard_error: float
    mean_kl: float | None = None
    top1_agreement: float | None = None


def cut_windows(ids: Sequence[int], *, window: int, bos: int | None, limit: int | None = None) -> list[list[int]]:
    """Cut a text into windows of `window` tokens; `bos`, if not None, replaces the first token of each.

    Raises:
        Llama3Error: the text is shorter than one window.
    """
    if len(ids) < window:
        raise Llama3Error(
            f"the text has {len(ids)} tokens, but perplexity needs at least {window}; use a longer text, or a smaller "
            "--window"
        )
    count = len(ids) // window if limit is None else min(limit, len(ids) // window)
    windows = [list(ids[i * window : (i + 1) * window]) for i in range(count)]
    return windows if bos is None else [[bos, *tokens[1:]] for tokens in windows]


def evaluate(
    engines: Mapping[str, Engine],
    windows: Sequence[Sequence[int]],
    *,
    gguf: GGUFFile | None = None,
    adapters: Sequence[Adapter] = (),
) -> Iterator[list[Quality]]:
    """Evaluate window by window; after each, yield the results of all windows so far.

    Args:
        engines: Engines by name, each with room for a window.
        windows: Windows from `cut_windows`.
        gguf: The file whose weights the engines run. With it, its float32 reference is also evaluated, comes first in
            the results, and is what the KL divergences are computed from.
        adapters: LoRA adapters that the engines run with.

    Raises:
        Llama3Error: an engine's logits are NaN.
    """
    names = [*([REFERENCE] if gguf is not None else []), *engines]
    losses: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in names}
    distances: dict[str, list[Distance]] = {name: [] for name in names}
    gives_rows = {name: _gives_rows(engine, windows[0]) for name, engine in engines.items()}
    for ids in windows:
        count = len(ids) - 1 - len(ids) // 2
        targets = np.asarray(ids[-count:])
        expected = reference.forward(gguf, ids, adapters=adapters)[-count - 1 : -1] if gguf is not None else None
        if expected is not None:
            _check_numbers(REFERENCE, expected)
            losses[REFERENCE].append(_losses(expected, targets))
        for name, engine in engines.items():
            found = _predictions(engine, ids, count, all_at_once=gives_rows[name])
            _check_numbers(name, found)
            losses[name].append(_losses(found, targets))
            if expected is not None:
                distances[name].append(Distance.between(expected, found))
        yield [_summarize(name, np.concatenate(losses[name]), distances[name]) for name in names]


def _check_numbers(name: str, logits: Logits) -> None:
    if np.isnan(logits).any():
        raise Llama3Error(
            f"the logits of {name} are NaN, perhaps because weights are damaged; `llama3-inspect --check` finds them"
        )


def _gives_rows(engine: Engine, ids: Sequence[int]) -> bool:
    """Return whether the engine returns more than the last token's logits; an export may not."""
    engine.rewind()
    return len(engine.forward(ids[:2], keep=2)) == 2


def _predictions(engine: Engine, ids: Sequence[int], count: int, *, all_at_once: bool) -> Logits:
    """Return the logits that predict the last `count` of `ids`, [count, vocab]."""
    engine.rewind()
    if all_at_once:
        rows: Logits = engine.forward(ids[:-1], keep=count)[-count:]
        return rows.copy()
    rows = np.empty((count, engine.vocab_size), dtype=np.float32)
    rows[0] = engine.prefill(ids[:-count])
    for i, token in enumerate(ids[-count:-1], start=1):
        rows[i] = engine.forward([token])[-1]
    return rows


def _losses(logits: Logits, targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the negative log-probabilities of the targets, [n]."""
    return np.asarray(-log_softmax(logits)[np.arange(len(targets)), targets])


def _summarize(name: str, losses: npt.NDArray[np.float64], distances: Sequence[Distance]) -> Quality:
    perplexity = math.exp(losses.mean())
    distance = Distance.joined(distances) if distances else None
    return Quality(
        engine=name,
        perplexity=perplexity,
        standard_error=perplexity * float(losses.std(ddof=1)) / math.sqrt(len(losses)),
        mean_kl=distance.mean_kl if distance is not None else None,
        top1_agreement=distance.top1_agreement if distance is not None else None,
    )
