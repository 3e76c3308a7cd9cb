"""llama.cpp through llama-cpp-python, as an engine to compare with on the same GGUF.

Everything except threads and sizes has llama.cpp's defaults. The code calls the C interface, because the Python
bookkeeping of the `Llama` class would count as llama.cpp's time.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from llama3_models.errors import Llama3Error

from llama3_runtime.bench.speed import Ids, Logits


@functools.cache
def _start(llama_cpp: Any) -> Any:
    """Initialize the library and silence its log, once. The cache keeps the callback, which llama.cpp still calls."""
    callback = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return callback


class LlamaCpp:
    """A model and a context of llama.cpp, as a context manager that frees both."""

    name = "llama.cpp"
    origin: str
    vocab_size: int

    def __init__(self, gguf: Path, *, threads: int, max_length: int, chunk_size: int) -> None:
        """Load `gguf` with room for `max_length` tokens, to evaluate `chunk_size` at a time.

        Raises:
            Llama3Error: llama-cpp-python is not installed, or cannot load the file.
        """
        try:
            import llama_cpp
        except ImportError as error:
            raise Llama3Error(f"cannot compare with llama.cpp: {error}; run pip install llama-cpp-python") from error
        self._lib = llama_cpp
        self.origin = f"llama-cpp-python {llama_cpp.__version__}"
        self._position = 0
        self._chunk_size = chunk_size
        self._context: Any = None
        self._batch: Any = None
        _start(llama_cpp)

        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), model_params)
        if not self._model:
            raise Llama3Error(f"{gguf}: llama.cpp ({self.origin}) cannot load this file")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = max_length
        params.n_batch = params.n_ubatch = chunk_size
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            self.close()
            raise Llama3Error(f"{gguf}: llama.cpp does not have enough memory for a context of {max_length} tokens")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

        self._batch = llama_cpp.llama_batch_init(chunk_size, 0, 1)
        for i in range(chunk_size):
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0
        self._tokens = np.ctypeslib.as_array(self._batch.token, (chunk_size,))
        self._positions = np.ctypeslib.as_array(self._batch.pos, (chunk_size,))
        self._wants_logits = np.ctypeslib.as_array(self._batch.logits, (chunk_size,))

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the context and the model. Call nothing else after it."""
        if self._batch is not None:
            self._lib.llama_batch_free(self._batch)
            self._batch = None
        if self._context:
            self._lib.llama_free(self._context)
            self._context = None
        if self._model:
            self._lib.llama_model_free(self._model)
            self._model = None

    def prefill(self, ids: Sequence[int] | Ids) -> Logits:
        """Append `ids` in chunks; return the last one's logits, [vocab], valid until the next call."""
        for start in range(0, len(ids), self._chunk_size):
            logits = self.forward(ids[start : start + self._chunk_size])
        last: Logits = logits[-1]
        return last

    def forward(self, ids: Sequence[int] | Ids, *, keep: int | None = None) -> Logits:
        """Append up to `chunk_size` ids; return logits of the last `keep`, [keep, vocab], valid until the next call."""
        count, keep = len(ids), keep or 1
        self._batch.n_tokens = count
        self._tokens[:count] = ids
        self._positions[:count] = np.arange(self._position, self._position + count)
        self._wants_logits[:count] = np.arange(count) >= count - keep
        status = self._lib.llama_decode(self._context, self._batch)
        if status != 0:
            raise Llama3Error(f"llama.cpp failed to evaluate {count} tokens (llama_decode returned {status})")
        self._position += count
        rows: npt.NDArray[np.float32] = np.ctypeslib.as_array(
            self._lib.llama_get_logits(self._context), (keep, self.vocab_size)
        )
        return rows

    def rewind(self, position: int = 0) -> None:
        """Forget the tokens at `position` and later."""
        self._lib.llama_memory_seq_rm(self._lib.llama_get_memory(self._context), 0, position, -1)
        self._position = position
