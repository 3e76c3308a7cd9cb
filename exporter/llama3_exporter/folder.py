"""The export folder: it appears whole or not at all, and replaces nothing that is not ours.

The weights, gigabytes of them, are written to a file without a name: whatever ends the export, be it `kill -9`, the
kernel takes the space back. Only when all is written does the file get a name, in a folder that is then renamed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llama3_models.errors import Llama3Error

from llama3_exporter.facts import is_ours

FACTS = "llama3.json"

_NAMES = (
    "model.onnx",
    "model.onnx.data",
    FACTS,
    "config.json",
    "generation_config.json",
    "genai_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)

Content = bytes | Callable[[Path], None]
"""Of a file in the folder: its bytes, or what makes it at a path."""


def check_output(output: Path, *, force: bool) -> None:
    """Refuse an output that cannot be written or must not be replaced.

    Raises:
        Llama3Error: something is there already that `force` does not cover, or the place cannot be written.
    """
    if output.exists() or output.is_symlink():
        if not output.is_dir():
            raise Llama3Error(f"{output}: there is a file of that name; give another --output")
        if any(output.iterdir()):
            if not is_export(output):
                raise Llama3Error(f"{output}: this folder was not written by llama3-export; give another --output")
            if strangers := sorted({path.name for path in output.iterdir()} - _written_names(output)):
                raise Llama3Error(f"{output}: holds {strangers[0]}, which no export wrote; give another --output")
            if not force:
                raise Llama3Error(f"{output}: there is an export already; --force replaces it")
    anchor = _anchor(output)
    if not anchor.is_dir():
        raise Llama3Error(f"{anchor}: not a folder, so that {output} cannot be made in it; give another --output")
    if not os.access(anchor, os.W_OK | os.X_OK):
        raise Llama3Error(f"{anchor}: no permission to write there; give another --output")


def is_export(folder: Path) -> bool:
    """Whether `folder` holds the facts that an export leaves."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return is_ours(facts)


def _written_names(folder: Path) -> set[str]:
    """The names of all files that an export writes into its folder, the GGUF's own among them."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return {*_NAMES, *(str(part["name"]) for part in facts["source"]["parts"])}


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
        Llama3Error: the disk has no room for it.
    """
    anchor = _anchor(output)
    free = shutil.disk_usage(anchor).free
    if size > free:
        raise Llama3Error(f"{anchor}: the export takes {size / 1e9:.2f} GB and {free / 1e9:.2f} GB are free there")
    file = _open_unnamed(anchor)
    try:
        yield file
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Llama3Error(f"{anchor}: the disk got full; the export takes {size / 1e9:.2f} GB") from error
        raise
    finally:
        file.discard()


def _open_unnamed(folder: Path) -> UnnamedFile:
    try:
        return UnnamedFile(os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o666), None)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            raise
    descriptor, name = tempfile.mkstemp(prefix=".llama3-export-", dir=folder)
    return UnnamedFile(descriptor, Path(name))


def publish_folder(output: Path, files: Mapping[str, Content], *, force: bool) -> None:
    """Make `output` of `files` (name to content), in the place of an earlier export or an empty folder."""
    output = output.resolve()  # of a link to a folder, the folder is replaced and the link stays
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        for name, content in files.items():
            if isinstance(content, bytes):
                (staging / name).write_bytes(content)
            else:
                content(staging / name)
        staging.chmod(0o777 & ~_umask())
        check_output(output, force=force)  # once more: somebody may have come first
        _replace(output, staging)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _replace(output: Path, staging: Path) -> None:
    if output.is_dir() and any(output.iterdir()):
        aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        output.rename(aside)
        staging.rename(output)
        shutil.rmtree(aside)
    else:
        staging.rename(output)


def _anchor(output: Path) -> Path:
    """The nearest folder above `output` that exists."""
    return next(parent for parent in output.resolve().parents if parent.exists())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
