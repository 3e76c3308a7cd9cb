"""Repositories of the Hub as models: their spelling, the choice of a file, and the download.

The rules for choosing a file are llama.cpp's; the expected files follow from its source (`find_best_model`).
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama3_models.errors import Llama3Error
from llama3_models.hub import catalogue, locate, repository
from llama3_models.hub.repository import Repository, choose, parse

from tests.support.hub_server import HostedFile, HubServer

NAME = "bartowski/Tiny-GGUF"
PARTS = ("Q8_0/Tiny-Q8_0-00001-of-00002.gguf", "Q8_0/Tiny-Q8_0-00002-of-00002.gguf")
FILES = ["README.md", "Tiny-IQ4_XS.gguf", "Tiny-Q4_K_M.gguf", "Tiny.Q4_K_S.gguf", *PARTS, "mmproj-Tiny-Q4_K_M.gguf"]

PROGRAM = """
import sys
from llama3_models.errors import Llama3Error
from llama3_models.hub.locate import locate_model
import logging
logging.basicConfig(format="warning: %(message)s")
try:
    print(locate_model(sys.argv[1]))
except Llama3Error as error:
    sys.exit("error: " + str(error))
"""


@pytest.mark.parametrize(
    ("text", "name", "tag"),
    [
        ("https://huggingface.co/org/repo/resolve/main/sub/a-Q4_0.gguf?download=true", "org/repo", "sub/a-Q4_0.gguf"),
        ("https://hf.co/org/repo/blob/main/a.gguf", "org/repo", "a.gguf"),
        ("org/repo", "org/repo", None),
        ("org/repo:Q4_K_M", "org/repo", "Q4_K_M"),
        ("org/repo:q8_0", "org/repo", "q8_0"),
        ("org/repo:sub/file-Q8_0.gguf", "org/repo", "sub/file-Q8_0.gguf"),
        ("hf.co/org/repo:UD-Q4_K_XL", "org/repo", "UD-Q4_K_XL"),
        ("https://huggingface.co/org/repo", "org/repo", None),
        ("unsloth/Llama-3.2-1B-Instruct-GGUF:Q6_K", "unsloth/Llama-3.2-1B-Instruct-GGUF", "Q6_K"),
    ],
)
def test_what_is_a_repository(text: str, name: str, tag: str | None) -> None:
    found = parse(text)
    assert found is not None
    assert (found.name, found.tag, found.named_hub) == (name, tag, ".co/" in text)


@pytest.mark.parametrize(
    "text",
    ["name", "a/b/c", "/a/b", "./a", "../a", "a/", "a/b:", "org/re po", "org/repo:a b", "~/x", "C:/x", "a:b", ""],
)
def test_what_is_none(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("files", "tag", "chosen"),
    [
        (FILES, None, ("Tiny-Q4_K_M.gguf",)),
        (FILES, "q4_k_m", ("Tiny-Q4_K_M.gguf",)),
        (FILES, "Q4_K_S", ("Tiny.Q4_K_S.gguf",)),
        (FILES, "Q4_K", None),
        (FILES, "Q4_XS", None),  # llama.cpp's expression matches IQ4_XS here
        (FILES, "IQ4_XS", ("Tiny-IQ4_XS.gguf",)),
        (FILES, "Q8_0", PARTS),
        (FILES, "Tiny.Q4_K_S.gguf", ("Tiny.Q4_K_S.gguf",)),
        (FILES, PARTS[0], PARTS),
        (["b-Q8_0.gguf", "a-F16.gguf"], None, ("b-Q8_0.gguf",)),
        (["a-F16.gguf", "b-F32.gguf"], None, ("a-F16.gguf",)),
        (["imatrix.gguf", "mmproj-F16.gguf", "model.safetensors"], None, None),
        (["../../evil-Q4_K_M.gguf", "/evil-Q4_K_M.gguf"], None, None),
        ([], None, None),
        (FILES, "Q4.K_M", None),  # a tag is text, not a regular expression
    ],
)
def test_which_file_is_meant(files: list[str], tag: str | None, chosen: tuple[str, ...] | None) -> None:
    assert choose(files, tag) == chosen


def test_what_exists_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with the name of a repository wins, and a line says how to get the repository."""
    monkeypatch.chdir(tmp_path)
    Path("org/repo").mkdir(parents=True)
    Path("model.gguf").touch()
    assert locate.read_name("org/repo") == Path("org/repo")
    assert (
        "Using the folder org/repo; for the repository of the same name, use hf.co/org/repo" in capsys.readouterr().err
    )
    assert locate.read_name("model.gguf") == Path("model.gguf")
    assert locate.read_name("hf.co/org/repo") == Repository("org/repo", None, named_hub=True)
    assert locate.read_name("other/repo") == Repository("other/repo", None)
    assert locate.read_name("smollm2-135m") == catalogue.find("smollm2-135m")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "model", ["org/gone", "org/gone.gguf", "gone.onnx", "a/b/c", "/gone", "./gone", "x" * 300 + ".gguf", "x/" * 4000]
)
def test_what_can_only_be_a_path_is_asked_of_no_hub(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelled file in an existing folder does not cause a request to the hub."""
    monkeypatch.chdir(tmp_path)
    Path("org").mkdir()
    with pytest.raises(Llama3Error, match="no such file"):
        locate.read_name(model)


def test_an_encoding_beside_a_repository_is_one_line() -> None:
    with pytest.raises(Llama3Error, match=r"org/repo: --quantization-encoding q4_k .* org/repo:Q4_K_M"):
        locate.fetch(Repository("org/repo", None), "q4_k")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    files = {f"{NAME}/{file}": HostedFile(b"GGUF" + file.encode() * 99) for file in FILES}
    with HubServer(files=files) as server:
        yield server


def located(hub: HubServer | None, home: Path, model: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
    kept |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.endpoint if hub else "http://127.0.0.1:9", "NO_PROXY": "*"}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, model], env=kept | environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("model", "file"),
    [(NAME, "Tiny-Q4_K_M.gguf"), (f"{NAME}:iq4_xs", "Tiny-IQ4_XS.gguf"), (f"hf.co/{NAME}:Q4_K_S", "Tiny.Q4_K_S.gguf")],
)
def test_a_file_comes_and_stays(hub: HubServer, tmp_path: Path, model: str, file: str) -> None:
    """The hub is not asked the second time."""
    first = located(hub, tmp_path, model)
    assert Path(first.stdout.strip()).read_bytes() == b"GGUF" + file.encode() * 99, first.stderr
    assert f"Downloading {file}" in first.stderr
    asked = len(hub.requests)
    assert located(hub, tmp_path, model).stdout == first.stdout
    assert len(hub.requests) == asked


def test_all_parts_of_a_split_file_come_into_one_folder(hub: HubServer, tmp_path: Path) -> None:
    path = Path(located(hub, tmp_path, f"{NAME}:Q8_0").stdout.strip())
    assert [other.name for other in sorted(path.parent.iterdir())] == [Path(part).name for part in PARTS]
    assert path.name == Path(PARTS[0]).name


def test_a_cache_with_one_part_alone_is_completed(hub: HubServer, tmp_path: Path) -> None:
    path = Path(located(hub, tmp_path, f"{NAME}:Q8_0").stdout.strip())
    path.with_name(Path(PARTS[1]).name).unlink()
    assert Path(located(hub, tmp_path, f"{NAME}:Q8_0").stdout.strip()).with_name(Path(PARTS[1]).name).is_file()


def test_without_a_network_the_cache_serves(hub: HubServer, tmp_path: Path) -> None:
    """The cache is also used if the hub's list of files was needed to choose the default."""
    del hub.files[f"{NAME}/Tiny-Q4_K_M.gguf"]
    first = located(hub, tmp_path, NAME).stdout
    assert Path(first.strip()).name == Path(PARTS[0]).name
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        again = located(None, tmp_path, NAME, **environment)
        assert again.stdout == first
        assert "cannot reach the hub; using" in again.stderr


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (f"{NAME}:Q5_K_M", "no file has 'Q5_K_M' in its name; choose one of Tiny-Q4_K_M.gguf, "),
        ("nobody/nothing", "nobody/nothing does not exist or cannot be read without a token (HTTP 401); check the"),
        ("a--b/c", "a--b/c is not a valid repository name; check the name"),
        ("base/model", "base/model: there is no GGUF model in this repository"),
    ],
)
def test_what_is_not_there_is_one_line(hub: HubServer, tmp_path: Path, model: str, message: str) -> None:
    hub.files["base/model/model.safetensors"] = HostedFile(b"x")
    done = located(hub, tmp_path, model)
    assert done.returncode == 1
    assert message in done.stderr
    assert ("and there is no file or folder" in done.stderr) == (":" not in model)
    assert len(done.stderr.splitlines()) == 1


SIBLINGS = b'{"id": "a/b", "siblings": %s}'


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (
            b"<html>Welcome to Hotel Wi-Fi, please log in</html>",
            "does not answer like a hub; check the network (does it ask for a login?)",
        ),
        (b"", "like a hub; check"),
        (b"null", "like a hub; check"),
        (b"[" * 100_000, "like a hub; check"),
        (SIBLINGS % b'["a.gguf"]', "like a hub; check"),
        (SIBLINGS % b"5", "like a hub; check"),
        (b'{"id": "a/b", "createdAt": 5, "siblings": []}', "like a hub; check"),
        (SIBLINGS % b'[{"rfilename": 5}, {"rfilename": "\\ud800.gguf"}]', "there is no GGUF model in this"),
        (SIBLINGS % b'[{"rfilename": "x/../../../y.gguf"}]', "there is no GGUF model in this"),
        (SIBLINGS % b'[{"rfilename": "m-00001-of-00000.gguf"}]', "m-00001-of-00000.gguf is not offered"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_an_answer_that_is_no_list_of_files_is_one_line(
    hub: HubServer, tmp_path: Path, listing: bytes, message: str
) -> None:
    hub.listing = listing
    done = located(hub, tmp_path, NAME)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("commit", ["../../../../evil", "main", "\x1b[2J"])
def test_a_commit_that_is_none_names_no_folder(hub: HubServer, tmp_path: Path, commit: str) -> None:
    hub.commit = commit
    done = located(hub, tmp_path / "home", NAME)
    assert "does not answer like a hub, with a commit" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_of_no_bytes_is_none(hub: HubServer, tmp_path: Path) -> None:
    hub.files[f"{NAME}/Tiny-Q4_K_M.gguf"] = HostedFile(b"")
    assert "does not answer like a hub, with a commit" in located(hub, tmp_path, NAME).stderr


def test_no_network_and_no_cache_is_one_line(tmp_path: Path) -> None:
    done = located(None, tmp_path, NAME)
    assert done.returncode == 1
    assert f"cannot reach http://127.0.0.1:9 for {NAME}" in done.stderr
    assert "HF_HUB_OFFLINE prevents" in located(None, tmp_path, NAME, HF_HUB_OFFLINE="1").stderr


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        ("ftp://127.0.0.1:9", "cannot use the proxy from the environment (Unknown scheme"),
        ("socks5://127.0.0.1:9", "cannot "),  # if the package for SOCKS is installed, nothing answers
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_line(hub: HubServer, tmp_path: Path, proxy: str, message: str) -> None:
    """A cached file can still be used."""
    done = located(hub, tmp_path, NAME, HTTP_PROXY=proxy, http_proxy=proxy, NO_PROXY="", no_proxy="")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1
    assert hub.requests == []
    first = located(hub, tmp_path, f"{NAME}:Q4_K_S").stdout
    again = located(hub, tmp_path, f"{NAME}:Q4_K_S", HTTP_PROXY=proxy, http_proxy=proxy, NO_PROXY="", no_proxy="")
    assert (again.returncode, again.stdout) == (0, first)


def test_a_repository_is_its_own_kind(tmp_path: Path) -> None:
    """Reading a name does not import a network library."""
    code = (
        "import sys; from llama3_models.hub.locate import read_name; read_name('org/repo'); "
        "assert 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_str_spells_it_again() -> None:
    assert str(repository.parse("hf.co/org/repo:Q4_K_M")) == "org/repo:Q4_K_M"
