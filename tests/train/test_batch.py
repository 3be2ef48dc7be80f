from __future__ import annotations

import pytest
import torch

from aha.errors import DataError, InvariantError
from aha.model.attention.plan import Branches
from aha.train.batch import (
    CompletionPair,
    PolicyRow,
    collate_completion_pairs,
    collate_labelled,
    collate_packed,
    collate_policy,
    collate_preference,
    with_reference,
)


def test_policy_batch_by_hand() -> None:
    rows = [
        PolicyRow((8, 9), (6, 7), 1.5, (-0.1, -0.2)),
        PolicyRow((1, 2, 3), (4,), [-2.0], (-0.3,)),
        PolicyRow((8, 9), (10, 11, 12), (0.1, 0.2, 0.3), (-0.4, -0.5, -0.6)),
    ]
    (batch,) = collate_policy(rows, weights=[0.5, 1.0, 0.25], token_budget=100)
    assert batch.rows == (2, 0, 1) and batch.lengths == (3, 2, 1)
    # the prompts once each, then the completions; a completion's last token is no input: nothing follows it
    assert batch.ids_1T.tolist() == [[8, 9, 1, 2, 3, 10, 11, 6]]
    assert batch.branches == Branches(prompts=(2, 3), continuations=(2, 1, 0), prompt_of=(0, 0, 1))
    assert batch.branches.positions() == [0, 1, 0, 1, 2, 2, 3, 2]
    # a first token is predicted by its prompt's last place, the others by the token before
    assert batch.predict_N.tolist() == [1, 5, 6, 1, 7, 4]
    assert batch.targets_N.tolist() == [10, 11, 12, 6, 7, 4]
    torch.testing.assert_close(batch.advantages_N, torch.tensor([0.1, 0.2, 0.3, 1.5, 1.5, -2.0]))
    torch.testing.assert_close(batch.sampler_logp_N, torch.tensor([-0.4, -0.5, -0.6, -0.1, -0.2, -0.3]))
    torch.testing.assert_close(batch.weights_N, torch.tensor([0.25, 0.25, 0.25, 0.5, 0.5, 1.0]))
    mapped = batch.by_row(batch.sampler_logp_N)
    assert {i: v.tolist() for i, v in mapped.items()} == {
        i: pytest.approx(list(row.sampler_logprobs)) for i, row in enumerate(rows)
    }


def test_policy_budget_counts_a_prompt_once_and_plain_tuples_work() -> None:
    rows = [((1,), (2,) * n, 1.0, (-1.0,) * n) for n in (4, 1, 3, 2)]
    batches = collate_policy(rows, weights=torch.ones(4), token_budget=7)
    assert [b.rows for b in batches] == [(0, 2), (3, 1)]
    assert [b.ids_1T.tolist() for b in batches] == [[[1, 2, 2, 2, 2, 2]], [[1, 2]]]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (((), (1,), 1.0, (-1.0,)), "row 0: 0 prompt"),
        (((1,), (), 1.0, ()), "0 completion"),
        (((1,), (2, 3), 1.0, (-1.0,)), "2 completion tokens but 1 log-probs"),
        (((1,), (2, 3), [1.0], (-1.0, -1.0)), "1 advantages"),
    ],
)
def test_malformed_rows_are_named(row: tuple[object, ...], words: str) -> None:
    with pytest.raises(InvariantError, match=words):
        collate_policy([row], weights=[1.0], token_budget=10)


def test_reference_is_attached_batch_by_batch() -> None:
    batches = collate_policy([((i,), (2,), 1.0, (-1.0,)) for i in (1, 3)], weights=[1.0, 1.0], token_budget=1)
    done = with_reference(batches, [torch.tensor([-3.0]), torch.tensor([-4.0])])
    assert [b.ref_logp_N.item() for b in done if b.ref_logp_N is not None] == [-3.0, -4.0]


def test_packed_by_hand() -> None:
    documents = [((1, 2, 3), (1, 1, 1)), ((4, 5, 6, 7, 8), (0, 0, 0, 1, 1)), ((9, 10), (0, 0.5))]
    batch, rest = collate_packed(documents, width=6)
    # 4 inputs of document 1, then the 2 of document 0 fill the first; document 2 opens another, as long as it is
    assert batch.ids_BT.tolist() == [[4, 5, 6, 7, 1, 2]] and rest.ids_BT.tolist() == [[9]]
    assert batch.targets_BT.tolist() == [[5, 6, 7, 8, 2, 3]] and rest.targets_BT.tolist() == [[10]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 0, 1]] and rest.positions_BT.tolist() == [[0]]
    assert batch.segments_BT.tolist() == [[1, 1, 1, 1, 2, 2]] and rest.segments_BT.tolist() == [[1]]
    assert batch.weights_BT.tolist() == [[0, 0, 1, 1, 1, 1]] and rest.weights_BT.tolist() == [[0.5]]
    assert batch.ids_BT.dtype == torch.int64 and batch.weights_BT.dtype == torch.float32


def test_document_longer_than_a_micro_batch_is_named() -> None:
    with pytest.raises(DataError, match="document 1 has 4 tokens, more than the 3"):
        collate_packed([([1, 2], [1, 1]), ([3, 4, 5, 6], [1, 1, 1, 1])], width=2)


def test_a_document_of_one_token_more_than_the_row_fits() -> None:
    (batch,) = collate_packed([([1, 2, 3], [1, 1, 1])], width=2)
    assert batch.ids_BT.tolist() == [[1, 2]] and batch.targets_BT.tolist() == [[2, 3]]


@pytest.mark.parametrize("document", [([1], [1]), ([1, 2], [1, 0]), ([], [])])
def test_document_with_nothing_to_learn_is_named(document: tuple[list[int], list[int]]) -> None:
    with pytest.raises(DataError, match="document 0"):
        collate_packed([document], width=4)


def test_preference_pairs_stay_together() -> None:
    pairs = [([1, 2], [3]), ([4], [5, 6, 7]), ([8], [9])]
    batches = collate_preference(pairs, token_budget=10)
    assert [b.pairs for b in batches] == [(1,), (0, 2)]
    assert batches[1].ids_RT.tolist() == [[1, 2], [8, 0], [3, 0], [9, 0]]
    assert batches[1].last_R.tolist() == [1, 0, 0, 0]
    with pytest.raises(DataError, match="pair 0"):
        collate_preference([([1], [])], token_budget=10)


def test_margins_and_labels_stay_with_their_texts_when_these_are_sorted() -> None:
    (pairs,) = collate_preference([([1], [2]), ([3, 4, 5], [6])], token_budget=100, margins=[0.25, 0.75])
    assert pairs.pairs == (1, 0) and pairs.margin_B.tolist() == [0.75, 0.25]
    (texts,) = collate_labelled([[1], [2, 3, 4]], [0.0, 1.0], token_budget=100)
    assert texts.texts == (1, 0) and texts.label_B.tolist() == [1.0, 0.0]


def test_the_budget_of_a_pair_counts_its_prompt_once_and_its_longer_completion_twice() -> None:
    pairs = [CompletionPair((1, 2), (3, 4, 5), (6,))] * 2  # 2 + 2 * 3 tokens each
    assert [b.rows for b in collate_completion_pairs(pairs, token_budget=16)] == [(0, 1, 2, 3)]
    assert [b.rows for b in collate_completion_pairs(pairs, token_budget=15)] == [(0, 1), (2, 3)]


def test_a_row_matters_for_its_advantage_or_as_an_answer_to_imitate() -> None:
    row = PolicyRow((1,), (2, 3), 0.0, (-1.0, -1.0))
    assert not row.matters and not row._replace(advantage=[0.0, 0.0]).matters
    assert row._replace(nll=1.0).matters and row._replace(advantage=[0.0, -0.5]).matters
