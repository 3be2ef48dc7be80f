"""Monte-Carlo tree search over steps, a value model in the place of rollouts (R1v1 4.2; AlphaZero, 1712.01815)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from aha.rollout.engine import SamplingParams
from aha.search.path import Choice, Key, Path, Strategy, judge, write
from aha.search.scores import Aggregate, last
from aha.search.vote import choose


@dataclass(slots=True)
class _Node:
    path: Path
    prior: float
    value: float
    visits: int = 0
    total: float = 0.0
    children: list[_Node] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Of the values backed up; the node's own before there is one."""
        return self.total / self.visits if self.visits else self.value


def puct(mean: float, prior: float, visits: int, parent_visits: int, exploration: float) -> float:
    """``Q + c P sqrt(N of the parent) / (1 + N)``: what is good so far, and what is likely and little visited."""
    return mean + exploration * prior * math.sqrt(parent_visits) / (1 + visits)


def mcts(
    root: Path,
    params: SamplingParams,
    *,
    stops: tuple[str, ...],
    simulations: int,
    width: int,
    key: Key,
    aggregate: Aggregate = last,
    exploration: float = 1.0,
) -> Strategy:
    """A simulation goes down from the root to the child of the highest ``puct``, gives the leaf it reaches ``width``
    sampled steps, and backs the leaf's value up.

    Equal steps are one child, whose prior is its share of the samples. A child's value is what the scorer gives its
    text. In the end the most visited line is written to its end, and a vote weighted by value is taken over all texts
    that were finished. Ties go to the child sampled first.
    """
    step = replace(params, stop=stops)
    tree = _Node(root, 1.0, 0.0)
    for _ in range(simulations):
        trail = [tree]
        while trail[-1].children:
            trail.append(_select(trail[-1], exploration))
        leaf = trail[-1]
        if leaf.path.is_open(step):
            (paths,) = yield from write([leaf.path], width, step)
            shares = Counter(paths)
            values = [aggregate(scores) for scores in (yield from judge(tuple(shares)))]
            leaf.children = [_Node(p, n / width, v) for (p, n), v in zip(shares.items(), values, strict=True)]
        for node in trail:
            node.visits += 1
            node.total += leaf.value
    best = tree
    while best.children:
        best = max(best.children, key=lambda node: (node.visits, node.mean))
    ended = [node for node in _leaves(tree) if not node.path.is_open(step)]
    candidates, weights = [node.path for node in ended], [node.value for node in ended]
    if best.path.is_open(step):
        ((path,),) = yield from write([best.path], 1, params)
        (scores,) = yield from judge([path])
        candidates.append(path)
        weights.append(aggregate(scores))
    return Choice(choose(candidates, weights, key), tuple(candidates))


def _select(node: _Node, exploration: float) -> _Node:
    return max(node.children, key=lambda c: puct(c.mean, c.prior, c.visits, node.visits, exploration))


def _leaves(node: _Node) -> Iterator[_Node]:
    if not node.children:
        yield node
    for child in node.children:
        yield from _leaves(child)
