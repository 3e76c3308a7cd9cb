"""LoRA adapters: GGUFs with two thin matrices for each weight that they adapt, checked against the model.

An adapter adds B (A x) times a factor to the product of a weight (https://arxiv.org/abs/2106.09685). The weights that
it may adapt, the layout and the factor are those of llama.cpp, whose convert_lora_to_gguf.py writes such files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from llama3_models.config import Hyperparameters, holds_weights, refuse_unread
from llama3_models.errors import Llama3Error, UsageError
from llama3_models.gguf.file import GGUFFile, GGUFTensor
from llama3_models.gguf.part import quoted
from llama3_models.regular_files import exists

_EMBEDDING: Final = "token_embd"
_ADAPTABLE: Final = re.compile(r"token_embd|output|blk\.\d+\.(?:attn_(?:q|k|v|qkv|output)|ffn_(?:gate|up|down))")
_SCALED: Final = re.compile(r"(?P<path>.+):(?P<scale>[-+.\w]*)", re.DOTALL | re.ASCII)

_AGAIN: Final = "download or convert the adapter again"


@dataclass(frozen=True)
class Lora:
    """An adapter's file and its strength."""

    path: Path
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str | Path) -> Lora:
        """Parse `FILE` or `FILE:SCALE`; if a file has the whole text as its name, that is the file.

        Raises:
            UsageError: the text is empty, or the scale is not a finite number.
        """
        text = str(text)
        if text in ("", "."):  # Path turns the first into the second
            raise UsageError("--lora: expected FILE or FILE:SCALE, not ''")
        match = _SCALED.fullmatch(text)
        if match is None or exists(text):
            return cls(Path(text))
        try:
            scale = float(match["scale"].replace("_", "?"))  # float() would accept 1_0
        except ValueError:
            if exists(match["path"]):
                raise UsageError(f"--lora: {text}: the scale {match['scale']!r} is not a number") from None
            return cls(Path(text))
        if not abs(scale) <= float(np.finfo(np.float32).max):
            raise UsageError(f"--lora: {text}: the scale is {scale}; use a number within the range of float32")
        return cls(Path(match["path"]), scale)


Loras: TypeAlias = str | Path | Iterable[str | Path | Lora]
"""One adapter or several, each the path of its GGUF or `FILE:SCALE`."""


def parse_loras(loras: Loras) -> list[Lora]:
    """Parse adapters; see `Lora.parse`."""
    items = [loras] if isinstance(loras, str | Path) else loras
    return [item if isinstance(item, Lora) else Lora.parse(item) for item in items]


@dataclass(frozen=True)
class LowRank:
    """An adapter's addition to the product of one weight [N, K]: factor * B (A x).

    Attributes:
        a: [rank, K]; for the embedding one row per token, [vocab_size, rank].
        b: [N, rank]; for the embedding [hidden_size, rank].
        factor: The adapter's scale, times alpha / rank if it has an alpha.
    """

    a: GGUFTensor
    b: GGUFTensor
    factor: float


@dataclass(frozen=True)
class Adapter:
    """An adapter of a model.

    Attributes:
        path: Its file.
        size: The size of the file in bytes.
        scale: Its strength.
        weights: Its addition to each weight, by the weight's name without `.weight`; empty with a scale of 0.
        warnings: Warnings for the user.
    """

    path: Path
    size: int
    scale: float
    weights: Mapping[str, LowRank]
    warnings: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[GGUFTensor, ...]:
        """The matrices of all weights."""
        return tuple(tensor for low_rank in self.weights.values() for tensor in (low_rank.a, low_rank.b))


def read_adapters(loras: Sequence[Lora], base: GGUFFile) -> tuple[Adapter, ...]:
    """Read the adapters of `base`; see `read_adapter`."""
    return tuple(read_adapter(lora, base) for lora in loras)


def read_adapter(lora: Lora, base: GGUFFile) -> Adapter:
    """Read an adapter and check all of it, including its numbers.

    Args:
        lora: The file and the scale.
        base: The model, which `Hyperparameters.from_gguf` accepts.

    Raises:
        Llama3Error: the file is not a LoRA adapter, is damaged, or does not fit the model.
    """
    with GGUFFile.open(lora.path) as file:
        _check_kind(file, base)
        refuse_unread(file)
        pairs, ignored = _pairs(file)
        alpha = file.get_float("adapter.lora.alpha", default=0.0)
        config = Hyperparameters.from_gguf(base)
        weights: dict[str, LowRank] = {}
        for name, (a, b) in pairs.items():
            rank = _checked_rank(file, base, config, name, a, b)
            factor = _factor(lora.scale, alpha, rank)
            for part, rows in _parts(config, name, b).items():
                if part in weights:
                    raise Llama3Error(
                        f"{file.path}: adapts {part}.weight twice, once as part of a fused weight; {_AGAIN}"
                    )
                weights[part] = LowRank(a, rows, factor)
        _check_finite(file, weights)
        warnings = []
        blank = sum(not (a.data.any() or b.data.any()) for a, b in pairs.values())
        if blank:
            warnings.append(
                f"{lora.path.name}: the matrices in {blank} of its {len(pairs)} pairs contain only zeros and change "
                "nothing, as in an unfinished download"
            )
        if ignored:
            warnings.append(f"{lora.path.name}: its norms ({ignored} in total) are ignored, as in llama.cpp")
        return Adapter(lora.path, file.size, lora.scale, weights if np.float32(lora.scale) else {}, tuple(warnings))


def _check_kind(file: GGUFFile, base: GGUFFile) -> None:
    kind = file.get_str("general.type", default=None)
    if kind != "adapter":
        found = "general.type is missing" if kind is None else f"general.type is {quoted(kind)}"
        raise Llama3Error(f"{file.path}: not a LoRA adapter ({found}); use an adapter in GGUF, not a model")
    if len(file.parts) > 1:
        raise Llama3Error(
            f"{file.path}: an adapter in {len(file.parts)} parts; merge them with llama-gguf-split --merge"
        )
    adapter_type = file.get_str("adapter.type", default="")
    if adapter_type != "lora":
        raise Llama3Error(
            f"{file.path}: an adapter of type {quoted(adapter_type)}, but only 'lora' is supported; use a LoRA adapter"
        )
    architecture, expected = file.get_str("general.architecture"), base.get_str("general.architecture")
    if architecture != expected:
        raise Llama3Error(
            f"{file.path}: an adapter for the architecture {quoted(architecture)}, but {base.path} is "
            f"{quoted(expected)}; use an adapter that was trained on this model"
        )
    tokens = file.metadata.get("adapter.alora.invocation_tokens", ())
    if not isinstance(tokens, np.ndarray | tuple) or len(tokens) > 0:
        raise Llama3Error(
            f"{file.path}: an adapter that starts after certain tokens (adapter.alora.invocation_tokens), which is not "
            "supported; use a plain LoRA adapter"
        )


def _pairs(file: GGUFFile) -> tuple[dict[str, tuple[GGUFTensor, GGUFTensor]], int]:
    """Return A and B by the name of their weight without `.weight`, and the number of ignored tensors."""
    ignored = 0
    names: dict[str, None] = {}
    for tensor in file.tensors:
        weight, _, ending = tensor.rpartition(".")
        if ending in ("lora_a", "lora_b") and weight.endswith(".weight"):
            names[weight] = None
        elif tensor.endswith("_norm.weight"):
            ignored += 1
        else:
            raise Llama3Error(
                f"{file.path}: the tensor {quoted(tensor)} is neither the lora_a nor the lora_b of a weight, and "
                "ignoring it could change the result; use a plain LoRA adapter"
            )
    if not names:
        raise Llama3Error(f"{file.path}: an adapter without any lora_a and lora_b; {_AGAIN}")
    pairs = {}
    for name in names:
        for ending, other in (("lora_a", "lora_b"), ("lora_b", "lora_a")):
            if f"{name}.{ending}" not in file.tensors:
                raise Llama3Error(f"{file.path}: {quoted(name)} has a {other} but no {ending}; {_AGAIN}")
        pairs[name.removesuffix(".weight")] = (file.tensors[f"{name}.lora_a"], file.tensors[f"{name}.lora_b"])
    return pairs, ignored


def _parts(config: Hyperparameters, name: str, b: GGUFTensor) -> dict[str, GGUFTensor]:
    """Return B by the name of its weight; if the weight is fused, return the rows of each of its parts."""
    parts: dict[str, GGUFTensor] = {}
    start = 0
    for part, shape in config.parts_of(f"{name}.weight").items():
        parts[part.removesuffix(".weight")] = b.rows(f"{part}.lora_b", start, start + shape[0])
        start += shape[0]
    return parts or {name: b}


def _checked_rank(
    file: GGUFFile, base: GGUFFile, config: Hyperparameters, name: str, a: GGUFTensor, b: GGUFTensor
) -> int:
    """Return the rank, after checking that the model has the weight and that the shapes fit it."""
    weight = base.tensors.get(f"{name}.weight") or config.weights(base).get(f"{name}.weight")
    if weight is None:
        raise Llama3Error(
            f"{file.path}: adapts {quoted(f'{name}.weight')}, which {base.path} does not have; use an adapter that "
            "was trained on this model"
        )
    if not _ADAPTABLE.fullmatch(name):
        raise Llama3Error(
            f"{file.path}: adapts {quoted(f'{name}.weight')}, but only linear layers and the embedding are supported; "
            "use an adapter without it"
        )
    if name == _EMBEDDING and "output.weight" not in base.tensors:
        raise Llama3Error(
            f"{file.path}: adapts {_EMBEDDING}.weight, which is also the output matrix in {base.path}, and does not "
            "say whether to adapt that as well; use an adapter without it"
        )
    rank = b.shape[-1]
    rows, columns = weight.shape
    expected_a, expected_b = ((rows, rank), (columns, rank)) if name == _EMBEDDING else ((rank, columns), (rows, rank))
    for tensor, expected in ((a, expected_a), (b, expected_b)):
        if tensor.shape != expected:
            raise Llama3Error(
                f"{file.path}: {quoted(tensor.name)} has shape {list(tensor.shape)}, expected {list(expected)}: its "
                f"rank is {rank}, and the weight in {base.path} is {list(weight.shape)}; use an adapter that was "
                "trained on this model"
            )
        if not holds_weights(tensor.type):
            raise Llama3Error(
                f"{file.path}: {quoted(tensor.name)} has the unsupported type {tensor.type.name}; "
                f"{_AGAIN}, in another encoding"
            )
    return rank


def _factor(scale: float, alpha: float, rank: int) -> float:
    """Compute the factor in float32 and in this order, like llama.cpp; infinite if it overflows."""
    with np.errstate(over="ignore"):
        factor = np.float32(scale)
        if alpha32 := np.float32(alpha):
            factor = factor * alpha32 / np.float32(rank)
        return float(factor)


def _check_finite(file: GGUFFile, weights: Mapping[str, LowRank]) -> None:
    for name, low_rank in weights.items():
        if not math.isfinite(low_rank.factor):
            raise Llama3Error(
                f"{file.path}: the scale times alpha / rank is {low_rank.factor} for {name}; use a smaller scale, or "
                f"{_AGAIN}"
            )
        for tensor in (low_rank.a, low_rank.b):
            if not np.isfinite(tensor.dequantize()).all():
                raise Llama3Error(
                    f"{file.path}: {quoted(tensor.name)} contains values that are not finite numbers; {_AGAIN}"
                )
