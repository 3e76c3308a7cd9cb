"""The number of CPUs that this process may use.

`os.cpu_count()` counts the machine's CPUs, and the affinity ignores a container's quota. With more threads than the
quota allows, the kernel pauses them, and they wait for each other. None of our libraries considers the quota; Python's
`os.process_cpu_count` also only knows the affinity.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class _Mount(NamedTuple):
    """A mount of a control group hierarchy: `point` shows the group `root`."""

    root: str
    point: Path
    controllers: frozenset[str] | None  # None for version 2, which has all in one


def usable_cpus(proc: Path = Path("/proc/self")) -> int:
    """Return how many whole CPUs the affinity and the quotas of the control groups allow, at least one.

    Args:
        proc: The kernel's folder about this process.
    """
    quota = min(_quotas(proc), default=math.inf)
    return max(1, math.floor(min(len(os.sched_getaffinity(0)), quota)))


def _quotas(proc: Path) -> Iterator[float]:
    """Yield the CPU quotas of the control groups, version 1 or 2, that limit this process."""
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
    """Yield the folder of a group and those above it; the mount may begin below the top group."""
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
    """Return the CPUs for a quota and a period in microseconds; None if there is no limit (`max` or -1)."""
    if not (quota.isdecimal() and period.isdecimal() and int(period) > 0):
        return None
    return int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
