"""What an export says of itself in its graph's metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama3_models.digests import fingerprint
from llama3_models.errors import Llama3Error
from llama3_models.exports import FACTS, METADATA_KEY
from llama3_models.regular_files import read_regular


@dataclass(frozen=True)
class Part:
    """A file of the GGUF that the graph was made of; without size and fingerprint the graph does not read it."""

    name: str
    size: int | None
    fingerprint: str | None


@dataclass(frozen=True)
class Facts:
    """The part of the facts that a run needs: how many positions the graph reaches, and the files of its GGUF."""

    max_length: int
    parts: tuple[Part, ...]  # one or more

    @classmethod
    def of_session(cls, graph: Path, session: Any) -> Facts:
        """Read the facts of a loaded graph.

        Raises:
            Llama3Error: it has none, or they are damaged.
        """
        try:
            facts = _parse(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise Llama3Error(f"{graph}: damaged metadata ({error!r:.200}); export the GGUF again") from error
        if facts is None:
            raise Llama3Error(f"{graph}: no graph of llama3-export (its metadata say nothing); export the GGUF")
        return facts

    @classmethod
    def of_folder(cls, folder: Path) -> Facts | None:
        """What the file beside the graph says, where there is one that can be read."""
        try:
            return _parse(read_regular(folder / FACTS).decode())
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            return None

    def check_weights(self, folder: Path) -> None:
        """Notice a GGUF that is another one than the graph was made for; only native graphs read one.

        Raises:
            Llama3Error: it is gone, cut short, or its content has changed.
        """
        for part in self.parts:
            if part.fingerprint is None:
                continue
            path = folder / part.name
            if not path.is_file():
                raise Llama3Error(
                    f"{path}: the weights of this graph are gone; put them back, or export the GGUF again"
                )
            size = path.stat().st_size
            if part.size is not None and size < part.size:
                raise Llama3Error(
                    f"{path}: has {size:,} of {part.size:,} bytes; wait until it is copied, or export the GGUF again"
                )
            if fingerprint(path) != part.fingerprint:
                raise Llama3Error(f"{path}: changed since this graph was made of it; export it again")


def _parse(text: str | None) -> Facts | None:
    """The facts in a graph's metadata; whatever is wrong with them raises one of the errors of Python's own."""
    if text is None:
        return None
    facts = json.loads(text)
    parts = tuple(Part(part["name"], part.get("size"), part.get("fingerprint")) for part in facts["source"]["parts"])
    # A name is one of a file beside the others: a path would lead out of the folder.
    if not parts or any(part.name != Path(part.name).name for part in parts):
        raise ValueError("no usable names of its GGUF")
    max_length = int(facts["options"]["max_length"])
    if max_length < 1:
        raise ValueError(f"a context of {max_length}")
    return Facts(max_length, parts)
