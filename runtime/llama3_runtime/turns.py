"""Who may use a model's one KV cache: one text at a time, one thread at a time."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Holder(Protocol):
    """A text that the cache is kept for, until it is over or nobody refers to it."""

    @property
    def is_over(self) -> bool:
        """Whether it will not need the cache again."""


class Turns:
    """Gives the cache to one holder after another, and keeps two threads from running the model at once.

    Args:
        release: Called once, when the model is closed and nobody is running it.
    """

    def __init__(self, release: Callable[[], object]) -> None:
        self.closed = False
        self._release = release
        self._released = False
        self._running = threading.Lock()
        self._holder: weakref.ref[Holder] | None = None

    @contextmanager
    def take(self, holder: Holder | None) -> Iterator[bool]:
        """Keep the cache for `holder`, or for nobody when this ends; says whether the holder is a new one.

        Raises:
            RuntimeError: the model was closed, another thread is running it, or another holder is not over.
        """
        self.check_open()
        if not self._running.acquire(blocking=False):
            raise RuntimeError("another thread is using this model; load one for each thread")
        try:
            self.check_open()
            current = self._holder() if self._holder is not None else None
            if current is not None and current is not holder and not current.is_over:
                raise RuntimeError(
                    "an unfinished generation has this model's KV cache: finish it, interrupt() it or drop it before "
                    "another begins, or load a model for each"
                )
            self._holder = None if holder is None else weakref.ref(holder)
            yield current is None or current is not holder
        finally:
            self._running.release()
            self._release_if_closed()

    def check_open(self) -> None:
        """Raises:
        RuntimeError: the model was closed.
        """
        if self.closed:
            raise RuntimeError("this model was closed")

    def close(self) -> None:
        """Refuse whoever comes; the model is released now, or by the thread that is running it when it is done."""
        self.closed = True
        self._release_if_closed()

    def _release_if_closed(self) -> None:
        # Whoever gets the lock releases. One that does not is followed by the holder of the lock, who comes here later.
        if self.closed and self._running.acquire(blocking=False):
            try:
                if not self._released:
                    self._released = True
                    self._release()
            finally:
                self._running.release()
