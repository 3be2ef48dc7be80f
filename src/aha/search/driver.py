"""Runs strategies of many problems side by side: their requests in one call of the engine, every token counted."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from aha.errors import InvariantError, SettingError
from aha.rollout.engine import Engine, SamplingParams
from aha.search.path import Choice, Judge, Path, Scorer, Strategy, Write
from aha.util.seeds import stream


@dataclass(slots=True)
class Spent:
    """What a search cost: tokens ``sampled``, in so many ``sequences``, and tokens that the scorer read (``scored``).

    Tokens that a strategy throws away (pruned beams, rollouts of a lookahead) count; those it puts itself do not.
    """

    sampled: int = 0
    sequences: int = 0
    scored: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A strategy's choice for one problem and what it cost."""

    choice: Choice
    spent: Spent


def search(
    engine: Engine, strategies: Sequence[Strategy], seeds: Sequence[int], scorer: Scorer | None = None
) -> list[Found]:
    """The choice of each strategy, one a problem. Copy ``j`` of path ``i`` in a strategy's request ``r`` has the seed
    ``stream(seed, "search", r, i, j)``: it does not depend on which other problems are asked.

    Raises ``SettingError`` for a strategy that judges where there is no scorer, ``InvariantError`` for one that
    continues a path which is finished, and for an engine or a scorer that answers with another number of things.
    """
    spent = [Spent() for _ in strategies]
    rounds = [0] * len(strategies)
    choices: dict[int, Choice] = {}
    waiting: dict[int, Write | Judge] = {}

    def send(p: int, reply: Any) -> None:
        try:
            waiting[p] = strategies[p].send(reply)
        except StopIteration as end:
            choices[p] = end.value

    for p in range(len(strategies)):
        send(p, None)
    while waiting:
        asked, waiting = waiting, {}
        replies: dict[int, Any] = {}
        writes = {p: request for p, request in asked.items() if isinstance(request, Write)}
        judges = {p: request for p, request in asked.items() if isinstance(request, Judge)}
        replies.update(_write(engine, writes, seeds, rounds, spent))
        replies.update(_judge(scorer, judges, spent))
        for p in writes:
            rounds[p] += 1
        for p in asked:
            send(p, replies[p])
    return [Found(choices[p], spent[p]) for p in range(len(strategies))]


def _write(
    engine: Engine, requests: dict[int, Write], seeds: Sequence[int], rounds: Sequence[int], spent: Sequence[Spent]
) -> dict[int, list[list[Path]]]:
    """Requests that sample alike go to the engine together, whatever their lengths."""
    alike: dict[SamplingParams, list[tuple[int, Write]]] = defaultdict(list)
    for p, request in requests.items():
        alike[replace(request.params, max_new_tokens=1)].append((p, request))
    replies: dict[int, list[list[Path]]] = {p: [] for p in requests}
    for params, group in alike.items():
        rows = [(p, i, path, request) for p, request in group for i, path in enumerate(request.paths)]
        for p, _, path, request in rows:
            if not path.is_open(request.params):
                raise InvariantError(
                    f"strategy {p} continues a path of {len(path.token_ids)} tokens that is finished "
                    f"({path.finish_reason}; at most {request.params.max_new_tokens} tokens)"
                )
        limits = [[r.params.max_new_tokens - len(path.token_ids)] * r.copies for _, _, path, r in rows]
        answers = engine.generate(
            [path.prompt_ids + path.token_ids for _, _, path, _ in rows],
            [[stream(seeds[p], "search", rounds[p], i, j) for j in range(r.copies)] for p, i, _, r in rows],
            replace(params, max_new_tokens=max(max(own) for own in limits)),
            limits=limits,
        )
        if list(map(len, answers)) != [r.copies for _, _, _, r in rows]:
            raise InvariantError(f"engine returned {list(map(len, answers))} completions for {len(rows)} paths")
        for (p, _, path, _), completions in zip(rows, answers, strict=True):
            spent[p].sequences += len(completions)
            spent[p].sampled += sum(len(c.token_ids) for c in completions)
            replies[p].append(
                [Path(path.prompt_ids, path.token_ids + c.token_ids, c.finish_reason) for c in completions]
            )
    return replies


def _judge(
    scorer: Scorer | None, requests: dict[int, Judge], spent: Sequence[Spent]
) -> dict[int, list[tuple[float, ...]]]:
    if not requests:
        return {}
    if scorer is None:
        raise SettingError("this strategy judges steps or answers: give it a scorer, as a process reward model is one")
    paths = [path for request in requests.values() for path in request.paths]
    scores = scorer(paths)
    if len(scores) != len(paths) or not all(scores):
        raise InvariantError(f"scorer returned {len(scores)} rows for {len(paths)} paths, {scores.count(())} empty")
    if wrong := [row for row in scores if not all(map(math.isfinite, row))]:
        raise InvariantError(f"scorer gave {len(wrong)} of {len(paths)} paths scores that are no numbers: {wrong[0]}")
    rows = iter(scores)
    replies = {}
    for p, request in requests.items():
        spent[p].scored += sum(len(path.prompt_ids) + len(path.token_ids) for path in request.paths)
        replies[p] = [next(rows) for _ in request.paths]
    return replies
