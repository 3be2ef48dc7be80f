"""What one forward and backward pass computes, as tensors: completions, packed documents, preferences, labelled steps.

Shapes: B rows, T tokens of a row (padded on the right), N tokens that have a loss.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aha.errors import DataError, InvariantError
from aha.model.attention.plan import Branches
from aha.train.microbatch import split_branches, split_by_tokens
from aha.train.packing import best_fit

PADDING = 0  # any id will do: nothing looks at a token to its right


class PolicyRow(NamedTuple):
    """One sampled completion: ``PolicyRow((5, 9), (7, 2), 1.0, (-0.1, -0.7))``.

    ``advantage`` is one number for all tokens or one for each; ``sampler_logprobs`` are the sampler's own, one a token.
    ``nll`` is what each token's negative log-likelihood counts beside the policy loss, for answers to be imitated.
    """

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    advantage: float | Sequence[float]
    sampler_logprobs: Sequence[float]
    nll: float = 0.0

    @property
    def matters(self) -> bool:
        """Whether the policy loss has a gradient here; where it has none, neither padding nor order shows."""
        advantage = (self.advantage,) if isinstance(self.advantage, int | float) else self.advantage
        return bool(self.nll) or any(advantage)


@dataclass(frozen=True, slots=True)
class PolicyBatch:
    """A micro-batch of completions; the tensors over N hold the completion tokens of row 0, then of row 1, ...

    ``ids_1T`` has each prompt once, then all completions, as ``branches`` says: what the G completions of a group share
    is computed once, and nothing is padded. ``predict_N`` is the place whose hidden state predicts the token. A
    completion's last token is no input: nothing follows it. ``row_N`` counts the completions of the batch from 0.
    ``weights_N`` is what the token counts before the division by the number of sequences, ``nll_N`` its likelihood.
    ``old_logp_N`` belongs to the weights before the rollout's first update, where others than the present ones.
    """

    ids_1T: Tensor
    branches: Branches
    predict_N: Tensor
    targets_N: Tensor
    advantages_N: Tensor
    row_N: Tensor
    sampler_logp_N: Tensor
    weights_N: Tensor
    nll_N: Tensor
    old_logp_N: Tensor | None
    ref_logp_N: Tensor | None
    rows: tuple[int, ...]  # [B] which of the caller's rows each is
    lengths: tuple[int, ...]  # [B] completion tokens of each

    def by_row(self, values_N: Tensor) -> dict[int, Tensor]:
        """``values_N`` cut into the caller's rows: ``{row index: its completion tokens' values}``."""
        return dict(zip(self.rows, torch.split(values_N, list(self.lengths)), strict=True))


def collate_policy(
    rows: Sequence[PolicyRow | tuple[Any, ...]], *, weights: Sequence[float] | Tensor, token_budget: int
) -> list[PolicyBatch]:
    """Micro-batches of at most ``token_budget`` tokens (a longer row is alone), rows of one prompt together.

    ``weights`` has what one token of each row counts (objective/weights.py). A row without a prompt or a completion, or
    whose lists differ in length, raises InvariantError with the row's index.
    """
    named = [PolicyRow(*row) for row in rows]
    row_weights = torch.as_tensor(weights).tolist()
    if len(row_weights) != len(named):
        raise InvariantError(f"{len(named)} rows but {len(row_weights)} weights")
    for index, row in enumerate(named):
        _check_policy_row(index, row)
    split = split_branches(
        [tuple(row.prompt_ids) for row in named],
        [len(row.prompt_ids) for row in named],
        [len(row.completion_ids) - 1 for row in named],
        token_budget,
    )
    return [_policy_batch(named, row_weights, indices) for indices in split]


def _check_policy_row(index: int, row: PolicyRow) -> None:
    tokens = len(row.completion_ids)
    if not len(row.prompt_ids) or not tokens:
        raise InvariantError(f"row {index}: {len(row.prompt_ids)} prompt and {tokens} completion tokens; need 1 each")
    if len(row.sampler_logprobs) != tokens:
        raise InvariantError(f"row {index}: {tokens} completion tokens but {len(row.sampler_logprobs)} log-probs")
    if not isinstance(row.advantage, int | float) and len(row.advantage) != tokens:
        raise InvariantError(f"row {index}: {tokens} completion tokens but {len(row.advantage)} advantages")


def _policy_batch(rows: Sequence[PolicyRow], row_weights: Sequence[float], indices: Sequence[int]) -> PolicyBatch:
    chosen = [rows[i] for i in indices]
    prompts = {prompt: p for p, prompt in enumerate(dict.fromkeys(tuple(row.prompt_ids) for row in chosen))}
    branches = Branches(
        prompts=tuple(map(len, prompts)),
        continuations=tuple(len(row.completion_ids) - 1 for row in chosen),
        prompt_of=tuple(prompts[tuple(row.prompt_ids)] for row in chosen),
    )
    ids = [i for prompt in prompts for i in prompt]
    ends = list(itertools.accumulate(branches.prompts))
    predict: list[int] = []
    targets: list[int] = []
    advantages: list[float] = []
    sampler_logp: list[float] = []
    weights: list[float] = []
    nll: list[float] = []
    numbers: list[int] = []
    for number, (index, row, prompt) in enumerate(zip(indices, chosen, branches.prompt_of, strict=True)):
        tokens = len(row.completion_ids)
        predict += [ends[prompt] - 1, *range(len(ids), len(ids) + tokens - 1)]
        ids += row.completion_ids[:-1]
        targets += row.completion_ids
        advantages += [row.advantage] * tokens if isinstance(row.advantage, int | float) else row.advantage
        sampler_logp += row.sampler_logprobs
        weights += [row_weights[index]] * tokens
        nll += [row.nll] * tokens
        numbers += [number] * tokens
    return PolicyBatch(
        ids_1T=torch.tensor([ids]),
        branches=branches,
        predict_N=torch.tensor(predict),
        targets_N=torch.tensor(targets),
        advantages_N=torch.tensor(advantages, dtype=torch.float32),
        row_N=torch.tensor(numbers),
        sampler_logp_N=torch.tensor(sampler_logp, dtype=torch.float32),
        weights_N=torch.tensor(weights, dtype=torch.float32),
        nll_N=torch.tensor(nll, dtype=torch.float32),
        old_logp_N=None,
        ref_logp_N=None,
        rows=tuple(indices),
        lengths=tuple(len(row.completion_ids) for row in chosen),
    )


def with_old(batches: Sequence[PolicyBatch], old_logps: Sequence[Tensor]) -> list[PolicyBatch]:
    """The batches with the log-probs of the weights before the rollout's first update."""
    return [dataclasses.replace(b, old_logp_N=logp_N) for b, logp_N in zip(batches, old_logps, strict=True)]


def with_reference(batches: Sequence[PolicyBatch], ref_logps: Sequence[Tensor]) -> list[PolicyBatch]:
    """The batches with the reference's log-probs, as ``compute_logprobs(reference, batches)`` gives them."""
    return [dataclasses.replace(b, ref_logp_N=logp_N) for b, logp_N in zip(batches, ref_logps, strict=True)]


class CompletionPair(NamedTuple):
    """A prompt with a better and a worse completion: ``CompletionPair((5, 9), (7, 2), (8, 2))``."""

    prompt_ids: Sequence[int]
    chosen_ids: Sequence[int]
    rejected_ids: Sequence[int]


def collate_completion_pairs(pairs: Sequence[CompletionPair], *, token_budget: int) -> list[PolicyBatch]:
    """Micro-batches in which both completions of a pair are together: row 2 i is pair i's chosen one, 2 i + 1 its
    rejected one, and their prompt is computed once. A pair without a prompt or a completion raises DataError."""
    for index, pair in enumerate(pairs):
        if not all(map(len, pair)):
            raise DataError(f"preference pair {index} has an empty prompt or completion")
    rows = [
        PolicyRow(prompt, completion, 0.0, [0.0] * len(completion))
        for prompt, *completions in pairs
        for completion in completions
    ]
    return [_policy_batch(rows, [1.0] * len(rows), chosen) for chosen in pair_rows(pairs, token_budget)]


def pair_rows(pairs: Sequence[CompletionPair], token_budget: int) -> list[list[int]]:
    """The rows of each micro-batch of ``collate_completion_pairs``."""
    lengths = [len(p.prompt_ids) + 2 * max(len(p.chosen_ids), len(p.rejected_ids)) for p in pairs]
    return [[row for i in batch for row in (2 * i, 2 * i + 1)] for batch in split_by_tokens(lengths, token_budget)]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Documents one behind the other, next-token form: ``targets_BT`` is what follows ``ids_BT`` in the same document.

    B is 1. ``segments_BT`` numbers the documents from 1; ``positions_BT`` starts again with each; ``weights_BT`` is the
    loss weight of the target, 0 where there is nothing to learn.
    """

    ids_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor
    targets_BT: Tensor
    weights_BT: Tensor


Document = tuple[Sequence[int], Sequence[float]]


def collate_packed(documents: Sequence[Document], *, width: int) -> list[PackedBatch]:
    """Documents ``(ids, loss_mask)`` packed best-fit into micro-batches of at most ``width`` inputs, without padding.

    A document of n tokens takes n - 1 places: its last token is only a target. ``loss_mask[i]`` is the weight with
    which token i is learned; that of token 0 is never used. A document that does not fit raises DataError with its
    index. So does one with no token to learn.
    """
    for index, (ids, mask) in enumerate(documents):
        _check_document(index, ids, mask, width)
    packs = best_fit([len(ids) - 1 for ids, _ in documents], width)
    return [_packed_batch([documents[i] for i in pack]) for pack in packs]


def _check_document(index: int, ids: Sequence[int], mask: Sequence[float], width: int) -> None:
    if len(ids) != len(mask):
        raise DataError(f"document {index}: {len(ids)} tokens but {len(mask)} loss-mask entries")
    if len(ids) - 1 > width:
        raise DataError(
            f"document {index} has {len(ids)} tokens, more than the {width + 1} that a micro-batch of width {width} "
            "takes; widen it or drop the document"
        )
    if not any(mask[1:]):
        raise DataError(f"document {index} has no token to learn among its {len(ids)}")


def _packed_batch(documents: Sequence[Document]) -> PackedBatch:
    lengths = np.array([len(ids) for ids, _ in documents])
    after = lengths.cumsum()
    first, last, num = after - lengths, after - 1, after[-1]
    ids = np.fromiter(itertools.chain.from_iterable(ids for ids, _ in documents), np.int64, num)
    mask = np.fromiter(itertools.chain.from_iterable(mask for _, mask in documents), np.float32, num)
    position = np.arange(num) - first.repeat(lengths)
    document = np.arange(1, len(documents) + 1).repeat(lengths)
    is_input, is_target = np.ones(num, bool), np.ones(num, bool)
    is_input[last], is_target[first] = False, False
    columns = ids[is_input], position[is_input], document[is_input], ids[is_target], mask[is_target]
    return PackedBatch(*(torch.from_numpy(column)[None] for column in columns))


@dataclass(frozen=True, slots=True)
class PreferenceBatch:
    """B pairs as 2 B rows: first all the chosen ones, then the rejected ones in the same order.

    ``last_R`` (R = 2 B) is the place of each row's last real token; ``pairs`` which of the caller's pairs each is;
    ``margin_B`` by how much the chosen text's score should be higher.
    """

    ids_RT: Tensor
    last_R: Tensor
    pairs: tuple[int, ...]
    margin_B: Tensor


def collate_preference(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, token_budget: int, margins: Sequence[float] | None = None
) -> list[PreferenceBatch]:
    """Micro-batches of ``(chosen_ids, rejected_ids)``, both rows of a pair together. An empty one raises DataError."""
    for index, pair in enumerate(pairs):
        if not all(map(len, pair)):
            raise DataError(f"preference pair {index} has an empty text")
    margins = margins or [0.0] * len(pairs)
    batches = []
    for indices in split_by_tokens([2 * max(map(len, pair)) for pair in pairs], token_budget):
        rows = [pairs[i][0] for i in indices] + [pairs[i][1] for i in indices]
        T = max(map(len, rows))
        ids_RT = torch.tensor([[*ids, *[PADDING] * (T - len(ids))] for ids in rows])
        last_R, margin_B = torch.tensor([len(ids) - 1 for ids in rows]), torch.tensor([margins[i] for i in indices])
        batches.append(PreferenceBatch(ids_RT, last_R, tuple(indices), margin_B))
    return batches


@dataclass(frozen=True, slots=True)
class LabelledBatch:
    """B texts with a label each; ``last_B`` is the place of each row's last real token, ``texts`` which of the caller's
    texts each is."""

    ids_BT: Tensor
    last_B: Tensor
    label_B: Tensor
    texts: tuple[int, ...]


def collate_labelled(
    texts: Sequence[Sequence[int]], labels: Sequence[float], *, token_budget: int
) -> list[LabelledBatch]:
    """Micro-batches of texts with labels in [0, 1]. An empty text raises DataError."""
    for index, ids in enumerate(texts):
        if not len(ids):
            raise DataError(f"labelled text {index} is empty")
    batches = []
    for indices in split_by_tokens(list(map(len, texts)), token_budget):
        rows = [texts[i] for i in indices]
        T = max(map(len, rows))
        ids_BT = torch.tensor([[*ids, *[PADDING] * (T - len(ids))] for ids in rows])
        last_B, label_B = torch.tensor([len(ids) - 1 for ids in rows]), torch.tensor([labels[i] for i in indices])
        batches.append(LabelledBatch(ids_BT, last_B, label_B, tuple(indices)))
    return batches


class LabelledSteps(NamedTuple):
    """A text with steps that are labelled: ``LabelledSteps((5, 9, 7, 2), start=2, places=(2, 3), labels=(0.75, 1.0))``.

    ``start`` is the index of the first token after the prompt, ``places`` are those of the tokens that end a step,
    ``labels`` the chance that it is on the way to a right answer.
    """

    ids: Sequence[int]
    start: int
    places: Sequence[int]
    labels: Sequence[float]


@dataclass(frozen=True, slots=True)
class StepBatch:
    """B texts and the N labelled places in them: place ``places_N`` of row ``rows_N`` has the label ``labels_N``."""

    ids_BT: Tensor
    starts_B: Tensor
    rows_N: Tensor
    places_N: Tensor
    labels_N: Tensor
    texts: tuple[int, ...]  # [B] which of the caller's texts each is


def collate_steps(texts: Sequence[LabelledSteps], *, token_budget: int) -> list[StepBatch]:
    """Micro-batches of texts. One without a label, or with a place outside of it, raises DataError."""
    for index, text in enumerate(texts):
        if not text.places or len(text.places) != len(text.labels):
            raise DataError(f"text {index} has {len(text.places)} places and {len(text.labels)} labels; need 1 each")
        if not 1 <= text.start <= min(text.places) <= max(text.places) < len(text.ids):
            raise DataError(
                f"text {index} of {len(text.ids)} tokens begins at {text.start} and has steps that end at "
                f"{min(text.places)} to {max(text.places)}: a prompt has a token at least, steps end behind it"
            )
    batches = []
    for indices in split_by_tokens([len(text.ids) for text in texts], token_budget):
        chosen = [texts[i] for i in indices]
        T = max(len(text.ids) for text in chosen)
        batches.append(
            StepBatch(
                ids_BT=torch.tensor([[*text.ids, *[PADDING] * (T - len(text.ids))] for text in chosen]),
                starts_B=torch.tensor([text.start for text in chosen]),
                rows_N=torch.tensor([row for row, text in enumerate(chosen) for _ in text.places]),
                places_N=torch.tensor([place for text in chosen for place in text.places]),
                labels_N=torch.tensor([label for text in chosen for label in text.labels], dtype=torch.float32),
                texts=tuple(indices),
            )
        )
    return batches
