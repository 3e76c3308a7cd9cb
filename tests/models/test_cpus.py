"""The number of CPUs by affinity and by control group quotas, in trees like those of kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from llama3_models import cpus
from llama3_models.cpus import usable_cpus

CPUS = 16


@pytest.fixture(autouse=True)
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda _: set(range(CPUS)))


def version_2(folder: Path, group: str, root: str = "/", **limits: str) -> Path:
    """Write the files of a process in `group`, with the quota of each group in `limits` (`_` for `/`)."""
    (folder / "cgroup").write_text(f"0::{group}\n")
    (folder / "mountinfo").write_text(
        f"24 1 8:1 / / rw - ext4 /dev/vda rw\n31 23 0:28 {root} {folder}/fs rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
    )
    for name, limit in limits.items():
        place = folder / "fs" / name.replace("_", "/").strip("/")
        place.mkdir(parents=True, exist_ok=True)
        (place / "cpu.max").write_text(limit + "\n")
    return folder


@pytest.mark.parametrize(
    ("limit", "count"),
    [
        ("max 100000", CPUS),
        ("200000 100000", 2),
        ("399999 100000", 3),
        ("50000 100000", 1),
        ("1 100000", 1),
        ("9900000 100000", CPUS),
        ("nonsense", CPUS),
        ("100000 0", CPUS),
        ("", CPUS),
    ],
)
def test_version_2(tmp_path: Path, limit: str, count: int) -> None:
    assert usable_cpus(version_2(tmp_path, "/", _=limit)) == count


def test_the_tightest_of_the_groups_above_counts(tmp_path: Path) -> None:
    limits = {"_": "max 100000", "_user": "300000 100000", "_user_me": "800000 100000"}
    assert usable_cpus(version_2(tmp_path, "/user/me", **limits)) == 3


def test_a_mount_that_begins_below_the_top(tmp_path: Path) -> None:
    """A container without its own control group namespace has such a mount."""
    limits = {"_": "200000 100000", "_inner": "max 100000"}
    assert usable_cpus(version_2(tmp_path, "/docker/abc/inner", root="/docker/abc", **limits)) == 2
    assert usable_cpus(version_2(tmp_path, "/docker/abc", root="/docker/abc", **limits)) == 2


@pytest.mark.parametrize(("quota", "count"), [("-1", CPUS), ("150000", 1), ("400000", 4)])
def test_version_1(tmp_path: Path, quota: str, count: int) -> None:
    (tmp_path / "cgroup").write_text("3:cpuset:/\n2:cpu,cpuacct:/job\n1:name=systemd:/\n0::/\n")
    (tmp_path / "mountinfo").write_text(
        f"32 31 0:29 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"33 31 0:30 / {tmp_path}/cpuset rw - cgroup cgroup rw,cpuset\n"
    )
    (tmp_path / "cpu" / "job").mkdir(parents=True)
    (tmp_path / "cpu" / "job" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "job" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cpus(tmp_path) == count


def test_where_there_are_no_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == CPUS


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/cpu", os.W_OK), reason="needs permission to create control groups")
def test_a_real_quota() -> None:
    group = Path("/sys/fs/cgroup/cpu") / f"llama3-onnx-{os.getpid()}"
    group.mkdir()
    try:
        if not (group / "cpu.cfs_quota_us").exists():
            pytest.skip("these control groups have no quotas")
        (group / "cpu.cfs_quota_us").write_text("100000")
        code = (
            "import os, sys\nfrom pathlib import Path\nPath(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()))\n"
            "from llama3_models.cpus import usable_cpus\nprint(usable_cpus())"
        )
        result = subprocess.run([sys.executable, "-c", code, str(group)], capture_output=True, text=True, check=True)
        assert result.stdout == "1\n"
    finally:
        group.rmdir()
