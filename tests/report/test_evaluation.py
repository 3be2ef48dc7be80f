"""Tables of evaluations."""

from __future__ import annotations

from aha.evaluate.paired import compare_paired
from aha.report.evaluation import comparison_table


def test_a_difference_without_an_interval_has_none() -> None:
    """One problem says nothing of others, and equal lengths are no share of anything."""
    first = {"pass@1": {"value": 0.5}, "length": {"value": 35.0}}
    gaps = {"pass@1": compare_paired([0.5], [0.75]), "length": compare_paired([30.0, 40.0], [30.0, 40.0])}
    difference = {key: gap.as_dict() for key, gap in gaps.items()}
    _, rows = comparison_table({"benches": {"x": {"first": first, "second": first, "difference": difference}}})
    assert [row[4] for row in rows] == ["+25.0", "+0.0"] and {row[-1] for row in rows} == {"within chance"}
