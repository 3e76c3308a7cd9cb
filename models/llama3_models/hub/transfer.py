"""Downloads from the Hugging Face Hub into its cache, complete and verified.

huggingface_hub makes the requests (with its HF_ENDPOINT, HF_TOKEN and HF_HOME), and files go into its cache, where
other tools also find them. We add two things for files of several GB. If a download breaks or is interrupted, the part
so far is kept and the next attempt resumes there (huggingface_hub 2 starts again). And a file enters the cache only
after its SHA-256 has been compared with the hub's (huggingface_hub compares sizes). So a file is hashed once, when it
arrives, and never at startup.

Downloads use plain HTTP, which the hub offers for every file below 50 GB, including those stored in Xet.
"""

import contextlib
import errno
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_session, get_token, hf_hub_download, hf_hub_url

# HTTPError is the base class of httpx or httpx2: huggingface_hub 1 uses the first, 2 the second.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from llama3_models.digests import sha256
from llama3_models.errors import Llama3Error
from llama3_models.hub.catalogue import INSTEAD, Source
from llama3_models.terminal import notice, shell_word, visible
from llama3_models.units import format_bytes

logger = logging.getLogger(__name__)

# Seconds before each retry if the hub is overloaded or a transfer broke. A transfer that made progress since its last
# attempt starts with the first delay again.
RETRY_DELAYS = (1.0, 2.0, 4.0, 8.0)
_TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})

# Ctrl-C before this share of a file has arrived removes the part: the download was probably a mistake.
_SHARE_TO_KEEP = 0.1

T = TypeVar("T")


class SourceRefusedError(Exception):
    """This source does not offer the file, but another one may; the message says which file and why."""

    def __init__(self, reason: str, needs_token: bool = False) -> None:
        super().__init__(reason)
        self.needs_token = needs_token


class HubUnreachableError(Llama3Error):
    """The hub does not answer, or must not be asked; a cached file may do instead."""


@dataclass(frozen=True)
class _RemoteFile:
    """The hub's description of a file; `size` is in bytes."""

    source: Source
    commit: str
    sha256: str
    size: int


def download(source: Source) -> Path:
    """Download a file into the cache and return its path there.

    Raises:
        SourceRefusedError: this source does not offer the file; another one may.
        Llama3Error: no source would help: no network, no room, a cache that cannot be written.
    """
    with _in_one_line(str(source)):
        _bring_into_cache(_ask(source))
        # The blob is already in the cache, so this only makes the links to it.
        with _as_a_hub():
            return Path(hf_hub_download(source.repository, source.file))


def list_files(repository: str) -> list[str]:
    """List the paths of all files of a repository.

    Raises:
        SourceRefusedError: the repository does not exist, or this user may not read it.
        Llama3Error: the hub cannot be reached.
    """
    if constants.HF_HUB_OFFLINE:
        raise HubUnreachableError(
            f"{repository}: not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE prevents asking "
            f"the hub; unset it, or use {INSTEAD}"
        )
    with _in_one_line(repository):
        info = _patiently(lambda: HfApi().model_info(repository, timeout=constants.HF_HUB_ETAG_TIMEOUT))
        return [file.rfilename for file in info.siblings or () if _is_name(file.rfilename)]


@contextlib.contextmanager
def _in_one_line(source: str) -> Iterator[None]:
    """Turn the exceptions of huggingface_hub into one-line errors; `source` is the requested file or repository.

    Raises:
        SourceRefusedError: the problem is this source.
        Llama3Error: no other source would help.
    """
    _check_proxies()
    try:
        yield
    except HFValidationError as error:
        raise SourceRefusedError(f"{source} is not a valid repository name") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in _TRANSIENT_STATUSES:
            raise HubUnreachableError(
                f"{constants.ENDPOINT} is overloaded or down (HTTP {status} for {source}); "
                f"try again later (the part downloaded so far is kept), or use {INSTEAD}"
            ) from error
        if isinstance(error, GatedRepoError) or status in (401, 403):
            # Without permission, the hub does not say whether a repository exists.
            unsure = isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
            refused = "does not exist or cannot be read" if unsure else "cannot be read"
            how = "with your token" if get_token() else "without a token"
            raise SourceRefusedError(f"{source} {refused} {how} (HTTP {status})", needs_token=True) from error
        raise SourceRefusedError(f"{source} is not offered by the hub (HTTP {status})") from error
    except (HTTPError, LocalEntryNotFoundError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HubUnreachableError(
            f"cannot reach {constants.ENDPOINT} for {source} ({reason}); check the network and try again "
            f"(the part downloaded so far is kept), or use {INSTEAD}"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(source, "the disk is full") from error
        reason = error.strerror or " ".join(str(error).split())
        raise Llama3Error(
            f"cannot write {source} to the cache {constants.HF_HUB_CACHE} ({reason}); set HF_HOME to a writable folder"
        ) from error


def _check_proxies() -> None:
    """Create huggingface_hub's client, which uses the proxies from the environment.

    Raises:
        HubUnreachableError: it cannot use them.
    """
    try:
        get_session()
    except (ImportError, ValueError) as error:  # SOCKS needs a package; a scheme may be unknown
        raise HubUnreachableError(
            f"cannot use the proxy from the environment ({' '.join(str(error).split())}); unset or correct HTTP_PROXY, "
            f"HTTPS_PROXY and ALL_PROXY, or use {INSTEAD}"
        ) from error


def _is_name(name: object) -> bool:
    """Return whether a file name from the hub is valid."""
    return isinstance(name, str) and "\0" not in name and not re.search("[\ud800-\udfff]", name)


def _ask(source: Source) -> _RemoteFile:
    url = hf_hub_url(source.repository, source.file)
    metadata = _patiently(lambda: get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT))
    commit, etag, size = metadata.commit_hash, metadata.etag, metadata.size
    # The SHA-256 becomes a file name and the commit a folder name, so nothing else is accepted.
    is_named = re.fullmatch("[0-9a-f]{64}", etag or "") and re.fullmatch("[0-9a-f]{40}", commit or "")
    if commit is None or etag is None or size is None or size < 1 or not is_named:
        raise SourceRefusedError(f"{url} does not answer like a hub, with a commit, a SHA-256 and a size")
    return _RemoteFile(source, commit, etag, size)


def _patiently(ask: Callable[[], T]) -> T:
    """Ask the hub, and retry after each delay while it is overloaded."""
    for delay in RETRY_DELAYS:
        try:
            with _as_a_hub():
                return ask()
        except HfHubHTTPError as error:
            if error.response.status_code not in _TRANSIENT_STATUSES:
                raise
            time.sleep(delay)
    with _as_a_hub():
        return ask()


@contextlib.contextmanager
def _as_a_hub() -> Iterator[None]:
    """Turn huggingface_hub's exceptions for an answer that is not a hub's, such as a login page, into one line.

    Raises:
        HubUnreachableError: the answer is not a hub's.
    """
    try:
        yield
    except HFValidationError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise HubUnreachableError(
            f"{constants.ENDPOINT} does not answer like a hub; check the network (does it ask for a login?) and "
            f"HF_ENDPOINT, or use {INSTEAD}"
        ) from error


def _bring_into_cache(file: _RemoteFile) -> None:
    """Download a file's blob, resuming an earlier attempt, and verify it.

    A second process that needs the same file waits for the first one at huggingface_hub's lock.
    """
    cache = Path(constants.HF_HUB_CACHE)
    folder = repo_folder_name(repo_id=file.source.repository, repo_type="model")
    blob = cache / folder / "blobs" / file.sha256
    partial = blob.with_name(f"{file.sha256}.llama3-onnx.incomplete")
    lock = cache / ".locks" / folder / f"{file.sha256}.lock"
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        missing, free = file.size - _size(partial), shutil.disk_usage(blob.parent).free
        if missing > free:
            raise _no_room(str(file.source), f"it needs {format_bytes(missing)}, but only {format_bytes(free)} is free")
        notice(
            f"Downloading {file.source.file} ({format_bytes(file.size)}{_begun(partial)}) from "
            f"{constants.ENDPOINT}/{file.source.repository} to {cache}; press Ctrl-C to stop"
        )
        try:
            _transfer(file, partial)
        except KeyboardInterrupt:
            _after_interrupt(file, partial)
            raise
        came, digest = _size(partial), sha256(partial)
        if digest != file.sha256:
            partial.unlink()
            raise SourceRefusedError(
                f"{file.source} arrived with wrong content ({came:,} of {file.size:,} bytes, "
                f"SHA-256 {digest[:12]}... instead of {file.sha256[:12]}...) and was removed"
            )
        partial.replace(blob)


def _begun(partial: Path) -> str:
    size = _size(partial)
    return f", {format_bytes(size)} already downloaded" if size else ""


def _after_interrupt(file: _RemoteFile, partial: Path) -> None:
    """Say where an unfinished download is kept, or remove a short one together with its empty folders."""
    size = _size(partial)
    if size >= file.size * _SHARE_TO_KEEP:
        notice("")
        notice(
            f"Kept {format_bytes(size)} of {format_bytes(file.size)}; the next download resumes there. "
            f"To remove it: rm {shell_word(str(partial))}"
        )
        return
    partial.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty: another file of the repository is there
        partial.parent.rmdir()
        partial.parent.parent.rmdir()


def _transfer(file: _RemoteFile, partial: Path) -> None:
    """Append the missing bytes to `partial`; give up when too many attempts in a row make no progress."""
    # The hub's URL, not that of the storage that it redirects to: storage URLs expire.
    url = hf_hub_url(file.source.repository, file.source.file, revision=file.commit)
    failures = 0
    while (start := _size(partial)) < file.size:
        try:
            with partial.open("ab") as output:
                headers = build_hf_headers()
                name = visible(file.source.file)
                with _as_a_hub():
                    http_get(url, output, resume_size=start, headers=headers, displayed_filename=name)
        except HTTPError as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in _TRANSIENT_STATUSES:
                raise
            failures = failures + 1 if _size(partial) == start else 1
            if failures > len(RETRY_DELAYS):
                raise
            logger.debug("%s broke off after %d bytes: %s", url, _size(partial), error)
            time.sleep(RETRY_DELAYS[failures - 1])
        else:
            return


def _no_room(source: str, why: str) -> Llama3Error:
    return Llama3Error(
        f"no room for {source} in {constants.HF_HUB_CACHE}: {why}; "
        "free some space, or set HF_HOME to a folder on another disk"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
