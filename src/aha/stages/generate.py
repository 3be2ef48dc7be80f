"""Asking a model folder: completions of one prompt, read, and the answer that most of them agree on."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from aha.errors import DataError, UsageError
from aha.model.config_file import model_folder
from aha.records import FinishReason, Problem
from aha.reward.extraction import find_answer
from aha.reward.response import Response, read_response
from aha.rollout.engine import SamplingParams
from aha.rollout.native.speculative import Speculation
from aha.search.driver import Spent, search
from aha.search.majority import majority
from aha.search.path import Path as TokenPath
from aha.stages.models import TEMPLATE_FILE, Policy, build_loaded_engine, load_policy
from aha.stages.search import build_search_engine, build_strategies, load_scorer, read_path
from aha.tasks import choice, exact, formula, number
from aha.tokens.render import R1_ZERO_TEMPLATE
from aha.util.seeds import stream

MAX_NEW_TOKENS = 1024
_ANY = Problem("", "", "", "math")  # nobody says what a prompt asks for; a formula's answer may stand anywhere


@dataclass(frozen=True)
class Answer:
    """One completion as people read it; ``logprob`` is the sum over its tokens under what they were drawn from."""

    text: str
    response: Response
    finish_reason: FinishReason
    tokens: int
    logprob: float


@dataclass(frozen=True)
class Answers:
    """All completions of one prompt and how long they took together."""

    prompt: str
    answers: tuple[Answer, ...]
    seconds: float
    speculation: Speculation | None = None

    @property
    def tokens_per_second(self) -> float:
        return sum(answer.tokens for answer in self.answers) / self.seconds


@dataclass(frozen=True)
class Vote:
    """``Vote("14", {"14": 5, "15": 2}, abstained=1)``: the answer of 5 of 8; ``None`` when nobody gave one."""

    answer: str | None
    counts: dict[str, int]
    abstained: int


def open_model(
    path: Path, *, template: str | None, dtype: torch.dtype = torch.float32
) -> tuple[Policy, str]:
    """The model of a stage, run or Hugging Face folder, and where its template is from, for people.

    ``template`` comes first, then the folder's own; a folder without one gets DeepSeek-R1-Zero's.
    """
    folder = model_folder(path)
    if template is not None:
        return load_policy(folder, template=template, dtype=dtype), "given"
    if (folder / TEMPLATE_FILE).is_file():
        return load_policy(folder, dtype=dtype), f"from {folder / TEMPLATE_FILE}"
    policy = load_policy(folder, template=R1_ZERO_TEMPLATE, dtype=dtype)
    return policy, f"DeepSeek-R1-Zero's, as {folder} has no {TEMPLATE_FILE}"


def room_for_new_tokens(
    policy: Policy, longest_prompt: int, asked: int | None, *, limit: int = MAX_NEW_TOKENS
) -> int:
    """``asked``, or what the model's positions leave behind the longest prompt, up to ``limit`` tokens."""
    positions = policy.config.longest
    room = positions - longest_prompt
    if room < 1:
        raise DataError(
            f"the prompt has {longest_prompt} tokens, the model's {policy.config.longest_by} is {positions}: shorten it"
        )
    return min(limit, room) if asked is None else asked


def generate(
    policy: Policy,
    question: str,
    *,
    num: int,
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int,
    speculate: int = 0,
) -> Answers:
    """``num`` completions of ``question``; completion ``i`` depends on the seed and ``i``, not on ``num``.

    ``speculate`` tokens a step are drafted by the model's modules of multi-token prediction.
    """
    prompt = policy.renderer.prompt(question)
    params = SamplingParams(
        room_for_new_tokens(policy, len(prompt), max_new_tokens),
        temperature=temperature,
        top_p=top_p,
        end_token_ids=policy.tokenizer.end_token_ids,
    )
    engine = build_loaded_engine(policy, speculate=speculate)
    seeds = [stream(seed, "generate", index) for index in range(num)]
    started = time.perf_counter()
    (completions,) = engine.generate([prompt], [seeds], params)
    seconds = time.perf_counter() - started
    text = policy.renderer.prompt_text(question)
    answers = []
    for completion in completions:
        said = policy.tokenizer.decode(completion.token_ids)
        answers.append(
            Answer(
                text=said,
                response=read_response(said, prompt_tail=text[-64:]),
                finish_reason=completion.finish_reason,
                tokens=len(completion.token_ids),
                logprob=sum(completion.logprobs),
            )
        )
    return Answers(text, tuple(answers), seconds, engine.speculation)


def search_answer(
    policy: Policy,
    question: str,
    name: str,
    scorer: Path,
    *,
    num: int,
    max_new_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int,
) -> tuple[Answer, Spent]:
    """The one answer that the search ``name`` (stages/search.py) chooses, judged by the model in ``scorer``."""
    prompt = policy.renderer.prompt(question)
    params = SamplingParams(
        room_for_new_tokens(policy, len(prompt), max_new_tokens),
        temperature=temperature,
        top_p=top_p,
        end_token_ids=policy.tokenizer.end_token_ids,
    )
    judge = load_scorer(scorer, policy)
    strategies = build_strategies(policy, params, longest=len(prompt), scored=True)
    if name not in strategies:
        raise UsageError(
            f"{name}: up to four answers stand behind each other, and the prompt has {len(prompt)} tokens of the "
            f"{policy.config.longest} that the model reads; ask something shorter, or search by another strategy"
        )
    strategy = strategies[name](TokenPath(prompt), num, lambda path: _vote_key(read_path(path, policy)))
    (found,) = search(build_search_engine(policy), [strategy], [seed], judge)
    path = found.choice.path
    said = policy.tokenizer.decode(path.token_ids)
    reason = path.finish_reason or FinishReason.STOP
    return Answer(said, read_path(path, policy), reason, len(path.token_ids), math.nan), found.spent


def vote(answers: Sequence[Answer]) -> Vote:
    """Self-consistency (Wang et al. 2022): the most frequent answer wins, ties go to the one sampled first.

    An answer stands in its tag, in a box or behind "the answer is". Numbers are compared as numbers, letters of a
    choice as letters, formulas and anything else by their text; who has none abstains.
    """
    found = [find_answer(_ANY, answer.response) for answer in answers]
    keys = [_vote_key(answer.response) for answer in answers]
    counts = Counter(key for key in keys if key is not None)
    winner = majority(keys)
    chosen = None if winner is None else found[keys.index(str(winner))]
    return Vote(chosen.text if chosen else None, dict(counts.most_common()), keys.count(None))


def _vote_key(response: Response) -> str | None:
    found = find_answer(_ANY, response)
    if found is None:
        return None
    tasks = (number, choice, formula, exact)
    return next((key for task in tasks if (key := task.vote_key(found.text)) is not None), None)
