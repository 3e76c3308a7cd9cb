"""The files that `make wheel` leaves in dist/: a wheel that works on old systems without a compiler, and its sources.

`make wheel` runs these tests itself, in an environment without our packages. Without dist/ they are skipped.
"""

import os
import re
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from packaging.metadata import Metadata

from tests.support.paths import ROOT

LIBRARY = "llama3_custom_ops/libllama3_custom_ops.so"
PACKAGES = {"llama3_custom_ops", "llama3_exporter", "llama3_models", "llama3_runtime"}
COMMANDS = {"llama3-bench", "llama3-export", "llama3-inspect", "llama3-run"}
NEWEST_GLIBC = (2, 28)


def only_file(pattern: str) -> Path:
    files = list((ROOT / "dist").glob(pattern))
    if not files:
        pytest.skip("dist/ is missing or empty: run `make wheel`")
    assert len(files) == 1
    return files[0]


@pytest.fixture(scope="module")
def wheel() -> zipfile.ZipFile:
    return zipfile.ZipFile(only_file("*.whl"))


def dist_info(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_its_tag_is_that_of_the_platform(wheel: zipfile.ZipFile) -> None:
    """pip installs it with any Python 3 on Linux with glibc 2.28 or later, and nowhere else."""
    tag = "py3-none-manylinux_2_28_x86_64"
    assert wheel.filename is not None
    assert wheel.filename.endswith(f"-{tag}.whl")
    assert f"Tag: {tag}\n" in dist_info(wheel, "WHEEL")
    assert "Root-Is-Purelib: false\n" in dist_info(wheel, "WHEEL")


def test_it_holds_the_packages_and_no_more(wheel: zipfile.ZipFile) -> None:
    """It contains Python, data and one library, without C++ sources or tests."""
    paths = [PurePosixPath(path) for path in wheel.namelist() if not path.endswith("/")]
    ours = [path for path in paths if not path.parts[0].endswith(".dist-info")]
    assert {path.parts[0] for path in ours} == PACKAGES
    assert [str(path) for path in ours if path.suffix == ".so"] == [LIBRARY]
    assert {path.suffix for path in ours} <= {".py", ".typed", ".toml", ".so"}
    for package in PACKAGES:
        assert f"{package}/py.typed" in wheel.namelist()


def test_the_library_needs_no_newer_symbols(wheel: zipfile.ZipFile) -> None:
    """The names of symbol versions are strings in the dynamic section."""
    found = re.findall(rb"\0(GLIBC|GLIBCXX|CXXABI|GCC)_([0-9.]+)(?=\0)", wheel.read(LIBRARY))
    assert {family for family, _ in found} == {b"GLIBC"}
    assert max(tuple(map(int, version.split(b"."))) for _, version in found) <= NEWEST_GLIBC


def test_it_installs_and_loads_without_a_compiler(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """A new environment with nothing else on the PATH is enough, and the library exports its one function."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LLAMA3_", "CMAKE"))},
        "PATH": str(python.parent),
        "CC": "/bin/false",
        "CXX": "/bin/false",
    }
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel.filename)]
    subprocess.run([python, *install], env=environment, check=True)
    code = (
        "import ctypes, llama3_custom_ops as ops; path = ops.library_path(); ctypes.CDLL(str(path)).RegisterCustomOps"
    )
    loaded = subprocess.run(
        [python, "-c", f"{code}; print(path)"], env=environment, check=True, capture_output=True, text=True
    )
    assert Path(loaded.stdout.strip()).is_relative_to(tmp_path.resolve())
    assert {path.name for path in python.parent.iterdir()} >= COMMANDS


def test_onnxruntime_takes_its_ops(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """This tests the library in the wheel, not the one in this environment."""
    onnxruntime = pytest.importorskip("onnxruntime")
    onnxruntime.SessionOptions().register_custom_ops_library(wheel.extract(LIBRARY, tmp_path))


def test_its_metadata_is_valid(wheel: zipfile.ZipFile) -> None:
    """An index would refuse unknown fields, wrong versions or an unreadable description."""
    metadata = Metadata.from_email(dist_info(wheel, "METADATA"), validate=True)
    assert metadata.name == "llama3-onnx"
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.license_files == ["LICENSE"]
    assert str(metadata.requires_python) == ">=3.10"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description is not None
    assert metadata.description.startswith("# llama3-onnx\n")
    assert dist_info(wheel, "licenses/LICENSE").strip().startswith("Apache License")


def test_the_source_distribution_holds_what_a_build_needs() -> None:
    """It contains nothing large and no tests; `make wheel` built the wheel from it."""
    with tarfile.open(only_file("*.tar.gz")) as archive:
        members = {"/".join(member.name.split("/")[1:]): member.size for member in archive if member.isfile()}
    needed = {"LICENSE", "README.md", "pyproject.toml", "custom_ops/CMakeLists.txt", "custom_ops/exports.map"}
    assert members.keys() >= needed
    for folder in ("avx2", "avx512", "neon", "scalar"):
        assert f"custom_ops/src/kernels/{folder}/attention.cc" in members
    assert not [
        path for path in members if path.startswith(("tests/", "build/", "dist/", "docs/apps/", ".ci/", ".venv"))
    ]
    assert max(members.values()) < 100_000
