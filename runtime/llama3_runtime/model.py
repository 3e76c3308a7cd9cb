"""The exported graph as a function: the next tokens' ids in, logits out, the KV cache kept between calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from llama3_models.errors import Llama3Error
from llama3_models.exports import DEFAULT_MAX_LENGTH, GRAPH, MANIFEST
from llama3_models.manifest import AdapterUse, Manifest, NotAnExportError
from llama3_models.shortage import shortage

from llama3_runtime import defaults
from llama3_runtime.kv_cache import KV_TYPES, KVCache
from llama3_runtime.session import ORT_ERRORS, Provider, Session, open_session
from llama3_runtime.turns import Turns
from llama3_runtime.weights import check_weights

Logits = npt.NDArray[np.float32]


class ModelOptions(TypedDict, total=False):
    """The options of `Model.from_folder`, for functions that pass them on."""

    provider: Provider
    threads: int | None
    max_length: int | None
    chunk_size: int
    custom_ops_path: str | Path | None
    weights_folder: str | Path | None


class ContextExceededError(Llama3Error):
    """More positions are asked for than an export reaches; `context_length` is how many it does."""

    def __init__(self, max_length: int, context_length: int) -> None:
        super().__init__(f"--max-length must be in 1 .. {context_length} (the export's context), not {max_length}")
        self.context_length = context_length


class Model:
    """A session and its KV cache.

    Attributes:
        path: The export folder, or the GGUF of a graph that stands alone; the tokenizer is there, too.
        context_length: Positions that the export reaches.
        max_length: Positions that the cache holds.
        position: Positions that are filled: the next token's position.
        vocab_size: Number of logits.
        kv_cache_bytes: Memory that the cache takes.
        turns: Who may run it, and for whom the cache is kept.
        device: `cpu` or `cuda`.
        threads: For the work inside of an op.
        warning: Why it does not run where `auto` tried first, if so.
        adapters: The LoRA adapters that the export includes.
    """

    def __init__(
        self, session: Session, path: Path, context_length: int, max_length: int | None, chunk_size: int
    ) -> None:
        if max_length is None:
            max_length = min(DEFAULT_MAX_LENGTH, context_length)
        if not 1 <= max_length <= context_length:
            raise ContextExceededError(max_length, context_length)
        if chunk_size < 1:
            raise Llama3Error(f"chunk-size must be 1 or more, not {chunk_size}")
        self.path = path
        self.context_length = context_length
        self.max_length = max_length
        self.position = 0
        self.device = session.device
        self.threads = session.threads
        self.warning = session.warning
        self.adapters: tuple[AdapterUse, ...] = ()
        self.turns = Turns(self._release)
        self._chunk_size = chunk_size
        self._ort = session.ort
        self._takes_logits_to_keep = any(
            node.name == "logits_to_keep" for node in self._ort.get_overridable_initializers()
        )
        logits = next(node for node in self._ort.get_outputs() if node.name == "logits")
        self.vocab_size = int(logits.shape[-1])
        self._has_one_row = logits.shape[1] == 1
        self._cache = KVCache(self._ort, max_length, session.device)
        self.kv_cache_bytes = self._cache.nbytes
        self._binding = self._ort.io_binding()
        self._bound: dict[str, npt.NDArray[np.int64]] = {}
        self._cache.bind(self._binding)
        self._mask = np.ones((1, max_length), dtype=np.int64)
        self._one_row = ort.OrtValue.ortvalue_from_shape_and_type([1, 1, self.vocab_size], np.float32, session.device)

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        provider: Provider = "cpu",
        threads: int | None = None,
        max_length: int | None = None,
        chunk_size: int = defaults.CHUNK_SIZE,
        custom_ops_path: str | Path | None = None,
        weights_folder: str | Path | None = None,
        profile_prefix: Path | None = None,
    ) -> Model:
        """Load an export.

        Args:
            path: The export folder, or the .onnx file in it.
            provider: `cpu`, `cuda`, or `auto` for CUDA where there is one.
            threads: For the work inside of an op; None for one for each CPU that this process may use.
            max_length: Positions that the KV cache holds, for prompt and generated tokens together; None for 512, or
                the context where that is shorter.
            chunk_size: Tokens of a prompt that go through the graph at once.
            custom_ops_path: A library of custom ops that the graph needs; our own for native ops needs no mention.
            weights_folder: Where the graph's weights lie, if not beside it.
            profile_prefix: How the file begins that `end_profile` writes, if ONNX Runtime's profiler is wanted.

        Raises:
            Llama3Error: there is no export there, or it cannot be loaded or not run there.
        """
        graph = find_graph(Path(path))
        weights = Path(weights_folder) if weights_folder else graph.parent
        try:
            session = open_session(
                graph,
                provider=provider,
                threads=threads,
                custom_ops_path=Path(custom_ops_path) if custom_ops_path else None,
                weights_folder=Path(weights_folder) if weights_folder else None,
                profile_prefix=profile_prefix,
            )
        except Llama3Error:
            # Of weights that are gone or not yet copied the export knows more than ONNX Runtime says.
            if (beside := _manifest_beside(graph)) is not None:
                check_weights(beside, weights)
            raise
        manifest = _manifest_within(graph, session)
        check_weights(manifest, weights)
        _check_contract(graph, session)
        # Without a folder of its own; beside model.gguf it has the name that it has in a folder.
        stands_alone = weights_folder is not None or graph.name != GRAPH or not (graph.parent / MANIFEST).is_file()
        gguf = weights / manifest.source.parts[0].name
        source = gguf if stands_alone and gguf.is_file() else graph.parent
        model = cls(session, source, manifest.options.max_length, max_length, chunk_size)
        model.adapters = manifest.adapters
        return model

    def prefill(self, ids: Sequence[int] | npt.NDArray[np.int64]) -> Logits:
        """Append `ids` in chunks and return the last one's logits, [vocab_size], valid until the next call."""
        logits: Logits | None = None
        for chunk in self.chunks(ids):
            logits = self.forward(chunk)
        if logits is None:
            raise Llama3Error("the prompt has no tokens; give at least one")
        last: Logits = logits[-1]
        return last

    def chunks(self, ids: Sequence[int] | npt.NDArray[np.int64]) -> Iterator[Sequence[int] | npt.NDArray[np.int64]]:
        """The parts of a prompt that go through the graph one after another, `chunk_size` tokens each."""
        for start in range(0, len(ids), self._chunk_size):
            yield ids[start : start + self._chunk_size]

    def forward(self, ids: Sequence[int] | npt.NDArray[np.int64], *, keep: int | None = None) -> Logits:
        """Append `ids` in one call.

        Args:
            ids: Tokens; they must fit into the cache.
            keep: How many of the last tokens get logits, for an export with `--logits selected`; None for one.

        Returns:
            Logits [rows, vocab_size], of as many rows as the export gives; valid until the next call.

        Raises:
            Llama3Error: the cache is full, or ONNX Runtime failed.
        """
        total = self.position + len(ids)
        if total > self.max_length:
            raise Llama3Error(f"{total} tokens do not fit into the KV cache of {self.max_length} positions")
        binding = self._binding
        self._bind_input("input_ids", np.asarray(ids, dtype=np.int64)[None])
        self._bind_input("attention_mask", self._mask[:, :total])
        if self._takes_logits_to_keep:
            self._bind_input("logits_to_keep", np.array([keep or 1], dtype=np.int64))
        one_row = self._has_one_row or (self._takes_logits_to_keep and (keep or 1) == 1)
        if one_row:
            binding.bind_ortvalue_output("logits", self._one_row)
        else:
            binding.bind_output("logits", self.device)
        try:
            self._ort.run_with_iobinding(binding)
        except ORT_ERRORS as error:
            reason = shortage(error) or error
            raise Llama3Error(f"ONNX Runtime {ort.__version__} failed to run the graph: {reason}") from error
        self.position = total
        output = self._one_row if one_row else binding.get_outputs()[-1]  # logits were bound last
        logits: Logits = output.numpy()[0]
        return logits

    def rewind(self, position: int = 0) -> None:
        """Forget what stands at `position` and later; the cache before it is still good."""
        if not 0 <= position <= self.position:
            raise ValueError(f"position {position} is not in 0 .. {self.position}")
        self.position = position

    def _release(self) -> None:
        """Drop the session and the cache, with their memory."""
        del self._ort, self._cache, self._binding, self._one_row
        self._bound.clear()

    def end_profile(self) -> Path:
        """The file with what ONNX Runtime's profiler noted, for a model that was loaded with a `profile_prefix`."""
        return Path(self._ort.end_profiling())

    def _bind_input(self, name: str, array: npt.NDArray[np.int64]) -> None:
        # On the CPU the value shares the array's memory, and before ONNX Runtime 1.30 or so neither it nor the binding
        # keeps the array alive.
        self._bound[name] = array
        self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, self.device))


def find_graph(path: Path) -> Path:
    """The .onnx file of an export folder, or the file itself.

    Raises:
        Llama3Error: there is none.
    """
    if path.is_dir():
        graph = path / GRAPH
        if not graph.is_file():
            gguf = min(path.glob("*.gguf"), default=None)
            advice = "llama3-export makes one of a GGUF" if gguf is None else f"give the GGUF in it, {gguf}"
            raise Llama3Error(f"{path}: there is no {GRAPH} in this folder; {advice}")
        return graph
    if not path.is_file():
        raise Llama3Error(f"{path}: no such file or folder")
    return path


def _manifest_within(graph: Path, session: Session) -> Manifest:
    try:
        metadata = session.ort.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise Llama3Error(f"{graph}: damaged metadata (no UTF-8); export the GGUF again") from error
    return Manifest.of_graph(metadata, graph)


def _manifest_beside(graph: Path) -> Manifest | None:
    """The one in the graph's folder, where there is one that can be read."""
    try:
        return Manifest.of_folder(graph.parent)
    except NotAnExportError:
        return None


def _check_contract(graph: Path, session: Session) -> None:
    nodes = {node.name: node for node in (*session.ort.get_inputs(), *session.ort.get_outputs())}
    for name in ("input_ids", "attention_mask", "past_key_values.0.key", "logits"):
        if name not in nodes:
            raise Llama3Error(f"{graph}: the graph has no {name!r}, so that it is no graph of llama3-export")
    for name, node in nodes.items():
        if name == "logits":
            expected = _has_sizes(node, 3, axes=[2])  # [batch, rows, vocab]
        elif name.startswith("past_key_values."):
            has_present = name.replace("past_key_values", "present") in nodes
            # [batch, kv_heads, past, head_dim]
            expected = _has_sizes(node, 4, axes=[1, 3]) and node.type in KV_TYPES and has_present
        else:
            continue
        if not expected:
            raise Llama3Error(f"{graph}: its {name!r} is none of llama3-export's; export the GGUF again")
    if session.device == "cuda" and nodes["past_key_values.0.key"].type != "tensor(float16)":
        raise Llama3Error(f"{graph}: CUDA attends in float16; export the GGUF with --precision fp16")


def _has_sizes(node: Any, rank: int, *, axes: Sequence[int]) -> bool:
    """Whether the shape of an input or output has so many axes, and numbers for some of them."""
    return len(node.shape) == rank and all(isinstance(node.shape[axis], int) for axis in axes)
