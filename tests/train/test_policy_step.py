from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from tiny_training import gradient_of, sample_rows, sgd, tiny_decoder, weights_of

from aha.errors import InvariantError
from aha.model.decoder import Decoder
from aha.objective import logprob
from aha.objective.algorithms import ALGORITHMS, Algorithm
from aha.objective.policy import clipped_policy_loss
from aha.objective.weights import token_weights
from aha.train.batch import PolicyBatch, PolicyRow, collate_policy, with_old, with_reference
from aha.train.optimizer import build_adamw
from aha.train.policy_step import compute_logprobs, compute_policy_loss, policy_step

SHAPES = [(3, 4), (1, 1), (5, 2), (2, 6), (3, 3)]
GRPO, GRPO_R1 = ALGORITHMS["grpo"], ALGORITHMS["grpo-r1"]
NO_KL = dataclasses.replace(GRPO, name="no_kl", beta=0.0)


def batches_of(
    rows: Sequence[PolicyRow], *, budget: int = 1000, aggregation: str = "sequence", reference: Decoder | None = None
) -> list[PolicyBatch]:
    weights = token_weights([len(r.completion_ids) for r in rows], aggregation)  # type: ignore[arg-type]
    batches = collate_policy(rows, weights=weights, token_budget=budget)
    return batches if reference is None else with_reference(batches, compute_logprobs(reference, batches))


def step(decoder: Decoder, batches: list[PolicyBatch], num: int, algorithm: Algorithm = GRPO) -> dict[str, float]:
    return policy_step(
        decoder, sgd(decoder), batches, algorithm=algorithm, num_sequences=num, lr=0.0, max_grad_norm=math.inf
    )


def oracle_loss(
    decoder: Decoder, reference: Decoder, rows: Sequence[PolicyRow], algorithm: Algorithm, temperature: float
) -> float:
    """DeepSeekMath equation 3, one row, one token, one number at a time."""
    total = 0.0
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        with torch.no_grad():
            table = (decoder.logits(decoder(ids))[0] / temperature).log_softmax(-1)
            ref_table = (reference.logits(reference(ids))[0] / temperature).log_softmax(-1)
        objective = 0.0
        for t, token in enumerate(row.completion_ids):
            place = len(row.prompt_ids) - 1 + t
            logp, ref = table[place, token].item(), ref_table[place, token].item()
            ratio = math.exp(logp - row.sampler_logprobs[t])
            clipped = min(max(ratio, 1 - algorithm.clip_low), 1 + algorithm.clip_high)
            adv = row.advantage if isinstance(row.advantage, float) else row.advantage[t]
            kl = math.exp(ref - logp) - (ref - logp) - 1
            objective += min(ratio * adv, clipped * adv) - algorithm.beta * kl
        total -= objective / len(row.completion_ids)
    return total / len(rows)


@pytest.mark.parametrize("algorithm", [GRPO, GRPO_R1])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_loss_equals_the_equation_token_by_token(algorithm: Algorithm, temperature: float) -> None:
    decoder, reference = tiny_decoder(0), tiny_decoder(1)
    rows = sample_rows(2, SHAPES)
    batches = batches_of(rows, budget=12)
    batches = with_reference(batches, compute_logprobs(reference, batches, temperature=temperature))
    metrics = policy_step(
        decoder, sgd(decoder), batches, algorithm=algorithm, num_sequences=5, lr=0.0, max_grad_norm=1.0,
        temperature=temperature,
    )
    # weights and old log-probs of a batch are float32
    assert metrics["loss"] == pytest.approx(oracle_loss(decoder, reference, rows, algorithm, temperature), rel=1e-5)


@pytest.mark.parametrize("algorithm", [GRPO, dataclasses.replace(GRPO, kl_weighted=True)])
def test_gradient_of_the_whole_loss_by_finite_differences(algorithm: Algorithm) -> None:
    decoder, reference = tiny_decoder(0), tiny_decoder(1)
    rows = sample_rows(3, SHAPES)
    (batch,) = batches_of(rows, reference=reference)

    def loss() -> torch.Tensor:
        return compute_policy_loss(decoder, batch, algorithm=algorithm, num_sequences=5)[0]

    ratio = (compute_logprobs(decoder, [batch])[0] - batch.sampler_logp_N).exp()
    assert min((ratio - 0.8).abs().min(), (ratio - 1.2).abs().min()) > 1e-3, "differences need distance to the kinks"
    loss().backward()  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(0)
    for name, parameter in decoder.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        eps = 1e-5
        with torch.no_grad():
            parameter.add_(direction, alpha=eps)
            up = loss().item()
            parameter.sub_(direction, alpha=2 * eps)
            down = loss().item()
            parameter.add_(direction, alpha=eps)
        assert parameter.grad is not None
        want = (parameter.grad * direction).sum().item()
        assert (up - down) / (2 * eps) == pytest.approx(want, rel=1e-5, abs=1e-8), name


def test_an_update_is_descent_on_the_loss() -> None:
    decoder = tiny_decoder(0)
    batches = batches_of(sample_rows(3, SHAPES))
    arguments = {"algorithm": NO_KL, "num_sequences": 5, "max_grad_norm": math.inf}
    before = policy_step(decoder, sgd(decoder), batches, lr=1e-3, **arguments)  # type: ignore[arg-type]
    after = policy_step(decoder, sgd(decoder), batches, lr=0.0, **arguments)  # type: ignore[arg-type]
    assert after["loss"] - before["loss"] == pytest.approx(-1e-3 * before["grad_norm"] ** 2, rel=0.05)


def test_the_step_is_no_longer_than_the_clip_allows() -> None:
    moves = []
    for max_norm in (math.inf, 1e-3):
        decoder = tiny_decoder(0)
        before = weights_of(decoder).clone()
        metrics = policy_step(
            decoder, sgd(decoder), batches_of(sample_rows(3, SHAPES)), algorithm=NO_KL, num_sequences=5, lr=0.5,
            max_grad_norm=max_norm,
        )
        moves.append((weights_of(decoder) - before) / 0.5)
    assert moves[0].norm().item() == pytest.approx(metrics["grad_norm"])
    torch.testing.assert_close(moves[1], moves[0] * 1e-3 / metrics["grad_norm"], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
def test_gradient_is_the_same_for_any_split_padding_and_order(aggregation: str) -> None:
    reference = tiny_decoder(1)
    rows = sample_rows(4, SHAPES)
    rows[1] = rows[1]._replace(prompt_ids=rows[3].prompt_ids)  # two rows of a group share a prompt, or are torn
    results = []
    for budget, order in [(1000, range(5)), (14, range(5)), (1, range(5)), (1000, [3, 0, 4, 2, 1])]:
        decoder = tiny_decoder(0)
        batches = batches_of([rows[i] for i in order], budget=budget, aggregation=aggregation, reference=reference)
        metrics = step(decoder, batches, 5)
        results.append((len(batches), metrics, gradient_of(decoder)))
    assert [r[0] for r in results] == [1, 3, 5, 1]
    for _, metrics, gradient in results[1:]:
        torch.testing.assert_close(gradient, results[0][2], rtol=1e-9, atol=1e-12)
        assert metrics == pytest.approx(results[0][1], rel=1e-6)


def test_gradient_of_a_shared_prompt_is_that_of_rows_apart() -> None:
    rows = [r._replace(prompt_ids=(3, 1, 4, 1)) for r in sample_rows(4, SHAPES)]
    together, apart = tiny_decoder(0), tiny_decoder(0)
    (shared,) = batches_of(rows)
    assert shared.branches.prompts == (4,)
    step(together, [shared], 5, NO_KL)
    weights = token_weights([len(r.completion_ids) for r in rows], "sequence")
    loss = torch.zeros((), dtype=torch.float64)
    for row, weight in zip(rows, weights, strict=True):  # padded nowhere, shared nowhere
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        logp = apart.logits(apart(ids))[0, len(row.prompt_ids) - 1 : -1].log_softmax(-1)
        logp_N = logp[range(len(row.completion_ids)), list(row.completion_ids)]
        old, clip = torch.tensor(row.sampler_logprobs), {"clip_low": NO_KL.clip_low, "clip_high": NO_KL.clip_high}
        loss = loss + (clipped_policy_loss(logp_N, old, torch.tensor(row.advantage), **clip) * weight).sum() / 5
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(gradient_of(together), gradient_of(apart), rtol=1e-5, atol=1e-7)


def test_rows_without_advantage_may_be_left_out_when_beta_is_zero() -> None:
    rows = sample_rows(5, SHAPES)
    rows[2] = rows[2]._replace(advantage=0.0)
    weights = token_weights([len(r.completion_ids) for r in rows], "token")
    gradients = []
    for kept in (range(5), [0, 1, 3, 4]):
        decoder = tiny_decoder(0)
        batches = collate_policy([rows[i] for i in kept], weights=weights[list(kept)], token_budget=1000)
        step(decoder, batches, 5, NO_KL)
        gradients.append(gradient_of(decoder))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)


def test_a_step_of_only_dropped_rows_is_the_step_with_them() -> None:
    """Momentum and decay go on; the weights after are the same bits whether the zero rows were computed or not."""
    rows = sample_rows(6, SHAPES)
    silent = [r._replace(advantage=0.0) for r in rows]
    after = []
    for second in (batches_of(silent), []):
        decoder = tiny_decoder(0)
        optimizer = build_adamw(decoder, lr=1e-2)
        for batches in (batches_of(rows), second):
            metrics = policy_step(
                decoder, optimizer, batches, algorithm=NO_KL, num_sequences=5, lr=1e-2, max_grad_norm=1.0
            )
        after.append(weights_of(decoder))
        assert metrics["grad_norm"] == 0 and metrics["loss"] == 0
    assert torch.equal(after[0], after[1])


def test_metrics_by_hand() -> None:
    decoder, reference = tiny_decoder(0), tiny_decoder(1)
    rows = sample_rows(7, SHAPES)
    batches = batches_of(rows, budget=14, reference=reference)
    metrics = step(decoder, batches, 5)
    logp = torch.cat(compute_logprobs(decoder, batches))
    ref = torch.cat(compute_logprobs(reference, batches))
    old = torch.cat([b.sampler_logp_N for b in batches])
    adv = torch.cat([b.advantages_N for b in batches])
    ratio = (logp - old).exp()
    assert metrics["tokens"] == 16
    assert metrics["kl"] == pytest.approx(((ref - logp).exp() - (ref - logp) - 1).mean().item())
    assert metrics["mismatch_kl"] == pytest.approx((ratio - 1 - ratio.log()).mean().item())
    assert metrics["logprob_gap"] == pytest.approx((logp - old).abs().mean().item())
    assert metrics["max_logprob_gap"] == pytest.approx((logp - old).abs().max().item())
    assert metrics["ess"] == pytest.approx((ratio.sum() ** 2 / (16 * ratio.square().sum())).item())
    assert metrics["ratio_mean"] == pytest.approx(ratio.mean().item())
    clipped = ((adv > 0) & (ratio > 1.2)) | ((adv < 0) & (ratio < 0.8))
    assert 0 < metrics["clip_low"] + metrics["clip_high"] == pytest.approx(clipped.double().mean().item())
    weights = torch.cat([b.weights_N for b in batches]).double()
    weighted_kl = (weights * ((ref - logp).exp() - (ref - logp) - 1)).sum().item() / 5
    assert metrics["loss"] == pytest.approx(metrics["policy_loss"] + 0.04 * weighted_kl)


def test_importance_weights_and_how_many_are_cut_by_hand() -> None:
    decoder = tiny_decoder(0)
    batches = batches_of(sample_rows(7, SHAPES), budget=14)
    logp = torch.cat(compute_logprobs(decoder, batches))
    weights = (logp - torch.cat([b.sampler_logp_N for b in batches])).exp()
    metrics = policy_step(
        decoder, sgd(decoder), batches, algorithm=NO_KL, num_sequences=5, lr=0.0, max_grad_norm=1.0, importance_cap=1.1
    )
    share = (weights > 1.1).double().mean().item()
    assert 0 < share < 1 and metrics["is_truncated"] == pytest.approx(share)
    assert metrics["is_weight_mean"] == pytest.approx(weights.clamp(max=1.1).mean().item())
    advantages = torch.cat([b.advantages_N * b.weights_N for b in batches])  # to itself every ratio is 1
    assert metrics["loss"] == pytest.approx(-(weights.clamp(max=1.1) * advantages).sum().item() / 5)


def test_later_minibatches_are_clipped_against_the_weights_before_the_first_update() -> None:
    decoder = tiny_decoder(0)
    batches = batches_of(sample_rows(7, SHAPES), budget=14)
    olds = compute_logprobs(tiny_decoder(1), batches)
    metrics = policy_step(
        decoder, sgd(decoder), with_old(batches, olds), algorithm=NO_KL, num_sequences=5, lr=0.0, max_grad_norm=1.0,
        importance_cap=1.1,
    )
    ratio = (torch.cat(compute_logprobs(decoder, batches)) - torch.cat(olds)).exp()
    weights = (torch.cat(olds) - torch.cat([b.sampler_logp_N for b in batches])).exp().clamp(max=1.1)
    advantages = torch.cat([b.advantages_N for b in batches])
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    assert 0 < metrics["clip_low"] + metrics["clip_high"] < 1
    assert metrics["is_weight_mean"] == pytest.approx(weights.mean().item())
    counted = weights * surrogate * torch.cat([b.weights_N for b in batches])
    assert metrics["loss"] == pytest.approx(-counted.sum().item() / 5)


def test_a_gradient_that_is_too_long_is_thrown_away() -> None:
    decoder = tiny_decoder(0)
    optimizer, before = build_adamw(decoder, lr=1.0), weights_of(decoder).clone()
    batches = batches_of(sample_rows(7, SHAPES))
    for limit, skipped in ((1e-9, 1.0), (1e9, 0.0)):
        metrics = policy_step(
            decoder, optimizer, batches, algorithm=NO_KL, num_sequences=5, lr=1.0, max_grad_norm=1.0, skip_above=limit
        )
        assert metrics["skipped"] == skipped and metrics["grad_norm"] > 1e-9
        assert torch.equal(weights_of(decoder), before) == (skipped == 1)
        if skipped:
            assert all(p.grad is None for p in decoder.parameters())
            assert not any(moment.any() for own in optimizer.state.values() for moment in own.values())


def test_on_policy_ratio_is_one_and_all_samples_are_effective() -> None:
    decoder = tiny_decoder(0)
    rows = sample_rows(8, SHAPES)
    (batch,) = batches_of(rows)
    old = batch.by_row(compute_logprobs(decoder, [batch])[0])
    rows = [r._replace(sampler_logprobs=old[i].tolist()) for i, r in enumerate(rows)]
    metrics = step(decoder, batches_of(rows), 5, NO_KL)
    assert metrics["ratio_mean"] == pytest.approx(1, abs=1e-6) and metrics["ess"] == pytest.approx(1, abs=1e-6)
    assert metrics["mismatch_kl"] == pytest.approx(0, abs=1e-12) and metrics["max_logprob_gap"] < 1e-6
    assert metrics["clip_low"] + metrics["clip_high"] == 0
    # the loss on policy is minus the mean of the advantages
    assert metrics["loss"] == pytest.approx(-sum(r.advantage for r in rows) / 5, rel=1e-5)  # type: ignore[misc]


def test_minibatches_of_one_rollout_move_away_from_the_sampler() -> None:
    decoder = tiny_decoder(0)
    rows = sample_rows(9, SHAPES)
    (batch,) = batches_of(rows)
    old = batch.by_row(compute_logprobs(decoder, [batch])[0])
    rows = [r._replace(sampler_logprobs=old[i].tolist()) for i, r in enumerate(rows)]
    halves = [batches_of(rows[:2]), batches_of(rows[2:])]
    optimizer = sgd(decoder)
    first, second = (
        policy_step(decoder, optimizer, h, algorithm=NO_KL, num_sequences=n, lr=0.05, max_grad_norm=1.0)
        for h, n in zip(halves, (2, 3), strict=True)
    )
    assert first["max_logprob_gap"] < 1e-6 < 1e-3 < second["max_logprob_gap"]


def test_beta_without_reference_is_an_error() -> None:
    with pytest.raises(InvariantError, match=r"beta is 0.04 but rows .* no reference"):
        step(tiny_decoder(0), batches_of(sample_rows(1, SHAPES)), 5)


@pytest.mark.parametrize(
    "poison",
    [{"advantage": float("nan")}, {"advantage": float("inf")}, {"advantage": -1.0, "sampler_logprobs": [-3000.0] * 6}],
)
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(poison: dict[str, object]) -> None:
    decoder = tiny_decoder(0)
    rows = sample_rows(1, SHAPES)
    rows[3] = rows[3]._replace(**poison)  # type: ignore[arg-type]
    batches = batches_of(rows, budget=14)
    place = next(i for i, b in enumerate(batches) if 3 in b.rows)
    optimizer = build_adamw(decoder, lr=1.0)
    before = weights_of(decoder).clone()
    with pytest.raises(InvariantError, match=rf"micro-batch {place} of {len(batches)} \(rows .*3") as caught:
        policy_step(decoder, optimizer, batches, algorithm=NO_KL, num_sequences=5, lr=1.0, max_grad_norm=1.0)
    assert str(caught.value).count("micro-batch") == 1, "only the poisoned batch is blamed"
    assert torch.equal(weights_of(decoder), before)
    assert not any(moment.any() for own in optimizer.state.values() for moment in own.values())
    assert all(p.grad is None for p in decoder.parameters())


def test_a_gradient_that_is_not_finite_stops_although_the_loss_is() -> None:
    decoder = tiny_decoder(0)
    batches = batches_of(sample_rows(1, SHAPES), budget=14)
    before = weights_of(decoder).clone()
    norm_weight = decoder.model.norm.weight
    calls = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * float("nan") if len(calls) in (2, len(batches) + 2) else gradient

    norm_weight.register_hook(spoil)
    with pytest.raises(InvariantError, match="micro-batch 1 of"):
        policy_step(decoder, sgd(decoder), batches, algorithm=NO_KL, num_sequences=5, lr=1.0, max_grad_norm=1.0)
    assert torch.equal(weights_of(decoder), before)


@pytest.mark.parametrize("name", ["grpo", "gspo", "kimi", "dapo", "cispo"])
def test_a_row_whose_tokens_are_in_several_chunks_of_logits_has_the_same_gradient(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = []
    for elements in (logprob.CHUNK_ELEMENTS, 2 * 13):  # all at once; two tokens at a time
        monkeypatch.setattr(logprob, "CHUNK_ELEMENTS", elements)
        decoder = tiny_decoder(0)
        rows, reference = sample_rows(5, SHAPES), tiny_decoder(1)
        step(decoder, batches_of(rows, reference=reference), len(rows), ALGORITHMS[name])
        gradients.append(gradient_of(decoder))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)
    assert gradients[0].abs().max() > 1e-3
