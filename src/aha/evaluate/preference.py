"""What a preference model is worth on texts it never saw: accuracy, calibration, and how much it goes by length.

A model can be right often and still say 90 % where 60 % is true, or prefer whatever is longer; both show in a policy
that is trained on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aha.errors import DataError
from aha.evaluate.estimators import share_interval

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Of the predictions between ``low`` and ``high``, ``count``: their mean, and the share that came true with its
    interval."""

    low: float
    high: float
    count: int
    predicted: float
    share: float
    share_low: float
    share_high: float


def reliability(
    predicted: Sequence[float], came_true: Sequence[bool], *, low: float = 0.0, bins: int = BINS
) -> list[Bin]:
    """Predictions in [``low``, 1] in bins of equal width, empty ones left out."""
    width = (1 - low) / bins
    rows: dict[int, list[int]] = {}
    for i, p in enumerate(predicted):
        rows.setdefault(min(bins - 1, max(0, int((p - low) / width))), []).append(i)
    found = []
    for place in sorted(rows):
        own = rows[place]
        share = share_interval(sum(came_true[i] for i in own), len(own))
        mean = sum(predicted[i] for i in own) / len(own)
        edges = low + place * width, low + (place + 1) * width
        found.append(Bin(*edges, len(own), mean, share.value, share.low, share.high))
    return found


def expected_calibration_error(curve: Sequence[Bin]) -> float:
    """Mean distance of what is predicted from what comes true, weighed by counts (Guo et al. 2017, eq. 3)."""
    total = sum(b.count for b in curve)
    return sum(b.count * abs(b.predicted - b.share) for b in curve) / total if total else math.nan


def correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Pearson's; NaN where one of them does not vary."""
    count = len(x)
    if count < 2:
        return math.nan
    mean_x, mean_y = sum(x) / count, sum(y) / count
    xy = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    xx, yy = sum((a - mean_x) ** 2 for a in x), sum((b - mean_y) ** 2 for b in y)
    return xy / math.sqrt(xx * yy) if xx > 0 and yy > 0 else math.nan


def pair_report(
    chosen: Sequence[float], rejected: Sequence[float], chosen_lengths: Sequence[int], rejected_lengths: Sequence[int]
) -> dict[str, Any]:
    """Of scores and lengths of held-out pairs; equal scores are wrong. ``DataError`` for a score that is not finite.

    ``calibration``: the model's confidence, sigmoid of the distance of the scores, against how often it is right.
    ``length``: ``correlation`` of the difference of scores with that of lengths; ``longer_chosen``, the share of pairs
    whose chosen text is the longer one, which is what preferring the longer would score; the accuracy where the chosen
    text is longer, and where it is shorter.
    """
    _check([*chosen, *rejected])
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    right = [margin > 0 for margin in margins]
    longer = [a - b for a, b in zip(chosen_lengths, rejected_lengths, strict=True)]
    confidence = [1 / (1 + math.exp(-min(abs(margin), 700.0))) for margin in margins]
    curve = reliability(confidence, right, low=0.5)
    return {
        "accuracy": share_interval(sum(right), len(right)).as_dict(),
        "calibration": {"ece": expected_calibration_error(curve), "bins": [asdict(b) for b in curve]},
        "length": {
            "correlation": correlation(margins, [float(n) for n in longer]),
            "longer_chosen": share_interval(sum(n > 0 for n in longer), sum(n != 0 for n in longer)).as_dict(),
            "accuracy_longer_chosen": _share([r for r, n in zip(right, longer, strict=True) if n > 0]),
            "accuracy_shorter_chosen": _share([r for r, n in zip(right, longer, strict=True) if n < 0]),
        },
    }


def label_report(scores: Sequence[float], labels: Sequence[float], lengths: Sequence[int]) -> dict[str, Any]:
    """Of scores, labels and lengths of held-out texts: ``accuracy``, that on good and on bad ones, ``calibration`` of
    sigmoid(score), and the ``correlation`` of scores with lengths beside that of labels with lengths."""
    _check(scores)
    good = [label > 0.5 for label in labels]
    right = [(score > 0) == label for score, label in zip(scores, good, strict=True)]
    curve = reliability([1 / (1 + math.exp(-max(-700.0, min(score, 700.0)))) for score in scores], good)
    sizes = [float(n) for n in lengths]
    return {
        "accuracy": share_interval(sum(right), len(right)).as_dict(),
        "accuracy_good": _share([r for r, g in zip(right, good, strict=True) if g]),
        "accuracy_bad": _share([r for r, g in zip(right, good, strict=True) if not g]),
        "calibration": {"ece": expected_calibration_error(curve), "bins": [asdict(b) for b in curve]},
        "length": {"correlation": correlation(scores, sizes), "correlation_of_labels": correlation(labels, sizes)},
    }


def _check(scores: Sequence[float]) -> None:
    if wrong := [score for score in scores if not math.isfinite(score)]:
        raise DataError(f"{len(wrong)} of {len(scores)} scores are {wrong[0]}: the model that gave them is broken")


def _share(right: Sequence[bool]) -> dict[str, float]:
    return share_interval(sum(right), len(right)).as_dict()
