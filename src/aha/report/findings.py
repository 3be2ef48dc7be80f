"""What a run shows, in sentences computed from its figures, each beside what the paper claims and where it says so.

A finding appeared, did not appear, is within noise, or has not run yet. Noise is judged problem by problem where both
evaluations have written their problems' scores (evaluate/paired.py), else by whether the 95 % intervals overlap, which
takes some real differences for noise. The paper is
"DeepSeek-R1: Incentivizing Reasoning Capability in LLMs via Reinforcement Learning": v1 (arXiv January 2025) and v2
(the revision with the journal's supplement).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aha.evaluate.paired import Comparison, compare_paired
from aha.report.names import is_proportion, model_label, number, percent, points, with_interval
from aha.report.reading import Measure, Run, Stage, finite, parse_measure, vote_metric
from aha.util.files import read_json

APPEARED = "appeared"
ABSENT = "did not appear"
PARTLY = "partly"
NOISE = "within noise"
NOT_RUN = "not run yet"
SHORT = "too few steps"

_LEAST_STEPS = 10  # fewer, and start and end of a curve are the same steps
_GROWTH = 1.1  # a curve has grown or fallen when it moved by a tenth
_LABELS = 0.9  # share of step labels that agree with exact arithmetic
_AGREEMENT = {"float32": 0.05, "bf16": 0.5, "int8": 1.0}
"""Nats between sampler and trainer on one token, by what is sampled in: docs/metrics.md; float32 stays far below."""


@dataclass(frozen=True)
class Finding:
    """One claim: its outcome in this run, the sentence with the run's figures, the paper's figures and their place."""

    key: str
    title: str
    outcome: str
    sentence: str
    paper: str
    source: str


@dataclass(frozen=True)
class _Change:
    """A claim that one model's measure is above (``direction`` +1) or below (-1) another's."""

    key: str
    title: str
    before: str
    after: str
    metric: str
    paper: str
    source: str
    direction: int = 1


_CHANGES = (
    _Change(
        "pure_rl",
        "Reinforcement learning alone teaches the base to solve problems",
        "base",
        "r1_zero",
        "pass@1",
        "AIME 2024 rises from 15.6 % to 71.0 % (77.9 % in v2).",
        "v1 section 2.2.4; v2 section 2.1",
    ),
    _Change(
        "cold_start_cost",
        "The cold start alone reasons less well than R1-Zero",
        "r1_zero",
        "dev1",
        "pass@1",
        "AIME 2024 falls from 77.9 % to 59.0 % with the cold start, while instruction following rises.",
        "Nature paper, table 2",
        direction=-1,
    ),
    _Change(
        "reasoning_rl",
        "Reasoning RL after the cold start restores reasoning",
        "dev1",
        "dev2",
        "pass@1",
        "AIME 2024 rises from 59.0 % to 74.0 %.",
        "Nature paper, table 2",
    ),
    _Change(
        "rejection_sft",
        "Rejection sampling and fine-tuning of the base go past the model that was sampled from",
        "dev2",
        "dev3",
        "pass@1",
        "AIME 2024 rises from 74.0 % to 78.1 %.",
        "Nature paper, table 2",
    ),
    _Change(
        "rejection_general",
        "The mixed fine-tuning raises general ability",
        "dev2",
        "dev3",
        "general",
        "IF-Eval rises from 72.0 to 78.1.",
        "Nature paper, table 2",
    ),
    _Change(
        "last_stage_accuracy",
        "The last RL stage gains a little reasoning",
        "dev3",
        "r1",
        "pass@1",
        "AIME 2024 rises from 78.1 % to 79.8 %, MATH-500 from 95.4 % to 97.3 %.",
        "Nature paper, table 2",
    ),
    _Change(
        "last_stage_preference",
        "The last RL stage wins preference (by the models that reward it)",
        "dev3",
        "r1",
        "preference",
        "AlpacaEval 2 (length-controlled) rises from 62.1 to 87.6, Arena-Hard from 75.6 to 92.3.",
        "Nature paper, table 2",
    ),
    _Change(
        "r1_general",
        "R1 keeps the general ability that R1-Zero lacks",
        "r1_zero",
        "r1",
        "general",
        "IF-Eval is 46.6 for R1-Zero and 83.3 for R1.",
        "Nature paper, table 2",
    ),
    _Change(
        "language",
        "R1 answers in the language of the question where R1-Zero mixes",
        "r1_zero",
        "r1",
        "language",
        "R1-Zero mixes languages; a language-consistency reward is added for R1. No consistency figure is published "
        "for both.",
        "v1 sections 2.2.4 and 2.3.2",
    ),
    _Change(
        "r1_accuracy",
        "R1 reasons at least as well as R1-Zero",
        "r1_zero",
        "r1",
        "pass@1",
        "AIME 2024 is 77.9 % for R1-Zero and 79.8 % for R1; R1-Zero stays ahead on GPQA Diamond and CNMO.",
        "Nature paper, table 2",
    ),
    _Change(
        "distillation",
        "Distilling into a small model beats reinforcement learning on it",
        "student_rl",
        "student_distilled",
        "pass@1",
        "On a 32B base, AIME 2024 is 72.6 % distilled and 47.0 % with direct RL.",
        "v1 section 4.1, table 6",
    ),
)


def compute_findings(run: Run, summary: Mapping[str, Any]) -> list[Finding]:
    """The findings this run's recipe can speak to, in the order of the recipe's stages."""
    planned = set(run.evaluations())
    found: list[Finding] = []
    pairs: set[tuple[str, str]] = set()
    for change in _CHANGES:
        if change.before in planned and change.after in planned:
            found.append(_judge_change(change, summary, run))
            pairs.add((change.before, change.after))
            if change.key == "pure_rl":
                found.extend(_curve_findings(run, "r1_zero", summary))
    for stage in run.of_kind("rl"):
        starts = run.starts_of(stage)
        pairs_here = [
            (starts[suffix], model) for suffix, model in run.evaluated(stage.name).items() if suffix in starts
        ]
        for before, after in pairs_here:
            if after == "random_reward":
                found.append(_random_reward(before, after, summary, run))
            elif after == "student_rl":
                found.append(_judge_change(_student_control(before), summary, run))
            elif (before, after) not in pairs:
                found.append(_judge_change(_plain_rl(before, after), summary, run))
        known = {"random_reward"} | {name for change in _CHANGES for name in (change.before, change.after)}
        if stage.name not in known:
            found.extend(_curve_findings(run, stage.name, summary))
    found.extend(_agreement(run, summary))
    found.extend(_step_labels(name, metrics) for name, metrics in summary["scorers"].items())
    return found


def limits(run: Run, summary: Mapping[str, Any]) -> list[str]:
    """What this run cannot show, as sentences."""
    seed = run.arguments.get("seed")
    which = "one run" if seed is None else f"one run with seed {seed}"
    sentences = [
        f"Every figure comes from {which}. The intervals cover the draw of evaluation problems and samples, not the "
        f"draw "
        "of training seeds: another seed may move a figure by more than its interval.",
        "“Within noise” is judged problem by problem, where both evaluations kept each problem's scores: by a paired "
        "test and by whether the difference's 95 % interval holds 0. Elsewhere it means that two 95 % intervals "
        "overlap, a cautious reading: a paired test could still find a small difference.",
        "The paper's figures stand beside the run's to compare directions, not sizes: models, problems and budgets are "
        "not the same.",
    ]
    stages, curves = summary["stages"], summary["curves"]
    if {"r1_zero", "r1"} <= set(stages):
        sentences.append(
            "R1 went through more stages and more data than R1-Zero. A higher score of R1 is no evidence that its "
            "order of "
            "stages is what helped."
        )
    base, zero = _measure(stages, "base", "pass@16"), _measure(stages, "r1_zero", "pass@16")
    single = _measure(stages, "r1_zero", "pass@1")
    if base is not None and zero is not None and single is not None:
        if single.value <= base.value or zero.overlaps(base) or zero.value < base.value:
            sentences.append(
                f"The base solves {percent(base.value)} of the problems in at least one of 16 attempts; R1-Zero solves "
                f"{percent(single.value)} in one and {percent(zero.value)} in 16. Much of the gain may be the base's "
                f"own "
                "ability made reliable rather than something new."
            )
        else:
            sentences.append(
                f"The base solves {percent(base.value)} of the problems in at least one of 16 attempts, R1-Zero "
                f"{percent(single.value)} in a single one: more than 16 attempts of the base would be needed to tell "
                f"new "
                "ability from old ability made reliable."
            )
    zero_curve = curves.get("r1_zero", {})
    first, last = zero_curve.get("reflection_first_tenth"), zero_curve.get("reflection_last_tenth")
    if first is not None and last is not None and last <= first * _GROWTH:
        sentences.append(
            "No emerging reflection can be claimed from this run: reflection words did not become more frequent."
        )
    stale = [stage.name for stage in run.stages if stage.stale]
    if stale:
        sentences.append(
            "Results of other settings, inputs or code than the recipe's are marked stale, and no finding counts them: "
            f"{', '.join(stale)}. The same aha run makes them again."
        )
    missing = [stage for stage in run.stages if not (stage.done or stage.stale)]
    if missing:
        sentences.append(
            f"{len(missing)} of {len(run.stages)} stages have not finished; what depends on them is marked."
        )
    return sentences


@dataclass(frozen=True)
class _Difference:
    """Two measures of the same problems and, where each problem's scores were kept, what they say problem by problem:
    the one judgement of noise, whatever the finding."""

    before: Measure
    after: Measure
    paired: Comparison | None

    @property
    def value(self) -> float:
        return self.after.value - self.before.value

    @property
    def noise(self) -> bool:
        return self.before.overlaps(self.after) if self.paired is None else not self.paired.real

    def words(self, *, proportion: bool = True) -> str:
        """``+3.0 points (+2.8 points to +3.2 points, problem by problem)``."""
        words = points(self.value) if proportion else f"{self.value:+.3g}"
        if self.paired is not None and proportion:
            low, high = self.paired.difference.low, self.paired.difference.high
            words += f" ({points(low)} to {points(high)}, problem by problem)" if math.isfinite(low + high) else ""
        if self.noise:
            words += ", within noise"
        elif self.paired is None and not (self.before.has_interval() and self.after.has_interval()):
            words += " (no intervals recorded, so noise cannot be judged)"
        return words


def _compare(
    run: Run, before: tuple[str, Measure], after: tuple[str, Measure], metric: str, *, metric_after: str = ""
) -> _Difference:
    """Two evaluated models by a metric, or by one metric each; problem by problem unless one has no such scores, or of
    other problems."""
    evaluations = run.evaluations()
    scores = []
    for model, name in ((before[0], metric), (after[0], metric_after or metric)):
        path = evaluations[model].folder / "by_problem.json" if model in evaluations else None
        scores.append(read_json(path).get(name, []) if path is not None and path.is_file() else [])
    first, second = scores
    paired = compare_paired(first, second) if first and len(first) == len(second) else None
    return _Difference(before[1], after[1], paired)


def _judge_change(change: _Change, summary: Mapping[str, Any], run: Run) -> Finding:
    stages = summary["stages"]
    before, after = _measure(stages, change.before, change.metric), _measure(stages, change.after, change.metric)
    if before is None or after is None:
        lacking = " and ".join(
            model_label(name) for name, measure in ((change.before, before), (change.after, after)) if measure is None
        )
        sentence = f"No current {_metric_words(change.metric)} of {lacking} has been measured."
        return Finding(change.key, change.title, NOT_RUN, sentence, change.paper, change.source)
    difference = _compare(run, (change.before, before), (change.after, after), change.metric)
    outcome = _outcome(difference.value * change.direction, difference.noise)
    proportion = is_proportion(change.metric)
    sentence = (
        f"{_metric_words(change.metric).capitalize()} is {with_interval(before, proportion=proportion)} for "
        f"{model_label(change.before)} and {with_interval(after, proportion=proportion)} for "
        f"{model_label(change.after)}: {difference.words(proportion=proportion)}."
    )
    if change.key == "distillation":
        sentence += _baseline_caveat(stages, run)
    if change.key == "cold_start_cost" and outcome == ABSENT:
        sentence += " The cold start already reasons better than R1-Zero here."
    if change.key.startswith("last_stage") and outcome == ABSENT and difference.value < 0:
        sentence += " The last stage lost."
    return Finding(change.key, change.title, outcome, sentence, change.paper, change.source)


def _outcome(signed_difference: float, noise: bool) -> str:
    if noise:
        return NOISE
    return APPEARED if signed_difference > 0 else ABSENT


def _baseline_caveat(stages: Mapping[str, Any], run: Run) -> str:
    start, direct = _measure(stages, "student_base", "pass@1"), _measure(stages, "student_rl", "pass@1")
    if start is None or direct is None:
        return ""
    around = f"({percent(start.value)} before, {percent(direct.value)} after)"
    difference = _compare(run, ("student_base", start), ("student_rl", direct), "pass@1")
    if difference.noise or difference.value <= 0:
        return f" Direct RL did not learn here {around}: distillation was compared with a baseline that failed."
    return f" Direct RL did learn {around}, so the comparison is fair in that."


def _student_control(start: str) -> _Change:
    return _Change(
        "student_rl",
        "Direct RL on the small model learns something",
        start,
        "student_rl",
        "pass@1",
        "RL on the 32B base ends level with QwQ-32B-Preview (47.0 % against 50.0 % on AIME 2024).",
        "v1 section 4.1, table 6",
    )


def _plain_rl(start: str, stage: str) -> _Change:
    title = f"Reinforcement learning improves {model_label(start)}"
    paper = "AIME 2024 rises from 15.6 % to 71.0 % (77.9 % in v2)."
    return _Change(f"rl_{stage}", title, start, stage, "pass@1", paper, "v1 section 2.2.4; v2 section 2.1")


def _random_reward(start: str, stage: str, summary: Mapping[str, Any], run: Run) -> Finding:
    before, after = (_measure(summary["stages"], name, "pass@1") for name in (start, stage))
    title = "A random reward teaches nothing (control)"
    paper = (
        "Not in the paper. On Qwen2.5-Math-7B a random reward gained 21.4 points on MATH-500; on Llama and OLMo about "
        "none."
    )
    source = "“Spurious Rewards” (2025)"
    if before is None or after is None:
        return Finding("random_reward", title, NOT_RUN, "The control has not been evaluated.", paper, source)
    difference = _compare(run, (start, before), (stage, after), "pass@1")
    outcome = APPEARED if difference.noise or difference.value <= 0 else ABSENT
    steps = summary["curves"].get(stage, {}).get("steps", "the")
    sentence = (
        f"Pass@1 is {with_interval(before)} for {model_label(start)} and {with_interval(after)} after {steps} steps "
        f"of a random reward: {difference.words()}."
    )
    real = _measure(summary["stages"], "r1_zero", "pass@1")
    if real is not None:
        sentence += f" The real reward changed it by {points(real.value - before.value)} from the same start."
    return Finding("random_reward", title, outcome, sentence, paper, source)


def _curve_findings(run: Run, name: str, summary: Mapping[str, Any]) -> list[Finding]:
    curves = [_length(name, summary), _reflection(name, summary)]
    stage = run.stage(name)
    if stage is not None and not stage.done:
        curves = [f if f.outcome in {NOT_RUN, SHORT} else replace(f, sentence=f"So far: {f.sentence}") for f in curves]
    return [*curves, _vote(name, summary, run)]


def _length(stage: str, summary: Mapping[str, Any]) -> Finding:
    curve = summary["curves"].get(stage, {})
    title = f"{model_label(stage)}'s responses grow longer by themselves"
    paper = "Response length on training prompts grows steadily from hundreds to thousands of tokens."
    source = "v1 section 2.2.4, figure 3; v2 section 2.1"
    key = f"length_{stage}"
    start, end, lowest = (finite(curve.get(name)) for name in ("length_start", "length_end", "length_lowest"))
    if start is None or end is None or lowest is None or min(start, lowest) <= 0:
        return Finding(key, title, NOT_RUN, "No response lengths have been recorded.", paper, source)
    if curve["steps"] < _LEAST_STEPS:
        return Finding(key, title, SHORT, _too_short(curve), paper, source)
    step = number(curve["length_lowest_step"])
    sentence = (
        f"Mean length starts at {number(start)} tokens, is lowest at {number(lowest)} (mean of 5 steps, ending at "
        f"step {step}) and "
        f"ends at {number(end)}: ×{end / lowest:.2f} its lowest and ×{end / start:.2f} its start."
    )
    dipped = lowest * _GROWTH < start
    if end >= start * _GROWTH:
        outcome = APPEARED
        if dipped:
            sentence += " It is a dip and then growth, not growth from the first step."
    elif dipped and end >= lowest * _GROWTH:
        outcome = PARTLY
        sentence += " It fell and recovered; it did not grow past its start."
    else:
        outcome = ABSENT
    before, after = finite(curve.get("length_third_quarter")), finite(curve.get("length_last_quarter"))
    if outcome == APPEARED and before and after is not None:
        change = after / before - 1
        if abs(change) < 0.05:
            sentence += (
                f" It is flat over the last half ({number(before)}, then {number(after)} tokens a quarter), "
                f"where the paper's still grows."
            )
        elif change < 0:
            sentence += f" It shrinks again in the last quarter ({number(before)}, then {number(after)} tokens)."
    return Finding(key, title, outcome, sentence, paper, source)


def _reflection(stage: str, summary: Mapping[str, Any]) -> Finding:
    curve = summary["curves"].get(stage, {})
    title = f"Reflection words become more frequent in {model_label(stage)} (the “aha moment”)"
    paper = "Words such as “wait”, “verify” and “check” become 5 to 7 times as frequent; “wait” spikes late."
    source = "v1 section 2.2.4, table 3; v2 appendix C.2"
    key = f"reflection_{stage}"
    first, last = finite(curve.get("reflection_first_tenth")), finite(curve.get("reflection_last_tenth"))
    if first is None or last is None:
        return Finding(key, title, NOT_RUN, "No reflection words have been counted.", paper, source)
    if curve["steps"] < _LEAST_STEPS:
        return Finding(key, title, SHORT, _too_short(curve), paper, source)
    factor = f" (×{last / first:.2f})" if first > 0 else ""
    if last > first * _GROWTH:
        outcome, change = APPEARED, "became more frequent"
    elif last * _GROWTH < first:
        outcome, change = ABSENT, "became less frequent"
    else:
        outcome, change = ABSENT, "stayed about as frequent"
    sentence = (
        f"Reflection words {change}: {number(first)} a response in the first tenth of the steps, {number(last)} in the "
        f"last{factor}."
    )
    return Finding(key, title, outcome, sentence, paper, source)


def _too_short(curve: Mapping[str, Any]) -> str:
    return f"{curve['steps']} steps are too few to tell a start from an end."


def _vote(stage: str, summary: Mapping[str, Any], run: Run) -> Finding:
    stages = summary["stages"]
    metric = vote_metric(stages.get(stage, {}))
    single, vote = _measure(stages, stage, "pass@1"), _measure(stages, stage, metric)
    title = f"A majority vote adds to {model_label(stage)}"
    paper = "R1-Zero on AIME 2024: 71.0 % alone, 86.7 % by a vote of 64."
    source = "v1 table 2"
    key = f"vote_{stage}"
    if single is None or vote is None:
        return Finding(key, title, NOT_RUN, "Votes have not been measured.", paper, source)
    difference = _compare(run, (stage, single), (stage, vote), "pass@1", metric_after=metric)
    sentence = (
        f"Pass@1 is {with_interval(single)}, the vote of {metric[5:]} {with_interval(vote)}: {difference.words()}."
    )
    return Finding(key, title, _outcome(difference.value, difference.noise), sentence, paper, source)


def _agreement(run: Run, summary: Mapping[str, Any]) -> list[Finding]:
    if not run.of_kind("rl"):
        return []
    gaps = {
        name: gap
        for name, curve in summary["curves"].items()
        if (gap := finite(curve.get("max_logprob_gap"))) is not None
    }
    title = "Sampler and trainer agree on every token's probability (check)"
    paper = "Not in the paper: an invariant, since a ratio that is not 1 on policy trains on the wrong gradient."
    source = "this program's own check"
    if not gaps:
        return [
            Finding("agreement", title, NOT_RUN, "No reinforcement-learning step has been recorded.", paper, source)
        ]
    types = {name: _sampled_in(run.stage(name)) for name in gaps}
    worst = max(gaps, key=lambda name: abs(gaps[name]) / _AGREEMENT[types[name]])
    limit = _AGREEMENT[types[worst]]
    outcome = APPEARED if abs(gaps[worst]) <= limit else ABSENT
    mean = max(summary["curves"][name].get("logprob_gap") or 0.0 for name in gaps)
    sentence = (
        f"The largest gap of one token's log-probability for its number type over "
        f"{sum(summary['curves'][name]['steps'] for name in gaps)} steps of "
        f"{len(gaps)} RL {'stage' if len(gaps) == 1 else 'stages'} is {number(abs(gaps[worst]))} nats, in "
        f"{model_label(worst)}, where {types[worst]} explains up to {number(limit)}; the mean over a step's tokens "
        f"is at most {number(mean)}."
    )
    return [Finding("agreement", title, outcome, sentence, paper, source)]


def _sampled_in(stage: Stage | None) -> str:
    settings = {} if stage is None else stage.settings
    return str(settings.get("sampler") or settings.get("precision") or "float32")


def _step_labels(name: str, metrics: Mapping[str, Any]) -> Finding:
    """``metrics`` are a process reward model's."""
    title = f"Rollouts label steps as exact arithmetic does ({model_label(name)})"
    paper = "Whether an intermediate step is correct is hard to determine, so that a process reward is hard to scale."
    source = "v1 section 4.2"
    labels, model = parse_measure(metrics.get("agreement/test")), parse_measure(metrics.get("accuracy"))
    if labels is None or model is None:
        return Finding("step_labels", title, NOT_RUN, "No step has an exact check.", paper, source)
    apart = [
        f"{percent(measure.value)} of the {kind} ones"
        for kind in ("right", "wrong")
        if (measure := parse_measure(metrics.get(f"accuracy_{kind}"))) is not None
    ]
    sentence = (
        f"Labels of held-out steps agree with the exact check in {with_interval(labels)}; the process reward model, "
        f"trained on {metrics['steps']:,} steps, calls {with_interval(model)} of them as they are labelled: "
        f"{', '.join(apart)}."
    )
    return Finding("step_labels", title, APPEARED if labels.value >= _LABELS else ABSENT, sentence, paper, source)


def _measure(stages: Mapping[str, Any], model: str, metric: str) -> Measure | None:
    return parse_measure(stages.get(model, {}).get(metric))


def _metric_words(metric: str) -> str:
    words = {"language": "language consistency", "general": "general score", "format": "format rate"}
    return words.get(metric, metric)
