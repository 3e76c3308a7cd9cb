"""Whether an exception says that the machine ran out of memory or of threads, in whatever words.

Python has `MemoryError`, but a library that cannot be mapped is an `ImportError`, one whose C++ code gets no memory
throws `std::bad_alloc` through its bindings, and a thread that does not start is a `RuntimeError`.
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
    """What the machine ran out of and what to do, if that is why `error` was raised; otherwise None."""
    for one in _chain(error):
        number = one.errno if isinstance(one, OSError) else None
        no_memory = isinstance(one, MemoryError) or number == errno.ENOMEM or _MEMORY.search(str(one)) is not None
        no_threads = number == errno.EAGAIN or _THREADS.search(str(one)) is not None
        limit = _memory_limit()
        # A thread needs some for its stack. Modules that get no memory when they are imported may say anything: "import
        # numpy failed", "returned NULL without setting an exception".
        if limit is not None and (no_memory or no_threads or isinstance(one, ImportError | SystemError)):
            return f"{format_bytes(limit)} of address space are not enough; raise the limit (ulimit -v)"
        if no_threads:
            return "no more threads can be started; raise the limit of processes (ulimit -u, or the container's)"
        if no_memory:
            return "not enough memory; close other programs, or use a smaller model"
    return None


def _memory_limit() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that led to it; the chain may be a circle."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
