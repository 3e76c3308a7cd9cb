"""The exported graph as a function from token ids to logits, with a KV cache that it keeps between calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from llama3_models.errors import Llama3Error
from llama3_models.exports import DEFAULT_MAX_LENGTH, GRAPH, MANIFEST, folder_of, graph_in
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
    """More positions were requested than the `context_length` that an export supports."""

    def __init__(self, max_length: int, context_length: int) -> None:
        super().__init__(f"--max-length must be in 1 .. {context_length} (the export's context), not {max_length}")
        self.context_length = context_length


class Model:
    """A session and its KV cache.

    Attributes:
        path: The export folder, or the GGUF of a graph without a folder; it also has the tokenizer.
        context_length: Number of positions that the export supports.
        max_length: Number of positions in the cache.
        position: Number of positions filled so far, which is the next token's position.
        vocab_size: Number of logits.
        kv_cache_bytes: Memory of the cache.
        turns: Controls which text and thread may use the model.
        device: `cpu` or `cuda`.
        threads: Number of threads that share the work of an op.
        warning: Why `auto` fell back to the CPU, if it did.
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
            raise Llama3Error(f"--chunk-size must be 1 or more, not {chunk_size}")
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
            provider: `cpu`, `cuda`, or `auto` for CUDA if it is available.
            threads: Number of threads that share the work of an op; None for one per CPU that this process may use.
            max_length: Positions of the KV cache, for prompt and generated tokens together; None for 512, or the
                context if that is shorter.
            chunk_size: Tokens of a prompt that are evaluated at a time.
            custom_ops_path: A library of custom ops that the graph needs; our own is loaded without it.
            weights_folder: Folder of the graph's weights, if they are not beside it.
            profile_prefix: Start of the path of the file that `end_profile` returns; None turns the profiler off.

        Raises:
            Llama3Error: there is no export at `path`, or this provider cannot load or run it.
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
            # The manifest says more about missing or incomplete weights than ONNX Runtime does.
            if (beside := _manifest_beside(graph)) is not None:
                check_weights(beside, weights)
            raise
        manifest = _manifest_within(graph, session)
        check_weights(manifest, weights)
        _check_contract(graph, session)
        # Beside model.gguf, a graph without a folder is also called model.onnx, but has no manifest file.
        folder = folder_of(graph)
        is_named_so = graph.name == GRAPH or folder != graph.parent
        stands_alone = weights_folder is not None or not is_named_so or not (folder / MANIFEST).is_file()
        gguf = weights / manifest.source.parts[0].name
        source = gguf if stands_alone and gguf.is_file() else folder
        model = cls(session, source, manifest.options.max_length, max_length, chunk_size)
        model.adapters = manifest.adapters
        return model

    def prefill(self, ids: Sequence[int] | npt.NDArray[np.int64]) -> Logits:
        """Append `ids` in chunks; return the last one's logits, [vocab_size], valid until the next call."""
        logits: Logits | None = None
        for chunk in self.chunks(ids):
            logits = self.forward(chunk)
        if logits is None:
            raise Llama3Error("the prompt is empty")
        last: Logits = logits[-1]
        return last

    def chunks(self, ids: Sequence[int] | npt.NDArray[np.int64]) -> Iterator[Sequence[int] | npt.NDArray[np.int64]]:
        """Yield the chunks of a prompt, `chunk_size` tokens each."""
        for start in range(0, len(ids), self._chunk_size):
            yield ids[start : start + self._chunk_size]

    def forward(self, ids: Sequence[int] | npt.NDArray[np.int64], *, keep: int | None = None) -> Logits:
        """Append `ids` in one call.

        Args:
            ids: Tokens; they must fit into the cache.
            keep: Number of last tokens that get logits, if the export has `--logits selected`; None means one.

        Returns:
            Logits [rows, vocab_size], with as many rows as the export computes; valid until the next call.

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
        """Forget the tokens at `position` and later; the cache before it stays valid."""
        if not 0 <= position <= self.position:
            raise ValueError(f"position {position} is not in 0 .. {self.position}")
        self.position = position

    def _release(self) -> None:
        """Drop the session and the cache, and free their memory."""
        del self._ort, self._cache, self._binding, self._one_row
        self._bound.clear()

    def end_profile(self) -> Path:
        """Stop ONNX Runtime's profiler and return its file. The model must be loaded with a `profile_prefix`."""
        return Path(self._ort.end_profiling())

    def _bind_input(self, name: str, array: npt.NDArray[np.int64]) -> None:
        # On the CPU the value shares the array's memory, and before ONNX Runtime 1.30 or so neither it nor the binding
        # keeps the array alive.
        self._bound[name] = array
        self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, self.device))


def find_graph(path: Path) -> Path:
    """Return the .onnx file of an export folder, or the file itself.

    Raises:
        Llama3Error: there is no such file.
    """
    if path.is_dir():
        graph = graph_in(path)
        if not graph.is_file():
            gguf = min(path.glob("*.gguf"), default=None)
            advice = "run llama3-export on a GGUF to create one" if gguf is None else f"use the GGUF in it, {gguf}"
            raise Llama3Error(f"{path}: there is no {graph.relative_to(path)} in this folder; {advice}")
        return graph
    if not path.is_file():
        raise Llama3Error(f"{path}: no such file or folder")
    return path


def _manifest_within(graph: Path, session: Session) -> Manifest:
    try:
        metadata = session.ort.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise Llama3Error(f"{graph}: damaged metadata (not UTF-8); export the GGUF again") from error
    return Manifest.of_graph(metadata, graph)


def _manifest_beside(graph: Path) -> Manifest | None:
    """Return the manifest in the graph's folder, or None if it is missing or unreadable."""
    try:
        return Manifest.of_folder(folder_of(graph))
    except NotAnExportError:
        return None


def _check_contract(graph: Path, session: Session) -> None:
    nodes = {node.name: node for node in (*session.ort.get_inputs(), *session.ort.get_outputs())}
    for name in ("input_ids", "attention_mask", "past_key_values.0.key", "logits"):
        if name not in nodes:
            raise Llama3Error(f"{graph}: the graph has no {name!r}; export the GGUF again")
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
            raise Llama3Error(f"{graph}: its {name!r} has an unexpected shape or type; export the GGUF again")
    if session.device == "cuda" and nodes["past_key_values.0.key"].type != "tensor(float16)":
        raise Llama3Error(f"{graph}: CUDA needs a float16 KV cache; export the GGUF with --precision fp16")


def _has_sizes(node: Any, rank: int, *, axes: Sequence[int]) -> bool:
    """Return whether an input or output has `rank` axes, and fixed sizes for `axes`."""
    return len(node.shape) == rank and all(isinstance(node.shape[axis], int) for axis in axes)
