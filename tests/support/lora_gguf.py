"""Small LoRA adapters for the models of `llama_gguf.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def write_lora(
    path: Path,
    base: Path,
    *,
    weights: Sequence[str] | None = None,
    rank: int = 3,
    alpha: float | None = 16.0,
    type_: T = T.F32,
    gain: float = 0.2,
    seed: int = 0,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write an adapter of `base` and return `path`.

    Args:
        path: The file to write.
        base: The model to adapt; its tensors define the shapes.
        weights: Names without `.weight`; None for all linears, and the embedding if the model has a separate head.
        alpha: None omits the key.
        type_: The matrices' type. Those whose rows are not whole blocks are F16, as from llama.cpp's converter.
        gain: The size of the product relative to that of the weight, with alpha = rank.
        metadata: More keys, or other values of the usual ones; None removes a key.
        tensors: More tensors, or other values of the usual ones.
    """
    rng = np.random.default_rng(seed)
    reader = gguf.GGUFReader(base)
    shapes = {tensor.name: tuple(int(n) for n in tensor.shape[::-1]) for tensor in reader.tensors}
    keys: dict[str, Any] = {
        "general.architecture": reader.fields["general.architecture"].contents(),
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
        **(metadata or {}),
    }
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture"))
    for key, value in keys.items():
        if isinstance(value, list):
            writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32)
        elif value is not None:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    if weights is None:
        weights = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2]
        if "output.weight" not in shapes:
            weights = [name for name in weights if name != "token_embd"]
    matrices = {}
    for name in weights:
        rows, columns = shapes[f"{name}.weight"]
        of_rank, of_input = rng.normal(0, 1, (rank, columns)), rng.normal(0, 1, (rows, rank))
        if name == "token_embd":  # one row per token, and a matrix that turns it into [hidden]
            of_rank, of_input = rng.normal(0, 1, (rows, rank)), rng.normal(0, 1, (columns, rank))
        else:
            of_rank /= columns**0.5
        matrices[f"{name}.weight.lora_a"] = of_rank
        matrices[f"{name}.weight.lora_b"] = gain * of_input / rank**0.5
    for name, values in (matrices | (tensors or {})).items():
        fits = values.shape[-1] % gguf.GGML_QUANT_SIZES[type_][0] == 0
        used = type_ if fits else T.F16
        writer.add_tensor(name, gguf.quants.quantize(values.astype(np.float32), used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
