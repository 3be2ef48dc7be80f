"""Samples of a teacher, kept one by one as they come: what a killed stage has, it does not ask for again.

A teacher is a model folder, sampled by the native engine, or a model behind an endpoint (rollout/endpoint.py). The text
of a sample depends on the teacher, the question and the sample's seed, so what is asked later is what would have been
asked at first. What an endpoint was asked stands beside each answer, so that one that no longer fits is never taken.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from aha.errors import EndpointError
from aha.records import FinishReason, Problem
from aha.rollout.endpoint import Account, Answered, Asked
from aha.rollout.engine import SamplingParams
from aha.stages.models import Policy, build_loaded_engine
from aha.tokens.render import THINK
from aha.util.files import append_jsonl, write_text_atomic
from aha.util.seeds import stream

BATCH = 512  # samples that the engine is asked for at once: so many a killed stage samples again at most


class Sampler(Protocol):
    """Asks for samples; ``keep``, ``tick`` and ``mark`` are as of ``EndpointSampler``, which is one. ``refuse`` says
    why a question cannot be asked; empty where it can."""

    account: Account
    given_up: dict[tuple[str, int], str]

    def mark(self, one: Asked) -> str: ...

    def refuse(self, question: str) -> str: ...

    def sample(self, asked: Sequence[Asked], keep: Callable[[Answered], None], tick: Callable[[], None]) -> None: ...


class PolicySampler:
    """Samples a policy with the native engine, ``batch`` samples at a time, those of one problem together."""

    def __init__(self, policy: Policy, params: SamplingParams, *, batch: int = BATCH) -> None:
        self.policy, self.params, self.batch = policy, params, batch
        self.engine = build_loaded_engine(policy)
        self.account = Account()
        self.given_up: dict[tuple[str, int], str] = {}

    def mark(self, one: Asked) -> str:
        """None: nobody was paid, and whoever asks for something else begins with an empty ledger."""
        return ""

    def refuse(self, question: str) -> str:
        """A prompt behind which the model's context has no place for what may be said."""
        tokens, most = len(self.policy.renderer.prompt(question)), self.policy.config.longest
        if tokens + self.params.max_new_tokens <= most:
            return ""
        return f"{tokens} tokens, with {self.params.max_new_tokens} new ones more than the model's {most}"

    def sample(self, asked: Sequence[Asked], keep: Callable[[Answered], None], tick: Callable[[], None]) -> None:
        for start in range(0, len(asked), self.batch):
            of_question: dict[str, list[Asked]] = defaultdict(list)
            for one in asked[start : start + self.batch]:
                of_question[one.question].append(one)
            prompts = [self.policy.renderer.prompt(question) for question in of_question]
            seeds = [[one.seed for one in group] for group in of_question.values()]
            answers = self.engine.generate(prompts, seeds, self.params)
            for group, prompt, found in zip(of_question.values(), prompts, answers, strict=True):
                for one, completion in zip(group, found, strict=True):
                    text = self.policy.renderer.tokenizer.decode(completion.token_ids)
                    if self.policy.renderer.template.rstrip().endswith(THINK):
                        text = f"{THINK} {text}"  # the prompt opened it; the text is to be read without the prompt
                    ids = completion.token_ids
                    answer = Answered(one.key, text, completion.finish_reason, len(prompt), len(ids))
                    keep(answer)
                    self.account.add(answer)
            tick()


def ask_for(problems: Sequence[Problem], samples: int, seed: int) -> list[Asked]:
    """``samples`` of each problem, each with a seed of its own that depends on nothing else."""
    return [
        Asked(sample_name(problem), number, problem.prompt, stream(seed, "sample", sample_name(problem), number))
        for problem in problems
        for number in range(samples)
    ]


def sample_name(problem: Problem) -> str:
    """What a problem's samples are known by: one id may be asked in two languages, or stand in two files."""
    return f"{problem.id}/{hashlib.sha256(problem.prompt.encode()).hexdigest()[:8]}"


def collect_samples(
    sampler: Sampler, asked: Sequence[Asked], ledger: Path, progress: Callable[[int, int], None]
) -> dict[tuple[str, int], Answered]:
    """The answers to all of ``asked``, by key: those of ``ledger`` that answer just this, and the others, which are
    written to it at once.

    ``EndpointError`` where some were given up: asked again, only they cost.
    """
    marks = {one.key: sampler.mark(one) for one in asked}
    known = {answer.key: answer for answer in read_answers(ledger) if marks.get(answer.key) == answer.asked}
    for answer in known.values():
        sampler.account.add(answer)
    missing = [one for one in asked if one.key not in known]

    def keep(answer: Answered) -> None:
        append_jsonl(ledger, asdict(answer))
        known[answer.key] = answer

    if missing:
        sampler.sample(missing, keep, lambda: progress(len(known), len(asked)))
    if sampler.given_up:
        (name, number), why = next(iter(sampler.given_up.items()))
        raise EndpointError(
            f"{len(sampler.given_up)} of {len(asked)} samples got no answer, first sample {number} of {name!r}: {why}; "
            "run again to ask for these alone"
        )
    return {one.key: known[one.key] for one in asked}


def read_answers(ledger: Path) -> list[Answered]:
    """What a ledger holds. A last line that a full disk has cut is dropped from the file, or the next would join it."""
    if not ledger.is_file():
        return []
    lines = ledger.read_text(encoding="utf-8").split("\n")
    if lines.pop():
        write_text_atomic(ledger, "".join(f"{line}\n" for line in lines))
    return [_answered(json.loads(line)) for line in lines]


def paid_record(account: Account) -> dict[str, float]:
    """As a card has it. Failed attempts are no part of it: they depend on the day, and not on what came of it."""
    counts = {"samples": account.answered, "prompt_tokens": account.prompt_tokens, "tokens": account.tokens}
    counts |= {"unmetered": account.unmetered} if account.unmetered else {}
    return counts | ({"cost": account.cost} if account.price_in or account.price_out else {})


def _answered(row: dict[str, Any]) -> Answered:
    name, number = row["key"]
    reason, counts = FinishReason(row["finish_reason"]), (row["prompt_tokens"], row["tokens"])
    return Answered((name, number), row["text"], reason, *counts, row.get("asked", ""), row.get("metered", True))
