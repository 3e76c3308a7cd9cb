"""llama.cpp as an oracle: logits, greedy continuations and its own quantizer, through llama-cpp-python's C bindings.

It uses the C interface and not the `Llama` class: the cache can then be float32, attention is not flash attention, and
files need no tokenizer. Import this module after `pytest.importorskip("llama_cpp")`: it needs the package.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

_GGML_TYPE_F32 = 0
_FLASH_ATTENTION_OFF = 0


@llama_cpp.llama_log_callback
def _say_nothing(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    pass


llama_cpp.llama_log_set(_say_nothing, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()


class LlamaCpp:
    """A model and one context: `evaluate` appends tokens to the cache and returns their logits."""

    def __init__(self, model: Any, context: Any, vocab_size: int) -> None:
        self._model, self._context, self._vocab_size = model, context, vocab_size
        self._past = 0

    def evaluate(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Run `ids` after everything evaluated so far; float32 [len(ids), vocab]."""
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for i, token in enumerate(ids):
                batch.token[i] = token
                batch.pos[i] = self._past + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = True
            status = llama_cpp.llama_decode(self._context, batch)
            assert status == 0, f"llama_decode returned {status}"
        finally:
            llama_cpp.llama_batch_free(batch)
        self._past += len(ids)
        rows = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(rows, shape=(len(ids), self._vocab_size)).copy()


@contextmanager
def opened(
    path: Path, *, context_length: int, threads: int = 2, adapters: Sequence[tuple[Path, float]] = ()
) -> Iterator[LlamaCpp]:
    """Load `path` with LoRA adapters and scales, in a context of `context_length` tokens with a float32 cache."""
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model_params.use_extra_bufts = False  # its AMX kernels crash on some virtual machines
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
    assert model, f"llama.cpp cannot load {path}"
    try:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context_length
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = _FLASH_ATTENTION_OFF
        params.type_k = params.type_v = _GGML_TYPE_F32
        context = llama_cpp.llama_init_from_model(model, params)
        assert context, f"llama.cpp cannot create a context of {context_length} tokens for {path}"
        try:
            _set_adapters(model, context, adapters)
            vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
            yield LlamaCpp(model, context, vocab_size)
        finally:
            llama_cpp.llama_free(context)
    finally:
        llama_cpp.llama_model_free(model)


def _set_adapters(model: Any, context: Any, adapters: Sequence[tuple[Path, float]]) -> None:
    # llama.cpp frees them with the model.
    handles = [llama_cpp.llama_adapter_lora_init(model, str(path).encode()) for path, _ in adapters]
    assert all(handles), f"llama.cpp cannot load one of {adapters}"
    if handles:
        array = (llama_cpp.llama_adapter_lora_p_ctypes * len(handles))(*handles)
        scales = (ctypes.c_float * len(handles))(*(scale for _, scale in adapters))
        assert llama_cpp.llama_set_adapters_lora(context, array, len(handles), scales) == 0


def logits(path: Path, ids: Sequence[int], adapters: Sequence[tuple[Path, float]] = ()) -> npt.NDArray[np.float32]:
    """Return the logits after each of `ids`, float32 [len(ids), vocab]; llama.cpp quantizes activations as usual."""
    with opened(path, context_length=len(ids), adapters=adapters) as model:
        return model.evaluate(ids)


def greedy(
    path: Path,
    ids: Sequence[int],
    num_tokens: int,
    adapters: Sequence[tuple[Path, float]] = (),
    *,
    below: int | None = None,
) -> list[int]:
    """Return the `num_tokens` most probable ids that follow `ids`, one after the other, including end tokens.

    With `below`, only ids less than it are used: llama.cpp itself also generates unused tokens.
    """
    new: list[int] = []
    with opened(path, context_length=len(ids) + num_tokens, adapters=adapters) as model:
        last = model.evaluate(ids)[-1]
        while True:
            new.append(int(last[:below].argmax()))
            if len(new) == num_tokens:
                return new
            last = model.evaluate(new[-1:])[0]


def quantize(source: Path, target: Path, kind: str, *, pure: bool = False) -> None:
    """Quantize a float GGUF with llama.cpp's own quantizer.

    `kind` is the end of the name of a LLAMA_FTYPE_MOSTLY_ constant: "Q4_K_M", "Q6_K", "Q2_K", ... With `pure`, every
    matrix has that type, without the better types of the recipe.
    """
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = 2
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.pure = pure
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    assert status == 0, f"llama_model_quantize returned {status} for {source}"


def tokenize(path: Path, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
    """Return the ids of each text from the file's own tokenizer, without BOS.

    The texts of special tokens become these tokens only with `special`.
    """
    with _vocabulary(path) as vocabulary:
        results = []
        for text in texts:
            raw = text.encode()
            ids = (llama_cpp.llama_token * (3 * len(raw) + 4))()  # a space may be three byte tokens
            count = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), ids, len(ids), False, special)
            assert count >= 0, text
            results.append(list(ids[:count]))
        return results


def adds_bos(path: Path) -> bool:
    """Return whether a prompt begins with the beginning-of-sequence token."""
    with _vocabulary(path) as vocabulary:
        return bool(llama_cpp.llama_vocab_get_add_bos(vocabulary))


def named_tokens(path: Path) -> dict[str, int | None]:
    """Return the tokens of the roles bos, eos and pad."""
    with _vocabulary(path) as vocabulary:
        ids = {role: getattr(llama_cpp, f"llama_vocab_{role}")(vocabulary) for role in ("bos", "eos", "pad")}
        return {role: None if token_id < 0 else token_id for role, token_id in ids.items()}


def eog_ids(path: Path) -> frozenset[int]:
    """Return every token that ends generation."""
    with _vocabulary(path) as vocabulary:
        ids = range(llama_cpp.llama_vocab_n_tokens(vocabulary))
        return frozenset(token_id for token_id in ids if llama_cpp.llama_vocab_is_eog(vocabulary, token_id))


@contextmanager
def _vocabulary(path: Path) -> Iterator[Any]:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model, f"llama.cpp cannot load {path}"
    try:
        yield llama_cpp.llama_model_get_vocab(model)
    finally:
        llama_cpp.llama_model_free(model)
