"""`llama3-inspect --plot` writes a whole picture or none, whatever the model is called."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as T
from llama3_exporter import export

from tests.support.inspecting import run
from tests.support.llama_gguf import write_llama_gguf


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama_gguf(tmp_path_factory.mktemp("gguf") / "tied.gguf", types=T.Q5_K, tied=True)


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "loop", "full disk"])
def test_a_picture_that_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], tied: Path, tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "out.png"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if kind == "device":
        path.symlink_to("/dev/full")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.write_bytes(b"an older picture")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    before = path.lstat()
    try:
        status, _, err = run(capsys, tied, "--plot", path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (status, err.count("\n")) == (1, 1)
    assert str(path) in err
    assert "--output" not in err
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
    assert list(tmp_path.iterdir()) == [path]


def test_no_folder_for_the_picture_is_known_before_anything_is_printed(
    capsys: pytest.CaptureFixture[str], tied: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    status, out, err = run(capsys, tied, "--plot", tmp_path / "gone" / "out.png")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert f"folder {tmp_path / 'gone'}" in err
    assert not list(tmp_path.iterdir())


def test_a_picture_goes_where_a_link_leads(capsys: pytest.CaptureFixture[str], tied: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "link.png").symlink_to("out.png")
    assert run(capsys, tied, "--plot", tmp_path / "link.png")[0] == 0
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("model", ["model.gguf", "smollm2-135m"])
def test_a_matplotlib_that_does_not_load_is_one_line_before_any_download(
    tied: Path, tmp_path: Path, model: str
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "model.gguf").symlink_to(tied)
    program = (
        "import sys; from llama3_exporter.commands import inspect as c; c.locate_model = None if "
        "sys.argv[1] == 'smollm2-135m' else c.locate_model; sys.exit(c.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, model, "--plot", "out.png"],
        env=os.environ | {"MPLBACKEND": "nonsense"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "matplotlib does not load" in done.stderr


def test_a_picture_of_a_name_that_no_font_has(
    capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder, tied: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "日本\n\x1b[31m.gguf"
    path.symlink_to(tied)
    status, _, err = run(capsys, path, "--plot", tmp_path / "out.svg")
    assert (status, err) == (0, f"Wrote {tmp_path}/out.svg\n")
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]
    assert r"日本\n\x1b[31m.gguf: ".encode() in (tmp_path / "out.svg").read_bytes()


def test_a_picture(capsys: pytest.CaptureFixture[str], tied: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for ending in ("png", "svg"):
        status, _, err = run(capsys, tied, "--plot", tmp_path / f"out.{ending}")
        assert (status, err) == (0, f"Wrote {tmp_path}/out.{ending}\n")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert b"in a contrib graph" in (tmp_path / "out.svg").read_bytes()


def test_a_picture_has_the_name_of_the_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tied: Path, tmp_path: Path
) -> None:
    """Names may contain dollar signs, which matplotlib would read as math; and `.` is not a name."""
    pytest.importorskip("matplotlib")
    folder = tmp_path / "an export"
    export(tied, folder)
    (folder / "src").mkdir()
    odd = tmp_path / r"a$b_$ \frac.gguf"
    odd.symlink_to(tied)
    for where, model, name in (
        (tmp_path, odd, odd.name),
        (folder, ".", folder.name),
        (folder / "src", "..", folder.name),
    ):
        monkeypatch.chdir(where)
        status, out, err = run(capsys, model, "--plot", tmp_path / "out.svg")
        assert (status, err) == (0, f"Wrote {tmp_path}/out.svg\n")
        assert out.splitlines()[0] == name
        assert f"<!-- {name}: ".encode() in (tmp_path / "out.svg").read_bytes()


def test_without_matplotlib_it_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tied: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("llama3_exporter.inspect.plot.find_spec", lambda _: None)
    status, out, err = run(capsys, tied, "--plot", tmp_path / "out.png")
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "pip install matplotlib" in err
