"""Sequential revision: the model sees its last answers and answers the problem again (Snell et al. 2408.03314, 6)."""

from __future__ import annotations

from collections.abc import Sequence

from aha.rollout.engine import SamplingParams
from aha.search.path import Choice, Key, Path, Strategy, judge, write
from aha.search.scores import Aggregate
from aha.search.vote import choose


def revise(
    root: Path,
    params: SamplingParams,
    *,
    rounds: int,
    chains: int,
    key: Key,
    aggregate: Aggregate | None = None,
    remembered: int = 4,
) -> Strategy:
    """``chains`` side by side, each ``rounds`` answers long; every answer stands behind the last ``remembered`` of its
    chain, each with the prompt in front.

    With ``aggregate`` the choice is made within each chain first and then among those chosen; without it all answers
    vote. A model that was not trained to revise need not gain: more than a third of right answers may be spoiled.
    """
    answers: list[list[Path]] = [[] for _ in range(chains)]
    for _ in range(rounds):
        asked = [Path(_context(root, chain[-remembered:])) for chain in answers]
        groups = yield from write(asked, 1, params)
        for chain, (path,) in zip(answers, groups, strict=True):
            chain.append(Path(root.prompt_ids, path.token_ids, path.finish_reason))
    everything = [path for chain in answers for path in chain]
    if aggregate is None:
        return Choice(choose(everything, [1.0] * len(everything), key), tuple(everything))
    values = [aggregate(scores) for scores in (yield from judge(everything))]
    best: list[Path] = []
    weights: list[float] = []
    for start in range(0, len(everything), rounds):
        own, own_values = everything[start : start + rounds], values[start : start + rounds]
        best.append(choose(own, own_values, key))
        weights.append(max(v for path, v in zip(own, own_values, strict=True) if path is best[-1]))
    return Choice(choose(best, weights, key), tuple(everything))


def _context(root: Path, earlier: Sequence[Path]) -> tuple[int, ...]:
    return tuple(i for path in earlier for i in (*root.prompt_ids, *path.token_ids)) + root.prompt_ids
