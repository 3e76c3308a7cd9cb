"""A llama3.json without an export."""

from __future__ import annotations

import json
from typing import Any


def described(**changes: Any) -> str:
    """Return the manifest of a native export as JSON; `changes` replace keys."""
    manifest = {
        "producer": "llama3-onnx",
        "version": "0.1.0",
        "format_version": 1,
        "architecture": "llama",
        "source": {"name": "a.gguf", "size": 7, "parts": [{"name": "a.gguf", "size": 7, "fingerprint": "0a"}]},
        "options": {
            "ops": "native",
            "activations": "int8",
            "precision": "fp32",
            "logits": "last",
            "max_length": 99,
        },
        "types": {"Q4_K": {"tensors": 2, "parameters": 512, "bytes": 288}},
    }
    return json.dumps({**manifest, **changes})
