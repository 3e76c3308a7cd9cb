"""Exceptions that mean a lack of memory or threads.

Python has `MemoryError`, but a library that cannot be mapped is an `ImportError`, C++ code without memory throws
`std::bad_alloc` through its bindings, and a thread that does not start is a `RuntimeError`.
"""

from __future__ import annotations

import errno
import re
import resource
from collections.abc import Iterator

from llama3_models.units import format_bytes

_MEMORY = re.compile(
    r"bad_alloc|failed to map segment|cannot allocate memory|failed to allocate memory|out of memory", re.IGNORECASE
)
_THREADS = re.compile(
    r"can't start new thread|pthread_create|thread constructor failed|resource temporarily unavailable", re.IGNORECASE
)


def shortage(error: BaseException) -> str | None:
    """Return what is lacking and what to do, if `error` means a lack of memory or threads; otherwise None."""
    for one in _chain(error):
        number = one.errno if isinstance(one, OSError) else None
        no_memory = isinstance(one, MemoryError) or number == errno.ENOMEM or _MEMORY.search(str(one)) is not None
        no_threads = number == errno.EAGAIN or _THREADS.search(str(one)) is not None
        limit = _memory_limit()
        # A thread needs address space for its stack. A module that gets no memory while it is imported may say
        # anything: "import numpy failed", "returned NULL without setting an exception".
        if limit is not None and (no_memory or no_threads or isinstance(one, ImportError | SystemError)):
            return f"{format_bytes(limit)} of address space is not enough; raise the limit (ulimit -v)"
        if no_threads:
            return "cannot start more threads; raise the limit on processes (ulimit -u, or the container's)"
        if no_memory:
            return "not enough memory; close other programs, or use a smaller model"
    return None


def _memory_limit() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and those that led to it; the chain may be circular."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
