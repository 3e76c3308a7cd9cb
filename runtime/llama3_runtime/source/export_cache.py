"""A .gguf that is run directly is exported once into the user's cache and reused while its content is the same.

Where an entry's record of sizes, times and inodes matches (`llama3_models.export_cache`), nothing else is read. Where
it does not (a copy, a touch), a contrib export is held against the content's SHA-256, which it noted in llama3.json; a
native one is only a graph, whose weights stay in the GGUF, and is made anew in a second.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama3_models.digests import sha256
from llama3_models.errors import Llama3Error
from llama3_models.export_cache import Entry, Record, described
from llama3_models.exports import GRAPH, Logits, Ops, Precision
from llama3_models.gguf.file_kinds import nothing_there
from llama3_models.terminal import notice

if TYPE_CHECKING:
    from llama3_models.gguf.file import GGUFFile
    from llama3_models.lora import Lora


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

    Of two processes that need the same export one makes it, and the other waits and says so on standard error. A file
    that cannot be exported leaves nothing in the cache.

    Raises:
        Llama3Error: The cache cannot be written, or the file cannot be exported.
    """
    source = file.parts[0].resolve()
    kind = "/".join([ops, precision, logits])
    entry = Entry.of(source, "/".join([kind, *(f"{lora.path.resolve()}:{lora.scale!r}" for lora in loras)]))
    export = Export(entry.export, source.parent if ops == "native" else None)
    # Taken before any content is read: a file that changes meanwhile will not match.
    record = _record(file, kind, loras)
    with _writing(entry):
        entry.refuse_links()
        if _is_recorded(entry, record):
            entry.note_use()
            return export
        with entry.locked(lambda: notice(f"Waiting for another process that is exporting {source.name}")):
            entry.refuse_links()
            if _is_recorded(entry, record):  # the process that held the lock made it
                return export
            files = entry.read_record().get("files")
            if files != entry.file_sizes() or not _holds_content(entry.export, file, loras):
                _export_anew(file, entry, record, ops, precision, logits, loras)
            else:
                entry.write_record({**record, "files": files})
    return export


def _record(file: GGUFFile, kind: str, loras: Sequence[Lora]) -> Record:
    version = importlib.metadata.version("llama3-onnx")
    record: Record = {"exporter": version, "kind": kind, "parts": described(file.parts)}
    if loras:
        record["adapters"] = [[*_described(lora.path), lora.scale] for lora in loras]
    return record


def _described(adapter: Path) -> list[object]:
    try:
        return described([adapter])[0]
    except OSError as error:
        reason = f"cannot be read: {error.strerror}" if adapter.exists() else nothing_there(adapter)
        raise Llama3Error(f"{adapter}: {reason}") from error


def _is_recorded(entry: Entry, record: Record) -> bool:
    """Whether the entry is of this content, and still whole."""
    return entry.read_record() == {**record, "files": entry.file_sizes()}


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
    file: GGUFFile,
    entry: Entry,
    record: Record,
    ops: Ops,
    precision: Precision,
    logits: Logits,
    loras: Sequence[Lora],
) -> None:
    """Export and record it, or leave nothing."""
    entry.record_path.unlink(missing_ok=True)  # first: it vouches for the rest
    # Here alone, and late: with an export at hand the runtime needs neither the exporter nor onnx.
    from llama3_exporter.export_model import OutputError, export, export_native_graph, remove_export
    from llama3_exporter.progress import byte_progress

    folder = entry.export
    try:
        remove_export(folder)  # of an earlier content, or what somebody cleaned up in part
        if ops == "native":
            folder.mkdir(exist_ok=True)
            export_native_graph(file, folder / GRAPH, logits=logits, loras=loras)
        else:
            notice(f"Exporting {file.path.name} to {folder}, once")
            with byte_progress("exporting") as progress:
                # By force, since where there are no locks, another process may have made it meanwhile.
                export(file.path, folder, precision=precision, logits=logits, lora=loras, force=True, progress=progress)
        entry.write_record({**record, "files": entry.file_sizes()})
    except BaseException as error:
        with contextlib.suppress(OSError, Llama3Error):
            remove_export(folder)
        if isinstance(error, OutputError):
            raise error.advising("set LLAMA3_CACHE to another folder") from error
        raise


@contextlib.contextmanager
def _writing(entry: Entry) -> Iterator[None]:
    """Turn what the system refuses meanwhile into one line.

    Raises:
        Llama3Error: for an OSError.
    """
    try:
        yield
    except OSError as error:
        raise Llama3Error(
            f"{error.filename or entry.folder}: the cache of exports cannot be written ({error.strerror}); set "
            "LLAMA3_CACHE to another folder, or give --model-path a folder made by llama3-export"
        ) from error
