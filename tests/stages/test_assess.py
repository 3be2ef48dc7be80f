from __future__ import annotations

import pytest

from aha.errors import UsageError
from aha.records import Problem
from aha.stages.assess import assess
from aha.testing import tiny_policy

PROBLEMS = [Problem(str(i), f"compute {i} + 1", str(i + 1), "number") for i in (1, 2)]
OPTIONS = {"max_new_tokens": 5, "temperature": 1.0, "top_p": 1.0, "seed": 0}


def test_every_bench_has_its_metrics_and_progress_is_told() -> None:
    told: list[int] = []
    benches = {"one": PROBLEMS[:1], "two": PROBLEMS}
    results = assess(tiny_policy(), benches, samples=3, progress=told.append, **OPTIONS)  # type: ignore[arg-type]
    assert told == [1, 3] and list(results) == ["one", "two"] and results["two"]["problems"] == 2
    # votes and pass@k have the largest power of two up to 3 samples
    assert {"pass@1", "cons@2", "pass@2", "format", "language", "length", "votes"} <= results["two"].keys()
    assert 1 <= results["two"]["length"]["value"] <= 5


def test_general_prompts_are_refused() -> None:
    problem = Problem("g", "compute", "", "general")
    with pytest.raises(UsageError, match="general prompts"):
        assess(tiny_policy(), {"mine": [problem]}, samples=1, progress=print, **OPTIONS)  # type: ignore[arg-type]
