"""Rewards from preference models: helpfulness reads the answer alone, safety reads everything (R1v2 3.1, B.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from aha.model.heads import RewardModel
from aha.records import Problem, Status, Verdict
from aha.reward.response import Response
from aha.reward.rubric import Judge
from aha.tokens.render import Renderer

Reads = Literal["answer", "everything"]


def text_to_judge(response: Response, reads: Reads) -> str:
    """What the preference model sees of a response, as text; empty where there is no single answer."""
    if response.answer is None:
        return ""
    return response.answer if reads == "answer" else f"{response.think} {response.answer}"


def judge_ids(renderer: Renderer, problem: Problem, text: str) -> tuple[int, ...]:
    """Prompt, judged text, end token: the sequence whose last state is scored."""
    return renderer.example(problem.prompt, text).ids


def pad_right(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """``ids_BT`` and ``last_B``, the index of each row's last real token."""
    width = max(len(s) for s in sequences)
    ids = torch.tensor([[*s, *[pad_id] * (width - len(s))] for s in sequences])
    return ids, torch.tensor([len(s) - 1 for s in sequences])


def learned_judge(name: str, model: RewardModel, renderer: Renderer, reads: Reads, *, offset: float = 0.0) -> Judge:
    """A judge whose score is sigmoid(r - offset), in (0, 1): bounded, so that it cannot drown the rules. No answer
    scores 0; a score that is no number is an error.

    A pairwise loss leaves the zero of r free; ``offset``, the mean r over the training pairs, puts it in their middle.
    """

    def judge(problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
        texts = [text_to_judge(response, reads) for response in responses]
        rows = [i for i, text in enumerate(texts) if text]
        scores = [0.0] * len(texts)
        if rows:
            sequences = [judge_ids(renderer, problems[i], texts[i]) for i in rows]
            ids_BT, last_B = pad_right(sequences, renderer.tokenizer.pad_id)
            with torch.inference_mode():
                values = torch.sigmoid(model(ids_BT, last_B).float() - offset).tolist()
            for i, value in zip(rows, values, strict=True):
                scores[i] = value
        return [_verdict(name, s) for s in scores]

    return judge


def _verdict(name: str, score: float) -> Verdict:
    if not math.isfinite(score):
        return Verdict(name, Status.ERROR, 0.0, f"the preference model gives {score}")
    return Verdict(name, Status.RIGHT if score > 0.5 else Status.WRONG, score)
