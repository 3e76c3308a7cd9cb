"""The user's cache of exports: a .gguf that is run directly is exported once and reused until its content changes.

If an entry's record of sizes, times and inodes matches (`llama3_models.export_cache`), nothing else is read. If it does
not (after a copy or a touch), the SHA-256 in the llama3.json of a contrib export is compared with the content. A native
export is only a graph, whose weights stay in the GGUF, so it is exported again in a second.
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
    """An export folder or the .onnx in it, and the folder of the GGUF if the weights are in the GGUF."""

    path: Path
    weights_folder: Path | None = None


def cached_export(
    file: GGUFFile,
    ops: Ops = "contrib",
    precision: Precision = "fp32",
    logits: Logits = "last",
    loras: Sequence[Lora] = (),
) -> Export:
    """Return the export of a GGUF with its adapters, and create it if the cache has none of this content.

    If two processes need the same export, one creates it, and the other waits and says so on standard error. A file
    that cannot be exported leaves nothing in the cache.

    Raises:
        Llama3Error: The cache cannot be written, or the file cannot be exported.
    """
    source = file.parts[0].resolve()
    kind = "/".join([ops, precision, logits])
    entry = Entry.of(source, "/".join([kind, *(f"{lora.path.resolve()}:{lora.scale!r}" for lora in loras)]))
    export = Export(entry.export, source.parent if ops == "native" else None)
    # Recorded before any content is read, so a file that changes meanwhile will not match.
    record = _record(file, kind, loras)
    with _writing(entry):
        entry.refuse_links()
        if _is_recorded(entry, record):
            entry.note_use()
            return export
        with entry.locked(lambda: notice(f"Waiting for another process that is exporting {source.name}")):
            entry.refuse_links()
            if _is_recorded(entry, record):  # the process that had the lock created it
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
        reason = f"cannot be read ({error.strerror})" if adapter.exists() else nothing_there(adapter)
        raise Llama3Error(f"{adapter}: {reason}") from error


def _is_recorded(entry: Entry, record: Record) -> bool:
    """Return whether the entry has this content and is still complete."""
    return entry.read_record() == {**record, "files": entry.file_sizes()}


def _holds_content(folder: Path, file: GGUFFile, loras: Sequence[Lora]) -> bool:
    """Return whether an export was made by this version from exactly these bytes, according to its manifest."""
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
    """Export and record the file, or leave nothing."""
    entry.record_path.unlink(missing_ok=True)  # first, because it says that the rest is complete
    # Imported here because the runtime needs the exporter and onnx only to export.
    from llama3_exporter.export_model import OutputError, export, export_native_graph, remove_export
    from llama3_exporter.progress import byte_progress

    folder = entry.export
    try:
        remove_export(folder)  # from earlier content, or partly deleted by somebody
        if ops == "native":
            folder.mkdir(exist_ok=True)
            export_native_graph(file, folder / GRAPH, logits=logits, loras=loras)
        else:
            notice(f"Exporting {file.path.name} to {folder} (only the first time)")
            with byte_progress("exporting") as progress:
                # `force`, because without locks another process may have created it meanwhile.
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
    """Turn an OSError into one line.

    Raises:
        Llama3Error: The system refused an operation.
    """
    try:
        yield
    except OSError as error:
        raise Llama3Error(
            f"{error.filename or entry.folder}: the cache of exports cannot be written ({error.strerror}); set "
            "LLAMA3_CACHE to another folder, or use a folder made by llama3-export as --model-path"
        ) from error
