"""`llama3-inspect --cache`: what llama3-run keeps, and what of it may go. Nothing goes that no export wrote."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from llama3_exporter.inspect import cache as cache_of
from llama3_models.export_cache import Entry
from llama3_models.gguf.file import GGUFFile
from llama3_models.lora import Lora
from llama3_runtime.source.export_cache import cached_export

from tests.support.inspecting import run
from tests.support.llama_gguf import write_llama_gguf
from tests.support.lora_gguf import write_lora

SIZE = {"hidden_size": 64, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 64}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMA3_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_llama_gguf(tmp_path / "model.gguf", **SIZE)


def keep(model: Path, ops: str, *loras: Lora) -> Entry:
    with GGUFFile.open(model) as file:
        return Entry(cached_export(file, ops, loras=loras).path.parent)


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    status, out, _ = run(capsys, "--cache", "--json")
    assert status == 0
    return {entry.pop("name"): entry for entry in json.loads(out)["entries"]}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_cache_that_is_not_there_is_empty(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys) == {}
    assert run(capsys, "--cache")[1] == f"The cache of exports, {cache}/exports\n  no entries\n"
    assert run(capsys, "--cache", "--remove", "all")[:2] == (0, "0 removed, 0.0 kB\n")
    assert not cache.exists()


def test_every_entry_is_listed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = {"contrib/fp32/last": keep(model, "contrib"), "native/fp32/last": keep(model, "native")}
    os.utime(entries["native/fp32/last"].record_path, (0, 0))
    found = listed(capsys)
    assert set(found) == {entry.folder.name for entry in entries.values()}
    for kind, entry in entries.items():
        facts = found[entry.folder.name]
        assert facts | {"last_used": None} == {
            "model": str(model),
            "adapters": [],
            "kind": kind,
            "version": "0.1.0",
            "bytes": size_of(entry.folder),
            "last_used": None,
            "old": None,
        }
    page = run(capsys, "--cache")[1]
    assert f"\n  model  {model}\n  kind   native/fp32/last\n" in page
    assert "  old " not in page


def test_a_link_in_one_entry_leaves_the_others_listed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A link that leads nowhere in an export, which is somebody else's, and so keeps the entry from being removed."""
    broken, whole = keep(model, "contrib"), keep(model, "native")
    (broken.export / "model.onnx").unlink()
    (broken.export / "model.onnx").symlink_to(tmp_path / "nothing")
    found = listed(capsys)
    assert found[broken.folder.name]["old"] == "files of it are missing or damaged"
    assert found[whole.folder.name]["old"] is None
    assert run(capsys, "--cache", "--remove", broken.folder.name)[:2] == (1, "0 removed, 0.0 kB\n")
    assert "model.onnx, which no export wrote" in caplog.text
    assert (broken.export / "model.onnx").is_symlink()


def test_a_use_in_a_year_that_python_does_not_know() -> None:
    """Few file systems keep such times, so the time is given to the function itself."""
    assert cache_of._time(2.0**38)[:4] in ("1969", "1970")
    assert cache_of._time(2.0**70)[:4] in ("1969", "1970")


def test_a_use_is_noted(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = keep(model, "native")
    os.utime(entry.record_path, (0, 0))
    assert str(listed(capsys)[entry.folder.name]["last_used"])[:4] in ("1969", "1970")
    keep(model, "native")
    assert str(listed(capsys)[entry.folder.name]["last_used"])[:4] > "2020"


def forget_kind(entry: Entry, model: Path) -> None:
    record = entry.read_record()
    del record["kind"]
    entry.write_record(record)


def other_version(entry: Entry, model: Path) -> None:
    entry.write_record({**entry.read_record(), "exporter": "0.0.9\x1b[2J"})


@pytest.mark.parametrize(
    ("age", "why"),
    [
        (lambda entry, model: model.unlink(), "the model is gone"),
        (lambda entry, model: os.utime(model, (0, 0)), "the model has changed"),
        (lambda entry, model: (model.unlink(), model.mkdir()), "the model has changed"),
        (lambda entry, model: entry.record_path.unlink(), "unfinished"),
        (lambda entry, model: entry.record_path.write_text('{"parts": [["\\u0000"], 3]}'), "made by llama3-onnx None"),
        (lambda entry, model: entry.record_path.write_text('{"parts": [[3]]}'), "unfinished"),
        (lambda entry, model: entry.write_record({**entry.read_record(), "parts": [["\0"]]}), "cannot be read"),
        (lambda entry, model: shutil.rmtree(entry.export), "missing or damaged"),
        (lambda entry, model: (entry.export / "model.onnx").write_bytes(b"short"), "missing or damaged"),
        (other_version, r"made by llama3-onnx 0.0.9"),
        (forget_kind, "made by an earlier llama3-onnx"),
    ],
)
def test_what_is_old_says_why_and_can_be_removed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], age: Callable[[Entry, Path], object], why: str
) -> None:
    other = write_llama_gguf(tmp_path / "other.gguf", **SIZE)
    kept, entry = keep(other, "native"), keep(model, "native")
    age(entry, model)
    found = listed(capsys)
    assert found[kept.folder.name]["old"] is None
    assert why in str(found[entry.folder.name]["old"])
    page = run(capsys, "--cache")[1]
    assert f"\n  old    {why}" in page or f"({why}" in page or why in page
    assert page.replace("\n", "").isprintable()
    status, out, err = run(capsys, "--cache", "--remove", "old")
    assert (status, out.splitlines()[1][:9], err) == (0, "1 removed", "")
    assert set(listed(capsys)) == {kept.folder.name}
    assert not entry.folder.exists()


def test_a_touched_model_makes_no_contrib_entry_old(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next run compares the content and uses the entry; one of another size cannot be the same."""
    entry = keep(model, "contrib")
    os.utime(model, (0, 0))
    assert listed(capsys)[entry.folder.name]["old"] is None
    made = (entry.export / "model.onnx").stat().st_mtime_ns
    assert keep(model, "contrib") == entry
    assert (entry.export / "model.onnx").stat().st_mtime_ns == made
    with model.open("ab") as file:
        file.write(b"\0")
    assert "the model has changed" in str(listed(capsys)[entry.folder.name]["old"])


def test_an_entry_says_its_adapters(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is old when one of them is no longer what it was, whatever became of the entry without them."""
    one, two = (write_lora(tmp_path / name, model) for name in ("one.gguf", "two.gguf"))
    plain = keep(model, "native").folder.name
    alone = keep(model, "native", Lora(one, 0.5)).folder.name
    both = keep(model, "native", Lora(one), Lora(two, -2.0)).folder.name
    found = listed(capsys)
    assert {name: entry["adapters"] for name, entry in found.items()} == {
        plain: [],
        alone: [[str(one), 0.5]],
        both: [[str(one), 1.0], [str(two), -2.0]],
    }
    assert {entry["old"] for entry in found.values()} == {None}
    page = run(capsys, "--cache")[1]
    assert f"\n{both}\n  model  {model}\n  lora   {one}, scale 1\n  lora   {two}, scale -2\n  kind " in page
    two.write_bytes(two.read_bytes())
    assert {name for name, entry in listed(capsys).items() if entry["old"]} == {both}
    one.unlink()
    assert {name: entry["old"] for name, entry in listed(capsys).items()} == {
        plain: None,
        alone: "an adapter is gone",
        both: "an adapter is gone",
    }
    assert run(capsys, "--cache", "--remove", two)[0] == 0
    assert set(listed(capsys)) == {plain, alone}


@pytest.mark.parametrize("adapters", [3, None, [3], [[]], [["/a"]], [[1, 2.0]], [["/a", "1"]], [["\0", 1, 1.0]], {}])
def test_a_damaged_record_of_adapters_is_old(model: Path, capsys: pytest.CaptureFixture[str], adapters: object) -> None:
    entry = keep(model, "native")
    entry.write_record({**entry.read_record(), "adapters": adapters})
    assert listed(capsys)[entry.folder.name]["old"]
    assert run(capsys, "--cache")[1].replace("\n", "").isprintable()


def test_removed_by_name_by_model_and_all(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_llama_gguf(tmp_path / "other.gguf", **SIZE)
    one, two, three = keep(model, "native"), keep(model, "contrib"), keep(other, "native")
    (tmp_path / "link.gguf").symlink_to(model)
    assert run(capsys, "--cache", "--remove", one.folder.name)[0] == 0
    assert set(listed(capsys)) == {two.folder.name, three.folder.name}
    assert run(capsys, "--cache", "--remove", tmp_path / "link.gguf")[0] == 0
    assert set(listed(capsys)) == {three.folder.name}
    status, out, err = run(capsys, "--cache", "--remove", "no such", "--json")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "nothing there is called no such" in err
    status, out, _ = run(capsys, "--cache", "--remove", "all", "--remove", three.folder.name, "--json")
    assert (status, json.loads(out)) == (0, {"removed": [three.folder.name], "kept": {}})
    assert list((tmp_path / "cache" / "exports").iterdir()) == []
    assert model.is_file()


def test_what_is_not_the_cache_s_stays(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A file in an entry or in its export, a link in the place of either, and whatever lies beside the entries."""
    theirs = tmp_path / "photos"
    theirs.mkdir()
    (theirs / "model.onnx").write_text("theirs")
    exports = tmp_path / "cache" / "exports"
    inside, beside, linked = keep(model, "native"), keep(model, "contrib"), None
    (inside.export / "thesis.tex").write_text("thesis")
    (beside.folder / "notes").write_text("notes")
    linked = Entry(exports / "linked-0123456789ab")
    linked.folder.mkdir()
    linked.export.symlink_to(theirs)
    (exports / "link-0123456789ab").symlink_to(theirs)
    (exports / "photos").mkdir()
    status, out, _ = run(capsys, "--cache", "--remove", "all", "--json")
    report = json.loads(out)
    assert (status, report["removed"]) == (1, [])
    assert "thesis.tex, which no export wrote" in report["kept"][inside.folder.name]
    assert "notes, which no export wrote" in report["kept"][beside.folder.name]
    assert "a link" in report["kept"][linked.folder.name]
    assert len(caplog.records) == 3
    assert (inside.export / "thesis.tex").read_text() == "thesis"
    assert (beside.folder / "notes").read_text() == "notes"
    assert [path.name for path in theirs.iterdir()] == ["model.onnx"]
    assert {path.name for path in exports.iterdir()} == {
        *(entry.folder.name for entry in (inside, beside, linked)),
        "link-0123456789ab",
        "photos",
    }


def test_an_entry_that_is_in_use_stays(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = keep(model, "native")
    with entry.locked():
        status, out, _ = run(capsys, "--cache", "--remove", "all", "--json")
        assert status == 1
        assert "another process is using it; try again later" in json.loads(out)["kept"][entry.folder.name]
    assert (entry.export / "model.onnx").is_file()
    assert run(capsys, "--cache", "--remove", "all")[0] == 0


def test_what_the_system_refuses_is_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = keep(model, "native")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(entry.export))

    monkeypatch.setattr(cache_of, "remove_export", refuse)
    with pytest.raises(ValueError, match=rf"^{entry.folder}: cannot be removed \(Permission denied\)$"):
        cache_of.remove(entry.folder.name)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "missing MODEL"),
        (("--remove", "old"), "--remove needs --cache"),
        (("model.gguf", "--cache"), "--cache goes with --remove and --json alone"),
        (("--cache", "--tensors"), "--cache goes with --remove and --json alone"),
    ],
)
def test_wrong_command_lines(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], problem: str) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert problem in err
