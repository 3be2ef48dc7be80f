"""Tables of a run: the stage table for people and for a README, and the claims over several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aha.report.names import duration, is_proportion, model_label, number
from aha.report.reading import STALE, Measure, Run, finite, parse_measure

NOT_RUN = "not run yet"

COLUMNS = {
    "pass@1": "pass@1",
    "cons@16": "cons@16",
    "pass@16": "pass@16",
    "format": "format",
    "language": "language consistency",
    "length": "length",
    "general": "general score",
    "preference": "preference",
}


@dataclass(frozen=True)
class StageRow:
    """A row of the stage table; ``measures`` has None where a measure was not taken."""

    model: str
    label: str
    status: str
    measures: Mapping[str, Measure | None]
    seconds: float | None


def stage_columns(summary: Mapping[str, Any]) -> dict[str, str]:
    """Metric -> heading: the recipe's own measures first, then whatever else an evaluation recorded with a value."""
    seen: dict[str, None] = {}
    for entry in (*summary["stages"].values(), *summary.get("stale", {}).values()):
        for key, value in entry.items():
            if isinstance(value, Mapping) and parse_measure(value) is not None:
                seen[key] = None
    if not seen:
        return dict(COLUMNS)
    ordered = sorted(seen, key=_column_rank)  # stable: what is unknown keeps its order
    return {key: COLUMNS.get(key, key.replace("_", " ")) for key in ordered}


def _column_rank(key: str) -> tuple[int, int]:
    stem, _, size = key.partition("@")
    if size.isdigit():
        return (
            (0, 0)
            if key == "pass@1"
            else (("cons", "pass").index(stem) + 1 if stem in {"cons", "pass"} else 3, int(size))
        )
    known = list(COLUMNS)
    return (4, known.index(key)) if key in COLUMNS else (5, 0)


def stage_rows(run: Run, summary: Mapping[str, Any]) -> list[StageRow]:
    """One row for each evaluation of the recipe, finished, stale or not, in recipe order."""
    columns = stage_columns(summary)
    rows: list[StageRow] = []
    for model in run.evaluations():
        current, old = summary["stages"].get(model), summary.get("stale", {}).get(model)
        entry = current or old
        producer = run.producer(model)
        rows.append(
            StageRow(
                model=model,
                label=model_label(model),
                status="done" if current else STALE if old else NOT_RUN,
                measures={key: parse_measure((entry or {}).get(key)) for key in columns},
                seconds=producer.seconds if producer is not None and (producer.done or producer.stale) else None,
            )
        )
    return rows


def cell(metric: str, measure: Measure) -> tuple[str, str]:
    """Value and interval of a table cell, without units: percent for proportions, ``("80.5", "78.1–82.9")``."""
    scale = 100.0 if is_proportion(metric) else 1.0

    def write(value: float) -> str:
        return f"{scale * value:.1f}" if scale > 1 or 10 <= abs(value) < 1000 else number(value)

    if measure.low is None or measure.high is None:
        return write(measure.value), ""
    return write(measure.value), f"{write(measure.low)}–{write(measure.high)}"


def measure_text(metric: str, entry: Any, *, interval: bool = True) -> str:
    """``80.5 (78.1–82.9)``: in percent where it is a share, with the 95 % interval; empty for what is no figure."""
    measure = parse_measure(entry)
    if measure is None:
        return ""
    value, bounds = cell(metric, measure)
    return f"{value} ({bounds})" if interval and bounds else value


def markdown_stage_table(summary: Mapping[str, Any]) -> str:
    """The stage table in Markdown; pass@1 with its 95 % interval, proportions in percent."""
    columns = stage_columns(summary)
    headings = ["model", *(heading + (" %" if is_proportion(key) else "") for key, heading in columns.items()), "time"]
    lines = [_markdown_row(headings), _markdown_row(["---", *["---:"] * (len(columns) + 1)])]
    for model, entry in summary["stages"].items():
        cells = [model_label(model)]
        for key in columns:
            cells.append(measure_text(key, entry.get(key), interval=key == "pass@1") or "–")
        lines.append(_markdown_row([*cells, duration(finite(entry.get("seconds")))]))
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Claim:
    """A figure of a summary with the range it should lie in; a missing bound does not bind."""

    title: str
    read: Callable[[Mapping[str, Any]], float | None]
    least: float | None = None
    most: float | None = None

    def bar(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        if self.least is not None:
            return f"≥ {self.least:g}"
        return "–" if self.most is None else f"≤ {self.most:g}"

    def met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def _value(model: str, metric: str) -> Callable[[Mapping[str, Any]], float | None]:
    def read(summary: Mapping[str, Any]) -> float | None:
        measure = parse_measure(summary.get("stages", {}).get(model, {}).get(metric))
        return None if measure is None else measure.value

    return read


def _gap(
    after: Callable[[Mapping[str, Any]], float | None], before: Callable[[Mapping[str, Any]], float | None]
) -> Callable[[Mapping[str, Any]], float | None]:
    def read(summary: Mapping[str, Any]) -> float | None:
        high, low = after(summary), before(summary)
        return None if high is None or low is None else high - low

    return read


def _length_ratio(summary: Mapping[str, Any]) -> float | None:
    return finite(summary.get("curves", {}).get("r1_zero", {}).get("length_ratio"))


CLAIMS: tuple[Claim, ...] = (
    Claim("base pass@1", _value("base", "pass@1"), None, 0.15),
    Claim("R1-Zero pass@1", _value("r1_zero", "pass@1"), 0.80),
    Claim("R1-Zero length, end / lowest", _length_ratio, 1.3),
    Claim("R1-Zero cons@16 − pass@1", _gap(_value("r1_zero", "cons@16"), _value("r1_zero", "pass@1")), 0.05),
    Claim("language consistency, R1-Zero", _value("r1_zero", "language"), None, 0.75),
    Claim("language consistency, R1", _value("r1", "language"), 0.97),
    Claim("Dev3 pass@1", _value("dev3", "pass@1")),
    Claim("R1 pass@1", _value("r1", "pass@1"), 0.90),
    Claim("R1 − Dev3 pass@1", _gap(_value("r1", "pass@1"), _value("dev3", "pass@1")), -0.02),
    Claim("Dev3 preference", _value("dev3", "preference")),
    Claim("R1 preference", _value("r1", "preference")),
    Claim("R1 − Dev3 preference", _gap(_value("r1", "preference"), _value("dev3", "preference")), 0.0),
    Claim("general score, R1-Zero", _value("r1_zero", "general")),
    Claim("general score, R1", _value("r1", "general"), 0.60),
    Claim("student pass@1, base", _value("student_base", "pass@1")),
    Claim("student pass@1, direct RL", _value("student_rl", "pass@1"), 0.20),
    Claim("student pass@1, distilled", _value("student_distilled", "pass@1"), 0.55),
    Claim(
        "student, distilled − direct RL",
        _gap(_value("student_distilled", "pass@1"), _value("student_rl", "pass@1")),
        0.20,
    ),
    Claim("random reward − base pass@1", _gap(_value("random_reward", "pass@1"), _value("base", "pass@1")), None, 0.05),
)


def seeds_table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The claims in Markdown, a column a seed, with mean, bar and whether the mean meets it (and how many seeds do)."""
    seeds = [f"seed {summary.get('seed', place)}" for place, summary in enumerate(summaries)]
    headings = ["figure", *seeds, "mean", "bar", "met"]
    lines = [_markdown_row(headings), _markdown_row(["---", *["---:"] * (len(seeds) + 2), "---"])]
    for claim in CLAIMS:
        values = [claim.read(summary) for summary in summaries]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if known else None
        bound = claim.least is not None or claim.most is not None
        if not bound or mean is None:
            met = "–"
        else:
            met = f"{'yes' if claim.met(mean) else 'no'} ({sum(map(claim.met, known))}/{len(known)})"
        cells = [claim.title, *map(_three_places, values), _three_places(mean), claim.bar(), met]
        lines.append(_markdown_row(cells))
    return "\n".join(lines) + "\n"


def _three_places(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
