"""How a native export comes to its weights without a copy: the graph beside the GGUF, or the GGUF linked to the graph.

ONNX Runtime takes weights only from the graph's own folder, and since 1.24 refuses a symlink out of it. Hard links work
everywhere; where they do not (another file system), a reflink shares the blocks, and only then is anything copied.
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
    """Where the graph of `file` goes that shares its folder: NAME.onnx for NAME.gguf.

    Raises:
        Llama3Error: that is no place for it, or something else is there.
    """
    first = file.parts[0]
    graph = first.with_suffix(".onnx")
    for part in file.parts:
        if part.is_symlink():
            raise Llama3Error(
                f"{part}: a link, and ONNX Runtime follows none out of the graph's folder; give --output, for a folder "
                "on the same file system if you can: the weights are then linked, not copied"
            )
    if not os.access(graph.parent, os.W_OK | os.X_OK):
        raise Llama3Error(f"{graph.parent}: no permission to write the graph beside the GGUF; give --output")
    if graph.exists() or graph.is_symlink():
        if not _is_our_graph(graph):
            raise Llama3Error(f"{graph}: not written by llama3-export, so it stays; give --output")
        if not force:
            raise Llama3Error(f"{graph}: there is an export already; --force replaces it")
    return graph


def _is_our_graph(path: Path) -> bool:
    try:
        read_graph(path)
    except NotAnExportError:
        return False
    return True


def place_gguf(source: Path, target: Path, *, copy: bool, progress: Progress | None = None) -> str | None:
    """Make `target` have the content of `source`: by a hard link, else a reflink, else (or with `copy`) a copy.

    Returns:
        None for a link, otherwise a warning: what was done and why.
    """
    source = source.resolve()
    reason = "as asked"
    if not copy:
        try:
            os.link(source, target)
        except OSError as error:
            reason = f"a hard link was refused: {error.strerror}"
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
