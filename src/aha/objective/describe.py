"""The rows of the table of algorithms in words, for the terminal and the docs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from aha.objective.algorithms import Algorithm

BASELINES = {
    "none": "r",
    "batch": "(r - batch mean)",
    "group": "(r - group mean)",
    "leave_one_out": "(r - mean of others)",
    "greedy": "(r - greedy r)",
    "critic": "GAE",
}
SCALES = {"none": "", "group_std": " / group std", "batch_std": " / batch std"}
SUMS = {
    "sequence": "mean of each",
    "token": "mean of all tokens",
    "constant": "by a constant",
    "sum": "sum of each",
}


def describe(row: Algorithm) -> dict[str, str]:
    """What an engineer asks of an algorithm, a few words each: ``{"advantage": "reward - mean of the group / its std",
    "ratio": "token, 0.8 to 1.2", "loss": "mean of each", "KL": "0.04 k3 in the loss", "updates": "1", ...}``
    """
    besides = {
        "step rewards": row.process,
        f"mirror descent, tau {row.mirror:g}": row.mirror,
        "mixed groups alone": row.keep == "mixed",
        f"refilled to {row.refill:.0%}": row.refill,
        "rescaled": row.rescale,
        f"prunes {row.prune:.1%}": row.prune,
        f"{row.nll:g} NLL of right answers": row.nll,
        f"reference new every {row.reference_refresh}": row.reference_refresh,
        f"critic first for {row.critic.warmup if row.critic else 0} steps": row.critic and row.critic.warmup,
    }
    return {
        "advantage": BASELINES[row.baseline] + SCALES[row.scale],
        "ratio": _ratio(row),
        "loss": SUMS[row.aggregation],
        "KL": f"{row.beta:g} {row.kl.__name__} in the {row.kl_in}" if row.beta else "",
        "updates": str(row.minibatches),
        "besides": ", ".join(words for words, so in besides.items() if so),
    }


def _ratio(row: Algorithm) -> str:
    if row.ratio == "none":
        return "none"
    if not row.is_clipped:
        return f"{row.ratio}, not clipped"
    low = f"{1 - row.clip_low:.6g} to" if row.clip_low < 1 else "up to"
    return f"{row.ratio}, {'weight ' if row.clip == 'weight' else ''}{low} {1 + row.clip_high:.6g}"


def choices(row: Algorithm) -> dict[str, Any]:
    """Every choice of a row as JSON has it: functions by their names, an infinite limit as ``None``, a critic whole."""
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    return {name: _plain(value) for name, value in fields.items() if name not in ("name", "citation")}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if callable(value):
        return value.__name__
    return None if isinstance(value, float) and math.isinf(value) else value


def differences(first: Algorithm, second: Algorithm) -> dict[str, tuple[Any, Any]]:
    """The choices in which two rows differ: ``{"clip_high": (0.2, 0.28), ...}``; those of their critics one by one."""
    ours, theirs = _flat(choices(first)), _flat(choices(second))
    pairs = {name: (ours.get(name), theirs.get(name)) for name in {**ours, **theirs}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    critic = row.pop("critic") or {}
    return {**row, **{f"critic.{name}": value for name, value in critic.items()}}
