"""Accuracy against generated tokens: every search at several budgets on the same problems, and what pays where."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aha.errors import DataError, InvariantError
from aha.evaluate.estimators import mean_interval, pass_at_k, score_interval
from aha.evaluate.paired import compare_paired
from aha.evaluate.runner import count_errors
from aha.records import Problem, Status
from aha.reward.accuracy import judge_accuracy
from aha.rollout.engine import SamplingParams
from aha.search.adaptive import best_per_bin, cross_validated, difficulty_bins
from aha.search.driver import Found, search
from aha.search.path import Path, Scorer
from aha.stages.models import Policy
from aha.stages.search import Builder, answer_key, build_search_engine, build_strategies, read_path
from aha.util.seeds import stream

CHUNK = 25
VOTERS, BEAMS, REPEATS = 64, 16, 3


def measure_scaling(
    policy: Policy,
    scorer: Scorer | None,
    problems: Sequence[Problem],
    params: SamplingParams,
    *,
    budgets: Sequence[int],
    bins: int,
    seed: int,
    progress: Callable[[str, int, int | None], None],
) -> dict[str, Any]:
    """A row a strategy and budget (``accuracy`` and ``tokens`` a problem, with 95 % intervals), ``oracle`` pass@k, by
    difficulty the best of each budget, ``comparisons`` problem by problem (the largest vote with one sample, and with
    as many texts of which the scorer chooses; beams with best-of-N at the least budget of several, on all bins but the
    easiest and the hardest, and on the hardest), and ``ranking``: how often the scorer puts a right text over a wrong
    one of the same problem, by its first and by its last step.

    Difficulty is pass@1 over samples of their own (the oracle's bins of Snell et al., 3.2); what the choice by bin
    earns is cross-validated. ``progress`` is told the work, how much of it is done, and of how much. Raises
    ``InvariantError`` where a strategy counts other tokens than the engine, ``DataError`` for fewer than two problems a
    bin.
    """
    if len(problems) < 2 * bins:
        raise DataError(f"{len(problems)} problems for {bins} bins of difficulty: ask at least {2 * bins}")
    engine = build_search_engine(policy)
    largest = max(budgets)

    def run(build: Builder, budget: int, *names: str | int) -> tuple[list[Found], float]:
        started, found, before = time.perf_counter(), [], engine.sampled_tokens
        for start in range(0, len(problems), CHUNK):
            chunk = problems[start : start + CHUNK]
            found += search(
                engine,
                [build(Path(policy.renderer.prompt(p.prompt)), budget, answer_key(p, policy)) for p in chunk],
                [stream(seed, *names, problem.id, problem.language) for problem in chunk],
                scorer,
            )
        counted, drawn = sum(f.spent.sampled for f in found), engine.sampled_tokens - before
        if counted != drawn:
            raise InvariantError(f"{names}: strategies count {counted} tokens, the engine has drawn {drawn}")
        return found, time.perf_counter() - started

    longest = max(len(policy.renderer.prompt(problem.prompt)) for problem in problems)
    builders = build_strategies(policy, params, longest=longest, scored=scorer is not None)
    todo = [(name, budget) for budget in budgets for name in builders]
    progress("searches", 0, len(todo))
    probes, _ = run(builders["vote"], largest, "difficulty")
    texts = [f.choice.candidates for f in probes]
    all_right = _judge(problems, texts, policy)
    solved = [sum(row) / len(row) for row in all_right]
    bins_P = difficulty_bins(solved, bins)
    rows: list[dict[str, Any]] = []
    correct: dict[tuple[str, int], list[float]] = {}
    for done, (name, budget) in enumerate(todo, 1):
        found, seconds = run(builders[name], budget, "search")
        right = [float(row[0]) for row in _judge(problems, [(f.choice.path,) for f in found], policy)]
        correct[name, budget] = right
        rows.append(
            {
                "strategy": name,
                "budget": budget,
                "accuracy": score_interval(right).as_dict(),
                "tokens": mean_interval([f.spent.sampled for f in found], minimum=0.0).as_dict(),
                "scored": sum(f.spent.scored for f in found) / len(found),
                "seconds": seconds,
                "by_bin": [_mean([v for v, b in zip(right, bins_P, strict=True) if b == k]) for k in range(bins)],
            }
        )
        progress("searches", done, len(todo))
    optimal = []
    for budget in budgets:
        at = {name: right for (name, b), right in correct.items() if b == budget}
        optimal.append(
            {
                "budget": budget,
                "best": {str(k): name for k, name in best_per_bin(at, bins_P).items()},
                "accuracy": score_interval(cross_validated(at, bins_P)).as_dict(),
            }
        )
    return {
        "problems": len(problems),
        "rows": rows,
        "oracle": [{"k": k, **pass_at_k(all_right, k).as_dict()} for k in budgets],
        "difficulty": [_mean([s for s, b in zip(solved, bins_P, strict=True) if b == k]) for k in range(bins)],
        "compute_optimal": optimal,
        "comparisons": _compare(correct, solved, bins_P, budgets),
        "ranking": None if scorer is None else _ranking(scorer, texts, all_right),
        "read_tokens": engine.read_tokens,
        "sampled_tokens": engine.sampled_tokens,
    }


def measure_costs(
    policy: Policy, scorer: Scorer | None, problems: Sequence[Problem], params: SamplingParams, *, seed: int
) -> dict[str, float]:
    """How much longer a token of a search takes than one of plain sampling, as many texts at once, in one run: a vote
    over ``VOTERS``, whose answers are read and compared, and a beam of ``BEAMS``, by its steps alone (every score is
    0.5) and with the scorer. Processor time where nothing else computes; medians of ``REPEATS`` runs in turn.
    """
    engine = build_search_engine(policy)
    clock = time.process_time if policy.decoder.head_weight.device.type == "cpu" else time.perf_counter
    prompts = [policy.renderer.prompt(problem.prompt) for problem in problems]
    longest = max(map(len, prompts))
    build = build_strategies(policy, params, longest=longest, scored=True)

    def plain(samples: int, again: int) -> None:
        seeds = [[stream(seed, "plain", again, p, g) for g in range(samples)] for p in range(len(problems))]
        engine.generate(prompts, seeds, params)

    def searched(name: str, budget: int, judge: Scorer | None, again: int) -> None:
        keys = [answer_key(problem, policy) for problem in problems]
        todo = [build[name](Path(prompt), budget, key) for prompt, key in zip(prompts, keys, strict=True)]
        search(engine, todo, [stream(seed, "costs", again, p) for p in range(len(problems))], judge)

    def coin(paths: Sequence[Path]) -> list[tuple[float, ...]]:
        return [(0.5,)] * len(paths)

    sides: dict[str, Callable[[int], None]] = {
        "plain_vote": lambda again: plain(VOTERS, again),
        "vote": lambda again: searched("vote", VOTERS, None, again),
        "plain_beam": lambda again: plain(BEAMS, again),
        "beam": lambda again: searched("beam", BEAMS, coin, again),
    }
    if scorer is not None:
        sides["beam_scored"] = lambda again: searched("beam", BEAMS, scorer, again)
    each: dict[str, list[float]] = {name: [] for name in sides}
    for again in range(REPEATS):
        for name, run in sides.items():
            started, before = clock(), engine.sampled_tokens
            run(again)
            each[name].append((clock() - started) / (engine.sampled_tokens - before))
    cost = {name: statistics.median(values) for name, values in each.items()}
    ratios = {"vote": cost["vote"] / cost["plain_vote"], "beam": cost["beam"] / cost["plain_beam"]}
    return ratios | ({"beam_scored": cost["beam_scored"] / cost["plain_beam"]} if scorer is not None else {})


def _compare(
    correct: Mapping[tuple[str, int], Sequence[float]],
    solved: Sequence[float],
    bins_P: Sequence[int],
    budgets: Sequence[int],
) -> list[dict[str, Any]]:
    everything, several = list(range(len(bins_P))), [budget for budget in budgets if budget > 1]
    if not several:
        return []
    vote = correct["vote", max(several)]
    rows = [("one sample", f"vote@{max(several)}", "all", everything, list(solved), list(vote))]
    low = min(several)
    if ("beam", low) in correct:
        chosen = list(correct["best-of-n", max(several)])
        rows.append((f"vote@{max(several)}", f"best-of-{max(several)}", "all", everything, list(vote), chosen))
        best, beams = list(correct["best-of-n", low]), list(correct["beam", low])
        middle = [p for p, own in enumerate(bins_P) if 0 < own < max(bins_P)] or everything
        hardest = [p for p, own in enumerate(bins_P) if own == max(bins_P)]
        for bins, own in (("middling", middle), ("hardest", hardest)):
            rows.append((f"best-of-{low}", f"beam of {low}", bins, own, best, beams))
    return [
        {
            "first": first,
            "second": second,
            "bins": bins,
            "problems": len(own),
            "of_first": _mean([a[p] for p in own]),
            "of_second": _mean([b[p] for p in own]),
            **compare_paired([a[p] for p in own], [b[p] for p in own]).as_dict(),
        }
        for first, second, bins, own, a, b in rows
    ]


def _ranking(
    scorer: Scorer, texts: Sequence[Sequence[Path]], right: Sequence[Sequence[bool]]
) -> dict[str, dict[str, float]]:
    """Mean over the problems that have both; texts of equal score count half."""
    shares: dict[str, list[float]] = {"first": [], "last": []}
    for own, verdicts in zip(texts, right, strict=True):
        if all(verdicts) or not any(verdicts):
            continue
        scores = scorer(own)
        for name, place in (("first", 0), ("last", -1)):
            good = [score[place] for score, verdict in zip(scores, verdicts, strict=True) if verdict]
            bad = [score[place] for score, verdict in zip(scores, verdicts, strict=True) if not verdict]
            won = sum((g > b) + (g == b) / 2 for g in good for b in bad)
            shares[name].append(won / (len(good) * len(bad)))
    measured = {name: values for name, values in shares.items() if values}
    return {name: mean_interval(values, minimum=0.0, maximum=1.0).as_dict() for name, values in measured.items()}


def _judge(problems: Sequence[Problem], paths: Sequence[Sequence[Path]], policy: Policy) -> list[list[bool]]:
    asked = [problem for problem, own in zip(problems, paths, strict=True) for _ in own]
    verdicts = judge_accuracy(asked, [read_path(path, policy) for own in paths for path in own])
    count_errors(verdicts)
    right = iter(verdict.status is Status.RIGHT for verdict in verdicts)
    return [[next(right) for _ in own] for own in paths]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
