"""Partial rollouts: a step samples so many tokens of a completion and no more; a longer one goes on in the next step.

No step then waits for the longest answer (Kimi k1.5, arXiv 2501.12599, section 2.6.2). Each piece is drawn by the
weights of its time, and its tokens keep the log-probabilities they were drawn with; a prompt and what was said behind
it are read again before they are continued, as new weights leave other things in the cache.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aha.errors import CheckpointError, InvariantError, SettingError
from aha.records import Completion, FinishReason, Group, Problem
from aha.rollout.engine import Engine, SamplingParams
from aha.util.seeds import stream


def begin_group(problem: Problem, prompt_ids: Sequence[int], num_samples: int, *, version: int) -> Group:
    """A group nothing of which is sampled yet, to be begun by ``version`` of the weights."""
    nothing = Completion((), (), FinishReason.LENGTH, version)
    return Group(problem, tuple(prompt_ids), (nothing,) * num_samples)


def is_finished(group: Group, max_new_tokens: int) -> bool:
    """Whether every completion has ended or has all the tokens that it may have."""
    return not any(_goes_on(completion, max_new_tokens) for completion in group.completions)


def sample_piece(
    engine: Engine, groups: Sequence[Group], params: SamplingParams, most: int, *, seed: int, step: int
) -> list[Group]:
    """Every group with up to ``most`` more tokens of each completion that is not finished, in one call of the engine.

    A piece has the seed ``stream(seed, "rollout", step, problem.id, g, tokens before it)``. ``SettingError`` with stop
    strings, one of which may lie across two pieces; ``InvariantError`` for a piece by another version than the
    engine's, or that is empty or too long.
    """
    if params.stop:
        raise SettingError(f"stop strings {params.stop} are not looked for across pieces: sample completions whole")
    version = engine.policy_version
    wanted: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for p, group in enumerate(groups):
        for g, completion in enumerate(group.completions):
            if _goes_on(completion, params.max_new_tokens):
                wanted[group.prompt_ids + completion.token_ids].append((p, g))
    said = [[len(groups[p].completions[g].token_ids) for p, g in own] for own in wanted.values()]
    room = [[min(most, params.max_new_tokens - length) for length in own] for own in said]
    seeds = [
        [stream(seed, "rollout", step, groups[p].problem.id, g, n) for (p, g), n in zip(own, lengths, strict=True)]
        for own, lengths in zip(wanted.values(), said, strict=True)
    ]
    answers = engine.generate(list(wanted), seeds, replace(params, max_new_tokens=most), limits=room)
    completions = [list(group.completions) for group in groups]
    for own, rooms, pieces in zip(wanted.values(), room, answers, strict=True):
        for (p, g), limit, piece in zip(own, rooms, pieces, strict=True):
            where = f"group of problem {groups[p].problem.id!r}"
            if piece.policy_version != version:
                raise InvariantError(f"{where} was sampled by policy version {piece.policy_version}, not {version}")
            if not 1 <= len(piece.token_ids) <= limit:
                raise InvariantError(f"{where} has a piece of {len(piece.token_ids)} tokens, not 1 to {limit}")
            before = completions[p][g]
            completions[p][g] = Completion(
                before.token_ids + piece.token_ids,
                before.logprobs + piece.logprobs,
                piece.finish_reason,
                before.policy_version,
            )
    return [replace(group, completions=tuple(own)) for group, own in zip(groups, completions, strict=True)]


def to_json(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """What :func:`from_json` continues from."""
    return [
        {
            "problem": group.problem.key,
            "prompt_ids": group.prompt_ids,
            "version": group.completions[0].policy_version,
            "said": [(c.token_ids, c.logprobs, c.finish_reason.value) for c in group.completions],
        }
        for group in groups
    ]


def from_json(records: Sequence[Mapping[str, Any]], problems: Mapping[str, Problem]) -> list[Group]:
    """The groups that :func:`to_json` wrote, ``problems`` by their keys; ``CheckpointError`` for a group of another."""
    groups = []
    for record in records:
        if record["problem"] not in problems:
            raise CheckpointError(
                f"a saved group belongs to problem {record['problem']!r}, which is not asked any more; start the stage "
                "again"
            )
        said = (
            Completion(tuple(ids), tuple(logprobs), FinishReason(reason), record["version"])
            for ids, logprobs, reason in record["said"]
        )
        groups.append(Group(problems[record["problem"]], tuple(record["prompt_ids"]), tuple(said)))
    return groups


def _goes_on(completion: Completion, max_new_tokens: int) -> bool:
    return completion.finish_reason is FinishReason.LENGTH and len(completion.token_ids) < max_new_tokens
