"""The cache of exports: one export per content, even if the file is touched or several processes need it."""

import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama3_exporter import export_model
from llama3_exporter import folder as folder_module
from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_runtime.source import export_cache

from tests.support.llama_gguf import write_llama_gguf

SIZE = {"hidden_size": 64, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 64}


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Path]]:
    """The folders that the real exporter was asked to create."""
    made: list[Path] = []
    real = export_model.export

    def counted(model, output, **options):
        made.append(output)
        return real(model, output, **options)

    monkeypatch.setattr(export_model, "export", counted)
    monkeypatch.setenv("LLAMA3_CACHE", str(tmp_path / "cache"))
    return made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    write_llama_gguf(path, **SIZE)
    return path


def cached(path: Path, **options) -> Path:
    with GGUFFile.open(path) as file:
        return export_cache.cached_export(file, **options).path


def test_exports_once_and_reuses_without_reading_the_content(exports, model, monkeypatch):
    folder = cached(model)
    assert (folder / "model.onnx").is_file()
    assert (folder / "llama3.json").is_file()
    monkeypatch.setattr(export_cache, "sha256", lambda path: pytest.fail("the content was read"))
    assert cached(model) == folder
    assert exports == [folder]


def test_a_link_is_the_file_it_points_to(exports, model, tmp_path):
    """Files of a hub cache are links."""
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    assert cached(model) == cached(link)
    assert len(exports) == 1


def test_the_same_content_is_reused_after_a_touch_or_a_copy(exports, model):
    """The record no longer matches, so the content's hash decides, and the record is replaced."""
    folder = cached(model)
    os.utime(model, (0, 0))
    assert cached(model) == folder
    copy = model.with_suffix(".copy")
    shutil.copy(model, copy)
    copy.replace(model)
    assert cached(model) == folder
    assert len(exports) == 1


def test_another_content_replaces_the_old_export(exports, model):
    """New content is noticed even with the same size and modification time: the change time cannot be set back."""
    folder = cached(model)
    before = (folder / "llama3.json").read_text()
    status = model.stat()
    write_llama_gguf(model, **SIZE, seed=1)
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert model.stat().st_size == status.st_size
    assert cached(model) == folder
    assert len(exports) == 2
    assert (folder / "llama3.json").read_text() != before
    assert {path.name for path in folder.parent.iterdir()} == {"lock", "source.json", "onnx"}


def test_each_kind_of_export_has_its_own_entry(exports, model):
    kinds = [
        {},
        {"precision": "fp16"},
        {"logits": "selected"},
        {"ops": "native"},
        {"ops": "native", "logits": "selected"},
    ]
    assert len({cached(model, **kind) for kind in kinds}) == len(kinds)
    assert len(exports) == 3  # the native ones are only graphs


def test_a_native_export_is_a_graph_over_the_file_itself(exports, model, tmp_path):
    """Nothing is copied. After a touch the graph is exported again, which is as fast as comparing contents."""
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    with GGUFFile.open(link) as file:
        export = export_cache.cached_export(file, "native")
        assert export.weights_folder == model.parent
        assert [path.name for path in export.path.iterdir()] == ["model.onnx"]
        made = (export.path / "model.onnx").stat().st_mtime_ns
        assert export_cache.cached_export(file, "native") == export
        assert (export.path / "model.onnx").stat().st_mtime_ns == made
    os.utime(model, (0, 0))
    cached(model, ops="native")
    assert (export.path / "model.onnx").stat().st_mtime_ns > made
    assert exports == []


def test_another_version_of_the_exporter_exports_again(exports, model, monkeypatch):
    cached(model)
    monkeypatch.setattr(export_cache.importlib.metadata, "version", lambda name: "999")
    cached(model)
    assert len(exports) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"parts": 3}'])
def test_without_a_good_record_it_is_exported_again(exports, model, damage):
    folder = cached(model)
    (folder.parent / "source.json").write_text(damage)
    assert cached(model) == folder
    assert len(exports) == 2


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"1234")])
def test_a_damaged_export_is_made_again(exports, model, damage):
    folder = cached(model)
    damage(folder / "model.onnx.data")
    assert cached(model) == folder
    assert (folder / "model.onnx.data").stat().st_size > 4
    assert len(exports) == 2


def test_what_a_killed_export_left_is_cleared_away(exports, model):
    folder = cached(model)
    shutil.rmtree(folder)
    (folder.parent / ".llama3-export-abcd_123").touch(0o600)
    (folder.parent / "source.tmp").write_bytes(b"{")
    assert cached(model) == folder
    assert {path.name for path in folder.parent.iterdir()} == {"lock", "source.json", "onnx"}


@pytest.mark.parametrize("ops", ["contrib", "native"])
@pytest.mark.parametrize("name", ["model-", "onnx"])
def test_a_link_to_somebody_s_folder_is_refused(exports, model, tmp_path, name, ops):
    """An entry's name is predictable, and a cache may be shared. Files in the linked folder are not used or changed."""
    theirs = tmp_path / "photos"
    theirs.mkdir()
    for file in ("cat.jpg", "model.onnx", "source.json"):
        (theirs / file).write_text("theirs")
    folder = cached(model, ops=ops)
    link = folder if name == "onnx" else folder.parent
    link.rename(tmp_path / "moved")
    link.symlink_to(theirs)
    with pytest.raises(Llama3Error, match=rf"^{link}: is a link, .*; remove the link, or set LLAMA3_CACHE"):
        cached(model, ops=ops)
    assert {path.name: path.read_text() for path in theirs.iterdir()} == dict.fromkeys(
        ("cat.jpg", "model.onnx", "source.json"), "theirs"
    )


@pytest.mark.parametrize("name", ["lock", "source.json", "source.tmp"])
def test_a_link_in_the_place_of_a_file_of_the_cache_is_not_written_through(exports, model, tmp_path, name):
    thesis = tmp_path / "thesis"
    thesis.write_text("thesis")
    folder = cached(model)
    shutil.rmtree(folder)
    (folder.parent / name).unlink(missing_ok=True)
    (folder.parent / name).symlink_to(thesis)
    if name == "lock":
        with pytest.raises(Llama3Error, match="the cache of exports cannot be written"):
            cached(model)
    else:
        assert cached(model) == folder
        assert (folder / "model.onnx").is_file()
    assert thesis.read_text() == "thesis"


@pytest.mark.parametrize("ops", ["contrib", "native"])
def test_what_no_export_wrote_is_never_removed_from_the_cache(exports, model, ops):
    folder = cached(model, ops=ops)
    (folder / "model.onnx").unlink()
    (folder / "thesis.tex").write_text("thesis")
    (folder.parent / "notes").mkdir()
    with pytest.raises(Llama3Error, match=rf"^{folder}: contains thesis\.tex, .*; move it elsewhere"):
        cached(model, ops=ops)
    (folder / "thesis.tex").rename(folder.parent / "notes" / "thesis.tex")
    assert cached(model, ops=ops) == folder
    assert (folder / "model.onnx").is_file()
    assert (folder.parent / "notes" / "thesis.tex").read_text() == "thesis"


@pytest.mark.parametrize("ops", ["contrib", "native"])
@pytest.mark.parametrize("cause", ["architecture", "full", "interrupt"])
def test_what_is_not_exported_leaves_nothing_in_the_cache(model, monkeypatch, tmp_path, ops, cause):
    """No entry and no folder that was created for it is left; folders that existed before stay."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("LLAMA3_CACHE", str(cache / "deep"))

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if cause == "full" else KeyboardInterrupt

    if cause == "architecture":
        model.write_bytes(model.read_bytes().replace(b"llama", b"lamma"))
    else:
        monkeypatch.setattr(folder_module, "_staging_folder", fail)
    for exists in (False, True):
        if exists:
            (cache / "deep").mkdir(parents=True)
        with pytest.raises(KeyboardInterrupt if cause == "interrupt" else Llama3Error) as error:
            cached(model, ops=ops)
        assert sorted(tmp_path.rglob("*")) == sorted([model, *([cache, cache / "deep"] if exists else [])])
        if cause == "full":
            assert re.fullmatch(
                r"/.*/onnx.*: the disk is full; free some space, or set LLAMA3_CACHE to another folder",
                str(error.value),
            )


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EIO])
def test_without_locks_it_works_and_says_so_once(exports, model, monkeypatch, caplog, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder = cached(model)
    assert (folder / "model.onnx").is_file()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{folder.parent}: the file system has no locks ({os.strerror(number)}); ")
    assert cached(model) == folder
    assert len(caplog.records) == 1  # an existing export needs no lock


def test_without_locks_another_process_may_come_first(exports, model, monkeypatch):
    """Both exports are equally good, and the last one stays."""
    real = export_model.export

    def overtaken(gguf, output, **options):
        real(gguf, output, **options)
        return real(gguf, output, **options)

    monkeypatch.setattr(export_model, "export", overtaken)
    folder = cached(model)
    assert (folder / "model.onnx").is_file()
    assert {path.name for path in folder.parent.iterdir()} == {"lock", "source.json", "onnx"}


@pytest.mark.parametrize("name", ["file", "n" * 256])
def test_a_cache_that_cannot_be_written_is_one_line(model, monkeypatch, tmp_path, name):
    """The error names LLAMA3_CACHE if a file is in the way or the name is too long."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLAMA3_CACHE", str(tmp_path / name))
    with pytest.raises(Llama3Error, match=r"^[^\n]*LLAMA3_CACHE[^\n]*$"):
        cached(model)


HOLDER = """
import sys, time
from pathlib import Path
from llama3_exporter import export_model
from llama3_models.gguf.file import GGUFFile
from llama3_runtime.source.export_cache import cached_export

real = export_model.export
def slow(*arguments, **options):
    print("exporting", flush=True)
    sys.stdin.readline()
    return real(*arguments, **options)
export_model.export = slow
with GGUFFile.open(sys.argv[1]) as file:
    print(cached_export(file).path, flush=True)
"""


def test_two_processes_export_once(exports, model):
    """The second process waits, says so, and uses the export of the first."""
    command = [sys.executable, "-c", HOLDER, str(model)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as first, subprocess.Popen(command, **pipes) as second:
        # Either process may be the one that exports; the other one says that it waits.
        deadline = time.monotonic() + 60
        os.set_blocking(first.stderr.fileno(), False)
        os.set_blocking(second.stderr.fileno(), False)
        said = {first: b"", second: b""}
        while not any(b"Waiting for another process" in text for text in said.values()):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
            for process in said:
                said[process] += process.stderr.read() or b""
        (waiting,) = (process for process, text in said.items() if b"Waiting" in text)
        exporting = second if waiting is first else first
        assert exporting.stdout.readline() == b"exporting\n"
        out, _ = exporting.communicate(b"\n", timeout=60)
        assert waiting.communicate(timeout=60)[0] == out
        assert (first.returncode, second.returncode) == (0, 0)
    assert exports == []
    assert cached(model) == Path(os.fsdecode(out.strip()))
    assert exports == []
