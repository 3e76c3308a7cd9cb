"""The library is found, and loads as in other applications: twice, from two places, with a second host."""

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from llama3_custom_ops import library_path, register
from llama3_models.errors import Llama3Error

from tests.custom_ops.op_sessions import FLOAT, INT64, model_of, needs_library, open_session

MODEL = model_of("BlockQuantizedGather", {"B": np.zeros((4, 2, 34), np.uint8), "ids": (INT64, ["n"])}, {"Y": FLOAT},
                 K=64, format="q8_0")  # fmt: skip


@pytest.fixture
def library() -> Path:
    needs_library()
    return library_path()


def runs(session: ort.InferenceSession) -> bool:
    return bool(session.run(None, {"ids": np.array([1], np.int64)})[0].shape == (1, 64))


def test_the_environment_names_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLAMA3_CUSTOM_OPS overrides the installed library, and is never silently ignored."""
    other = shutil.copy(library_path(), tmp_path / "other.so")
    monkeypatch.setenv("LLAMA3_CUSTOM_OPS", str(other))
    assert library_path() == other
    monkeypatch.setenv("LLAMA3_CUSTOM_OPS", str(tmp_path / "none.so"))
    with pytest.raises(Llama3Error, match=r"none\.so: no such file"):
        library_path()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a Linux library"), (b"#!/bin/sh" * 99, "not a Linux library"), (None, "truncated")],
    ids=["empty", "a script", "half of it"],
)
def test_a_file_that_is_no_library_is_one_line(
    content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading half a library would end the process."""
    built = library_path().read_bytes()
    other = tmp_path / "other.so"
    other.write_bytes(built[: len(built) // 2] if content is None else content)
    monkeypatch.setenv("LLAMA3_CUSTOM_OPS", str(other))
    with pytest.raises(Llama3Error, match=rf"other\.so: {message}"):
        library_path()


def test_a_library_that_was_not_built_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there was no compiler at installation, the message says what to do."""
    monkeypatch.delenv("LLAMA3_CUSTOM_OPS", raising=False)
    monkeypatch.setattr("llama3_custom_ops.__path__", [str(tmp_path)])
    with pytest.raises(Llama3Error, match=r"was not built.*--ops contrib") as caught:
        library_path()
    assert "\n" not in str(caught.value)


def test_options_take_the_ops_twice(library: Path) -> None:
    """A host and its plug-in may both register the ops."""
    options = ort.SessionOptions()
    register(options)
    register(options)
    assert runs(ort.InferenceSession(MODEL, options))


def test_two_copies_of_the_library(library: Path, tmp_path: Path) -> None:
    """The package's library and an export folder's work in one process, even in one session."""
    copy = str(shutil.copy(library, tmp_path / "copy.so"))
    first, second, both = ort.SessionOptions(), ort.SessionOptions(), ort.SessionOptions()
    register(first)
    second.register_custom_ops_library(copy)
    register(both)
    both.register_custom_ops_library(copy)
    assert all(runs(ort.InferenceSession(MODEL, options)) for options in (first, second, both))


def test_sessions_come_and_go(library: Path) -> None:
    """The ops outlive the sessions that they were registered with."""
    for _ in range(3):
        assert runs(open_session(MODEL))


SECOND_HOST = """
import ctypes, sys
import numpy as np
from tests.custom_ops.op_sessions import open_session
from tests.custom_ops.test_ops_loading import MODEL, runs
from llama3_custom_ops import library_path

class ApiBase(ctypes.Structure):
    _fields_ = [("get_api", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)), ("version", ctypes.c_void_p)]

def register_with(host_path):
    host = ctypes.CDLL(host_path)
    host.OrtGetApiBase.restype = ctypes.POINTER(ApiBase)
    base = host.OrtGetApiBase()
    api = ctypes.cast(base.contents.get_api(23), ctypes.POINTER(ctypes.c_void_p))
    create_options = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))(api[10])
    options = ctypes.c_void_p()
    assert create_options(ctypes.byref(options)) is None
    register = ctypes.CDLL(str(library_path())).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(options, base) is None
    return ctypes.addressof(api.contents)

before = open_session(MODEL)
apis = {register_with(path) for path in sys.argv[1:]}
assert len(apis) == len(sys.argv) - 1, "not another copy"
assert runs(before) and runs(open_session(MODEL))
print("both")
"""


def test_beside_a_second_copy_of_onnxruntime(library: Path, tmp_path: Path) -> None:
    """A process with two copies of ONNX Runtime (genai brings its own) gets separate ops for each."""
    (host,) = Path(ort.__file__).parent.glob("capi/libonnxruntime.so.*")
    copy = shutil.copy(host, tmp_path / "libanother.so")
    command = [sys.executable, "-c", SECOND_HOST, str(host), copy]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "both\n"


def test_an_onnxruntime_that_is_too_old_is_one_line(library: Path) -> None:
    """onnxruntime 1.22 has no API that the library can use; the message names its version."""
    message = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    def create_status(_: int, text: bytes) -> int:
        message.append(text.decode())
        return 1

    table = (ctypes.c_void_p * 1)(ctypes.cast(create_status, ctypes.c_void_p))
    asked = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    def get_api(version: int) -> int:
        asked.append(version)
        return ctypes.addressof(table)

    @ctypes.CFUNCTYPE(ctypes.c_void_p)
    def version() -> int:
        return ctypes.addressof(text)

    text = ctypes.create_string_buffer(b"1.22.1")
    base = (ctypes.c_void_p * 2)(ctypes.cast(get_api, ctypes.c_void_p), ctypes.cast(version, ctypes.c_void_p))
    register_custom_ops = ctypes.CDLL(str(library)).RegisterCustomOps
    register_custom_ops.restype = ctypes.c_void_p
    assert register_custom_ops(None, base) == 1
    assert len(message) == 1
    assert re.search(r"need onnxruntime 1\.23 .*1\.22\.1$", message[0])
    assert asked == [1]


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_one_symbol_is_exported(library: Path) -> None:
    """No symbol of the library, or of its own C++ library, can clash with the host's."""
    listing = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in listing.splitlines()] == ["RegisterCustomOps"]
