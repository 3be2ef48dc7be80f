"""From problems to groups: G samples of each problem from one version of the policy, with seeds of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aha.errors import InvariantError
from aha.records import Completion, Group, Problem
from aha.rollout.engine import Engine, SamplingParams
from aha.util.seeds import stream


def sample_groups(
    engine: Engine,
    problems: Sequence[Problem],
    prompt_ids: Sequence[Sequence[int]],
    num_samples: int,
    params: SamplingParams,
    seed: int,
    step: int,
    *,
    done: Callable[[Problem, list[Completion]], None] | None = None,
) -> list[Group]:
    """One group of ``num_samples`` completions for each problem, in the order of ``problems``.

    Sample ``g`` of a problem has the seed ``stream(seed, "rollout", step, problem.id, g)``: it does not depend on which
    other problems are asked. ``done`` is told a problem and its completions as soon as the last of them has ended.
    Raises ``InvariantError`` when the engine returns another number of groups or samples, a completion of another
    policy version, or one that is empty or too long.
    """
    if len(prompt_ids) != len(problems):
        raise InvariantError(f"{len(problems)} problems but {len(prompt_ids)} prompts: each problem needs its own")
    seeds = [[stream(seed, "rollout", step, problem.id, g) for g in range(num_samples)] for problem in problems]
    version = engine.policy_version
    tell = None if done is None else lambda p, completions: done(problems[p], completions)
    answers = engine.generate(prompt_ids, seeds, params, done=tell)
    if len(answers) != len(problems):
        raise InvariantError(f"engine returned {len(answers)} groups for {len(problems)} problems")
    groups = []
    for problem, ids, completions in zip(problems, prompt_ids, answers, strict=True):
        where = f"group of problem {problem.id!r}"
        if len(completions) != num_samples:
            raise InvariantError(f"{where} has {len(completions)} completions, not {num_samples}")
        for completion in completions:
            if completion.policy_version != version:
                raise InvariantError(
                    f"{where} was sampled by policy version {completion.policy_version}, not {version}"
                )
            length = len(completion.token_ids)
            if not 1 <= length <= params.max_new_tokens:
                raise InvariantError(f"{where} has a completion of {length} tokens, not 1 to {params.max_new_tokens}")
        groups.append(Group(problem, tuple(ids), tuple(completions)))
    return groups
