"""The cache of exports for `llama3-inspect --cache`: listing its entries and removing them.

Only files that exports write are removed, and links are not followed (`folder.remove_export`).
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
"""Words that `select` accepts besides the names of entries and the paths of models and adapters."""


@dataclass(frozen=True)
class CachedExport:
    """One entry of the cache.

    Attributes:
        name: The name of its folder.
        model: The path of the model's first file; None if the entry does not say.
        adapters: The paths of its LoRA adapters, with their scales.
        kind: Ops, precision and logits, as in `native/fp32/last`; None if the entry does not say.
        version: The version of the package that made it; None if the entry does not say.
        bytes: Its size on disk, without the GGUF.
        last_used: ISO 8601, to the second.
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
    """Read all entries of the cache, sorted by name.

    Raises:
        Llama3Error: the place of the cache is unknown, or it cannot be read.
    """
    try:
        return [_read(entry) for entry in entries()]
    except OSError as error:
        raise Llama3Error(
            f"{error.filename or entries_folder()}: cannot be read ({error.strerror or error})"
        ) from error


def select(cached: Sequence[CachedExport], what: str) -> list[CachedExport]:
    """Select entries: `all`, `old`, one by its name, or those of a model or an adapter by its path.

    Raises:
        Llama3Error: no entry matches a name or a path.
    """
    if what in (ALL, OLD):
        return [one for one in cached if what == ALL or one.old is not None]
    path = os.path.realpath(what)
    found = [
        one for one in cached if what == one.name or path in (one.model, *(adapter for adapter, _ in one.adapters))
    ]
    if not found:
        raise Llama3Error(
            f"{entries_folder()}: no entry has the name, model or adapter {what!r}; use one that llama3-inspect "
            f"--cache lists, or {OLD}, or {ALL}"
        )
    return found


def remove(name: str) -> None:
    """Remove an entry.

    Raises:
        Llama3Error: another process is using it, it contains something that no export wrote, or it cannot be removed.
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
            raise Llama3Error(f"{entry.folder}: contains {strangers[0].name}, which no export wrote; move it elsewhere")
        entry.record_path.unlink(missing_ok=True)  # first, because it vouches for the rest
        remove_export(entry.export)
        entry.unfinished_record.unlink(missing_ok=True)
    if entry.folder.exists():
        raise Llama3Error(f"{entry.folder}: cannot be removed completely; remove the folder yourself")


def page(cached: Sequence[CachedExport]) -> list[str]:
    """Return the entries as lines of text."""
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
    """Return the entries as data; sizes are in bytes."""
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
    except (OverflowError, ValueError, OSError):  # some file systems store years past 9999
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
        return "some of its files are missing or damaged"
    of_adapters = [recorded[:-1] for recorded in _list(record.get("adapters"))]
    # If only times or inodes differ, the next run with a contrib export compares the content.
    told = 2 if str(record["kind"]).startswith("contrib/") else None
    return _why_changed("the model", paths, _list(record["parts"]), told) or _why_changed(
        "an adapter", [path for path, _ in adapters], of_adapters, told
    )


def _why_changed(what: str, paths: Sequence[str], recorded: Sequence[Any], told: int | None) -> str | None:
    """Return why the files of a model or an adapter differ from the record, by the first `told` facts of each."""
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
    """Return the paths in a record, which anyone may have written."""
    found = [part[0] for part in _list(parts) if isinstance(part, list) and part]
    return found if all(isinstance(path, str) for path in found) else []


def _adapters(recorded: object) -> list[tuple[str, float]] | None:
    """Return the adapters in a record; None if it is damaged."""
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
