"""Random numbers against a plain SplitMix64; samples against the distribution they are said to come from."""

from __future__ import annotations

import math

import pytest
import torch

from aha.rollout.native.sampler import draw, keep_top_k, keep_top_p, sample, uniforms
from aha.testing import measure_peak_memory


def _split_mix(seed: int, index: int) -> float:
    mask = (1 << 64) - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) / 2**53


def test_uniforms_equal_plain_split_mix() -> None:
    seeds = [0, 1, 2**63 - 1, 123456789, 2**62 + 5]
    for index in (0, 1, 77, 100_000):
        got = uniforms(torch.tensor(seeds), torch.full((len(seeds),), index))
        assert got.tolist() == [_split_mix(seed, index) for seed in seeds]


def test_uniforms_are_uniform_along_seeds_and_indices() -> None:
    n = 20_000
    same, counted = torch.zeros(n, dtype=torch.int64), torch.arange(n)
    for seeds, index in ((counted, same), (same, counted)):
        u = uniforms(seeds, index)
        counts = torch.histc(u, bins=50, min=0.0, max=1.0)
        assert float(((counts - n / 50) ** 2 / (n / 50)).sum()) < 100  # chi-square, 49 degrees: p < 1e-5
        assert abs(float(torch.corrcoef(torch.stack((u[:-1], u[1:])))[0, 1])) < 0.03


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 4, 1.0), (1.0, 0, 0.7), (1.3, 5, 0.8)]
)
def test_samples_follow_the_distribution_and_its_log_probs(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.tensor([0.3, 2.0, -1.0, 1.5, 0.0, 1.0, -3.0, 0.9])
    probs = torch.softmax(logits.double() / temperature, -1)
    order = sorted(range(8), key=lambda v: -probs[v])
    if top_k:
        order = order[:top_k]
    mass, kept = 0.0, []
    for v in order:  # the definition: the smallest set of the likeliest that reaches top_p of what is left
        if mass < top_p * float(probs[order].sum()) or top_p == 1.0:
            kept.append(v)
            mass += float(probs[v])
    expected = {v: float(probs[v]) / mass for v in kept}
    n = 40_000
    tokens, logprobs = sample(
        logits.expand(n, 8),
        uniforms(torch.arange(n) * 7919, torch.arange(n) % 13),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )
    counts = torch.bincount(tokens, minlength=8)
    assert {v for v in range(8) if counts[v]} == set(expected)
    chi_square = sum((int(counts[v]) - n * p) ** 2 / (n * p) for v, p in expected.items())
    assert chi_square < 35  # at most 7 degrees of freedom: p < 2e-5
    for v, p in expected.items():
        assert float(logprobs[tokens == v][0]) == pytest.approx(math.log(p), abs=2e-6)


def test_top_p_over_a_flat_vocabulary_looks_beyond_its_first_window() -> None:
    torch.manual_seed(0)
    probs = torch.softmax(torch.randn(3, 1000) * 0.1, -1)
    kept = keep_top_p(probs, 0.9)
    for row, out in zip(probs, kept, strict=True):
        values = row.double().sort(descending=True).values
        wanted = int((values.cumsum(0) - values < 0.9).sum())
        assert wanted > 500 and int((out > 0).sum()) == wanted
        assert torch.equal(out[out > 0], row[out > 0])


def test_every_row_of_a_batch_has_the_window_that_it_needs() -> None:
    probs = torch.zeros(2, 1000)
    probs[0, 7] = 1.0  # one token is enough here, and hundreds there
    probs[1] = torch.linspace(2e-3, 0, 1000)
    alone = [keep_top_p(row[None], 0.9) for row in probs]
    assert torch.equal(keep_top_p(probs, 0.9), torch.cat(alone)) and int((alone[1] > 0).sum()) > 500


def test_ties_are_kept_together_whatever_their_order() -> None:
    probs = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.4, 0.1]])
    assert (keep_top_k(probs, 1) > 0).tolist() == [[True] * 4, [False, True, True, False]]
    assert (keep_top_p(probs, 0.3) > 0).tolist() == [[True] * 4, [False, True, True, False]]


def test_greedy_is_the_largest_logit_with_certainty() -> None:
    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(1))
    tokens, logprobs = sample(logits, torch.zeros(5, dtype=torch.float64), temperature=0.0, top_k=0, top_p=1.0)
    assert torch.equal(tokens, logits.argmax(-1)) and logprobs.tolist() == [0.0] * 5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.0, 0, 1.0), (1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.7)]
)
def test_a_logit_that_is_no_number_shows_in_its_rows_log_prob_alone(
    temperature: float, top_k: int, top_p: float, bad: float
) -> None:
    logits = torch.randn(3, 11, generator=torch.Generator().manual_seed(1))
    logits[1, 4] = bad
    numbers = uniforms(torch.arange(3), torch.arange(3))
    tokens, logprobs = sample(logits, numbers, temperature=temperature, top_k=top_k, top_p=top_p)
    assert logprobs.isfinite().tolist() == [True, False, True]
    assert all(0 <= token < 11 for token in tokens.tolist())


def test_tokens_without_probability_are_never_drawn() -> None:
    logits = torch.full((1000, 6), float("-inf"))
    logits[:, 2] = 0.0
    numbers = uniforms(torch.arange(1000), torch.arange(1000))
    tokens, logprobs = sample(logits, numbers, temperature=1.0, top_k=0, top_p=1.0)
    assert set(tokens.tolist()) == {2} and set(logprobs.tolist()) == {0.0}


def test_sampling_holds_probabilities_and_their_sums_and_no_copy_of_either() -> None:
    logits, numbers = torch.randn(16, 20_000), torch.rand(16, dtype=torch.float64)
    peak = measure_peak_memory(lambda: sample(logits, numbers, temperature=1.0, top_k=0, top_p=1.0))
    assert peak == pytest.approx(logits.numel() * (4 + 8), rel=0.01)


def test_the_largest_uniform_number_draws_the_last_token_with_a_weight() -> None:
    weights = torch.rand(10_000, 6, generator=torch.Generator().manual_seed(1)) + 1e-3
    weights[:, 4:] = 0.0
    weights[1] = torch.tensor([0.5, 0.25, 0.125, 0.125, 0.0, 0.0])
    tokens, _ = draw(weights, torch.full((10_000,), 1 - 2.0**-53, dtype=torch.float64))
    assert set(tokens.flatten().tolist()) == {3}


def test_the_smallest_uniform_number_draws_the_first_token_with_a_weight() -> None:
    tokens, _ = draw(torch.tensor([[0.0, 0.0, 0.25, 0.75]]), torch.zeros(1, dtype=torch.float64))
    assert tokens.item() == 2
