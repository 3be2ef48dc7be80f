"""A preference model whose body does not learn: a linear head on the state of the last token behind some layer.

A body that was pre-trained on trillions of tokens tells good from bad better than a few thousand pairs can teach it,
and often in the middle better than at its end (Alain and Bengio 2016, 1610.01644). The head is the least of a convex
loss; at which depth, and how far its weights are held back, is chosen by cross-validation on the training rows. Every
row is held out once, by a head that never saw its prompt: that is what ``held_out`` is measured on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from aha.config import Count, Frozen, Rate
from aha.errors import DataError, SettingError
from aha.model.decoder import first_layers
from aha.model.heads import RewardModel, save_reward_model
from aha.records import StageResult
from aha.reward.learned import Reads
from aha.stages.context import Context
from aha.stages.judged_texts import Item, Loss, load_items, report_of, sides
from aha.stages.models import load_policy
from aha.stages.states import States, load_states
from aha.train.logistic import fit_logistic, logistic_loss
from aha.util.seeds import python_rng

FLAT = 1e-6  # of a feature's spread, below which it says nothing


class Settings(Frozen):
    """``reads`` and ``loss`` as of stages/reward_model.py. One of ``decays`` (they fall) holds the weights back.
    ``folds``: the test side is one of them, the training rows are cut into the others; ``inner_folds`` are those by
    which depth and decay are chosen."""

    reads: Reads
    loss: Loss = "pairwise"
    decays: tuple[Rate, ...] = (1.0, 0.3, 0.1, 0.03)
    folds: Count = 10
    inner_folds: Count = 4


@dataclass(frozen=True)
class Head:
    """The score is ``state / rms(state) . weight_D``; ``offset`` is the score at which good and bad are as likely."""

    depth: int
    decay: float
    weight_D: Tensor
    offset: float


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``init`` has the body, ``states`` what stages/states.py made of ``preferences``. The model is learned from the
    training side. ``held_out``: every row, each by a head that learned from the other folds; ``test``: the test side
    alone, by the model itself; ``depths``: how often each was chosen; ``left_out``: rows of both sides."""
    if min(settings.folds, settings.inner_folds) < 2:
        raise SettingError(f"folds={settings.folds}, inner_folds={settings.inner_folds}: at least 2 of each are needed")
    policy = load_policy(inputs["init"] / "model")
    (train, few), (test, fewer) = (
        load_items(inputs["preferences"], name, settings.reads, settings.loss, policy.renderer)
        for name in ("train", "test")
    )
    eps = policy.config.rms_norm_eps
    features = _Features(load_states(inputs["states"]), [*train, *test], eps)
    fold_of = [1 + fold for fold in _folds(train, settings.folds - 1, context.seed)] + [0] * len(test)
    scores = [torch.zeros(len(fold_of), dtype=torch.float64) for _ in sides(train)]
    heads = []
    for fold in range(settings.folds):
        known = [i for i, other in enumerate(fold_of) if other != fold]
        if len(known) == len(fold_of):
            raise DataError(f"fold {fold} of {settings.folds} is empty: {len(train)} rows to train on are too few")
        heads.append(head := _learn(features, known, settings, context.seed))
        asked = [i for i, other in enumerate(fold_of) if other == fold]
        for side, found in enumerate(scores):
            found[asked] = features.of(head.depth)[side][asked] @ head.weight_D - head.offset
        context.progress(fold + 1, settings.folds)
    model = RewardModel(first_layers(policy.decoder, heads[0].depth))
    with torch.no_grad():
        model.score.copy_(heads[0].weight_D[None])
    save_reward_model(model, model.decoder.config, context.out / "model")
    policy.tokenizer.save(context.out / "model")
    held_out = report_of(scores, [*train, *test])
    return StageResult(
        {
            "accuracy": held_out["accuracy"]["value"],
            "pairs": len(train),
            "offset": heads[0].offset,
            "depth": heads[0].depth,
            "left_out": {"nothing to compare": few + fewer},
            "decay": heads[0].decay,
            "depths": {str(d): sum(head.depth == d for head in heads) for d in features.states.depths},
            "held_out": held_out,
            "test": report_of([found[len(train) :] for found in scores], test),
        }
    )


class _Features:
    """Normed states of each side of the items, ``[N, D]`` in float64, by depth."""

    def __init__(self, states: States, items: Sequence[Item], eps: float) -> None:
        self.states, self.items, self._eps = states, items, eps
        self._made: dict[int, list[Tensor]] = {}

    def of(self, depth: int) -> list[Tensor]:
        if depth not in self._made:
            found = [self.states.of(texts, depth=depth).double() for texts in sides(self.items)]
            self._made[depth] = [x * (x.square().mean(-1, keepdim=True) + self._eps).rsqrt() for x in found]
        return self._made[depth]


def _learn(features: _Features, known: Sequence[int], settings: Settings, seed: int) -> Head:
    """The head of the depth and decay whose loss on rows left out of ``known`` is least, learned from all of them."""
    fold_of = torch.tensor(_folds([features.items[i] for i in known], settings.inner_folds, seed))
    losses: dict[tuple[int, float], float] = {}
    for depth in features.states.depths:
        rows_NF, _, _ = _rows(features, known, depth)
        for fold in sorted(set(fold_of.tolist())):  # of fewer prompts than folds some are empty
            fitted = fit_logistic(rows_NF[fold_of != fold], settings.decays)
            for decay, weight_F in zip(settings.decays, fitted, strict=True):
                loss = logistic_loss(rows_NF[fold_of == fold], weight_F) * int((fold_of == fold).sum())
                losses[depth, decay] = losses.get((depth, decay), 0.0) + loss
    depth, decay = min(losses, key=lambda key: losses[key])
    rows_NF, centre_D, spread_D = _rows(features, known, depth)
    *_, weight_F = fit_logistic(rows_NF, [decay])
    weight_D = weight_F[: len(spread_D)] / spread_D
    offset = float(centre_D @ weight_D - weight_F[len(spread_D) :].sum())
    return Head(depth, decay, weight_D, offset)


def _rows(features: _Features, known: Sequence[int], depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows for ``fit_logistic``, scaled; the states' centre and spread. A label has a feature more, which is 1."""
    found = [x[list(known)] for x in features.of(depth)]
    together = torch.cat(found)
    centre_D, spread_D = together.mean(0), together.std(0)
    spread_D = torch.where(spread_D > FLAT, spread_D, torch.inf)
    if len(found) == 2:
        return (found[0] - found[1]) / spread_D, centre_D, spread_D
    sign_N = torch.tensor([2 * features.items[i].label - 1 for i in known], dtype=torch.float64)
    scaled = torch.cat(((found[0] - centre_D) / spread_D, torch.ones(len(known), 1, dtype=torch.float64)), 1)
    return scaled * sign_N[:, None], centre_D, spread_D


def _folds(items: Sequence[Item], count: int, seed: int) -> list[int]:
    """Rows of one prompt are in one fold; the folds have as many prompts."""
    prompts = list(dict.fromkeys(item.first[: item.prompt] for item in items))
    python_rng(seed, "folds", count).shuffle(prompts)
    place = {prompt: i % count for i, prompt in enumerate(prompts)}
    return [place[item.first[: item.prompt]] for item in items]
