"""The export folder: it appears whole or not at all, and replaces nothing that is not ours.

A file is removed only if its name is one that exports use, or if the manifest lists it and its fingerprint matches. A
line in a manifest alone never deletes anything.

The weights, gigabytes of them, are written to a file without a name: however the export ends, even by `kill -9`, the
kernel frees the space. The finished file gets a name in a hidden folder beside the output. That folder then replaces
the output in one step. If a killed export leaves such a folder, the next export removes it.
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
from llama3_models.exports import GRAPH, MANIFEST, WASM_GRAPH, WEB_FOLDER, WEB_WEIGHTS, WEBGPU_GRAPH, WEIGHTS
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
_IN_WEB_FOLDER = re.compile(
    "|".join(map(re.escape, (name.removeprefix(f"{WEB_FOLDER}/") for name in (WEBGPU_GRAPH, WASM_GRAPH))))
    + rf"|({'|'.join(map(re.escape, WEB_WEIGHTS.values()))})(_[0-9]+)?"
)

# The names of unfinished files and folders, with the letters that `tempfile` adds. A process that is still writing one
# holds a lock.
_UNFINISHED = ".llama3-export-"
_SINGLE = "unfinished"  # a file that will not be part of a folder
_LEFTOVER = re.compile(rf"{re.escape(_UNFINISHED)}[a-z0-9_]{{8}}")

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# <fcntl.h>, <linux/fs.h>
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

Content = bytes | Callable[[Path], None]
"""A file in the folder: its bytes, or a function that creates it at a path."""


class OutputError(Llama3Error):
    """An output that cannot be written, or must not be replaced.

    Args:
        problem: Where, and what is wrong.
        remedy: What would help; None if only another output would.
        other: How to choose another output.
    """

    def __init__(self, problem: str, remedy: str | None = None, other: str = "use another --output") -> None:
        super().__init__(f"{problem}; {other if remedy is None else f'{remedy}, or {other}'}")
        self._problem = problem
        self._remedy = remedy

    def advising(self, other: str) -> OutputError:
        """Return the same error with other advice, for a command without that option."""
        return OutputError(self._problem, self._remedy, other)


def check_output(output: Path, *, force: bool) -> None:
    """Refuse an output that cannot be written or must not be replaced.

    Raises:
        Llama3Error: the output exists and `force` does not allow replacing it, or the place is not writable.
    """
    with writing(output):
        if output.exists() or output.is_symlink():
            if not output.is_dir():
                raise OutputError(f"{output}: there is already a file with this name")
            if any(output.iterdir()):
                _check_replaceable(output, force=force)
        anchor = _anchor(output)
        if not anchor.is_dir():
            raise OutputError(f"{anchor}: not a folder, so {output} cannot be created in it")
        if not os.access(anchor, os.W_OK | os.X_OK):
            raise OutputError(f"{anchor}: no permission to write in this folder")


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
        raise Llama3Error(f"{output}: there is already an export; use --force to replace it")


def _holds(output: Path, strangers: Sequence[str]) -> OutputError:
    return OutputError(f"{output}: contains {strangers[0]}, which no export wrote")


def _gguf_of(manifest: Manifest) -> dict[str, Part]:
    return {part.name: part for part in manifest.source.parts}


def _strangers(folder: Path, gguf: Mapping[str, Part] | None = None) -> list[str]:
    """Return the names of files in `folder` that no export wrote.

    Args:
        folder: An export, or the leftovers of a killed one.
        gguf: The GGUF's files by name, as in the manifest; None to accept any GGUF, even an incomplete one.
    """
    strangers = []
    for path in folder.iterdir():
        if path.name == WEB_FOLDER and stat.S_ISDIR(path.lstat().st_mode):
            strangers += [f"{WEB_FOLDER}/{inside.name}" for inside in path.iterdir() if not _is_written_for_web(inside)]
        elif not _is_written(path, gguf):
            strangers.append(path.name)
    return sorted(strangers)


def _is_written_for_web(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode) and _IN_WEB_FOLDER.fullmatch(path.name) is not None


def _is_written(path: Path, gguf: Mapping[str, Part] | None) -> bool:
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    if path.name in _NAMES or _SHARD.fullmatch(path.name):
        return True
    if gguf is None:
        if path.name == _SINGLE:
            return True
        with path.open("rb") as file:
            return file.read(len(MAGIC)) in (MAGIC, b"")  # empty if the copy had only just begun
    part = gguf.get(path.name)
    return part is not None and part.fingerprint is not None and part.fingerprint == fingerprint(path)


def remove_export(folder: Path) -> None:
    """Remove an export, even an incomplete one, but nothing that no export wrote.

    Raises:
        Llama3Error: the folder contains something else.
        OSError: the system refuses, or the folder is a link.
    """
    with suppress(FileNotFoundError):
        remove_leftovers(folder)
        if strangers := _strangers(folder):
            raise Llama3Error(f"{folder}: contains {strangers[0]}, which no export wrote; move it elsewhere")
        _remove_written(folder)


def _remove_written(folder: Path, gguf: Mapping[str, Part] | None = None) -> None:
    """Remove the files that an export wrote, then the folder, which must be empty by then."""
    # By its descriptor, which pathlib cannot list: another folder may have the name by now.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for name in os.listdir(descriptor):  # noqa: PTH208
            if name == WEB_FOLDER and stat.S_ISDIR((folder / name).lstat().st_mode):
                _remove_web_folder(folder, descriptor)
            elif _is_written(folder / name, gguf):
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    folder.rmdir()


def _remove_web_folder(folder: Path, descriptor: int) -> None:
    """Remove the folder of an export for the web in `folder`, whose descriptor this is, if nothing else is in it."""
    inner = os.open(WEB_FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
    try:
        for name in os.listdir(inner):  # noqa: PTH208
            if _is_written_for_web(folder / WEB_FOLDER / name):
                os.unlink(name, dir_fd=inner)
    finally:
        os.close(inner)
    with suppress(OSError):
        os.rmdir(WEB_FOLDER, dir_fd=descriptor)


@contextmanager
def writing(output: Path, option: str = "--output") -> Iterator[None]:
    """Turn an error of the system in the block into one line that advises another value of `option`.

    Raises:
        Llama3Error: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise OutputError(f"{output}: the disk is full", "free some space", f"use another {option}") from error
        raise OutputError(
            f"{output}: cannot be written ({error.strerror or error})", other=f"use another {option}"
        ) from error


class UnnamedFile:
    """A file that has no name until `publish`, or a hidden name if the file system requires one."""

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
            # The descriptor is not used, as the source is absolute, but it makes Python follow the link in /proc.
            parent = os.open(path.parent, os.O_RDONLY)
            try:
                os.link(f"/proc/self/fd/{self.descriptor}", path, src_dir_fd=parent)
            finally:
                os.close(parent)

    def discard(self) -> None:
        """Close the file. If it was not published, it is deleted."""
        os.close(self.descriptor)
        if self._path is not None:
            self._path.unlink(missing_ok=True)


@contextmanager
def unnamed_file(output: Path, size: int) -> Iterator[UnnamedFile]:
    """Create a file of up to `size` bytes on the file system of `output`.

    Raises:
        Llama3Error: the disk does not have enough space, or cannot be written.
    """
    with writing(output):
        anchor = _anchor(output)
        free = shutil.disk_usage(anchor).free
        if size > free:
            raise OutputError(
                f"{anchor}: the export needs {format_bytes(size)}, but only {format_bytes(free)} is free",
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
    """Create `output` from `files` (name to content), replacing an earlier export or an empty folder.

    Raises:
        Llama3Error: the output must not be replaced, or cannot be written.
    """
    with writing(output):
        output = _resolved(output)  # if it is a link to a folder, the folder is replaced and the link stays
        remove_leftovers(_anchor(output))
        with _made_parents(output), _staging_folder(output.parent) as staging:
            for name, content in files.items():
                (staging / name).parent.mkdir(exist_ok=True)
                if isinstance(content, bytes):
                    (staging / name).write_bytes(content)
                else:
                    content(staging / name)
            staging.chmod(0o777 & ~_umask())
            check_output(output, force=force)  # again, because it may have changed
            _replace(output, staging)


@contextmanager
def _made_parents(output: Path) -> Iterator[None]:
    """Create the folders above `output`, and remove them again if the export fails."""
    made: list[Path] = []
    try:
        for parent in reversed(output.parents):
            if not parent.is_dir():
                parent.mkdir(exist_ok=True)
                made.append(parent)
        yield
    except BaseException:
        with suppress(OSError):  # another process may have put something into one
            for parent in reversed(made):
                parent.rmdir()
        raise


def publish_file(path: Path, content: bytes, option: str = "--output") -> None:
    """Create or replace the file `path`.

    Raises:
        Llama3Error: the file cannot be written.
    """
    with writing(path, option):
        remove_leftovers(path.parent)
        with _staging_folder(path.parent) as staging:
            (staging / _SINGLE).write_bytes(content)
            (staging / _SINGLE).replace(path)


@contextmanager
def _staging_folder(parent: Path) -> Iterator[Path]:
    """Create a hidden folder, and delete it afterwards if it is still there."""
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
    """Lock a new file or folder. Return false if another export has already removed it as a leftover."""
    with suppress(OSError):  # without locks, no leftovers are removed
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return path.exists()


def remove_leftovers(folder: Path) -> None:
    """Remove the leftovers of killed exports: those that are not locked and contain nothing else."""
    for path in folder.iterdir():
        if not _LEFTOVER.fullmatch(path.name):
            continue
        with suppress(OSError):  # still in use, a link, or another user's
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mode = os.fstat(descriptor).st_mode
                if stat.S_ISREG(mode) and stat.S_IMODE(mode) == 0o600:  # tempfile's mode
                    path.unlink()
                elif stat.S_ISDIR(mode) and not _strangers(path):
                    _remove_written(path)
            finally:
                os.close(descriptor)


def _replace(output: Path, staging: Path) -> None:
    """Move `staging` to `output`, and remove the export that was there.

    The old export is checked again once it is out of the way: another process may have put something into it.
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
    """Remove an export that was replaced. The new one is complete, so a failure is only a warning."""
    try:
        _remove_written(folder, gguf)
    except (OSError, Llama3Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        logger.warning(
            "%s: the earlier export cannot be removed (%s); the next export to the same place will try again",
            folder,
            reason,
        )


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step. Return false if the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    status: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return status == 0


def _anchor(output: Path) -> Path:
    """Return the nearest existing folder above `output`."""
    return next(parent for parent in _resolved(output).parents if parent.exists())


def _resolved(output: Path) -> Path:
    try:
        return output.resolve()
    except RuntimeError:  # raised for a loop of links before Python 3.13
        raise OutputError(f"{output}: its symbolic links form a loop") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
