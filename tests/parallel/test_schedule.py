"""Schedules as data: the published steps by hand, torch's schedules as oracle, arguments that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from torch.distributed.pipelining.schedules import ScheduleDualPipeV, _Action, _get_1f1b_rank_ops

from aha.errors import SettingError
from aha.parallel.schedule import Action, Kind, build_1f1b, build_dualpipe, build_dualpipev, build_zb1p, notation


def words(actions: tuple[Action, ...]) -> str:
    return " ".join(map(notation, actions))


def of_torch(actions: list[_Action | None]) -> str:
    """Torch's actions in our notation; it numbers a stage's backward ``I`` and forward ``F`` as we do."""
    return " ".join(
        f"({';'.join(map(str, action.sub_actions))})" if action.sub_actions else str(action)
        for action in actions
        if action is not None
    )


def test_1f1b_of_two_ranks_by_hand() -> None:
    first, last = build_1f1b(2, 3).ranks
    assert words(first) == "0F0 0F1 0B0 0F2 0B1 0B2"
    assert words(last) == "1F0 1B0 1F1 1B1 1F2 1B2"


def test_zb1p_puts_the_weights_off_by_the_rank() -> None:
    first, last = build_zb1p(2, 3).ranks
    assert words(first) == "0F0 0F1 0I0 0W0 0F2 0I1 0W1 0I2 0W2"
    assert words(last) == "1F0 1I0 1F1 1I1 1W0 1F2 1I2 1W1 1W2"


def test_dualpipe_of_two_ranks_by_hand() -> None:
    """No rank is ahead of the middle: steps 2, 4 (its first pair in turn), 6 and 8 alone."""
    first, last = build_dualpipe(2, 4).ranks
    assert words(first) == "0F0 1F2 0F1 1B2 (1F3;0B0) 1B3 0I1 0W1"
    assert words(last) == "0F2 1F0 0F3 1B0 (1F1;0B2) 1B1 0I3 0W3"


COUNTS = [(6, 1, 3, 3, 3, 1, 3, 1), (4, 2, 2, 4, 2, 2, 2, 2), (2, 3, 1, 5, 1, 3, 1, 3), (0, 4, 0, 6, 0, 4, 0, 4)]


@pytest.mark.parametrize("rank", range(8))
def test_dualpipe_has_the_published_number_of_each_step(rank: int) -> None:
    """Eight ranks, 20 micro-batches: how often each of the eight steps is done, from the published code."""
    one, two, three, four, five, six, seven, eight = COUNTS[min(rank, 7 - rank)]
    actions = build_dualpipe(8, 20).ranks[rank]
    kinds = [action[0].kind for action in actions if len(action) == 1]
    split_first = one == 0  # the middle
    assert kinds.count(Kind.FORWARD) == one + 2 * two + three + split_first
    assert sum(len(action) == 2 for action in actions) == 2 * four + five - split_first
    assert kinds.count(Kind.INPUT) == kinds.count(Kind.WEIGHT) == three + six + seven
    assert kinds.count(Kind.BACKWARD) == five + six + split_first
    assert [action[0].kind for action in actions[-eight:]] == [Kind.WEIGHT] * eight


@pytest.mark.parametrize(("ranks", "batches"), [(1, 2), (2, 4), (2, 7), (4, 8), (4, 10), (5, 13), (8, 20)])
def test_dualpipev_is_torchs(ranks: int, batches: int) -> None:
    theirs: Any = ScheduleDualPipeV.__new__(ScheduleDualPipeV)
    theirs.pp_group_size, theirs._n_microbatches = ranks, batches
    for rank, actions in enumerate(build_dualpipev(ranks, batches).ranks):
        assert words(actions) == of_torch(theirs._calculate_single_rank_operations(rank)).replace("OVERLAP_F_B", "")


@pytest.mark.parametrize("ranks, batches", [(1, 1), (2, 3), (4, 4), (4, 9), (8, 20), (4, 2)])
@pytest.mark.parametrize("split", [False, True])
def test_1f1b_and_zb1p_are_torchs(ranks: int, batches: int, split: bool) -> None:
    ours = (build_zb1p if split else build_1f1b)(ranks, batches)
    for rank, actions in enumerate(ours.ranks):
        ahead = min(ranks - rank - 1, batches)
        theirs = _get_1f1b_rank_ops(
            1, ranks, ahead, batches - ahead, ahead, rank, lambda op, r=rank: r, lambda op, r=rank: r, rank, split
        )
        assert words(actions) == of_torch(theirs)


@pytest.mark.parametrize(
    ("build", "ranks", "batches"),
    [(build_dualpipe, 3, 12), (build_dualpipe, 4, 9), (build_dualpipe, 4, 6), (build_dualpipe, 0, 2),
     (build_dualpipev, 4, 7), (build_1f1b, 0, 3), (build_zb1p, 2, 0)],
)  # fmt: skip
def test_a_number_that_does_not_fit_is_refused(build: Any, ranks: int, batches: int) -> None:
    with pytest.raises(SettingError, match=f"needs .* there are {ranks} ranks and {batches} micro-batches"):
        build(ranks, batches)
