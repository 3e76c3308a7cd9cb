"""A progress bar in bytes, on standard error and only on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from llama3_models.terminal import shows_progress
from tqdm import tqdm

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes done so far, and the total."""


@contextmanager
def byte_progress(title: str) -> Iterator[Progress]:
    """Yield a function that draws the bar with the rate and the time left."""
    if not shows_progress():
        yield _unseen
        return
    tqdm.monitor_interval = 0  # if its thread cannot start, older versions end with a traceback
    with tqdm(desc=title, unit="B", unit_scale=True, leave=False, dynamic_ncols=True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _unseen(_done: int, _total: int) -> None:
    """Draw nothing."""
