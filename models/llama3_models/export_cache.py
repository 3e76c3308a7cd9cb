"""Where the exports of GGUFs that are run directly are kept, and how an entry lies there.

An entry belongs to one model and one kind of export. It is a folder `exports/NAME-DIGEST/` with the export in `onnx/`,
a record of the model's files in `source.json`, whose time is that of the last use, and a lock.
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
_MAX_STEM_BYTES: Final = 100  # of 255 that a name may have
_MAX_ATTEMPTS: Final = 100


class EntryInUseError(Llama3Error):
    """Another process holds the lock of an entry."""


@dataclass(frozen=True)
class Entry:
    """The folder of one model's export of one kind, be it there or not."""

    folder: Path

    @classmethod
    def of(cls, source: Path, kind: str) -> Entry:
        """The entry of a model by its resolved path, and of a kind of export.

        Raises:
            Llama3Error: there is no folder for the cache.
        """
        digest = hashlib.sha256(os.fsencode(source) + os.fsencode(kind)).hexdigest()[:_DIGEST_LETTERS]
        # Bytes are cut, since names are limited by them, and what is not UTF-8 is left out: ONNX Runtime opens no such
        # path.
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
        """A record that is being written."""
        return self.folder / "source.tmp"

    @property
    def lock(self) -> Path:
        """The file that carries the lock."""
        return self.folder / "lock"

    def read_record(self) -> Record:
        """The record, empty where there is none or a damaged one."""
        try:
            content = json.loads(read_regular(self.record_path))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def write_record(self, record: Record) -> None:
        """Replace the record.

        Raises:
            OSError: the system refuses.
        """
        self.unfinished_record.unlink(missing_ok=True)
        try:
            with self.unfinished_record.open("x", encoding="utf-8") as file:  # no link that has come since is followed
                json.dump(record, file)
            self.unfinished_record.replace(self.record_path)
        except BaseException:
            self.unfinished_record.unlink(missing_ok=True)
            raise

    def note_use(self) -> None:
        """Make now the time of the last use, where the cache can be written."""
        with contextlib.suppress(OSError):
            os.utime(self.record_path, follow_symlinks=False)

    def file_sizes(self) -> dict[str, int] | None:
        """The bytes of the export's files by their names: a whole export is told from a damaged one by them.

        Raises:
            OSError: the system refuses.
        """
        return {path.name: path.lstat().st_size for path in self.export.iterdir()} if self.export.is_dir() else None

    def refuse_links(self) -> None:
        """An entry is the cache's own: through a link it would read, write and remove what belongs to somebody else.

        Raises:
            Llama3Error: one of its folders is a link.
        """
        for folder in (self.folder, self.export):
            if folder.is_symlink():
                raise Llama3Error(
                    f"{folder}: a link, where the cache of exports keeps a folder of its own; remove the link, or set "
                    "LLAMA3_CACHE to another folder"
                )

    @contextlib.contextmanager
    def locked(self, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the entry's lock, which the system releases whatever becomes of the process, and make its folder first.

        An entry that is empty afterwards is gone, and so are the folders that were made for it.

        Args:
            on_wait: Called before waiting for another process; None not to wait.

        Raises:
            EntryInUseError: another process holds the lock, and it is not to be waited for.
            OSError: the system refuses.
        """
        descriptor, made = self._open_locked(on_wait)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self._remove_empty(made)
            os.close(descriptor)

    def _open_locked(self, on_wait: Callable[[], None] | None) -> tuple[int, list[Path]]:
        """The descriptor of the lock, and the folders above the entry that were made."""
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
            os.close(descriptor)  # whoever had the lock has removed the entry
        raise EntryInUseError(f"{self.folder}: other processes go on removing it; try again")

    def _take(self, descriptor: int, on_wait: Callable[[], None] | None) -> None:
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is None:
                    raise EntryInUseError(f"{self.folder}: another process is using it; try again later") from None
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # NFS and others without a lock server: ENOLCK, EOPNOTSUPP, EINVAL, ENOSYS
            logger.warning(
                "%s: its file system has no locks (%s); do not export one model twice at the same time",
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
    """Remove those that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def cache_root() -> Path:
    """The cache's folder: $LLAMA3_CACHE, or llama3-onnx in the user's cache folder.

    Raises:
        Llama3Error: there is neither, because the user has no home.
    """
    if own := os.environ.get("LLAMA3_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        # A relative one is to be ignored, says the XDG Base Directory Specification.
        return (Path(shared) if shared and Path(shared).is_absolute() else Path.home() / ".cache") / "llama3-onnx"
    except RuntimeError:
        raise Llama3Error("no home folder to keep exports in; set LLAMA3_CACHE to a folder") from None


def entries_folder() -> Path:
    """The folder of the entries.

    Raises:
        Llama3Error: there is no folder for the cache.
    """
    return cache_root() / "exports"


def entries() -> list[Entry]:
    """Every entry, by name. What lies among them and is not called as an entry, or is a link, is left out.

    Raises:
        Llama3Error: there is no folder for the cache.
        OSError: the system refuses.
    """
    folder = entries_folder()
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return [Entry(path) for path in sorted(found) if path.is_dir() and not path.is_symlink()]


def described(parts: Sequence[Path]) -> list[list[object]]:
    """What tells cheaply that a model's files are the same.

    The change time is among it, which cannot be set back, as the modification time can.

    Raises:
        OSError: one cannot be looked at.
    """
    found: list[list[object]] = []
    for path in parts:
        status = path.stat()
        found.append([str(path.resolve()), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns])
    return found
