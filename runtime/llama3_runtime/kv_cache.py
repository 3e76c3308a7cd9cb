"""The KV cache: two buffers per layer, for keys and values. The graph reads them as past and writes them as present.

Past and present are bound to the same memory: a token appends its own row, and nothing is copied. A buffer has exactly
the length that the generation may reach.
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
    """Buffers [1, kv_heads, max_length, head_dim], one for each `past_key_values.*` input of a session.

    Args:
        session: Its inputs tell the layers, heads and type.
        max_length: Number of positions.
        device: `cpu` or `cuda`.

    Raises:
        Llama3Error: the device does not have enough memory.
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
                f"not enough memory for the KV cache: {max_length} positions need {format_bytes(self.nbytes)}; "
                "use fewer positions"
            ) from error

    def bind(self, binding: Any) -> None:
        """Bind every buffer as both the past and the present of its layer."""
        for name, buffer in self._buffers.items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)
