"""The cache of exports as `llama3-inspect --cache` shows it: what each entry was made of, and which may go.

Nothing is removed but what exports write, and no link is followed (`folder.remove_export`).
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from llama3_models.errors import Llama3Error
from llama3_models.export_cache import Entry, cache_root, described, entries, entries_folder
from llama3_models.units import format_bytes

from llama3_exporter.folder import remove_export, remove_leftovers

ALL, OLD = "all", "old"
"""What `select` takes beside the names of entries and the paths of models."""


@dataclass(frozen=True)
class CachedExport:
    """One entry.

    Attributes:
        name: That of its folder.
        model: The path of the model's first file; None where the entry does not say.
        kind: Ops, precision and logits, `native/fp32/last`; None where the entry does not say.
        version: Of the package that made it; None where the entry does not say.
        bytes: On the disk, without the GGUF.
        last_used: A time of ISO 8601, to the second.
        old: Why it will not be used again as it is; None if it will.
    """

    name: str
    model: str | None
    kind: str | None
    version: str | None
    bytes: int
    last_used: str
    old: str | None


def read_cache() -> list[CachedExport]:
    """Every entry of the cache, by name.

    Raises:
        Llama3Error: there is no folder for the cache, or the system refuses.
    """
    try:
        return [_read(entry) for entry in entries()]
    except OSError as error:
        raise Llama3Error(
            f"{error.filename or entries_folder()}: cannot be read ({error.strerror or error})"
        ) from error


def select(cached: Sequence[CachedExport], what: str) -> list[CachedExport]:
    """The entries that one text means: `all`, `old`, the name of one, or the path of a model.

    Raises:
        Llama3Error: it is the name or the path of none.
    """
    if what in (ALL, OLD):
        return [one for one in cached if what == ALL or one.old is not None]
    path = os.path.realpath(what)
    found = [one for one in cached if what == one.name or path == one.model]
    if not found:
        raise Llama3Error(
            f"{entries_folder()}: nothing there is called {what} or was made of it; give a name or a model as "
            f"llama3-inspect --cache lists them, or {OLD}, or {ALL}"
        )
    return found


def remove(name: str) -> None:
    """Remove an entry.

    Raises:
        Llama3Error: another process is using it, it holds something that no export wrote, or the system refuses.
    """
    entry = Entry(entries_folder() / name)
    try:
        _remove(entry)
    except OSError as error:
        raise Llama3Error(f"{entry.folder}: cannot be removed ({error.strerror or error})") from error


def _remove(entry: Entry) -> None:
    entry.refuse_links()
    with entry.locked():
        entry.refuse_links()
        known = {entry.export, entry.record_path, entry.unfinished_record, entry.lock}
        remove_leftovers(entry.folder)
        if strangers := sorted(set(entry.folder.iterdir()) - known):
            raise Llama3Error(f"{entry.folder}: holds {strangers[0].name}, which no export wrote; move it elsewhere")
        entry.record_path.unlink(missing_ok=True)  # first: it vouches for the rest
        remove_export(entry.export)
        entry.unfinished_record.unlink(missing_ok=True)
    if entry.folder.exists():
        raise Llama3Error(f"{entry.folder}: cannot be removed whole; remove the folder yourself")


def page(cached: Sequence[CachedExport]) -> list[str]:
    """The entries for people, line by line."""
    count = f"{len(cached)} {'entry' if len(cached) == 1 else 'entries'}"
    total = format_bytes(sum(one.bytes for one in cached))
    lines = [f"The cache of exports, {entries_folder()}", f"  {count}, {total}" if cached else "  no entries"]
    for one in cached:
        used = f"{format_bytes(one.bytes)}, last used {one.last_used.replace('T', ' ')}"
        lines += ["", one.name, f"  model  {one.model or 'unknown'}", f"  kind   {one.kind or 'unknown'}"]
        lines += [f"  size   {used}", *([f"  old    {one.old}"] if one.old else [])]
    return lines


def as_json(cached: Sequence[CachedExport]) -> dict[str, Any]:
    """The entries as data; sizes are in bytes."""
    return {"cache": str(cache_root()), "entries": [asdict(one) for one in cached]}


def _read(entry: Entry) -> CachedExport:
    record = entry.read_record()
    paths = _paths(record.get("parts"))
    kind, version = (record.get(key) for key in ("kind", "exporter"))
    try:
        used = entry.record_path.lstat().st_mtime
    except OSError:
        used = entry.folder.lstat().st_mtime
    return CachedExport(
        name=entry.folder.name,
        model=paths[0] if paths else None,
        kind=kind if isinstance(kind, str) else None,
        version=version if isinstance(version, str) else None,
        bytes=sum(path.lstat().st_size for path in entry.folder.rglob("*") if not path.is_dir()),
        last_used=_time(used),
        old=_why_old(entry, paths),
    )


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):  # some file systems keep years past 9999
        return datetime.fromtimestamp(0).astimezone().isoformat(timespec="seconds")


def _why_old(entry: Entry, paths: Sequence[str]) -> str | None:
    record = entry.read_record()
    if not paths:
        return "unfinished"
    version = importlib.metadata.version("llama3-onnx")
    if record.get("exporter") != version:
        return f"made by llama3-onnx {str(record.get('exporter'))[:40]}; this is {version}"
    if "kind" not in record:
        return "made by an earlier llama3-onnx"
    if entry.export.is_symlink() or record.get("files") != entry.file_sizes():
        return "files of it are missing or damaged"
    try:
        if described([Path(path) for path in paths]) != record["parts"]:
            return "the model has changed, or was touched or copied"
    except FileNotFoundError:
        return "the model is gone"
    except (OSError, ValueError) as error:
        return f"the model cannot be read ({(error.strerror if isinstance(error, OSError) else None) or error})"
    return None


def _paths(parts: object) -> list[str]:
    """The paths in a record, of which nobody knows who wrote it."""
    found = [part[0] for part in parts if isinstance(part, list) and part] if isinstance(parts, list) else []
    return found if all(isinstance(path, str) for path in found) else []
