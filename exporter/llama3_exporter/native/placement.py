"""The place of a native export: its graph beside the GGUF, or a folder into which the GGUF is linked.

ONNX Runtime loads weights only from the graph's own folder, and since 1.24 refuses a symlink out of it. A hard link
always works there. If it cannot be made (another file system), a reflink shares the blocks; the last resort is a copy.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from llama3_models.errors import Llama3Error
from llama3_models.gguf.file import GGUFFile
from llama3_models.manifest import NotAnExportError

from llama3_exporter.graph_file import read_graph
from llama3_exporter.progress import Progress

_FICLONE = 0x40049409  # <linux/fs.h>: share the blocks of another file
_COPY_BYTES = 8 << 20


def graph_beside(file: GGUFFile, *, force: bool) -> Path:
    """Return the path of the graph beside `file`: NAME.onnx for NAME.gguf.

    Raises:
        Llama3Error: the graph cannot be there, or something else is.
    """
    first = file.parts[0]
    graph = first.with_suffix(".onnx")
    for part in file.parts:
        if part.is_symlink():
            raise Llama3Error(
                f"{part}: a symlink, which ONNX Runtime does not follow out of the graph's folder; use --output "
                "FOLDER, if possible on the same file system: the GGUF is then linked, not copied"
            )
    if not os.access(graph.parent, os.W_OK | os.X_OK):
        raise Llama3Error(f"{graph.parent}: no permission to write the graph beside the GGUF; use --output FOLDER")
    if graph.exists() or graph.is_symlink():
        if not _is_our_graph(graph):
            raise Llama3Error(f"{graph}: not written by llama3-export, so it is not replaced; use --output FOLDER")
        if not force:
            raise Llama3Error(f"{graph}: already exists; use --force to replace it")
    return graph


def _is_our_graph(path: Path) -> bool:
    try:
        read_graph(path)
    except NotAnExportError:
        return False
    return True


def place_gguf(source: Path, target: Path, *, copy: bool, progress: Progress | None = None) -> str | None:
    """Place `source` at `target`: as a hard link, otherwise as a reflink, otherwise (or with `copy`) as a copy.

    Returns:
        None for a hard link; otherwise a warning that says what was done, and why.
    """
    source = source.resolve()
    reason = "as requested"
    if not copy:
        try:
            os.link(source, target)
        except OSError as error:
            reason = f"a hard link failed: {error.strerror}"
        else:
            return None
    with source.open("rb") as reader, target.open("xb") as writer:
        if not copy and _reflink(reader.fileno(), writer.fileno()):
            return f"shares its blocks with the original ({reason})"
        size, done = os.fstat(reader.fileno()).st_size, 0
        while block := reader.read(_COPY_BYTES):
            writer.write(block)
            done += len(block)
            if progress is not None:
                progress(done, size)
    return f"copied ({reason})"


def _reflink(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True
