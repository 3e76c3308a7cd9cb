"""Each sampling step matches the same mathematics in float64, and the draws match their probabilities."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from llama3_models.errors import Llama3Error
from llama3_runtime.sampling.params import SamplingParams
from llama3_runtime.sampling.sampler import (
    Sampler,
    draw,
    min_p,
    penalize_repeats,
    softmax,
    top_k,
    top_p,
)

VOCABULARY = 128_256
rows = hnp.arrays(np.float32, st.integers(1, 600), elements=st.floats(-30, 30, width=32))


def exact(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Compute the distribution that the parameters describe, by sorting, in float64."""
    x = logits.astype(np.float64) / params.temperature
    p = np.exp(x - x.max())
    p /= p.sum()
    order = sorted(range(p.size), key=lambda i: (-p[i], i))
    kept = order[: params.top_k] if params.top_k else order
    if params.top_p < 1:
        total, running, nucleus = p[kept].sum(), 0.0, []
        for i in kept:
            nucleus.append(i)
            running += p[i]
            if running >= params.top_p * total:
                break
        kept = nucleus
    kept = [i for i in kept if p[i] >= params.min_p * p.max()]
    q = np.zeros_like(p)
    q[kept] = p[kept]
    return q / q.sum()


def random_logits(size: int, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)


def test_defaults_are_the_predecessors():
    params = SamplingParams()
    assert (params.temperature, params.min_p, params.top_k, params.top_p) == (0.5, 0.05, 0, 1.0)
    assert (params.repeat_penalty, params.seed, params.max_new_tokens, params.stop) == (1.0, None, -1, ())
    assert params.ignore_eos is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_p", 1.5),
        ("min_p", -0.1),
        ("min_p", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -1),
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("repeat_penalty", 0.0),
        ("repeat_penalty", math.inf),
        ("seed", -1),
        ("max_new_tokens", -2),
        ("stop", ("",)),
        ("stop", "User:"),  # would be five stop texts of one character
    ],
)
def test_out_of_range_is_refused_in_one_line(name, value):
    with pytest.raises(Llama3Error, match=f"^{name.replace('_', '-')} must be [^\n]+$"):
        SamplingParams(**{name: value})


@given(rows, st.floats(0.05, 4))
@settings(deadline=None)
def test_temperature_and_softmax(logits, temperature):
    expected = exact(logits, SamplingParams(temperature=temperature, min_p=0.0))
    np.testing.assert_allclose(softmax(logits, temperature), expected, rtol=2e-4, atol=1e-12)


@given(rows, st.integers(1, 700))
@settings(deadline=None)
def test_top_k(logits, k):
    p = softmax(logits)
    expected = np.sort(np.lexsort((np.arange(p.size), -p))[:k])
    np.testing.assert_array_equal(top_k(p, k), expected)


@given(hnp.arrays(np.int64, st.integers(1, 600), elements=st.integers(0, 64)), st.integers(1, 63))
@settings(deadline=None)
def test_top_p(weights, sixty_fourths):
    """It keeps the fewest tokens that reach the sum. All weights and sums are whole numbers, so none is rounded."""
    weights[0] = 64
    wanted = sixty_fourths / 64 * weights.sum()
    order = np.lexsort((np.arange(weights.size), -weights))
    running, count = 0, 0
    while running < wanted:
        running += weights[order[count]]
        count += 1
    np.testing.assert_array_equal(top_p(weights.astype(np.float32), sixty_fourths / 64), np.sort(order[:count]))


@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 3.0])
def test_top_p_of_a_whole_vocabulary(scale):
    """It works even if the nucleus is most of the vocabulary, or all tokens are equal."""
    p = softmax(random_logits(VOCABULARY, scale=scale))
    ids = top_p(p, 0.9)
    wanted, found = 0.9 * p.sum(dtype=np.float64), p[ids].sum(dtype=np.float64)
    assert found >= wanted * (1 - 1e-12)
    assert found - p[ids].min() < wanted
    assert np.delete(p, ids).max() <= p[ids].min()


@given(rows, st.floats(0, 1))
@settings(deadline=None)
def test_min_p(logits, share):
    p = softmax(logits)
    np.testing.assert_array_equal(min_p(p, share), np.flatnonzero(p >= np.float32(share) * p.max()))


def test_min_p_of_one_keeps_the_largest_only():
    assert min_p(np.float32([0.4, 0.2, 0.4]), 1.0).tolist() == [0, 2]


def test_min_p_comes_after_the_temperature():
    """The order differs from llama.cpp's: at a low temperature, min-p keeps fewer tokens."""
    logits = np.log(np.float32([0.6, 0.3, 0.1]))
    assert min_p(softmax(logits, 1.0), 0.4).tolist() == [0, 1]
    assert min_p(softmax(logits, 0.5), 0.4).tolist() == [0]


def test_repeat_penalty_as_in_llama_cpp():
    """Positive logits are divided, the others multiplied, each token once; the row itself does not change."""
    logits = np.float32([2, -2, 4, 0, 1])
    penalized = penalize_repeats(logits, [0, 1, 1, 3, 0], 2.0)
    np.testing.assert_array_equal(penalized, np.float32([1, -4, 4, 0, 1]))
    np.testing.assert_array_equal(logits, np.float32([2, -2, 4, 0, 1]))


def test_repeat_penalty_sees_the_last_64_tokens():
    logits = np.zeros(100, np.float32)
    logits[[7, 9]] = [10, 9]
    greedy = Sampler(SamplingParams(temperature=0, repeat_penalty=2.0))
    assert greedy.sample(logits, [7] + [0] * 63) == 9
    assert greedy.sample(logits, [7] + [0] * 64) == 7
    assert greedy.sample(logits, []) == 7


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0, "min_p": 0.0},
        {"temperature": 1.5, "min_p": 0.1},
        {"temperature": 1.0, "min_p": 0.0, "top_k": 5},
        {"temperature": 1.0, "min_p": 0.0, "top_p": 0.8},
        {"temperature": 1.2, "min_p": 0.1, "top_k": 12, "top_p": 0.9},
    ],
)
def test_draws_follow_the_distribution(options):
    """20,000 draws pass a chi-square test. At this seed, the bound of 5 standard deviations has a margin of two."""
    params = SamplingParams(seed=12, **options)
    logits = random_logits(40, seed=5, scale=1.5)
    expected = exact(logits, params)
    sampler = Sampler(params)
    count = 20_000
    draws = np.bincount([sampler.sample(logits) for _ in range(count)], minlength=logits.size)
    assert draws[expected == 0].sum() == 0
    likely = expected * count >= 5
    chi_square = ((draws - expected * count) ** 2 / np.where(likely, expected * count, 1))[likely].sum()
    freedom = max(int(likely.sum()) - 1, 1)
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_greedy_takes_the_lowest_id_among_equals():
    greedy = Sampler(SamplingParams(temperature=0))
    assert greedy.sample(np.float32([1, 3, 3, 2, 3])) == 1
    assert greedy.sample(np.float32([-math.inf, -math.inf, 0])) == 2
    assert greedy.sample(np.float32([0, math.inf, 5, math.inf])) == 1


SETTINGS = [
    {"temperature": 0},
    {"temperature": 0.7},
    {"temperature": 2.0, "min_p": 0.0},
    {"temperature": 1.5, "min_p": 0.0, "top_k": 7},
    {"temperature": 1.5, "min_p": 0.0, "top_p": 0.9},
    {"temperature": 1.2, "min_p": 0.02, "top_k": 12, "top_p": 0.9},
]


@pytest.mark.parametrize("repeat_penalty", [1.0, 1.3, 0.5])
@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("holes", [[], [0, 3, 200, 1199], [1199]])
def test_forbidden_ids_are_as_if_they_were_not_there(options, holes, repeat_penalty):
    """The draws are those from a row of only the allowed logits, although the forbidden ones are the largest."""
    params = SamplingParams(seed=3, repeat_penalty=repeat_penalty, **options)
    logits = random_logits(1280, seed=8)
    allowed = np.ones(1200, np.bool_)
    allowed[holes] = False
    ids = np.flatnonzero(allowed)
    logits[np.setdiff1d(np.arange(1280), ids)] = 50
    before = logits.copy()
    sampler, shorter = Sampler(params, allowed), Sampler(params)
    recent, recent_places = [5, 7, 1250, 3], [int(np.searchsorted(ids, i)) for i in (5, 7, *([3] if not holes else []))]
    for _ in range(40):
        found = sampler.sample(logits, recent)
        place = shorter.sample(logits[ids], recent_places)
        assert found == ids[place]
        recent.append(found)
        recent_places.append(place)
    np.testing.assert_array_equal(logits, before)


def test_logits_of_forbidden_ids_may_be_nan():
    """Padding may contain anything."""
    sampler = Sampler(SamplingParams(temperature=0), np.array([True, False, True]))
    assert sampler.sample(np.float32([1, math.nan, 3, math.nan])) == 2


def test_a_seed_repeats_the_draws():
    logits = random_logits(1000)

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=2.0, min_p=0.0, seed=seed))
        return [sampler.sample(logits) for _ in range(50)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(None) != draws(None)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("logits", [[0, math.nan, 1], [-math.inf, -math.inf]])
def test_broken_logits_are_one_line(logits, temperature):
    with pytest.raises(Llama3Error, match="logits"):
        Sampler(SamplingParams(temperature=temperature)).sample(np.float32(logits))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-6, 1.0, 1e300])
def test_infinite_logits_and_extreme_temperatures(temperature):
    """There is no NaN and no warning: +inf gets all draws, -inf none, and extreme temperatures act as limits."""
    sampler = Sampler(SamplingParams(temperature=temperature, min_p=0.0, seed=1))
    assert {sampler.sample(np.float32([5, math.inf, -math.inf, math.inf])) for _ in range(50)} == {1, 3}
    drawn = {sampler.sample(np.float32([5, -math.inf, 3, 5])) for _ in range(200)}
    assert drawn == ({0, 2, 3} if temperature >= 1 else {0, 3})


@given(hnp.arrays(np.int64, st.integers(1, 2000), elements=st.integers(0, 9)), st.data())
@settings(deadline=None)
def test_a_draw_is_where_the_running_sum_passes_it(weights, data):
    """The weights are whole numbers, so no sum is rounded: the draw counts them one by one."""
    weights[0] += 1
    count = data.draw(st.integers(0, int(weights.sum()) - 1))
    expected = int(np.repeat(np.arange(weights.size), weights)[count])
    assert draw(weights.astype(np.float32), (count + 0.5) / weights.sum()) == expected


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("padding", [0, 511, 512, 1500])
def test_a_token_without_probability_is_never_drawn(uniform, padding):
    zeros = [0.0] * padding
    assert draw(np.float32([*zeros, 0, 0.1, *zeros, 0.3, 0, *zeros]), uniform) in (padding + 1, 2 * padding + 2)
    assert draw(np.float32([*zeros, 0, 1e-45, 0, *zeros]), uniform) == padding + 1


def test_the_vocabulary_is_not_sorted():
    """The bound is generous: the defaults need 0.3 ms, one argsort of the row needs ten."""
    logits = random_logits(VOCABULARY)
    sampler = Sampler(SamplingParams(seed=0))
    times = []
    for _ in range(20):
        start = time.perf_counter()
        sampler.sample(logits)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.005
