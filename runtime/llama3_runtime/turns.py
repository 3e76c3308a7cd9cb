"""A lock on a model and its KV cache: one text at a time, one thread at a time."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Holder(Protocol):
    """A text that the cache is kept for until it is over or no longer referenced."""

    @property
    def is_over(self) -> bool:
        """Whether it no longer needs the cache."""


class Turns:
    """A lock on a model: one holder has the cache at a time, and one thread runs the model at a time.

    Args:
        release: Called once, when the model is closed and no thread is running it.
    """

    def __init__(self, release: Callable[[], object]) -> None:
        self.closed = False
        self._release = release
        self._released = False
        self._running = threading.Lock()
        self._holder: weakref.ref[Holder] | None = None

    @contextmanager
    def take(self, holder: Holder | None) -> Iterator[bool]:
        """Lock the model and keep the cache for `holder` (None: for nobody); yield whether the holder is new.

        Raises:
            RuntimeError: the model was closed, another thread is running it, or another holder is not over.
        """
        self.check_open()
        if not self._running.acquire(blocking=False):
            raise RuntimeError("another thread is using this model; load a model for each thread")
        try:
            self.check_open()
            current = self._holder() if self._holder is not None else None
            if current is not None and current is not holder and not current.is_over:
                raise RuntimeError(
                    "an unfinished generation is using this model's KV cache; finish it, interrupt() it or drop it "
                    "before another begins, or load a model for each"
                )
            self._holder = None if holder is None else weakref.ref(holder)
            yield current is None or current is not holder
        finally:
            self._running.release()
            self._release_if_closed()

    def check_open(self) -> None:
        """Check that the model is open.

        Raises:
            RuntimeError: the model was closed.
        """
        if self.closed:
            raise RuntimeError("this model was closed")

    def close(self) -> None:
        """Refuse new turns. The model is released now, or when the thread that is running it is done."""
        self.closed = True
        self._release_if_closed()

    def _release_if_closed(self) -> None:
        # If another thread has the lock, it releases the model itself at the end of its turn.
        if self.closed and self._running.acquire(blocking=False):
            try:
                if not self._released:
                    self._released = True
                    self._release()
            finally:
                self._running.release()
