"""Guards on a run's metrics: what goes wrong silently is found, named, and answered with one of four actions.

A guard reads the rows of ``metrics.jsonl`` and nothing else, so a run that was stopped decides as one that was not. A
metric that a row does not have says nothing. Whoever rolls back must change something as well, a lower learning rate or
another stream of random numbers: everything here is deterministic, and the same way leads to the same place.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from aha.config import Count, Frozen, NotNegative, Rate, Share

Row = Mapping[str, Any]
Action = Literal["warn", "skip", "rollback", "stop"]
SEVERITY: tuple[Action, ...] = ("warn", "skip", "rollback", "stop")

_Factor = Annotated[float, Field(gt=1, allow_inf_nan=False)]


class GuardSettings(Frozen):
    """The thresholds. "Replications" are working rules that studies of DeepSeek-R1 share, not limits that somebody
    measured; where a sentence names no source, the number is ours.

    ``grad_norm_factor`` times the median of the last ``grad_norm_window`` steps: the (mini-)batch is skipped
    (replications: 10 times). At least ``grad_norm_least`` steps are needed for a median.
    ``entropy_low`` nats: exploration is over (replications: act below 0.05 to 0.1). ``entropy_fall`` times below that
    of the first ``trend`` steps, while the accuracy of the last ``trend`` steps is more than ``accuracy_fall`` under
    that of the ``trend`` before: collapsed. Both together, since good runs lose most of their entropy early
    (2505.22617).
    ``kl_high``, ``kl_stop`` nats a token from the reference. ``mismatch_high``, ``mismatch_stop`` nats a token between
    sampler and trainer, in steps in which both hold the same weights (``staleness`` 0); verl's and TRL's threads put
    healthy bfloat16 runs under 0.01.
    ``repetition_high``, ``repetition_collapse``: share of the tokens in a loop at a completion's end.
    ``truncated_high``: share of completions cut (replications: over 20 to 30 % the cap is too low).
    ``clip_high_share``: share of tokens clipped from above (replications: over 1 to 2 % the rollouts are stale).
    ``signal_low``: share of groups with a gradient, for ``signal_steps`` steps in a row (replications: 10 or more).
    ``drift_high``, ``drift_stop``: by how much what is rewarded (``proxy``) has moved away from what a stricter
    verifier says of the same completions (``strict``), from the first ``trend`` steps to the last: the reward is being
    hacked.
    ``verifier_errors``: share of completions whose verifier failed, over the last ``trend`` steps; one bad step stops
    the run by itself (reward/rubric.py), this finds a slow leak.
    """

    grad_norm_factor: _Factor = 10.0
    grad_norm_window: Count = 50
    grad_norm_least: Count = 10
    entropy_low: NotNegative = 0.05
    entropy_fall: _Factor = 10.0
    accuracy_fall: Share = 0.05
    trend: Count = 10
    kl_high: Rate = 1.0
    kl_stop: Rate = 10.0
    mismatch_high: Rate = 0.01
    mismatch_stop: Rate = 0.1
    repetition_high: Share = 0.2
    repetition_collapse: Share = 0.5
    truncated_high: Share = 0.3
    clip_high_share: Share = 0.02
    signal_low: Share = 0.0
    signal_steps: Count = 10
    drift_high: Share = 0.2
    drift_stop: Share = 0.5
    verifier_errors: Share = 0.02


@dataclass(frozen=True, slots=True)
class Finding:
    """``Finding("grad_norm", 120, 54.0, 11.0, "skip", "..")``: at step 120 ``grad_norm`` was 54 where 11 is allowed."""

    what: str
    step: int
    value: float
    threshold: float
    action: Action
    advice: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.what} {self.value:.4g} (limit {self.threshold:.4g}): {self.advice}"


def check(row: Row, history: Sequence[Row], settings: GuardSettings | None = None) -> list[Finding]:
    """What is wrong with the newest ``row``, the worst first; ``history`` has all rows before it, oldest first.

    A warning is given at the first step of a state and not again while it lasts; the other actions as often as their
    cause is there. Values that are not finite hide the rest: what they would say means nothing any more.
    """
    settings = settings or GuardSettings()
    if broken := _not_finite(row):
        return broken
    found: list[Finding] = []
    for guard in _GUARDS:
        finding = guard(row, history, settings)
        if finding and not (finding.action == "warn" and _lasts(guard, history, settings)):
            found.append(finding)
    return sorted(found, key=lambda finding: -SEVERITY.index(finding.action))


def grad_norm_limit(history: Sequence[Row], settings: GuardSettings | None = None) -> float:
    """The largest gradient norm that the next update may have: known before it is made, so that a batch can be left
    out instead of regretted. Infinite while too few steps say what is usual."""
    settings = settings or GuardSettings()
    norms = _recent(history, "grad_norm", settings.grad_norm_window)
    usual = [norm for norm in norms if norm > 0]  # a step without a gradient says nothing of the usual size
    if len(usual) < settings.grad_norm_least:
        return math.inf
    return settings.grad_norm_factor * statistics.median(usual)


Guard = Callable[[Row, Sequence[Row], GuardSettings], Finding | None]


def _not_finite(row: Row) -> list[Finding]:
    advice = "weights or data are damaged; go back to the last state, lower lr, and look at the step's samples"
    return [
        Finding(name, _step(row), float(value), math.inf, "stop", advice)
        for name, value in sorted(row.items())
        if isinstance(value, int | float) and not math.isfinite(value)
    ]


def _grad_norm(row: Row, history: Sequence[Row], settings: GuardSettings) -> Finding | None:
    """The largest norm of a step's updates: one mini-batch of many may be left out, which their mean would not show."""
    advice = "a spike: the batch was left out; if spikes come back, lower lr or max_grad_norm"
    return _above(row, "grad_norm_max", grad_norm_limit(history, settings), "skip", advice)


def _entropy_low(row: Row, history: Sequence[Row], settings: GuardSettings) -> Finding | None:
    entropy = _value(row, "entropy")
    if entropy is None or entropy >= settings.entropy_low:
        return None
    advice = "exploration is over: raise the temperature or clip_high, ask harder problems, or lower lr"
    return Finding("entropy", _step(row), entropy, settings.entropy_low, "warn", advice)


def _entropy_collapse(row: Row, history: Sequence[Row], settings: GuardSettings) -> Finding | None:
    rows = [*history, row]
    entropy, first = _value(row, "entropy"), _recent(rows[: settings.trend], "entropy", settings.trend)
    accuracy = _recent(rows, "accuracy", 2 * settings.trend)
    if entropy is None or not first or len(accuracy) < 2 * settings.trend:
        return None
    limit = statistics.fmean(first) / settings.entropy_fall
    before, now = statistics.fmean(accuracy[: settings.trend]), statistics.fmean(accuracy[settings.trend :])
    if entropy >= limit or before - now <= settings.accuracy_fall:
        return None
    advice = f"collapsed: accuracy fell from {before:.3f} to {now:.3f} as well; go back, with a lower lr or a KL term"
    return Finding("entropy", _step(row), entropy, limit, "rollback", advice)


def _kl(row: Row, history: Sequence[Row], settings: GuardSettings) -> Finding | None:
    advice = "the policy is far from its reference: raise beta, lower lr, or refresh the reference"
    return _two_levels(row, "kl", (settings.kl_high, "warn"), (settings.kl_stop, "stop"), advice)


def _mismatch(row: Row, history: Sequence[Row], settings: GuardSettings) -> Finding | None:
    if _value(row, "staleness"):  # other weights by design: ess and clip_high say whether they are too old
        return None
    advice = "sampler and trainer disagree on the same weights: compare their types, caches and sampling settings"
    return _two_levels(row, "mismatch_kl", (settings.mismatch_high, "warn"), (settings.mismatch_stop, "stop"), advice)


def _repetition(row: Row, history: Sequence[Row], settings: GuardSettings) -> Finding | None:
    advice = "completions end in loops: look at the samples, lower lr, add a repetition penalty or a KL term"
    high, worse = settings.repetition_high, settings.repetition_collapse
    return _two_levels(row, "repetition", (high, "warn"), (worse, "rollback"), advice)


def _truncated(row: Row, history: Sequence[Row], settings: GuardSettings) -> Finding | None:
    advice = "many completions are cut and their rewards say little: raise max_new_tokens"
    return _above(row, "truncated", settings.truncated_high, "warn", advice)


def _clip_high(row: Row, history: Sequence[Row], settings: GuardSettings) -> Finding | None:
    advice = "the policy has left the rollouts behind: fewer mini-batches a rollout, a lower lr, or fresher rollouts"
    return _above(row, "clip_high", settings.clip_high_share, "warn", advice)


def _no_signal(row: Row, history: Sequence[Row], settings: GuardSettings) -> Finding | None:
    last = _recent([*history, row], "groups_kept", settings.signal_steps)
    if len(last) < settings.signal_steps or max(last) > settings.signal_low or "groups_kept" not in row:
        return None
    advice = f"data exhausted: no group differed for {len(last)} steps; ask harder or easier problems, or more samples"
    return Finding("groups_kept", _step(row), last[-1], settings.signal_low, "warn", advice)


def _verifier_errors(row: Row, history: Sequence[Row], settings: GuardSettings) -> Finding | None:
    rows = [r for r in [*history, row][-settings.trend :] if _value(r, "completions")]
    if not rows:
        return None
    rate = sum(_value(r, "verifier_errors") or 0.0 for r in rows) / sum(r["completions"] for r in rows)
    if rate <= settings.verifier_errors:
        return None
    advice = f"verifiers failed in the last {len(rows)} steps: aha explain shows why; mend them before training on"
    return Finding("verifier_errors", _step(row), rate, settings.verifier_errors, "stop", advice)


def _hacked(row: Row, history: Sequence[Row], settings: GuardSettings) -> Finding | None:
    """The verifier of reasoning problems and the preference models of general prompts, whichever has drifted more."""
    found = [_drift(row, history, kind, settings) for kind in ("", "_general")]
    return max((f for f in found if f), key=lambda finding: finding.value, default=None)


def _drift(row: Row, history: Sequence[Row], kind: str, settings: GuardSettings) -> Finding | None:
    proxy, strict = f"proxy{kind}", f"strict{kind}"
    rows = [r for r in [*history, row] if _value(r, proxy) is not None and _value(r, strict) is not None]
    if len(rows) < 2 * settings.trend or rows[-1] is not row:
        return None
    gaps = [r[proxy] - r[strict] for r in rows]
    drift = statistics.fmean(gaps[-settings.trend :]) - statistics.fmean(gaps[: settings.trend])
    if drift <= settings.drift_high:
        return None
    limit, action = settings.drift_high, SEVERITY[0]
    if drift > settings.drift_stop:
        limit, action = settings.drift_stop, SEVERITY[-1]
    advice = (
        f"reward hacking: what is rewarded says {row[proxy]:.2f}, a stricter verifier {row[strict]:.2f}; read the "
        "samples, mend the reward, and go back to a model from before"
    )
    return Finding(strict, _step(row), drift, limit, action, advice)


_GUARDS: tuple[Guard, ...] = (
    _grad_norm, _entropy_low, _entropy_collapse, _kl, _mismatch, _repetition, _truncated, _clip_high, _no_signal,
    _hacked, _verifier_errors,
)  # fmt: skip


def _lasts(guard: Guard, history: Sequence[Row], settings: GuardSettings) -> bool:
    """Whether the same guard found something at the step before too."""
    return bool(history) and guard(history[-1], history[:-1], settings) is not None


def _above(row: Row, name: str, limit: float, action: Action, advice: str) -> Finding | None:
    value = _value(row, name)
    return Finding(name, _step(row), value, limit, action, advice) if value is not None and value > limit else None


def _two_levels(
    row: Row, name: str, high: tuple[float, Action], worse: tuple[float, Action], advice: str
) -> Finding | None:
    return _above(row, name, *worse, advice) or _above(row, name, *high, advice)


def _recent(rows: Sequence[Row], name: str, count: int) -> list[float]:
    """The last ``count`` finite values of a metric, oldest first."""
    return [value for row in rows[-count:] if (value := _value(row, name)) is not None]


def _value(row: Row, name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _step(row: Row) -> int:
    return int(row.get("step", 0))
