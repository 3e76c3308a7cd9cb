"""The KV cache: one buffer a layer for keys and one for values, which the graph reads as past and writes as present.

Both are bound to the same memory, so that a token appends its own row and nothing is copied. The buffer is as long as
the generation may get and no longer.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnxruntime as ort
from llama3_models.errors import Llama3Error
from llama3_models.units import format_bytes

from llama3_runtime.session import ORT_ERRORS

KV_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class KVCache:
    """Buffers [1, kv_heads, max_length, head_dim] for every `past_key_values.*` input of a session.

    Args:
        session: Whose inputs tell layers, heads and type.
        max_length: Positions that fit.
        device: `cpu` or `cuda`.

    Raises:
        Llama3Error: the device has not enough memory.
    """

    def __init__(self, session: Any, max_length: int, device: str) -> None:
        self.nbytes = 0
        self._buffers: dict[str, Any] = {}
        layout: dict[str, tuple[list[int], Any]] = {}
        for node in session.get_inputs():
            if node.name.startswith("past_key_values."):
                _, num_heads, _, head_dim = node.shape
                shape, dtype = [1, num_heads, max_length, head_dim], KV_TYPES[node.type]
                layout[node.name] = shape, dtype
                self.nbytes += math.prod(shape) * np.dtype(dtype).itemsize
        try:
            for name, (shape, dtype) in layout.items():
                self._buffers[name] = ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, device)
        except ORT_ERRORS as error:
            raise Llama3Error(
                f"no memory for the KV cache: its {max_length} positions take {format_bytes(self.nbytes)}; use fewer"
            ) from error

    def bind(self, binding: Any) -> None:
        """Bind every buffer as the past and as the present of its layer."""
        for name, buffer in self._buffers.items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)
