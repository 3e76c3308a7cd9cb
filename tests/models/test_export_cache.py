"""An entry of the cache of exports: its name and its lock."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from llama3_models.export_cache import Entry, EntryInUseError, cache_root, entries

LONG = ["日" * 83 + "a", "x" * 250, "é" * 125, "a" + "é" * 124, "😀" * 62]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMA3_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """$LLAMA3_CACHE wins, then $XDG_CACHE_HOME, then ~/.cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LLAMA3_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == tmp_path / ".cache" / "llama3-onnx"
    monkeypatch.setenv("XDG_CACHE_HOME", "xdg")
    assert cache_root() == tmp_path / ".cache" / "llama3-onnx"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/llama3-onnx")
    monkeypatch.setenv("LLAMA3_CACHE", "/own")
    assert cache_root() == Path("/own")


@pytest.mark.parametrize("stem", [*LONG, "a.b.c", os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff"), "two\nlines"])
def test_a_name_that_file_systems_and_onnxruntime_take(stem: str) -> None:
    entry = Entry.of(Path("/models", stem + ".gguf"), "native")
    entry.folder.name.encode()
    assert len(os.fsencode(entry.folder.name)) <= 113
    assert entry.folder.name.rpartition("-")[0] == os.fsencode(stem)[:100].decode(errors="ignore")
    assert Entry.of(Path("/models", stem + "b.gguf"), "native") != entry
    assert entries() == []
    entry.export.mkdir(parents=True)
    assert entries() == [entry]


def test_an_entry_that_stays_empty_goes_with_the_folders_that_were_made_for_it(cache: Path) -> None:
    entry = Entry.of(Path("/model.gguf"), "native")
    with entry.locked():
        entry.export.mkdir()
    assert not cache.exists()
    cache.mkdir()
    with entry.locked():
        entry.export.mkdir()
    assert list(cache.iterdir()) == []
    with entry.locked():
        (entry.folder / "notes").touch()
    assert {path.name for path in entry.folder.iterdir()} == {"lock", "notes"}


def test_an_entry_that_is_removed_while_one_waits_for_it_is_made_again(cache: Path) -> None:
    """The lock that becomes free then belongs to a deleted file."""
    entry = Entry.of(Path("/model.gguf"), "native")
    waiting = threading.Event()
    entered: list[bool] = []

    def wait() -> None:
        with entry.locked(waiting.set):
            entered.append(entry.lock.is_file())

    waiter = threading.Thread(target=wait)
    with entry.locked():
        waiter.start()
        assert waiting.wait(10)
        with pytest.raises(EntryInUseError, match="another process is using it"), entry.locked():
            pass
    waiter.join(10)
    assert entered == [True]
    assert not cache.exists()
