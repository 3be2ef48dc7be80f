"""One update of preference optimisation without a reward model.

Shapes: R completions, two a pair, the chosen one first; N their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aha.errors import DataError, InvariantError
from aha.model.decoder import Decoder
from aha.objective.direct import Preference, compute_pair_losses, compute_score
from aha.train.balance import DEEPSEEK_V3, Balance, LoadBalancer
from aha.train.batch import PolicyBatch
from aha.train.policy_step import completion_logprobs, compute_logprobs
from aha.train.update import on_device_of, update


def direct_step(
    decoder: Decoder,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[PolicyBatch],
    *,
    row: Preference,
    reference_R: Tensor | None = None,
    others: Sequence[PolicyBatch] = (),
    others_reference_R: Tensor | None = None,
    lr: float,
    max_grad_norm: float,
    balance: Balance = DEEPSEEK_V3,
) -> dict[str, float]:
    """One update of preference optimisation on pairs, mean over all pairs.

    ``batches`` are those of ``collate_completion_pairs``; ``reference_R`` has the reference's log-prob of each of the
    2 B completions, as ``compute_sequence_logprobs`` gives it. ``others`` are completions of other prompts, with their
    reference: where the row needs a baseline, it is that of the whole update, however it is split.

    Metrics: loss; accuracy (share of pairs whose chosen completion has the higher reward), margin (mean difference),
    rewards/chosen and rewards/rejected (beta times the score), logps/chosen and logps/rejected (sums over tokens);
    baseline where the row needs one (mean score of ``others``, at least 0); grad_norm, lr, pairs, tokens. ``balance``
    and its metrics are as in ``policy_step``, and so is InvariantError, raised also where a row lacks its reference
    or baseline.
    """
    if not batches:
        raise DataError("an update without preference pairs")
    if row.reference and reference_R is None or row.needs_baseline and (others_reference_R is None or not others):
        raise InvariantError(f"preference {row.name!r} needs a reference's log-probs, and kto those of other prompts")
    num_pairs = sum(len(batch.rows) for batch in batches) // 2
    balancer = LoadBalancer(decoder.body_layers(), balance)
    device = decoder.head_weight.device
    baseline = torch.zeros((), device=device)
    if row.needs_baseline and others_reference_R is not None:
        others_R = compute_sequence_logprobs(decoder, others)
        length_of = {index: n for batch in others for index, n in zip(batch.rows, batch.lengths, strict=True)}
        lengths_R = torch.tensor([length_of[index] for index in sorted(length_of)])
        score_R = compute_score(others_R, others_reference_R, lengths_R, row=row)
        baseline = score_R.mean().clamp(min=0.0).to(device)

    def backward(batch: PolicyBatch) -> tuple[Tensor, Tensor]:
        batch = on_device_of(decoder, batch)
        logp_R = _sequence_sums(batch, completion_logprobs(decoder, batch, 1.0)[0])
        lengths_R = torch.tensor(batch.lengths, device=logp_R.device)
        of_rows = None if reference_R is None else reference_R[list(batch.rows)].to(logp_R)
        score_R = compute_score(logp_R, of_rows, lengths_R, row=row)
        loss = compute_pair_losses(score_R[::2], score_R[1::2], baseline, row=row).sum() / num_pairs
        (loss + balancer.loss(batch, num_sequences=2 * num_pairs)).backward()  # type: ignore[no-untyped-call]
        reward_R, logp_R = row.beta * score_R.detach(), logp_R.detach()
        right = (reward_R[::2] > reward_R[1::2]).sum().to(reward_R.dtype)
        sums = [right, reward_R[::2].sum(), reward_R[1::2].sum(), logp_R[::2].sum(), logp_R[1::2].sum()]
        return loss.detach(), torch.stack(sums)

    loss, figures, norm = update(optimizer, batches, backward, lr=lr, max_grad_norm=max_grad_norm)
    names = ("accuracy", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")
    means = {name: sum(column) / num_pairs for name, column in zip(names, zip(*figures, strict=True), strict=True)}
    return {
        "loss": loss,
        **means,
        "margin": means["rewards/chosen"] - means["rewards/rejected"],
        **({"baseline": float(baseline)} if row.needs_baseline else {}),
        "grad_norm": norm,
        "lr": lr,
        "pairs": float(num_pairs),
        "tokens": float(sum(sum(batch.lengths) for batch in batches)),
        **balancer.finish(taken=True),
    }


def compute_sequence_logprobs(decoder: Decoder, batches: Sequence[PolicyBatch]) -> Tensor:
    """The log-prob of each of the caller's rows, a sum over its tokens, [R] on the CPU, without gradients."""
    rows = [row for batch in batches for row in batch.rows]
    found = [
        _sequence_sums(batch, logp_N).cpu()
        for batch, logp_N in zip(batches, compute_logprobs(decoder, batches), strict=True)
    ]
    sums_R = torch.cat(found)
    return sums_R[torch.tensor(rows).argsort()]


def _sequence_sums(batch: PolicyBatch, values_N: Tensor) -> Tensor:
    return torch.stack([part.sum() for part in torch.split(values_N, list(batch.lengths))])
