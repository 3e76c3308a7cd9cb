"""The export folder: it appears whole or not at all, and replaces nothing that is not ours.

What is removed is removed by the names that exports give. A manifest only adds to these what its file proves to be: a
line in it would else delete whatever it names.

The weights, gigabytes of them, are written to a file without a name: whatever ends the export, be it `kill -9`, the
kernel takes the space back. Only when all is written does the file get a name, in a hidden folder beside the output,
which then takes the output's place in one step. What a killed export leaves there, the next one removes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from llama3_custom_ops import LIBRARY
from llama3_models.digests import fingerprint
from llama3_models.errors import Llama3Error
from llama3_models.exports import GRAPH, MANIFEST, WEIGHTS
from llama3_models.gguf.file_kinds import MAGIC
from llama3_models.manifest import Manifest, NewerExportError, NotAnExportError, Part
from llama3_models.units import format_bytes

logger = logging.getLogger(__name__)

_NAMES = frozenset(
    {
        GRAPH,
        WEIGHTS,
        MANIFEST,
        "config.json",
        "generation_config.json",
        "genai_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.onnx",
        "detokenizer.onnx",
        LIBRARY,
    }
)
_SHARD = re.compile(rf"{re.escape(WEIGHTS)}_[0-9]+")

# How everything is called that has no place yet, with the letters that `tempfile` adds. Who is still at work on it
# holds a lock.
_UNFINISHED = ".llama3-export-"
_SINGLE = "unfinished"  # a file that is to be no part of a folder
_LEFTOVER = re.compile(rf"{re.escape(_UNFINISHED)}[a-z0-9_]{{8}}")

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# <fcntl.h>, <linux/fs.h>
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

Content = bytes | Callable[[Path], None]
"""Of a file in the folder: its bytes, or what makes it at a path."""


class OutputError(Llama3Error):
    """An output that cannot be written, or must not be replaced.

    Args:
        problem: Where, and what is wrong.
        remedy: What would help there; None if nothing does but another output.
        other: How to choose another output.
    """

    def __init__(self, problem: str, remedy: str | None = None, other: str = "give another --output") -> None:
        super().__init__(f"{problem}; {other if remedy is None else f'{remedy}, or {other}'}")
        self._problem = problem
        self._remedy = remedy

    def advising(self, other: str) -> OutputError:
        """The same with other advice, for a command that has no such option."""
        return OutputError(self._problem, self._remedy, other)


def check_output(output: Path, *, force: bool) -> None:
    """Refuse an output that cannot be written or must not be replaced.

    Raises:
        Llama3Error: something is there already that `force` does not cover, or the place cannot be written.
    """
    with writing(output):
        if output.exists() or output.is_symlink():
            if not output.is_dir():
                raise OutputError(f"{output}: there is a file of that name")
            if any(output.iterdir()):
                _check_replaceable(output, force=force)
        anchor = _anchor(output)
        if not anchor.is_dir():
            raise OutputError(f"{anchor}: not a folder, so that {output} cannot be made in it")
        if not os.access(anchor, os.W_OK | os.X_OK):
            raise OutputError(f"{anchor}: no permission to write there")


def _check_replaceable(output: Path, *, force: bool) -> None:
    try:
        manifest = Manifest.of_folder(output)
    except NotAnExportError:
        raise OutputError(f"{output}: this folder was not written by llama3-export") from None
    except NewerExportError as error:
        raise OutputError(f"{output}: a newer llama3-onnx wrote this export") from error
    if strangers := _strangers(output, _gguf_of(manifest)):
        raise _holds(output, strangers)
    if not force:
        raise Llama3Error(f"{output}: there is an export already; --force replaces it")


def _holds(output: Path, strangers: Sequence[str]) -> OutputError:
    return OutputError(f"{output}: holds {strangers[0]}, which no export wrote")


def _gguf_of(manifest: Manifest) -> dict[str, Part]:
    return {part.name: part for part in manifest.source.parts}


def _strangers(folder: Path, gguf: Mapping[str, Part] | None = None) -> list[str]:
    """What is in `folder` that no export wrote.

    Args:
        folder: An export, or what a killed one left.
        gguf: The GGUF's files by their names, as the manifest has them; None where any GGUF may be, whole or not.
    """
    return sorted(path.name for path in folder.iterdir() if not _is_written(path, gguf))


def _is_written(path: Path, gguf: Mapping[str, Part] | None) -> bool:
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    if path.name in _NAMES or _SHARD.fullmatch(path.name):
        return True
    if gguf is None:
        if path.name == _SINGLE:
            return True
        with path.open("rb") as file:
            return file.read(len(MAGIC)) in (MAGIC, b"")  # of a copy that had just begun
    part = gguf.get(path.name)
    return part is not None and part.fingerprint is not None and part.fingerprint == fingerprint(path)


def remove_export(folder: Path) -> None:
    """Remove an export of which some files may be missing, but nothing that no export wrote.

    Raises:
        Llama3Error: there is something else in it.
        OSError: the system refuses, or it is a link to a folder.
    """
    with suppress(FileNotFoundError):
        remove_leftovers(folder)
        if strangers := _strangers(folder):
            raise Llama3Error(f"{folder}: holds {strangers[0]}, which no export wrote; move it elsewhere")
        _remove_written(folder)


def _remove_written(folder: Path, gguf: Mapping[str, Part] | None = None) -> None:
    """Remove the files of a folder in which no stranger was seen, and the folder, unless one has come since."""
    # By a descriptor, which pathlib does not list: another folder may have the name by now.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for name in os.listdir(descriptor):  # noqa: PTH208
            if _is_written(folder / name, gguf):
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    folder.rmdir()


@contextmanager
def writing(output: Path, option: str = "--output") -> Iterator[None]:
    """Turn what the system refuses meanwhile into one line, which advises another value of `option`.

    Raises:
        Llama3Error: for an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise OutputError(f"{output}: the disk got full", "free some space", f"give another {option}") from error
        raise OutputError(
            f"{output}: cannot be written ({error.strerror or error})", other=f"give another {option}"
        ) from error


class UnnamedFile:
    """A file with a descriptor but, until `publish`, without a name (a hidden one where the file system wants one)."""

    def __init__(self, descriptor: int, path: Path | None) -> None:
        self.descriptor = descriptor
        self._path = path

    def publish(self, path: Path) -> None:
        """Give the file the name `path`, on the same file system."""
        os.fchmod(self.descriptor, 0o666 & ~_umask())
        if self._path is not None:
            self._path.rename(path)
            self._path = None
        else:
            # A directory's descriptor, though unused with an absolute source, makes Python follow the link in /proc.
            parent = os.open(path.parent, os.O_RDONLY)
            try:
                os.link(f"/proc/self/fd/{self.descriptor}", path, src_dir_fd=parent)
            finally:
                os.close(parent)

    def discard(self) -> None:
        """Close the file; without a published name it is gone."""
        os.close(self.descriptor)
        if self._path is not None:
            self._path.unlink(missing_ok=True)


@contextmanager
def unnamed_file(output: Path, size: int) -> Iterator[UnnamedFile]:
    """A file of up to `size` bytes on the file system where `output` will be.

    Raises:
        Llama3Error: the disk has no room for it, or refuses to be written meanwhile.
    """
    with writing(output):
        anchor = _anchor(output)
        free = shutil.disk_usage(anchor).free
        if size > free:
            raise OutputError(
                f"{anchor}: the export takes {format_bytes(size)} and {format_bytes(free)} are free there",
                "free some space",
            )
        remove_leftovers(anchor)
        file = _open_unnamed(anchor)
        try:
            yield file
        finally:
            file.discard()


def _open_unnamed(folder: Path) -> UnnamedFile:
    try:
        return UnnamedFile(os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o666), None)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            raise
    while True:
        descriptor, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=folder)
        if _claimed(descriptor, Path(name)):
            return UnnamedFile(descriptor, Path(name))
        os.close(descriptor)


def publish_folder(output: Path, files: Mapping[str, Content], *, force: bool) -> None:
    """Make `output` of `files` (name to content), in the place of an earlier export or an empty folder.

    Raises:
        Llama3Error: something is there that must not be replaced, or the system refuses.
    """
    with writing(output):
        output = _resolved(output)  # of a link to a folder, the folder is replaced and the link stays
        remove_leftovers(_anchor(output))
        with _made_parents(output), _staging_folder(output.parent) as staging:
            for name, content in files.items():
                if isinstance(content, bytes):
                    (staging / name).write_bytes(content)
                else:
                    content(staging / name)
            staging.chmod(0o777 & ~_umask())
            check_output(output, force=force)  # once more: somebody may have come first
            _replace(output, staging)


@contextmanager
def _made_parents(output: Path) -> Iterator[None]:
    """Make the folders above `output`, and remove them again if it does not come to be."""
    made: list[Path] = []
    try:
        for parent in reversed(output.parents):
            if not parent.is_dir():
                parent.mkdir(exist_ok=True)
                made.append(parent)
        yield
    except BaseException:
        with suppress(OSError):  # somebody may have put something in
            for parent in reversed(made):
                parent.rmdir()
        raise


def publish_file(path: Path, content: bytes, option: str = "--output") -> None:
    """Make the file `path`, or put it in the place of an earlier one.

    Raises:
        Llama3Error: the system refuses.
    """
    with writing(path, option):
        remove_leftovers(path.parent)
        with _staging_folder(path.parent) as staging:
            (staging / _SINGLE).write_bytes(content)
            (staging / _SINGLE).replace(path)


@contextmanager
def _staging_folder(parent: Path) -> Iterator[Path]:
    """A hidden folder that is gone afterwards, unless it became something else."""
    while True:
        staging = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=parent))
        try:
            descriptor = os.open(staging, os.O_RDONLY)
        except OSError:
            staging.rmdir()
            raise
        if _claimed(descriptor, staging):
            break
        os.close(descriptor)
    try:
        yield staging
    finally:
        with suppress(OSError):
            if os.path.samestat(staging.lstat(), os.fstat(descriptor)):
                shutil.rmtree(staging)
        os.close(descriptor)


def _claimed(descriptor: int, path: Path) -> bool:
    """Lock what was just made; false if another export took it for a leftover in between."""
    with suppress(OSError):  # where there are no locks, nothing is taken for a leftover
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return path.exists()


def remove_leftovers(folder: Path) -> None:
    """Remove what exports left that were killed: nobody holds a lock on it, and nobody put something in."""
    for path in folder.iterdir():
        if not _LEFTOVER.fullmatch(path.name):
            continue
        with suppress(OSError):  # still in use, a link, or somebody else's
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mode = os.fstat(descriptor).st_mode
                if stat.S_ISREG(mode) and stat.S_IMODE(mode) == 0o600:  # as tempfile makes them, and few others do
                    path.unlink()
                elif stat.S_ISDIR(mode) and not _strangers(path):
                    _remove_written(path)
            finally:
                os.close(descriptor)


def _replace(output: Path, staging: Path) -> None:
    """Put `staging` in the place of `output`, and remove the export that was there.

    What was moved away is looked at again: until then, somebody may have put something in.
    """
    if not output.is_dir() or not any(output.iterdir()):
        staging.rename(output)
        return
    gguf = _gguf_of(Manifest.of_folder(output))
    if _exchange(output, staging):
        if strangers := _strangers(staging, gguf):
            _exchange(output, staging)
            raise _holds(output, strangers)
        _remove_replaced(staging, gguf)
        return
    with _staging_folder(output.parent) as aside:
        output.rename(aside)
        try:
            if strangers := _strangers(aside, gguf):
                raise _holds(output, strangers)
            staging.rename(output)
        except (OSError, Llama3Error):
            aside.rename(output)
            raise
        _remove_replaced(aside, gguf)


def _remove_replaced(folder: Path, gguf: Mapping[str, Part]) -> None:
    """Remove an export that another one has replaced, which is done by then and no error any more."""
    try:
        _remove_written(folder, gguf)
    except (OSError, Llama3Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        logger.warning(
            "%s: the earlier export cannot be removed (%s); the next export to this place will try again",
            folder,
            reason,
        )


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; false where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    status: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return status == 0


def _anchor(output: Path) -> Path:
    """The nearest folder above `output` that exists."""
    return next(parent for parent in _resolved(output).parents if parent.exists())


def _resolved(output: Path) -> Path:
    try:
        return output.resolve()
    except RuntimeError:  # what Python before 3.13 says of links in a circle
        raise OutputError(f"{output}: its links lead in a circle") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
