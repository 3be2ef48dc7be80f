"""One planted fault a guard, none in a healthy run, and the same decisions from a file as from memory."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from aha.config import override
from aha.errors import SettingError
from aha.train.guards import Finding, GuardSettings, check, grad_norm_limit

Rows = list[dict[str, Any]]


def healthy(steps: int = 120) -> Rows:
    """A run that learns: accuracy rises, entropy falls from 1 to 0.3, everything else stays where it should."""
    rng = random.Random(0)
    rows = []
    for step in range(1, steps + 1):
        done = step / steps
        rows.append(
            {
                "step": step,
                "accuracy": 0.1 + 0.7 * done + rng.uniform(-0.05, 0.05),
                "entropy": 1.0 - 0.7 * done + rng.uniform(-0.05, 0.05),
                "kl": 0.02 * done,
                "mismatch_kl": 1e-9,
                "grad_norm": (norm := rng.uniform(0.2, 1.5)),
                "grad_norm_max": 1.2 * norm,
                "truncated": rng.uniform(0.0, 0.1),
                "groups_kept": rng.uniform(0.3, 1.0),
                "repetition": rng.uniform(0.0, 0.05),
                "clip_high": rng.uniform(0.0, 0.005),
                "verifier_errors": 1.0 if step % 9 == 0 else 0.0,
                "completions": 64,
            }
        )
    return rows


def findings(rows: Rows, settings: GuardSettings | None = None) -> list[Finding]:
    return [finding for i, row in enumerate(rows) for finding in check(row, rows[:i], settings)]


def plant(start: int, stop: int, **values: float) -> Rows:
    """The healthy run with other values in the steps from ``start`` to ``stop``."""
    rows = healthy()
    for row in rows[start - 1 : stop]:
        row.update(values)
    return rows


def what(found: list[Finding]) -> list[tuple[str, int, str]]:
    return [(finding.what, finding.step, finding.action) for finding in found]


def test_a_healthy_run_has_no_finding() -> None:
    assert findings(healthy()) == []
    assert findings([]) == []


@pytest.mark.parametrize(
    ("start", "stop", "values", "expected"),
    [
        (60, 60, {"grad_norm_max": 40.0}, [("grad_norm_max", 60, "skip")]),
        (60, 62, {"grad_norm_max": 40.0}, [("grad_norm_max", step, "skip") for step in (60, 61, 62)]),
        (60, 90, {"entropy": 0.049}, [("entropy", 60, "warn")]),
        (60, 90, {"kl": 1.1}, [("kl", 60, "warn")]),
        (60, 61, {"kl": 11.0}, [("kl", 60, "stop"), ("kl", 61, "stop")]),
        (60, 90, {"mismatch_kl": 0.02}, [("mismatch_kl", 60, "warn")]),
        (60, 60, {"mismatch_kl": 0.2}, [("mismatch_kl", 60, "stop")]),
        (60, 90, {"repetition": 0.25}, [("repetition", 60, "warn")]),
        (60, 60, {"repetition": 0.6}, [("repetition", 60, "rollback")]),
        (60, 90, {"truncated": 0.31}, [("truncated", 60, "warn")]),
        (60, 90, {"clip_high": 0.021}, [("clip_high", 60, "warn")]),
        (60, 68, {"groups_kept": 0.0}, []),
        (60, 90, {"groups_kept": 0.0}, [("groups_kept", 69, "warn")]),
        (60, 60, {"loss": math.nan}, [("loss", 60, "stop")]),
        (60, 60, {"kl": math.inf, "grad_norm": -math.inf}, [("grad_norm", 60, "stop"), ("kl", 60, "stop")]),
    ],
)
def test_a_planted_fault_is_found_where_it_is(
    start: int, stop: int, values: dict[str, float], expected: list[tuple[str, int, str]]
) -> None:
    assert what(findings(plant(start, stop, **values))) == expected


def test_a_sampler_that_is_older_by_design_is_no_mismatch() -> None:
    rows = plant(60, 61, mismatch_kl=0.2)
    rows[59]["staleness"] = 1.0
    rows[60]["staleness"] = 0.0
    assert what(findings(rows)) == [("mismatch_kl", 61, "stop")]


def test_a_warning_comes_again_when_its_cause_does() -> None:
    rows = plant(60, 70, truncated=0.4)
    rows[79]["truncated"] = 0.4
    assert [(finding.step, finding.action) for finding in findings(rows)] == [(60, "warn"), (80, "warn")]


def test_entropy_and_accuracy_falling_together_roll_back_and_one_alone_does_not() -> None:
    """The first steps have an entropy of about 0.96, so the limit is about 0.096. Accuracy steps down by 0.3 at 60: of
    the last ten steps one is low at 60, two at 61, and two make the mean fall by more than 0.05."""
    flat: Rows = [{**row, "accuracy": 0.5, "entropy": 0.96} for row in healthy()]
    low = [{**row, **({"entropy": 0.08} if row["step"] >= 60 else {})} for row in flat]
    falling = [{**row, **({"accuracy": 0.2} if row["step"] >= 60 else {})} for row in flat]
    both = [{**row, **({"accuracy": 0.2, "entropy": 0.08} if row["step"] >= 60 else {})} for row in flat]
    assert findings(low) == findings(falling) == []
    found = findings(both)
    assert what(found)[0] == ("entropy", 61, "rollback")
    assert found[0].threshold == pytest.approx(0.096) and "0.500 to 0.440" in found[0].advice
    assert found[-1].step == 77  # of the ten before at least one is still high, and then two


def test_verifier_errors_that_leak_slowly_stop_the_run() -> None:
    """2 of 64 are 3.1 %: below what one step allows, above 2 % from the seventh of ten steps on."""
    rows = healthy()
    for row in rows:
        row["verifier_errors"] = 2.0 if row["step"] >= 60 else 0.0
    first = findings(rows)[0]
    assert (first.what, first.step, first.action) == ("verifier_errors", 66, "stop")
    assert (first.value, first.threshold) == (pytest.approx(14 / 640), 0.02)


def test_what_is_exactly_at_its_limit_is_no_fault() -> None:
    limits = {"entropy": 0.05, "kl": 1.0, "mismatch_kl": 0.01, "repetition": 0.2, "truncated": 0.3, "clip_high": 0.02}
    assert findings(plant(60, 90, **limits)) == []
    assert findings(plant(1, 120, verifier_errors=1.0, completions=50)) == []


def test_the_worst_comes_first() -> None:
    rows = plant(60, 60, truncated=0.4, kl=11.0, grad_norm_max=40.0, repetition=0.6)
    assert [f.action for f in check(rows[59], rows[:59])] == ["stop", "rollback", "skip", "warn"]


def test_the_gradient_limit_is_ten_medians_of_the_last_fifty_steps() -> None:
    rows: Rows = [{"step": 1, "grad_norm": 900.0}] * 30 + [{"step": 1, "grad_norm": norm / 10} for norm in range(1, 51)]
    assert grad_norm_limit(rows) == pytest.approx(25.5)
    assert grad_norm_limit(rows[:39]) == pytest.approx(9_000.0)
    assert grad_norm_limit(rows[-9:]) == math.inf
    zeros: Rows = [{"step": 1, "grad_norm": 0.0}] * 50
    assert grad_norm_limit(zeros) == math.inf


def test_what_a_row_does_not_say_is_no_fault() -> None:
    bare: Rows = [{"step": step, "loss": 0.0, "note": "x", "kl": None} for step in range(1, 40)]
    assert findings(bare) == []


def test_a_file_gives_the_decisions_of_memory() -> None:
    rows = plant(60, 90, grad_norm_max=40.0, truncated=0.4, groups_kept=0.0, entropy=0.01)
    assert findings(json.loads(json.dumps(rows))) == findings(rows) != []


def test_a_finding_is_a_sentence() -> None:
    (finding,) = check({"step": 9, "truncated": 0.5}, [])
    assert str(finding) == "step 9: truncated 0.5 (limit 0.3): " + finding.advice


def test_thresholds_are_settings() -> None:
    rows = plant(60, 60, truncated=0.4)
    assert findings(rows, override(GuardSettings(), "truncated_high", "0.5")) == []
    for wrong in ({"grad_norm_factor": 1.0}, {"truncated_high": 1.5}, {"kl_stop": math.inf}, {"trend": 0}):
        with pytest.raises(SettingError):
            GuardSettings(**wrong)


def rewarded(proxy: float, strict: float, *, kind: str = "") -> Rows:
    """The healthy run; from step 61 on the reward says ``proxy`` more and the stricter verifier ``strict`` more."""
    rows = healthy()
    for row in rows:
        later = row["step"] > 60
        row |= {f"proxy{kind}": 0.3 + later * proxy, f"strict{kind}": 0.25 + later * strict}
    return rows


@pytest.mark.parametrize("kind", ["", "_general"])
def test_a_reward_that_leaves_the_stricter_verifier_behind_raises_the_alarm(kind: str) -> None:
    assert what(findings(rewarded(0.6, 0.6, kind=kind))) == []  # both rise: the policy learns
    assert what(findings(rewarded(0.15, 0.0, kind=kind))) == []
    warned = findings(rewarded(0.39, 0.0, kind=kind))
    assert what(warned) == [(f"strict{kind}", 66, "warn")]  # 6 of the last 10 steps have the gap of 0.39
    assert warned[0].value == pytest.approx(0.234) and "reward hacking" in warned[0].advice
    fallen = findings(rewarded(0.3, -0.25, kind=kind))
    assert {finding.action for finding in fallen} == {"warn", "stop"}
    assert fallen[-1].value == pytest.approx(0.55)


def test_a_gap_that_was_always_there_is_no_alarm() -> None:
    assert what(findings([row | {"proxy": 0.9, "strict": 0.0} for row in healthy()])) == []


def test_a_drift_is_between_first_and_last_steps_that_do_not_overlap_and_ends_with_the_metric() -> None:
    """From step 11 on the gap is 0.6 wider: known when there are ten steps of either kind, and no sooner."""
    rows = [row | {"proxy": 0.3 + 0.6 * (row["step"] > 10), "strict": 0.25} for row in healthy()[:20]]
    assert what(findings(rows)) == [("strict", 20, "stop")]
    assert check(healthy()[20], rows) == []  # a step that does not say is not judged by those before it
