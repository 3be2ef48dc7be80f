"""Rejection sampling: a teacher answers every problem several times, and what is right and readable stays.

DeepSeek-R1's third stage (R1v1 2.3.3, R1v2 2.3.3): several samples of each prompt, only correct ones kept, by rule or,
where no rule can say, by a judge; thinking of mixed languages, with long paragraphs or with code blocks goes. Every
student of the report learned from such a set (R1v1 2.4).

Writes ``examples.jsonl``, ``removed.jsonl`` (every sample that went, and why), the card, and ``samples.jsonl`` with all
that was sampled, from which a stopped stage goes on: nothing is asked, or paid, twice.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from aha import __version__
from aha.config import Count, Frozen, NotNegative, Rate, Share, TopP
from aha.data.card import make_card, source_record, write_card
from aha.data.fields import read_named
from aha.data.files import Rejected, Row, find_files
from aha.data.mix import mix_counts, mix_shares, rank
from aha.errors import DataError
from aha.records import FinishReason, Problem, StageResult, Status
from aha.reward.accuracy import judge_accuracy
from aha.reward.judge import judge_prompt, read_verdict
from aha.reward.readability import Readable, language_of
from aha.reward.response import Response, read_response
from aha.rollout.endpoint import Answered, Asked, Endpoint, EndpointSampler
from aha.rollout.engine import SamplingParams
from aha.stages.context import Context
from aha.stages.generate import open_model
from aha.stages.paid import JUDGEMENTS, SAMPLES
from aha.stages.sampling import PolicySampler, Sampler, ask_for, collect_samples, paid_record, sample_name
from aha.tasks.checkers import CHECKERS
from aha.util.files import write_text_atomic
from aha.util.seeds import python_rng

JUDGED_TOKENS = 2_048
SAMPLES_SHOWN = 5
_CHUNK = 1_000


class Settings(Frozen):
    """``problems`` (None: all) x ``samples`` completions; of the right ones of a problem ``keep`` one, or all that
    differ.

    Problems come from ``source``, a file or folder of rows, or from the stage's input; a row names its ``task``, or it
    is ``task``. The teacher is the ``endpoint``, or the model of the input ``policy``. A ``judge`` says what no rule
    can (``without_rule``), or looks at all that the rule calls wrong as well (``rejected``), as Open-R1 did; where both
    are asked at one address, the judge's ``most_cost`` is for what both cost.

    ``share``, ``paragraph``, ``longest`` and ``code`` are those of ``aha data filter``; ``weights`` of domains, which
    the field ``domain`` names, balance what is kept: as many as the scarcest allows.
    """

    source: Path | None = None
    task: str = "number"
    problems: Count | None = None
    samples: Count = 4
    keep: Literal["one", "all"] = "all"
    endpoint: Endpoint | None = None
    judge: Endpoint | None = None
    judged: Literal["without_rule", "rejected"] = "without_rule"
    well_formed: bool = True
    share: Share = 1.0
    paragraph: Count = 500
    longest: Count | None = None
    code: bool = False
    domain: str = "task"
    weights: Mapping[str, Rate] = {}
    max_new_tokens: Count = 80
    temperature: NotNegative = 1.0
    top_p: TopP = 1.0


@dataclass(frozen=True)
class _Sample:
    """One completion with why it goes, if it does."""

    problem: Problem
    row: Row
    text: str
    response: Response
    why: str = ""
    detail: str = ""


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``policy`` is the teacher where there is no endpoint; ``problems`` has ``train.jsonl``."""
    source = settings.source or inputs["problems"] / "train.jsonl"
    rows = _rows(source)
    if settings.problems is not None:
        if settings.problems > len(rows):
            raise DataError(f"problems is {settings.problems}, but {source} has {len(rows)}: lower it, or leave it out")
        rows = python_rng(context.seed, "problems").sample(rows, settings.problems)
    problems = [_problem(row, settings.task) for row in rows]
    teacher = _teacher(settings, inputs)
    refused = {sample_name(problem): why for problem in problems if (why := teacher.refuse(problem.prompt))}
    askable = [problem for problem in problems if sample_name(problem) not in refused]
    asked = ask_for(askable, settings.samples, context.seed)
    if len({one.key for one in asked}) < len(asked):
        doubled = next(p for p, count in Counter((p.id, p.prompt) for p in problems).items() if count > 1)
        raise DataError(f"{source}: two rows have the id {doubled[0]!r} and the same question: deduplicate it first")

    def progress(done: int, total: int) -> None:
        context.save_due()
        context.progress(done, total, tokens=teacher.account.tokens)

    answers = collect_samples(teacher, asked, context.out / SAMPLES, progress)
    samples = [
        _Sample(problem, row, "", Response("", None, False), "too long", refused[name])
        if (name := sample_name(problem)) in refused
        else _read(problem, row, answers[name, number])
        for problem, row in zip(problems, rows, strict=True)
        for number in range(settings.samples)
    ]
    samples, judge = _judge(settings, samples, context, teacher.account.cost)
    samples = _pick(settings, samples, context.seed)
    kept = [sample for sample in samples if not sample.why]
    reasons = Counter(sample.why for sample in samples if sample.why)
    if not kept:
        raise DataError(f"no sample of {len(samples)} is left: {dict(reasons)}; sample more, or from a better teacher")
    name = settings.endpoint.model if settings.endpoint else inputs["policy"].name
    paid = {who: paid_record(sampler.account) for who, sampler in (("teacher", teacher), ("judge", judge)) if sampler}
    _write(settings, context, source, samples, name, paid)
    domains = Counter(_domain(settings, sample) for sample in kept)
    metrics = {"examples": len(kept), "samples": len(samples), "removed": dict(reasons.most_common())}
    failed = teacher.account.reasons | (judge.account.reasons if judge else {})
    return StageResult(
        metrics | {"domains": dict(sorted(domains.items())), "account": paid, "failed_attempts": failed}
    )


def _rows(source: Path) -> list[Row]:
    """Every row of a file or folder; ``DataError`` for the first that cannot be used, and where there is none."""
    rows = []
    for row in read_named(find_files([source])):
        if isinstance(row, Rejected):
            raise DataError(f"{row.file}:{row.line}: {row.why}")
        rows.append(row)
    return rows


def _problem(row: Row, task: str) -> Problem:
    fields = row.fields
    answer = "" if fields.get("answer") is None else str(fields["answer"]).strip()
    named_task = str(fields.get("task", task))
    return Problem(str(fields["id"]), fields["problem"], answer, named_task, language_of(fields), meta=fields)


def _teacher(settings: Settings, inputs: Mapping[str, Path]) -> Sampler:
    params = SamplingParams(settings.max_new_tokens, settings.temperature, settings.top_p)
    if settings.endpoint is not None:
        return EndpointSampler(settings.endpoint, params)
    policy, _ = open_model(inputs["policy"], template=None)
    ends = policy.tokenizer.end_token_ids
    return PolicySampler(
        policy, SamplingParams(settings.max_new_tokens, settings.temperature, settings.top_p, end_token_ids=ends)
    )


def _read(problem: Problem, row: Row, answer: Answered) -> _Sample:
    why = {FinishReason.LENGTH: "cut", FinishReason.BROKEN: "broken off"}.get(answer.finish_reason, "")
    return _Sample(problem, row, answer.text.strip(), read_response(answer.text), why)


def _judge(
    settings: Settings, samples: Sequence[_Sample], context: Context, spent: float
) -> tuple[list[_Sample], Sampler | None]:
    """Verdicts of the rules, and of the judge where it is asked, with the account of the latter."""
    found = _by_rule(samples)
    if settings.judge is None:
        return found, None
    open_to_judge = {"no rule", "verifier failed"} | ({"wrong"} if settings.judged == "rejected" else set())
    places = {
        (sample_name(sample.problem), place % settings.samples): place
        for place, sample in enumerate(found)
        if sample.why in open_to_judge
    }
    asked = [Asked(*key, judge_prompt(found[p].problem, found[p].response), 0) for key, p in places.items()]
    asks = settings.judge
    if asks.most_cost is not None and settings.endpoint is not None and asks.url == settings.endpoint.url:
        asks = asks.model_copy(update={"most_cost": asks.most_cost - spent})
    judge = EndpointSampler(asks, SamplingParams(JUDGED_TOKENS, temperature=0.0))
    for key, reply in collect_samples(judge, asked, context.out / JUDGEMENTS, context.progress).items():
        verdict = read_verdict(reply.text)
        why = {Status.RIGHT: "", Status.WRONG: "wrong by the judge", Status.ERROR: "judge unclear"}[verdict.status]
        found[places[key]] = _replaced(found[places[key]], why, verdict.note)
    return found, judge


def _by_rule(samples: Sequence[_Sample]) -> list[_Sample]:
    found = list(samples)
    for place, sample in enumerate(found):
        if not sample.why and (sample.problem.task not in CHECKERS or not _has_gold(sample.problem)):
            found[place] = _replaced(sample, "no rule", f"task {sample.problem.task!r}")
    asked = [place for place, sample in enumerate(found) if not sample.why]
    for start in range(0, len(asked), _CHUNK):
        places = asked[start : start + _CHUNK]
        verdicts = judge_accuracy([found[p].problem for p in places], [found[p].response for p in places])
        for place, verdict in zip(places, verdicts, strict=True):
            if verdict.status is not Status.RIGHT:
                why = "wrong" if verdict.status is Status.WRONG else "verifier failed"
                found[place] = _replaced(found[place], why, verdict.note)
    return found


def _has_gold(problem: Problem) -> bool:
    return bool(problem.answer) or problem.task in ("code", "reasoning_gym")


def _pick(settings: Settings, samples: Sequence[_Sample], seed: int) -> list[_Sample]:
    """Readability, format, one or all of a problem, and the balance of domains."""
    readable = Readable((), settings.share, settings.paragraph, settings.longest, settings.code)
    found = list(samples)
    said: dict[str, set[str]] = defaultdict(set)
    for place, sample in enumerate(found):
        if sample.why:
            continue
        fault = readable.fault({**sample.row.fields, "language": sample.problem.language, "completion": sample.text})
        before = said[sample_name(sample.problem)]
        if settings.well_formed and not sample.response.well_formed:
            found[place] = _replaced(sample, "bad format")
        elif fault is not None:
            found[place] = _replaced(sample, fault.reason, fault.detail)
        elif sample.text in before:
            found[place] = _replaced(sample, "said before")
        elif settings.keep == "one" and before:
            found[place] = _replaced(sample, "enough")
        else:
            before.add(sample.text)
    return _balanced(settings, found, seed) if settings.weights else found


def _balanced(settings: Settings, samples: list[_Sample], seed: int) -> list[_Sample]:
    places: dict[str, list[int]] = {domain: [] for domain in settings.weights}
    for place, sample in enumerate(samples):
        if not sample.why:
            domain = _domain(settings, sample)
            if domain not in places:
                raise DataError(f"weights name {', '.join(settings.weights)}, but a sample is of {domain!r}: add it")
            places[domain].append(place)
    counts = mix_counts({d: len(rows) for d, rows in places.items()}, mix_shares(settings.weights, 1.0), None)
    for domain, rows in places.items():
        ordered = sorted(rows, key=lambda place: rank(seed, domain, place))
        for place in ordered[counts[domain] :]:
            samples[place] = _replaced(samples[place], "balance of domains", domain)
    return samples


def _domain(settings: Settings, sample: _Sample) -> str:
    if settings.domain == "task":
        return sample.problem.task
    return str(sample.row.fields.get(settings.domain, "none"))


def _replaced(sample: _Sample, why: str, detail: str = "") -> _Sample:
    return _Sample(sample.problem, sample.row, sample.text, sample.response, why, detail)


def _write(
    settings: Settings, context: Context, source: Path, samples: Sequence[_Sample], teacher: str, paid: Any
) -> None:
    kept = [sample for sample in samples if not sample.why]
    gone = [sample for sample in samples if sample.why]
    lines = [
        {
            "id": sample.problem.id,
            "problem": sample.problem.prompt,
            "completion": sample.text,
            "answer": sample.problem.answer,
            "task": sample.problem.task,
            "language": sample.problem.language,
            "origin": teacher,
        }
        for sample in kept
    ]
    removed = [
        {"file": s.row.file, "line": s.row.line, "id": s.problem.id, "why": s.why, "detail": s.detail, "said": s.text}
        for s in gone
    ]
    for name, rows in (("examples.jsonl", lines), ("removed.jsonl", removed)):
        write_text_atomic(context.out / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    files = find_files([source])
    shown: dict[str, list[dict[str, str]]] = defaultdict(list)
    for sample in gone:
        if len(shown[sample.why]) < SAMPLES_SHOWN:
            place = f"{sample.row.file}:{sample.row.line}"
            shown[sample.why].append({"row": place, "problem": sample.problem.prompt[:200], "detail": sample.detail})
    part = {
        "kept": dict(Counter(sample.row.file for sample in kept)),
        "removed": dict(Counter(sample.why for sample in gone)),
        "removed_by_file": dict(Counter(sample.row.file for sample in gone)),
        "samples": dict(shown),
    }
    said = settings.model_dump(mode="json", exclude={"source"}) | {"teacher": teacher, "seed": context.seed}
    verifier = {"aha": __version__, "math-verify": version("math-verify")}
    plan = {
        "step": "reject",
        "settings": said | {"verifier": verifier, "account": paid},
        "sources": [source_record(file) for file in files],
    }
    write_card(context.out, make_card(plan, [part], {}, samples=SAMPLES_SHOWN))
