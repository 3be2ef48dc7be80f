"""Which rows of several sources go into one set, and in which order; which of many cover the most ground; the sides of
a split that never move. Rows are ranked by a hash of seed, source and place, so nothing depends on the machine."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from aha.data.draw import weighted_sample
from aha.data.text import tokens
from aha.errors import DataError, SettingError
from aha.util.files import hash_fraction


def mix_shares(weights: Mapping[str, float], temperature: float) -> dict[str, float]:
    """``weight ** (1 / temperature)``, summing to 1: 1 keeps the weights' proportions, more evens them out, as
    multilingual models sample their languages (XLM-R, 1911.02116, section 3.1, with 1 / temperature = 0.3)."""
    if not weights or not all(0 < value < math.inf for value in (temperature, *weights.values())):
        raise SettingError(f"weights {dict(weights)} and temperature {temperature}: all must be finite and above 0")
    raised = {name: weight ** (1 / temperature) for name, weight in weights.items()}
    total = sum(raised.values())
    return {name: value / total for name, value in raised.items()}


def mix_counts(sizes: Mapping[str, int], shares: Mapping[str, float], total: int | None) -> dict[str, int]:
    """Rows to take from each source: ``total`` by ``shares`` (largest remainders), no row twice.

    Without ``total`` as many as the scarcest source allows. ``DataError`` names a source with too few rows.
    """
    if total is None:
        total = min(int(sizes[name] / share + 1e-9) for name, share in shares.items())
    exact = {name: total * share for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    for name, count in counts.items():
        if count > sizes[name]:
            raise DataError(f"{name}: {count} rows are wanted of {sizes[name]}: lower the total, or its weight")
    return counts


def rank(seed: int, name: str, place: int) -> float:
    """A number in [0, 1) that a row of a source is ordered by."""
    return hash_fraction(f"{seed}/{name}/{place}")


def select_diverse(
    domains: Sequence[str], lengths: Sequence[int], count: int, seed: int, *, power: float = 1.0
) -> list[int]:
    """``count`` rows, in rising order: a domain at random, then one of its rows with a chance in proportion to
    ``length ** power``, and again (s1, 2501.19393, section 2.2: domains first, long traces favoured).

    A domain whose rows are used up is left out from then on. ``DataError`` when there are fewer rows.
    """
    if count > len(domains):
        raise DataError(f"{count} rows are to be selected of {len(domains)}")
    rng = random.Random(seed)
    waiting: dict[str, list[int]] = {}
    for row, domain in enumerate(domains):
        waiting.setdefault(domain, []).append(row)
    for domain, rows in sorted(waiting.items()):
        order = weighted_sample(rows, [lengths[row] ** power for row in rows], len(rows), rng)
        waiting[domain] = order[::-1]
    chosen: list[int] = []
    left = sorted(waiting)
    while len(chosen) < count:
        domain = rng.choice(left)
        chosen.append(waiting[domain].pop())
        if not waiting[domain]:
            left.remove(domain)
    return sorted(chosen)


def split_side(row: Mapping[str, object], share: float) -> str:
    """``"test"`` for about ``share`` of all questions, else ``"train"``: by the row's ``split_key``, or else by its
    question without case and punctuation. It depends on nothing else, so no row changes sides when others come."""
    key = row.get("split_key", " ".join(tokens(str(row["problem"]))))
    return "test" if hash_fraction(str(key)) < share else "train"
