"""If a system call is missing or fails, an export is right, or one line says what is wrong and nothing is left behind.

A library that is loaded before the C library makes one call fail. Every call that an export, its cache or a removal
from the cache makes has its turn. It fails always (the file system does not support it) or once (a full disk, a broken
network).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

PROGRAM = """
import ctypes, errno, hashlib, json, logging, os, shutil, sys
from pathlib import Path

from llama3_exporter import export
from llama3_exporter.inspect import cache
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_runtime.source.export_cache import cached_export
from tests.support.llama_gguf import write_llama_gguf

base, action = Path(sys.argv[1]), sys.argv[2]
logging.disable(logging.CRITICAL)
library = ctypes.CDLL(None)
library.fault_counts.restype = ctypes.c_char_p
gguf = write_llama_gguf(
    base / "model.gguf", hidden_size=64, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=64
)
os.environ["LLAMA3_CACHE"] = str(base / "run" / "cache")

def keep(ops):
    with GGUFFile.open(gguf) as file:
        cached_export(file, ops)

def remove(run):
    for entry in cache.read_cache():
        cache.remove(entry.name)

def nothing(run):
    pass

BEFORE_AND_ACTION = {
    "contrib": (nothing, lambda run: export(gguf, run / "deep" / "out")),
    "native": (nothing, lambda run: export(gguf, run / "out", ops="native")),
    "copy": (nothing, lambda run: export(gguf, run / "out", ops="native", copy=True)),
    "force": (
        lambda run: export(gguf, run / "out", activations="float32"), lambda run: export(gguf, run / "out", force=True)
    ),
    "web": (nothing, lambda run: export(gguf, run / "out", target="web")),
    "web-force": (
        lambda run: export(gguf, run / "out", target="web"), lambda run: export(gguf, run / "out", force=True)
    ),
    "beside": (lambda run: os.link(gguf, run / "m.gguf"), lambda run: export(run / "m.gguf", ops="native")),
    "cache": (nothing, lambda run: keep("native")),
    "cache-contrib": (nothing, lambda run: keep("contrib")),
    "remove": (lambda run: keep("contrib"), remove),
}
before, act = BEFORE_AND_ACTION[action]

def fault(call="", number=0, which=0, root=""):
    library.fault_set(os.fsencode(root), call.encode(), number, which)

def fresh():
    run = base / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    before(run)
    return run

def found(run):
    # Leave out the cache's record, which has times and inodes.
    paths = (path for path in run.rglob("*") if path.name != "source.json")
    return {str(p.relative_to(run)): None if p.is_dir() else hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}

old = found(fresh())
run = fresh()
fault(root=str(run))
act(run)
counts = dict(line.split() for line in library.fault_counts().decode().splitlines())
fault()
new = found(run)

MISSING = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.EXDEV, errno.EIO)
CLEANING = ("unlink", "rmdir", "opendir", "read")  # without these, nothing can be removed
problems, cases, failed = [], 0, 0
for call, count in counts.items():
    if count == "0":
        continue
    once = sorted({1, int(count) // 2 + 1, int(count)})
    for number, which in [(number, 0) for number in MISSING] + [(errno.ENOSPC, which) for which in once]:
        run, error, cases = fresh(), None, cases + 1
        fault(call, number, which, str(run))
        try:
            act(run)
        except Llama3Error as raised:
            error = str(raised)
        except Exception as raised:
            error = f"Traceback {raised!r}\\n"
        fault()
        after = found(run)
        failed += error is not None
        case = [call, errno.errorcode[number], which, error]
        if error is not None and (chr(10) in error or not error.startswith(str(base))):
            problems.append([*case, "the error does not say where"])
        rest = {name: content for name, content in after.items() if new.get(name, "") != content}
        if error is None and not new.items() <= after.items():
            problems.append([*case, "success, but not the right content"])
        elif call not in CLEANING and error is None and any(".llama3-export-" not in name for name in rest):
            problems.append([*case, f"success, but {sorted(rest)} stayed"])
        elif call not in CLEANING and error is not None and after != old and after != new:
            problems.append([*case, f"left {sorted(after.items() ^ old.items())}"])
        elif action.endswith("force") and not any(whole.items() <= after.items() for whole in (old, new)):
            problems.append([*case, "neither the old export nor the new one is whole"])
print(json.dumps({"problems": problems, "cases": cases, "failed": failed, "calls": counts}))
"""


@pytest.fixture(scope="module")
def faulty_system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("faulty") / "faulty_system.so"
    source = ROOT / "tests" / "support" / "faulty_system.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.parametrize(
    "action",
    ["contrib", "native", "copy", "force", "web", "web-force", "beside", "cache", "cache-contrib", "remove"],
)
def test_it_works_or_says_so(faulty_system: Path, tmp_path: Path, action: str) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(faulty_system)}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path, action],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout)
    assert report["problems"] == []
    assert 0 < report["failed"] < report["cases"]  # some calls are essential, others are not
