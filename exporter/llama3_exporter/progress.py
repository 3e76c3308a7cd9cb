"""A progress bar over bytes, on standard error and only where a person looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from llama3_models.terminal import shows_progress
from tqdm import tqdm

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes that are done, and the bytes in all."""


@contextmanager
def byte_progress(title: str) -> Iterator[Progress]:
    """Give a function that draws the bar with the rate and the time left."""
    if not shows_progress():
        yield _unseen
        return
    tqdm.monitor_interval = 0  # its thread may not start, and older versions then end with a traceback
    with tqdm(desc=title, unit="B", unit_scale=True, leave=False, dynamic_ncols=True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _unseen(_done: int, _total: int) -> None:
    """Draw nothing."""
