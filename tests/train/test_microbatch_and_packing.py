from __future__ import annotations

import random

from aha.train.microbatch import split_branches, split_by_tokens
from aha.train.packing import best_fit


def test_split_by_hand() -> None:
    # sorted: 9 | 5 4 4 (5 * 3 = 15) | 3 1; the 9 would take 18 with a second row
    assert split_by_tokens([4, 9, 1, 5, 4, 3], 15) == [[1], [3, 0, 4], [5, 2]]


def test_a_sequence_over_the_budget_is_alone() -> None:
    assert split_by_tokens([100, 2, 3], 10) == [[0], [2, 1]]
    assert split_by_tokens([], 10) == []


def test_split_holds_every_index_once_within_the_budget() -> None:
    rng = random.Random(0)
    for _ in range(50):
        lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 60))]
        batches = split_by_tokens(lengths, 100)
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        assert all(max(lengths[i] for i in batch) * len(batch) <= 100 for batch in batches)


def test_best_fit_prefers_the_tightest_row() -> None:
    # 7 opens row 0 (3 left), 6 opens row 1 (4 left), 4 fills row 1, 3 fills row 0
    assert best_fit([4, 7, 3, 6], 10) == [[1, 2], [3, 0]]
    # 4 fits the row with 4 left alone, 3 then the one with 3
    assert best_fit([6, 7, 3, 4], 10) == [[1, 2], [0, 3]]
    # 3 fits both rows (3 and 4 left) and takes the tighter one
    assert best_fit([6, 7, 3], 10) == [[1, 2], [0]]


def test_best_fit_never_overfills_and_beats_one_document_a_row() -> None:
    rng = random.Random(1)
    for _ in range(50):
        lengths = [rng.randint(1, 32) for _ in range(80)]
        rows = best_fit(lengths, 32)
        assert sorted(i for row in rows for i in row) == list(range(80))
        assert all(sum(lengths[i] for i in row) <= 32 for row in rows)
        # Best-fit decreasing needs at most 11/9 of the optimum and 6/9 (Dosa 2007); the optimum at least the volume.
        half_rows = sum(length > 16 for length in lengths)
        assert len(rows) <= 11 / 9 * max(half_rows, -(-sum(lengths) // 32)) + 4


def test_branches_of_a_prompt_stay_together_and_the_longest_come_first() -> None:
    prompts, prompt_lengths, lengths = "abab", [2, 3, 2, 3], [4, 5, 1, 2]
    assert split_branches(prompts, prompt_lengths, lengths, 100) == [[1, 3, 0, 2]]
    # b: 3 + 2 * 5 = 13 together; with one of a it would be 2 * 3 + 3 * 5
    assert split_branches(prompts, prompt_lengths, lengths, 13) == [[1, 3], [0, 2]]
    assert split_branches(prompts, prompt_lengths, lengths, 1) == [[1], [3], [0], [2]]


def test_a_micro_batch_counts_every_continuation_and_starts_anew_behind_a_long_one() -> None:
    assert split_branches("aa", [2, 2], [5, 5], 12) == [[0, 1]]  # 2 + 2 * 5
    assert split_branches("aa", [2, 2], [5, 5], 11) == [[0], [1]]
    assert split_branches("abbb", [10, 1, 1, 1], [50, 2, 2, 2], 60) == [[0], [1, 2, 3]]


def test_a_prompt_ranks_by_the_longest_of_its_continuations() -> None:
    assert split_branches("aab", [1, 1, 1], [9, 1, 5], 100) == [[0, 1, 2]]
