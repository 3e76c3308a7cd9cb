"""How many CPUs this process may keep busy.

`os.cpu_count()` is the machine's, and the affinity knows nothing of a container's quota: with more threads than that,
each waits for the others until the kernel lets all go on. Our own code, because no library that we use has it: Python's
`os.process_cpu_count` stops at the affinity.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class _Mount(NamedTuple):
    """Where a hierarchy of control groups is mounted, and which of its groups is there."""

    root: str
    point: Path
    controllers: frozenset[str] | None  # None for version 2, which has all in one


def usable_cpus(proc: Path = Path("/proc/self")) -> int:
    """The CPUs of the affinity, or the whole ones that the quota of the control groups pays for, at least one.

    Args:
        proc: Where the kernel describes this process.
    """
    quota = min(_quotas(proc), default=math.inf)
    return max(1, math.floor(min(len(os.sched_getaffinity(0)), quota)))


def _quotas(proc: Path) -> Iterator[float]:
    """CPUs of each group above this process that limits them, in version 1 or 2 of control groups."""
    try:
        mounts = list(_mounts((proc / "mountinfo").read_text(encoding="utf-8", errors="replace")))
        groups = (proc / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        for mount in mounts:
            if mount.controllers is None:
                is_its, read = not controllers, _version_2
            else:
                is_its, read = "cpu" in mount.controllers and "cpu" in controllers.split(","), _version_1
            if is_its:
                yield from (quota for folder in _folders(mount, path) if (quota := read(folder)) is not None)


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), (*after.split(), "", "", "")[:3]
        if kind in ("cgroup", "cgroup2") and len(fields) > 4:
            controllers = frozenset(options.split(",")) if kind == "cgroup" else None
            yield _Mount(fields[3], Path(fields[4]), controllers)


def _folders(mount: _Mount, path: str) -> Iterator[Path]:
    """The folder of a group and those above it; what is mounted may be a group below the top one."""
    relative = path.removeprefix("" if mount.root == "/" else mount.root).strip("/")
    folder = mount.point / relative
    while folder != mount.point and mount.point in folder.parents:
        yield folder
        folder = folder.parent
    yield mount.point


def _version_1(folder: Path) -> float | None:
    return _quotient(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _version_2(folder: Path) -> float | None:
    return _quotient(*(*_text(folder / "cpu.max").split(), "", "")[:2])


def _quotient(quota: str, period: str) -> float | None:
    """CPUs by two numbers of microseconds; None for no limit, which is `max` or -1."""
    if not (quota.isdecimal() and period.isdecimal() and int(period) > 0):
        return None
    return int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
