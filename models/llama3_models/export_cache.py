"""The cache of exports: its folder and its entries, which are exports of GGUFs that were run directly.

An entry belongs to one model and one kind of export. It is a folder `exports/NAME-DIGEST/` with the export in `onnx/`,
a record of the model's files in `source.json`, and a lock. The record's modification time is the time of the last use.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from llama3_models.errors import Llama3Error
from llama3_models.regular_files import read_regular

logger = logging.getLogger(__name__)

Record: TypeAlias = dict[str, object]

_DIGEST_LETTERS: Final = 12
_NAME: Final = re.compile(rf".*-[0-9a-f]{{{_DIGEST_LETTERS}}}", re.DOTALL)
_MAX_STEM_BYTES: Final = 100  # a file name may have 255
_MAX_ATTEMPTS: Final = 100


class EntryInUseError(Llama3Error):
    """Another process has locked an entry."""


@dataclass(frozen=True)
class Entry:
    """The folder for one kind of export of one model; it may not exist yet."""

    folder: Path

    @classmethod
    def of(cls, source: Path, kind: str) -> Entry:
        """Return the entry for a model, by its resolved path, and a kind of export.

        Raises:
            Llama3Error: there is no folder for the cache.
        """
        digest = hashlib.sha256(os.fsencode(source) + os.fsencode(kind)).hexdigest()[:_DIGEST_LETTERS]
        # File names are limited in bytes. Bytes that are not UTF-8 are dropped, because ONNX Runtime cannot open such
        # paths.
        stem = os.fsencode(source.stem)[:_MAX_STEM_BYTES].decode("utf-8", "ignore")
        return cls(entries_folder() / f"{stem}-{digest}")

    @property
    def export(self) -> Path:
        """The export's folder."""
        return self.folder / "onnx"

    @property
    def record_path(self) -> Path:
        """The file of the record."""
        return self.folder / "source.json"

    @property
    def unfinished_record(self) -> Path:
        """The file of a record that is being written."""
        return self.folder / "source.tmp"

    @property
    def lock(self) -> Path:
        """The file that is locked."""
        return self.folder / "lock"

    def read_record(self) -> Record:
        """Return the record, empty if it is missing or damaged."""
        try:
            content = json.loads(read_regular(self.record_path))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def write_record(self, record: Record) -> None:
        """Replace the record.

        Raises:
            OSError: the record cannot be written.
        """
        self.unfinished_record.unlink(missing_ok=True)
        try:
            with self.unfinished_record.open("x", encoding="utf-8") as file:  # "x" does not follow a new link
                json.dump(record, file)
            self.unfinished_record.replace(self.record_path)
        except BaseException:
            self.unfinished_record.unlink(missing_ok=True)
            raise

    def note_use(self) -> None:
        """Set the time of the last use to now, if the cache can be written."""
        with contextlib.suppress(OSError):
            os.utime(self.record_path, follow_symlinks=False)

    def file_sizes(self) -> dict[str, int] | None:
        """Return the sizes of the export's files in bytes by name; they tell a complete export from a damaged one.

        Raises:
            OSError: the folder cannot be read.
        """
        return {path.name: path.lstat().st_size for path in self.export.iterdir()} if self.export.is_dir() else None

    def refuse_links(self) -> None:
        """Check that no folder is a link, through which the cache would read, write and remove somebody else's files.

        Raises:
            Llama3Error: one of the folders is a link.
        """
        for folder in (self.folder, self.export):
            if folder.is_symlink():
                raise Llama3Error(
                    f"{folder}: is a link, but the cache of exports needs a folder here; remove the link, or set "
                    "LLAMA3_CACHE to another folder"
                )

    @contextlib.contextmanager
    def locked(self, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Create the entry's folder and hold its lock; the system releases the lock even if the process is killed.

        An entry that is empty afterwards is removed, with the folders that were created for it.

        Args:
            on_wait: Called before waiting for another process; None means not to wait.

        Raises:
            EntryInUseError: another process has the lock, and `on_wait` is None.
            OSError: the folder or the lock cannot be created.
        """
        descriptor, made = self._open_locked(on_wait)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self._remove_empty(made)
            os.close(descriptor)

    def _open_locked(self, on_wait: Callable[[], None] | None) -> tuple[int, list[Path]]:
        """Return the descriptor of the lock, and the folders above the entry that were created."""
        for attempt in range(_MAX_ATTEMPTS):
            made = [folder for folder in self.folder.parents if not folder.exists()]
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            except OSError as error:
                _remove_folders([self.folder, *made])
                if not isinstance(error, FileNotFoundError) or attempt == _MAX_ATTEMPTS - 1:
                    raise
                continue  # the folder was removed in between
            try:
                self._take(descriptor, on_wait)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), self.lock.lstat()):
                        return descriptor, made
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # the process that had the lock has removed the entry
        raise EntryInUseError(f"{self.folder}: other processes keep removing it; try again")

    def _take(self, descriptor: int, on_wait: Callable[[], None] | None) -> None:
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is None:
                    raise EntryInUseError(f"{self.folder}: another process is using it; try again later") from None
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # NFS and other file systems without locks: ENOLCK, EOPNOTSUPP, EINVAL, ENOSYS
            logger.warning(
                "%s: the file system has no locks (%s); do not export the same model twice at the same time",
                self.folder,
                error.strerror,
            )

    def _remove_empty(self, made: Sequence[Path]) -> None:
        if self.export.is_dir() and not self.export.is_symlink():
            with contextlib.suppress(OSError):
                self.export.rmdir()
        if {path.name for path in self.folder.iterdir()} == {self.lock.name}:
            self.lock.unlink()
            _remove_folders([self.folder, *made])


def _remove_folders(folders: Sequence[Path]) -> None:
    """Remove the folders that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def cache_root() -> Path:
    """Return the cache's folder: $LLAMA3_CACHE, or llama3-onnx in the user's cache folder.

    Raises:
        Llama3Error: $LLAMA3_CACHE is not set, and the user has no home folder.
    """
    if own := os.environ.get("LLAMA3_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        # The XDG Base Directory Specification says to ignore a relative path.
        return (Path(shared) if shared and Path(shared).is_absolute() else Path.home() / ".cache") / "llama3-onnx"
    except RuntimeError:
        raise Llama3Error("no home folder for the cache of exports; set LLAMA3_CACHE to a folder") from None


def entries_folder() -> Path:
    """Return the folder of the entries.

    Raises:
        Llama3Error: there is no folder for the cache.
    """
    return cache_root() / "exports"


def entries() -> list[Entry]:
    """Return all entries, sorted by name, without links and anything that is not named like an entry.

    Raises:
        Llama3Error: there is no folder for the cache.
        OSError: the folder cannot be read.
    """
    folder = entries_folder()
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return [Entry(path) for path in sorted(found) if path.is_dir() and not path.is_symlink()]


def described(parts: Sequence[Path]) -> list[list[object]]:
    """Return facts that show cheaply whether a model's files are still the same.

    They include the change time: unlike the modification time, it cannot be set back.

    Raises:
        OSError: a file cannot be examined.
    """
    found: list[list[object]] = []
    for path in parts:
        status = path.stat()
        found.append([str(path.resolve()), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns])
    return found
