"""Any other engine to compare with: a shared library with six C functions, such as those in `runtime/peers`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from llama3_models.errors import Llama3Error

from llama3_runtime.bench.speed import Ids, Logits

_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "peer_name": (ctypes.c_char_p, []),
    "peer_open": (ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]),
    "peer_vocab_size": (ctypes.c_int, [ctypes.c_void_p]),
    "peer_forward": (ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]),
    "peer_rewind": (None, [ctypes.c_void_p, ctypes.c_int]),
    "peer_close": (None, [ctypes.c_void_p]),
}


class LibraryPeer:
    """A model loaded by the library, as a context manager that frees it."""

    name: str
    origin: str
    vocab_size: int

    def __init__(self, library: Path, gguf: Path, *, threads: int, max_length: int, chunk_size: int) -> None:
        """Load `gguf` with room for `max_length` tokens, to evaluate `chunk_size` at a time.

        Raises:
            Llama3Error: the library lacks a function, or cannot load the file.
        """
        try:
            self._lib = ctypes.CDLL(str(library.resolve()))
            for function, (result, arguments) in _SIGNATURES.items():
                getattr(self._lib, function).restype = result
                getattr(self._lib, function).argtypes = arguments
        except (OSError, AttributeError) as error:
            raise Llama3Error(
                f"{library}: not a library to compare with ({error}); build one from runtime/peers"
            ) from error
        self.name = self._lib.peer_name().decode()
        self.origin = str(library)
        self._chunk_size = chunk_size
        self._handle = self._lib.peer_open(str(gguf).encode(), threads, max_length, chunk_size)
        if not self._handle:
            raise Llama3Error(f"{gguf}: {self.name} cannot load this file with a context of {max_length} tokens")
        self.vocab_size = self._lib.peer_vocab_size(self._handle)

    def __enter__(self) -> LibraryPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lib.peer_close(self._handle)

    def prefill(self, ids: Sequence[int] | Ids) -> Logits:
        """Append `ids` in chunks; return the last one's logits, [vocab], valid until the next call."""
        for start in range(0, len(ids), self._chunk_size):
            logits = self.forward(ids[start : start + self._chunk_size])
        last: Logits = logits[-1]
        return last

    def forward(self, ids: Sequence[int] | Ids, *, keep: int | None = None) -> Logits:  # noqa: ARG002
        """Append up to `chunk_size` ids; return only the last one's logits, [1, vocab], valid until the next call."""
        tokens = np.ascontiguousarray(ids, dtype=np.int32)
        logits = self._lib.peer_forward(self._handle, tokens.ctypes.data, len(tokens))
        if not logits:
            raise Llama3Error(f"{self.name} failed to evaluate {len(tokens)} tokens")
        return np.ctypeslib.as_array(logits, (1, self.vocab_size))

    def rewind(self, position: int = 0) -> None:
        """Forget the tokens at `position` and later."""
        self._lib.peer_rewind(self._handle, position)
