"""A .gguf that is run directly is exported once into the user's cache and reused while its content is the same.

An entry belongs to one file, its LoRA adapters and one kind of export: `exports/NAME-DIGEST/` with the export in
`onnx/`, a record of the files' sizes, times and inodes in `source.json`, and a lock. Where the record matches, nothing
else is read. Where it does not (a copy, a touch), a contrib export is held against the content's SHA-256, which it
noted in llama3.json; a native one is only a graph, whose weights stay in the GGUF, and is made anew in a second.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from llama3_models.digests import sha256
from llama3_models.errors import Llama3Error
from llama3_models.exports import GRAPH, Logits, Ops, Precision
from llama3_models.regular_files import read_regular
from llama3_models.terminal import notice

if TYPE_CHECKING:
    from llama3_models.gguf.file import GGUFFile
    from llama3_models.lora import Lora

Record: TypeAlias = dict[str, object]


def cache_root() -> Path:
    """Where exports are kept: $LLAMA3_CACHE, or llama3-onnx in the user's cache folder.

    Raises:
        Llama3Error: There is neither, because the user has no home.
    """
    if own := os.environ.get("LLAMA3_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        # A relative one is to be ignored, says the XDG Base Directory Specification.
        return (Path(shared) if shared and Path(shared).is_absolute() else Path.home() / ".cache") / "llama3-onnx"
    except RuntimeError:
        raise Llama3Error("no home folder to keep exports in; set LLAMA3_CACHE to a folder") from None


@dataclass(frozen=True)
class Export:
    """An export folder or the .onnx in it, and the folder of the weights where they lie elsewhere: in the GGUF."""

    path: Path
    weights_folder: Path | None = None


def cached_export(
    file: GGUFFile,
    ops: Ops = "contrib",
    precision: Precision = "fp32",
    logits: Logits = "last",
    loras: Sequence[Lora] = (),
) -> Export:
    """Returns the export of a GGUF with its adapters, exporting it first if the cache has none of this content.

    Of two processes that need the same export one makes it, and the other waits and says so on standard error.

    Raises:
        Llama3Error: The cache cannot be written, or the file cannot be exported.
    """
    source = file.parts[0].resolve()
    kind = "/".join([ops, precision, logits, *(f"{lora.path.resolve()}:{lora.scale!r}" for lora in loras)])
    digest = hashlib.sha256(os.fsencode(source) + os.fsencode(kind)).hexdigest()[:12]
    entry = cache_root() / "exports" / f"{source.stem[:100]}-{digest}"
    folder = entry / "onnx"
    export = Export(folder, source.parent if ops == "native" else None)
    _refuse_links(entry, folder)
    # Taken before any content is read: a file that changes meanwhile will not match.
    record = _record(file, loras)
    if _is_recorded(entry, record):
        return export
    with _writing(entry), _locked(entry, source.name):
        _refuse_links(entry, folder)
        if _is_recorded(entry, record):  # the process that held the lock made it
            return export
        files = _read_json(entry / "source.json").get("files")
        if files != _file_sizes(folder) or not _holds_content(folder, file, loras):
            _export_anew(file, folder, ops, precision, logits, loras)
        _write_json(entry / "source.json", {**record, "files": _file_sizes(folder)})
    return export


def _refuse_links(*folders: Path) -> None:
    """An entry is the cache's own: through a link it would read, write and remove what is somebody else's.

    Raises:
        Llama3Error: one of the folders is a link.
    """
    for folder in folders:
        if folder.is_symlink():
            raise Llama3Error(
                f"{folder}: a link, where the cache of exports keeps a folder of its own; remove the link, or set "
                "LLAMA3_CACHE to another folder"
            )


def _record(file: GGUFFile, loras: Sequence[Lora]) -> Record:
    """What tells cheaply that a model is the same; the change time of a file cannot be set back, as its mtime can."""
    record: Record = {"exporter": importlib.metadata.version("llama3-onnx"), "parts": [*map(_status, file.parts)]}
    if loras:
        record["adapters"] = [[*_status(lora.path), lora.scale] for lora in loras]
    return record


def _status(path: Path) -> list[str | int]:
    try:
        status = path.stat()
    except OSError as error:
        raise Llama3Error(f"{path}: cannot be read ({error.strerror}); give the path of a file") from error
    return [str(path.resolve()), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _is_recorded(entry: Path, record: Record) -> bool:
    """Whether the entry is of this content, and still whole."""
    return _read_json(entry / "source.json") == {**record, "files": _file_sizes(entry / "onnx")}


def _file_sizes(folder: Path) -> dict[str, int] | None:
    """By which an export that somebody cleaned up in part, or a full disk cut short, is told from a whole one."""
    return {path.name: path.stat().st_size for path in folder.iterdir()} if folder.is_dir() else None


def _holds_content(folder: Path, file: GGUFFile, loras: Sequence[Lora]) -> bool:
    """Whether an export, by its own account, is this exporter's of just these bytes."""
    from llama3_models.manifest import Manifest, Part

    try:
        manifest = Manifest.of_folder(folder)
    except Llama3Error:
        return False
    if manifest.version != importlib.metadata.version("llama3-onnx") or manifest.source.size != file.size:
        return False
    if manifest.source.parts != tuple(Part(path.name, sha256=sha256(path)) for path in file.parts):
        return False
    return [(use.sha256, use.scale) for use in manifest.adapters] == [(sha256(each.path), each.scale) for each in loras]


def _export_anew(
    file: GGUFFile, folder: Path, ops: Ops, precision: Precision, logits: Logits, loras: Sequence[Lora]
) -> None:
    (folder.parent / "source.json").unlink(missing_ok=True)  # first: it vouches for the rest
    # Here alone, and late: with an export at hand the runtime needs neither the exporter nor onnx.
    from llama3_exporter.export_model import export, export_native_graph, remove_export
    from llama3_exporter.progress import byte_progress

    remove_export(folder)  # of an earlier content, or what somebody cleaned up in part
    if ops == "native":
        folder.mkdir()
        export_native_graph(file, folder / GRAPH, logits=logits, loras=loras)
        return
    notice(f"Exporting {file.path.name} to {folder}, once")
    with byte_progress("exporting") as progress:
        export(file.path, folder, precision=precision, logits=logits, lora=loras, progress=progress)


@contextlib.contextmanager
def _writing(entry: Path) -> Iterator[None]:
    """Turn what the system refuses meanwhile into one line.

    Raises:
        Llama3Error: for an OSError.
    """
    try:
        yield
    except OSError as error:
        raise Llama3Error(
            f"{error.filename or entry}: the cache of exports cannot be written ({error.strerror}); set LLAMA3_CACHE "
            "to another folder, or give --model-path a folder made by llama3-export"
        ) from error


@contextlib.contextmanager
def _locked(entry: Path, name: str) -> Iterator[None]:
    """Holds the entry's lock, which the system releases whatever becomes of the process."""
    entry.mkdir(parents=True, exist_ok=True)
    lock = os.open(entry / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notice(f"Waiting for another process that is exporting {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _read_json(path: Path) -> Record:
    """The object in a file, or none where there is no such file or it is damaged: then it says nothing."""
    try:
        content = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: Record) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.unlink(missing_ok=True)
    with unfinished.open("x", encoding="utf-8") as file:  # a link that has come meanwhile is not followed
        json.dump(content, file)
    unfinished.replace(path)
