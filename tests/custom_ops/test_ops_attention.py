"""The attention op of the native graph in ONNX Runtime, compared with attention in float64."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from tests.custom_ops.op_sessions import (
    DOUBLE,
    FLOAT,
    FLOAT16,
    INT32,
    ORT_ERRORS,
    ORT_VERSION,
    model_of,
    needs_library,
    open_session,
)

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 32
INV_FREQ = 10000.0 ** -(np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
TYPES = {"float16": FLOAT16, "float32": FLOAT}


@pytest.fixture(autouse=True)
def _library() -> None:
    needs_library()


def attention(
    cache: str, inv_freq: Any = INV_FREQ, past_shape: Any = None, *, seqlens_q: bool = False, **attributes: Any
) -> bytes:
    return model_of(
        "CachedAttention",
        {
            "q": (FLOAT, ["batch", "seq", "hidden"]),
            "k": (FLOAT, None),
            "v": (FLOAT, None),
            "past_key": (TYPES[cache], past_shape),
            "past_value": (TYPES[cache], past_shape),
            "seqlens_k": (INT32, None),
            "total_length": (INT32, None),
            "inv_freq": inv_freq,
            **({"seqlens_q": (INT32, None)} if seqlens_q else {}),
        },
        {"y": FLOAT, "present_key": TYPES[cache], "present_value": TYPES[cache]},
        **{"num_heads": HEADS, "kv_num_heads": KV_HEADS, **attributes},
    )


@dataclass
class Call:
    """The inputs of a call. `tokens` has the number of each row's tokens so far, including the new ones.

    `lengths` has the number of each row's new tokens, for a graph with `seqlens_q`.
    """

    new: int
    tokens: list[int]
    cache: str
    past_capacity: int
    seed: int = 0
    total: int | None = None
    lengths: list[int] | None = None
    feeds: dict[str, NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        rng, batch = np.random.default_rng(self.seed), len(self.tokens)

        def tokens_of(heads: int) -> NDArray[np.float32]:
            return rng.standard_normal((batch, self.new, heads * HEAD_DIM)).astype(np.float32)

        def past() -> NDArray[Any]:
            return rng.standard_normal((batch, KV_HEADS, self.past_capacity, HEAD_DIM)).astype(self.cache)

        self.feeds = {
            "q": tokens_of(HEADS),
            "k": tokens_of(KV_HEADS),
            "v": tokens_of(KV_HEADS),
            "past_key": past(),
            "past_value": past(),
            "seqlens_k": np.array(self.tokens, np.int32) - 1,
            "total_length": np.array(max(self.tokens) if self.total is None else self.total, np.int32),
        }
        if self.lengths is not None:
            self.feeds["seqlens_q"] = np.array(self.lengths, np.int32)

    def spans(self) -> list[tuple[int, int]]:
        """Return the numbers of past and new tokens of each row."""
        if self.lengths is not None:
            return [(tokens - length, length) for tokens, length in zip(self.tokens, self.lengths, strict=True)]
        begins = int(self.feeds["total_length"]) == self.new
        return [(0, tokens) if begins else (tokens - self.new, self.new) for tokens in self.tokens]


def rotate(x: NDArray[Any], first: int, interleaved: bool) -> NDArray[np.float64]:
    """Rotate [seq, heads, head_dim] in float64."""
    angles = (first + np.arange(len(x)))[:, None, None] * INV_FREQ
    x = x.astype(np.float64)
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else np.split(x, 2, axis=-1)
    turned = a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)
    return np.stack(turned, -1).reshape(x.shape) if interleaved else np.concatenate(turned, -1)


def reference(call: Call, row: int, interleaved: bool = True, scale: float = HEAD_DIM**-0.5) -> list[NDArray[Any]]:
    """Compute one row's y [length, heads * head_dim], keys and values [kv_heads, past + length, head_dim]."""
    past, length = call.spans()[row]
    q, k, v = (call.feeds[n][row, :length].reshape(length, -1, HEAD_DIM) for n in "qkv")
    new = {"key": rotate(k, past, interleaved), "value": v.astype(np.float64)}
    keys, values = (
        np.concatenate([call.feeds[f"past_{n}"][row, :, :past], new[n].swapaxes(0, 1).astype(call.cache)], axis=1)
        for n in ("key", "value")
    )
    q = rotate(q, past, interleaved)
    y = np.zeros_like(q)
    for head in range(HEADS):
        kv_head = head // (HEADS // KV_HEADS)
        scores = q[:, head] @ keys[kv_head].astype(np.float64).T * scale
        scores[np.arange(past + length) > past + np.arange(length)[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        y[:, head] = weights / weights.sum(-1, keepdims=True) @ values[kv_head].astype(np.float64)
    return [y.reshape(length, -1), keys, values]


def check(call: Call, y: NDArray[Any], keys: NDArray[Any], values: NDArray[Any], **how: Any) -> None:
    # A chunk over a float16 cache may be multiplied in bfloat16; keys may round to the neighboring float16.
    tolerance = 1e-5 if call.cache == "float32" else 2e-2 if call.new > 4 else 2e-3
    for row, (past, length) in enumerate(call.spans()):
        if length == 0:
            continue
        expected_y, expected_keys, expected_values = reference(call, row, **how)
        assert np.abs(y[row, :length] - expected_y).max() < tolerance * np.abs(expected_y).max()
        end = past + length
        rtol = 1e-3 if call.cache == "float16" else 1e-5
        np.testing.assert_allclose(keys[row, :, :end], expected_keys, rtol=rtol, atol=1e-5)
        np.testing.assert_array_equal(values[row, :, :end], expected_values)
        np.testing.assert_array_equal(keys[row, :, :past], call.feeds["past_key"][row, :, :past])


@pytest.mark.parametrize("cache", TYPES)
@pytest.mark.parametrize(
    ("new", "tokens", "past_capacity"),
    [
        (1, [1], 0),  # the first token
        (7, [7], 0),  # a prompt
        (200, [200], 0),
        (7, [7, 3, 1], 0),  # prompts of different lengths, padded on the right
        (1, [40], 39),  # decoding
        (1, [40, 12, 1], 39),  # rows of different lengths
        (3, [40, 12], 37),  # a few tokens after a past
        (70, [300], 230),  # a chunk after a past
        (4, [2, 0], 0),  # a row without a token
    ],
)
def test_attention_over_a_growing_cache(cache: str, new: int, tokens: list[int], past_capacity: int) -> None:
    """The past is copied into a separate present, which is zero where there is no token."""
    call = Call(new, tokens, cache, past_capacity, total=max(new, *tokens))
    before = {name: array.copy() for name, array in call.feeds.items()}
    y, keys, values = open_session(attention(cache), 2).run(None, call.feeds)
    check(call, y, keys, values)
    for row, (past, length) in enumerate(call.spans()):
        assert not y[row, length:].any()
        assert not keys[row, :, past + length :].any()
        assert not values[row, :, past + length :].any()
    for name, array in before.items():
        np.testing.assert_array_equal(call.feeds[name], array)


@pytest.mark.parametrize("cache", TYPES)
@pytest.mark.parametrize(
    ("new", "tokens", "lengths", "past_capacity"),
    [
        (1, [40, 12, 0], [1, 0, 0], 39),  # rows without new tokens
        (4, [4, 2, 0], [4, 2, 0], 0),  # a prompt
        (5, [45, 8, 1, 30, 20], [5, 3, 1, 0, 4], 40),  # any lengths after any pasts
        (70, [300, 3, 64, 239], [70, 3, 64, 9], 230),
        (3, [1, 2], [1, 2], 9),  # first tokens, with a past that no row uses
    ],
)
def test_each_row_has_its_own_number_of_new_tokens(
    cache: str, new: int, tokens: list[int], lengths: list[int], past_capacity: int
) -> None:
    """A separate present and a shared buffer get the same tokens, and the buffer is untouched elsewhere."""
    call = Call(new, tokens, cache, past_capacity, total=past_capacity + new, lengths=lengths)
    session = open_session(attention(cache, seqlens_q=True), 2)
    y, keys, values = session.run(None, call.feeds)
    check(call, y, keys, values)
    for row, (past, length) in enumerate(call.spans()):
        assert not y[row, length:].any()
        assert not keys[row, :, past + length :].any()
        assert not values[row, :, past + length :].any()

    call = Call(new, tokens, cache, past_capacity + new + 5, total=past_capacity + new, lengths=lengths)
    y, keys, values = run_shared(session, call)
    check(call, y, keys, values)
    for row, (past, length) in enumerate(call.spans()):
        for n, present in (("key", keys), ("value", values)):
            untouched = [slice(0, past), slice(past + length, None)]
            for part in untouched:
                np.testing.assert_array_equal(present[row, :, part], call.feeds[f"past_{n}"][row, :, part])


@pytest.mark.parametrize(
    ("lengths", "seqlens_k", "total", "message"),
    [
        ([4, 0], [9, 9], 13, "seqlens_q is 4 .* 0 to 3"),
        ([-1, 0], [9, 9], 13, "seqlens_q is -1 .* 0 to 3"),
        ([3, 0], [1, 9], 13, "seqlens_k .* 2 tokens, but 3 are new"),
        ([0, 0], [-2, 9], 13, "seqlens_k .* -1 tokens, but 0 are new"),
        ([3, 0], [13, 9], 13, "14 tokens, but 3 are new and total_length is 13"),
        ([2, 0], [12, 9], 13, "11 past tokens, .* room for 10"),
        ([3, 0], [11, 9], 12, "total_length is 12, not 10 past plus 3 new tokens"),
        ([3, 3, 3], [9, 9], 13, r"seqlens_q is \[3\], not \[2\]"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(
    lengths: list[int], seqlens_k: list[int], total: int, message: str
) -> None:
    call = Call(3, [10, 10], "float16", 10, total=13, lengths=[3, 0])
    session = open_session(attention("float16", seqlens_q=True))
    session.run(None, call.feeds)
    changed = {
        "seqlens_q": np.array(lengths, np.int32),
        "seqlens_k": np.array(seqlens_k, np.int32),
        "total_length": np.array(total, np.int32),
    }
    with pytest.raises(ORT_ERRORS, match=message):
        session.run(None, call.feeds | changed)


def run_shared(session: ort.InferenceSession, call: Call) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Run with past and present bound to the same memory, copies of the call's past."""
    binding = session.io_binding()
    arrays = [call.feeds[f"past_{n}"].copy() for n in ("key", "value")]
    caches = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]  # views: the arrays must stay alive
    for name in call.feeds.keys() - {"past_key", "past_value"}:
        binding.bind_cpu_input(name, call.feeds[name])
    for n, cache in zip(("key", "value"), caches, strict=True):
        binding.bind_ortvalue_input(f"past_{n}", cache)
        binding.bind_ortvalue_output(f"present_{n}", cache)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    y = next(output for output in binding.get_outputs() if len(output.shape()) == 3)
    return y.numpy(), *arrays


@pytest.mark.parametrize("cache", TYPES)
@pytest.mark.parametrize(("new", "tokens"), [(5, [5]), (5, [5, 2]), (1, [33]), (1, [33, 9]), (8, [30]), (1, [64])])
def test_attention_appends_in_place(cache: str, new: int, tokens: list[int]) -> None:
    """In a shared buffer only the new tokens' positions are written."""
    call = Call(new, tokens, cache, 64)
    y, keys, values = run_shared(open_session(attention(cache), 2), call)
    check(call, y, keys, values)
    for row, (past, length) in enumerate(call.spans()):
        for n, present in (("key", keys), ("value", values)):
            np.testing.assert_array_equal(present[row, :, :past], call.feeds[f"past_{n}"][row, :, :past])
            untouched = call.feeds[f"past_{n}"][row, :, past + length :]
            np.testing.assert_array_equal(present[row, :, past + length :], untouched)
    unshared = open_session(attention(cache), 2).run(None, call.feeds)
    assert unshared[1].shape == keys.shape
    if len(tokens) == 1:  # otherwise the shorter row's padding differs
        np.testing.assert_array_equal(unshared[0], y)


def test_a_full_shared_buffer_is_refused() -> None:
    """A host that continues past its buffer's end gets an error, and nothing is written there."""
    session = open_session(attention("float16"))
    with pytest.raises(RuntimeError, match="shape"):  # the error of I/O binding
        run_shared(session, Call(1, [65], "float16", 64))


def test_halves_rotate_where_the_graph_says_so() -> None:
    """rotary_interleaved = 0 rotates the pairs (i, i + half), and the scale attribute is used."""
    call = Call(4, [20], "float32", 16)
    session = open_session(attention("float32", rotary_interleaved=0, scale=0.25))
    check(call, *session.run(None, call.feeds), interleaved=False, scale=0.25)


def test_frequencies_that_are_no_constant() -> None:
    """inv_freq as an input produces the same result as a constant."""
    call = Call(3, [9], "float32", 6)
    expected = open_session(attention("float32")).run(None, call.feeds)
    session = open_session(attention("float32", inv_freq=(DOUBLE, None)))
    for a, b in zip(session.run(None, {**call.feeds, "inv_freq": INV_FREQ}), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ORT_ERRORS, match="rotated values"):
        session.run(None, {**call.feeds, "inv_freq": np.ones(17)})
    with pytest.raises(ORT_ERRORS, match=r"inv_freq is \[2, 8\]; .* 1 dimension"):
        session.run(None, {**call.feeds, "inv_freq": np.ones((2, 8))})


@pytest.mark.parametrize("new", [1, 90])
def test_threads_do_not_change_the_result(new: int) -> None:
    """One thread and many produce the same bits."""
    call = Call(new, [500 + new], "float16", 500)
    results = [open_session(attention("float16"), threads).run(None, call.feeds) for threads in (1, 2, 5)]
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(ORT_VERSION < (1, 24), reason="shape inference of custom ops crashes in onnxruntime 1.23")
def test_output_shape_is_inferred() -> None:
    """y has the shape of q."""
    assert open_session(attention("float16")).get_outputs()[0].shape == ["batch", "seq", "hidden"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, "num_heads 5, kv_num_heads 2, .*multiple"),
        ({"num_heads": 0}, "num_heads 0"),
        ({"kv_num_heads": 0}, "kv_num_heads 0"),
        ({"kv_num_heads": -2}, "kv_num_heads -2"),
        ({"num_heads": 2**62, "kv_num_heads": 2**61}, r"q is \["),
        ({"num_heads": "6"}, "attribute num_heads is missing or is not an integer"),
        ({"scale": 1}, "attribute scale is missing or is not a float"),
        ({"scale": "0.5"}, "attribute scale is missing or is not a float"),
        ({"rotary_interleaved": 0.0}, "attribute rotary_interleaved is missing or is not an integer"),
        ({"rotary_interleaved": [0]}, "attribute rotary_interleaved is missing or is not an integer"),
    ],
)
def test_heads_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    """They are refused at load or at the call, before anything is read."""
    call = Call(1, [5], "float16", 4)
    with pytest.raises(ORT_ERRORS, match=message):
        open_session(attention("float16", **change)).run(None, call.feeds)


def test_a_declared_cache_is_checked_at_load() -> None:
    """A head dimension that no kernel supports is refused before anything runs."""
    with pytest.raises(ORT_ERRORS, match=r"CachedAttention 'the_node': .*head_dim 20"):
        open_session(attention("float16", past_shape=["batch", 2, "past", 20]))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("q", np.zeros((1, 1, 191), np.float32), r"q is \[1, 1, 191\], not 6 heads of 32 values"),
        ("q", np.zeros((1, 192), np.float32), "q is .* 3 dimensions|Invalid rank"),
        ("q", np.zeros((0, 1, 192), np.float32), r"q is \[0, 1, 192\] .* no tokens"),
        ("q", np.zeros((1, 0, 192), np.float32), r"q is \[1, 0, 192\] .* no tokens"),
        ("q", np.zeros((2, 1, 192), np.float32), r"k is \[1, 1, 64\], not \[2, 1, 64\]"),
        ("k", np.zeros((1, 1, 63), np.float32), r"k is \[1, 1, 63\], not \[1, 1, 64\]"),
        ("k", np.zeros((1, 2, 64), np.float32), r"k is \[1, 2, 64\], not \[1, 1, 64\]"),
        ("v", np.zeros((64,), np.float32), r"v is \[64\], not \[1, 1, 64\]"),
        ("past_key", np.zeros((1, 2, 3, 32), np.float16), r"total_length is 5|past_value is"),
        ("past_key", np.zeros((1, 1, 4, 32), np.float16), r"past_key is \[1, 1, 4, 32\], not \[1, 2, 4, 32\]"),
        ("past_key", np.zeros((2, 4, 32), np.float16), r"past_key is \[2, 4, 32\]; .* 4 dimensions"),
        ("past_key", np.zeros((1, 2, 4, 24), np.float16), "head_dim 24"),
        ("past_value", np.zeros((1, 2, 3, 32), np.float16), r"past_value is \[1, 2, 3, 32\], not \[1, 2, 4, 32\]"),
        ("seqlens_k", np.array([4, 4], np.int32), r"seqlens_k is \[2\], not \[1\]"),
        ("seqlens_k", np.array([5], np.int32), "seqlens_k .* 6 tokens, but 1 are new and total_length is 5"),
        ("seqlens_k", np.array([-1], np.int32), "seqlens_k .* 0 tokens"),
        ("seqlens_k", np.array([-(2**31)], np.int32), "seqlens_k .* -2147483647 tokens"),
        ("seqlens_k", np.array([2**31 - 1], np.int32), "seqlens_k .* 2147483648 tokens"),
        ("total_length", np.array([5, 5], np.int32), r"total_length is \[2\], not \[\]"),
        ("total_length", np.array(6, np.int32), "total_length is 6, .* 1 new tokens and room for 4"),
        ("total_length", np.array(0, np.int32), "total_length is 0"),
        ("total_length", np.array(-5, np.int32), "total_length is -5"),
        ("total_length", np.array(2**31 - 1, np.int32), "total_length is 2147483647"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(name: str, value: NDArray[Any], message: str) -> None:
    """Each shape and length is checked before anything is read or written."""
    call = Call(1, [5], "float16", 4)
    session = open_session(attention("float16"))
    session.run(None, call.feeds)
    with pytest.raises(ORT_ERRORS, match=message):
        session.run(None, {**call.feeds, name: value})
