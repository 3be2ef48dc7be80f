"""Scores of steps by a process reward model; labels of steps by Monte-Carlo rollouts (Math-Shepherd, 2312.08935)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from aha.model.heads import ProcessRewardModel
from aha.reward.learned import pad_right
from aha.reward.steps import step_ends
from aha.rollout.engine import Engine, SamplingParams
from aha.rollout.native.reader import Reader
from aha.tokens.tokenizer import Tokenizer
from aha.util.seeds import stream

ROWS = 64  # texts scored at once

Ids = tuple[int, ...]


def score_steps(
    model: ProcessRewardModel, tokenizer: Tokenizer, texts: Sequence[tuple[Ids, Ids]]
) -> list[tuple[float, ...]]:
    """For each (prompt, completion) the chance of each of its steps, from 0 to 1; a completion is not empty."""
    scores: list[tuple[float, ...]] = [()] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i][0]) + len(texts[i][1]))
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        ends = [step_ends(tokenizer.pieces(texts[i][1])) for i in rows]
        ids_BT, _ = pad_right([texts[i][0] + texts[i][1] for i in rows], tokenizer.pad_id)
        starts_B = torch.tensor([len(texts[i][0]) for i in rows])
        rows_N = torch.tensor([row for row, own in enumerate(ends) for _ in own])
        places_N = torch.tensor([len(texts[i][0]) + end for i, own in zip(rows, ends, strict=True) for end in own])
        with torch.inference_mode():
            chances = iter(torch.sigmoid(model(ids_BT, starts_B, rows_N, places_N).float()).tolist())
        for i, own in zip(rows, ends, strict=True):
            scores[i] = tuple(next(chances) for _ in own)
    return scores


class StepScorer:
    """``score_steps`` for texts that come again, longer: what was scored of a text is kept, and not read again.

    It has a copy of the model's weights. ``room`` is what the kept texts may take, in bytes.
    """

    def __init__(self, model: ProcessRewardModel, tokenizer: Tokenizer, *, room: int) -> None:
        self._reader = Reader(model, prefix_bytes=room)
        self._tokenizer = tokenizer

    @property
    def read_tokens(self) -> int:
        """Tokens that were read since the scorer was made."""
        return self._reader.read_tokens

    def __call__(self, texts: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, ...]]:
        different = list(dict.fromkeys(texts))
        ends = [step_ends(self._tokenizer.pieces(ids)) for _, ids in different]
        logits = self._reader.read(different)
        wanted = torch.cat([own_T[list(own)] for own_T, own in zip(logits, ends, strict=True)])
        chances = iter(torch.sigmoid(wanted).tolist())
        scores = {text: tuple(next(chances) for _ in own) for text, own in zip(different, ends, strict=True)}
        return [scores[text] for text in texts]


def label_steps(
    engine: Engine,
    texts: Sequence[tuple[Ids, Ids]],
    ends: Sequence[Sequence[int]],
    outcomes: Sequence[bool],
    judge: Callable[[Sequence[tuple[int, Ids]]], Sequence[bool]],
    *,
    rollouts: int,
    params: SamplingParams,
    seed: int,
) -> list[tuple[float, ...]]:
    """The share of ``rollouts`` from the end of each step that reach a right answer; the last step of a text has its
    outcome.

    ``texts`` are (prompt, completion), ``ends`` the indices of the tokens that end their steps, ``outcomes`` whether
    they are right; ``judge`` is asked for (index of the text, whole completion). What texts of one prompt share is
    rolled out once. ``max_new_tokens`` bounds a whole completion.
    """
    starts: dict[tuple[Ids, Ids], int] = {}  # what is rolled out -> a text that it belongs to
    for t, ((prompt, ids), own) in enumerate(zip(texts, ends, strict=True)):
        for end in own[:-1]:
            starts.setdefault((prompt, ids[: end + 1]), t)
    prefixes = list(starts)
    limits = [[params.max_new_tokens - len(done)] * rollouts for _, done in prefixes]
    groups = []
    if prefixes:
        groups = engine.generate(
            [prompt + done for prompt, done in prefixes],
            [[stream(seed, "rollout", r, g) for g in range(rollouts)] for r in range(len(prefixes))],
            replace(params, max_new_tokens=max(own[0] for own in limits)),
            limits=limits,
        )
    asked = [
        (t, done + c.token_ids)
        for ((_, done), t), group in zip(starts.items(), groups, strict=True)
        for c in group
    ]
    verdicts = judge(asked) if asked else []
    shares = {
        prefix: sum(verdicts[r * rollouts : (r + 1) * rollouts]) / rollouts for r, prefix in enumerate(prefixes)
    }
    return [
        (*(shares[prompt, ids[: end + 1]] for end in own[:-1]), float(outcome))
        for (prompt, ids), own, outcome in zip(texts, ends, outcomes, strict=True)
    ]
