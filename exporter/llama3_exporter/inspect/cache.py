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
        adapters: The paths of its LoRA adapters, with their scales.
        kind: Ops, precision and logits, `native/fp32/last`; None where the entry does not say.
        version: Of the package that made it; None where the entry does not say.
        bytes: On the disk, without the GGUF.
        last_used: A time of ISO 8601, to the second.
        old: Why it will not be used again as it is; None if it will.
    """

    name: str
    model: str | None
    adapters: tuple[tuple[str, float], ...]
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
    """The entries that one text means: `all`, `old`, the name of one, or the path of a model or an adapter.

    Raises:
        Llama3Error: it is the name or the path of none.
    """
    if what in (ALL, OLD):
        return [one for one in cached if what == ALL or one.old is not None]
    path = os.path.realpath(what)
    found = [
        one for one in cached if what == one.name or path in (one.model, *(adapter for adapter, _ in one.adapters))
    ]
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
        lines += ["", one.name, f"  model  {one.model or 'unknown'}"]
        lines += [f"  lora   {path}, scale {scale:g}" for path, scale in one.adapters]
        lines += [f"  kind   {one.kind or 'unknown'}"]
        lines += [f"  size   {used}", *([f"  old    {one.old}"] if one.old else [])]
    return lines


def as_json(cached: Sequence[CachedExport]) -> dict[str, Any]:
    """The entries as data; sizes are in bytes."""
    return {"cache": str(cache_root()), "entries": [asdict(one) for one in cached]}


def _read(entry: Entry) -> CachedExport:
    record = entry.read_record()
    paths = _paths(record.get("parts"))
    adapters = _adapters(record.get("adapters", []))
    kind, version = (record.get(key) for key in ("kind", "exporter"))
    try:
        used = entry.record_path.lstat().st_mtime
    except OSError:
        used = entry.folder.lstat().st_mtime
    return CachedExport(
        name=entry.folder.name,
        model=paths[0] if paths else None,
        adapters=tuple(adapters or ()),
        kind=kind if isinstance(kind, str) else None,
        version=version if isinstance(version, str) else None,
        bytes=sum(path.lstat().st_size for path in entry.folder.rglob("*") if not path.is_dir()),
        last_used=_time(used),
        old=_why_old(entry, paths, adapters),
    )


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):  # some file systems keep years past 9999
        return datetime.fromtimestamp(0).astimezone().isoformat(timespec="seconds")


def _why_old(entry: Entry, paths: Sequence[str], adapters: Sequence[tuple[str, float]] | None) -> str | None:
    record = entry.read_record()
    if not paths or adapters is None:
        return "unfinished"
    version = importlib.metadata.version("llama3-onnx")
    if record.get("exporter") != version:
        return f"made by llama3-onnx {str(record.get('exporter'))[:40]}; this is {version}"
    if "kind" not in record:
        return "made by an earlier llama3-onnx"
    if entry.export.is_symlink() or record.get("files") != entry.file_sizes():
        return "files of it are missing or damaged"
    of_adapters = [recorded[:-1] for recorded in _list(record.get("adapters"))]
    # The next run compares the content of a contrib export's files where nothing but their times or inodes differ.
    told = 2 if str(record["kind"]).startswith("contrib/") else None
    return _why_changed("the model", paths, _list(record["parts"]), told) or _why_changed(
        "an adapter", [path for path, _ in adapters], of_adapters, told
    )


def _why_changed(what: str, paths: Sequence[str], recorded: Sequence[Any], told: int | None) -> str | None:
    """Why files of a model or an adapter are not the recorded ones, going by the first `told` of their facts."""
    try:
        now = described([Path(path) for path in paths])
        if [facts[:told] for facts in now] != [_list(facts)[:told] for facts in recorded]:
            return f"{what} has changed, or was touched or copied"
    except FileNotFoundError:
        return f"{what} is gone"
    except (OSError, ValueError) as error:
        return f"{what} cannot be read ({(error.strerror if isinstance(error, OSError) else None) or error})"
    return None


def _paths(parts: object) -> list[str]:
    """The paths in a record, of which nobody knows who wrote it."""
    found = [part[0] for part in _list(parts) if isinstance(part, list) and part]
    return found if all(isinstance(path, str) for path in found) else []


def _adapters(recorded: object) -> list[tuple[str, float]] | None:
    """The adapters in a record; None where it is damaged."""
    found = []
    for adapter in recorded if isinstance(recorded, list) else [None]:
        match adapter:
            case [str(path), *_, int(scale) | float(scale)]:
                found.append((path, scale))
            case _:
                return None
    return found


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
