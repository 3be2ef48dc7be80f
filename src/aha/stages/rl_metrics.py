"""What a step of reinforcement learning says of itself: a row of ``metrics.jsonl``, and samples for people to read.

Every key is explained in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from aha.objective.selection import has_signal
from aha.records import FinishReason, Sample
from aha.reward.repetition import repetition_rate
from aha.reward.rules import language_share
from aha.reward.strict import is_strictly_right
from aha.stages.credit import Credit
from aha.stages.learn import Learned
from aha.stages.models import Policy
from aha.stages.reflection import count_reflections
from aha.stages.rewarding import is_reasoning
from aha.stages.rollout import Rollout
from aha.stages.samples import write_samples


def step_metrics(step: int, rollout: Rollout, learned: Learned, *, lr: float) -> dict[str, float]:
    """Of everything that was sampled, whether or not it is trained on. The agreement of sampler and trainer is read off
    the first update, which alone is on policy: one without a gradient has measured nothing, and moves the weights all
    the same by what earlier ones left in the optimiser, so that the next says nothing of it either."""
    lengths = [len(tokens) for tokens in rollout.token_ids]
    reasoning = [i for i, problem in enumerate(rollout.problems) if is_reasoning(problem)]
    right = {i: score for i in reasoning if (score := rollout.right[i]) is not None}
    spoken = [language_share(rollout.responses[i].think, rollout.problems[i].language) for i in reasoning]
    signal_P = has_signal(rollout.rewards_PG, rollout.valid_PG)
    row: dict[str, float] = {
        "step": step,
        "accuracy": _mean(list(right.values())),
        "reward": _mean([r for r, v in zip(rollout.scored.total, rollout.scored.valid, strict=True) if v]),
        "reward_std": _mean([_std(r[v]) for r, v in zip(rollout.rewards_PG, rollout.valid_PG, strict=True)]),
        "format": _mean([float(r.well_formed) for r in rollout.responses]),
        "answered": _mean([float(rollout.responses[i].answer is not None) for i in reasoning]),
        "language": _mean([share for share in spoken if share is not None]),
        "length": _mean([lengths[i] for i in reasoning]),
        "length_max": max(lengths),
        "truncated": _mean([float(f is FinishReason.LENGTH) for f in rollout.finish]),
        "reflection": _mean([count_reflections(rollout.responses[i].think) for i in reasoning]),
        "groups_kept": _mean(signal_P.float().tolist()),
        "groups_all_right": _mean([float(right == judged) for _, right, judged in rollout.results if judged]),
        "groups_all_wrong": _mean([float(right == 0) for _, right, judged in rollout.results if judged]),
        "repetition": _mean([repetition_rate(tokens[:-1]) for tokens in rollout.token_ids]),
        "completions": float(len(rollout.problems)),
        "verifier_errors": float(rollout.valid_PG.logical_not().sum()),
        "rounds": float(rollout.rounds),
        "tokens": float(sum(lengths)),
        "tokens_wasted": float(rollout.tokens_wasted),
    }
    row |= _held_out(rollout)
    for name, wanted in (("length_right", 1.0), ("length_wrong", 0.0)):
        if rows := [lengths[i] for i in right if right[i] == wanted]:
            row[name] = _mean(rows)
    for task in sorted({rollout.problems[i].task for i in reasoning}):
        of_task = [i for i in reasoning if rollout.problems[i].task == task]
        row[f"accuracy/{task}"] = _mean([right[i] for i in of_task if i in right])
        row[f"length/{task}"] = _mean([lengths[i] for i in of_task])
    for name, values in rollout.scored.parts.items():
        if given := [v for v in values if v is not None]:  # a preference says nothing before its quarter
            row[f"reward/{name}"] = _mean(given)
    updates = learned.updates
    if updates and updates[0]["tokens"]:
        row |= {key: updates[0][key] for key in ("mismatch_kl", "logprob_gap", "max_logprob_gap", "entropy")}
    if measured := [update for update in updates if update["tokens"]]:
        last = measured[-1]
        row |= {key: last[key] for key in ("kl", "ess", "clip_low", "clip_high", "is_weight_mean", "is_truncated")}
        row |= {key: last[key] for key in ("max_vio", "balance") if key in last}
    row["lr"] = lr
    norms = [update["grad_norm"] for update in updates]
    row["loss"], row["grad_norm"] = _mean([update["loss"] for update in updates]), _mean(norms)
    row["grad_norm_max"] = max(norms, default=0.0)
    return row | learned.critic


def _held_out(rollout: Rollout) -> dict[str, float]:
    """What is rewarded and what the stricter verifier says, over the completions of which both say something: the
    verifier on reasoning problems, the preference models on general ones."""
    said: dict[str, list[tuple[float, float]]] = {"": [], "_general": []}
    liked = [rollout.scored.parts.get(name, []) for name in ("helpful", "safe")]
    for i, (problem, response) in enumerate(zip(rollout.problems, rollout.responses, strict=True)):
        reasoning = is_reasoning(problem)
        proxy = rollout.right[i] if reasoning else next((v[i] for v in liked if v and v[i] is not None), None)
        if proxy is not None and (strict := is_strictly_right(problem, response, proxy)) is not None:
            said["" if reasoning else "_general"].append((proxy, float(strict)))
    return {
        f"{name}{kind}": _mean([pair[place] for pair in pairs])
        for kind, pairs in said.items()
        if pairs
        for place, name in enumerate(("proxy", "strict"))
    }


def keep_samples(out: Path, step: int, policy: Policy, rollout: Rollout, credit: Credit) -> None:
    """Write the first two and the last group of those that are trained on, up to four completions of each."""
    size = rollout.rewards_PG.shape[1]
    shown = sorted({0, 1, len(rollout.kept) - 1} & set(range(len(rollout.kept))))
    samples = []
    for row in (group * size + g for group in shown for g in range(min(size, 4))):
        index, advantage = credit.places[row], credit.advantages[row]
        problem, tokens = rollout.problems[index], rollout.token_ids[index]
        samples.append(
            Sample(
                step=step,
                problem_id=problem.id,
                task=problem.task,
                language=problem.language,
                prompt=policy.renderer.prompt_text(problem.prompt),
                completion=rollout.texts[index],
                answer=problem.answer,
                finish_reason=rollout.finish[index].value,
                reward=rollout.scored.total[index],
                rewards={n: s for n, v in rollout.scored.parts.items() if (s := v[index]) is not None},
                tokens=policy.renderer.token_texts(tokens),
                advantages=tuple(advantage) if isinstance(advantage, list) else (advantage,) * len(tokens),
            )
        )
    write_samples(out / "samples" / f"step_{step:06d}.parquet", samples)


def _std(values: Tensor) -> float:
    return float(values.std(correction=0)) if len(values) else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
