"""What an export says of itself in its graph's metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama3_models.digests import fingerprint
from llama3_models.errors import Llama3Error

METADATA_KEY = "llama3"


@dataclass(frozen=True)
class Facts:
    """The part of the facts that a run needs; `max_length` is how many positions the graph reaches."""

    max_length: int
    ops: str
    parts: tuple[dict[str, Any], ...]

    @classmethod
    def of_session(cls, graph: Path, session: Any) -> Facts:
        """Read the facts of a loaded graph.

        Raises:
            Llama3Error: it has none, or they are damaged.
        """
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise Llama3Error(f"{graph}: no graph of llama3-export (its metadata say nothing); export the GGUF")
        try:
            facts = json.loads(text)
            options, source = facts["options"], facts["source"]
            return cls(int(options["max_length"]), str(options["ops"]), tuple(source["parts"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Llama3Error(f"{graph}: damaged metadata ({error}); export the GGUF again") from error

    def check_weights(self, folder: Path) -> None:
        """Notice a GGUF that is another one than the graph was made for; only native graphs read one.

        Raises:
            Llama3Error: it is gone, or its content has changed.
        """
        for part in self.parts:
            expected = part.get("fingerprint")
            path = folder / str(part["name"])
            if expected is None:
                continue
            if not path.is_file():
                raise Llama3Error(
                    f"{path}: the weights of this graph are gone; put them back, or export the GGUF again"
                )
            if fingerprint(path) != expected:
                raise Llama3Error(f"{path}: changed since this graph was made of it; export it again")
