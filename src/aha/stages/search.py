"""A policy searches: problems in, one chosen answer each, with every token counted."""

from __future__ import annotations

from pathlib import Path as Folder

from aha.errors import CheckpointError, SettingError, nearest
from aha.model.heads import STEP_HEAD_FILE, load_process_reward_model
from aha.records import Problem
from aha.reward.extraction import find_answer
from aha.reward.process import score_steps
from aha.reward.response import Response, read_response
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine
from aha.rollout.sync import sync_weights
from aha.search.beam import beam
from aha.search.best_of_n import best_of_n
from aha.search.mcts import mcts
from aha.search.path import Key, Path, Scorer, Strategy
from aha.search.scores import last
from aha.search.vote import vote
from aha.stages.models import Policy, cache_bytes
from aha.tasks.checkers import checker_of

STEP_STOPS = ("\n", " .", "</think>")
"""Where a step ends: at a line's end (Snell et al. appendix D), at a full stop that stands apart, as the toy writes it,
and where the thinking ends."""
EXPAND = 4


def build_search_engine(policy: Policy) -> NativeEngine:
    """A sampler that holds the policy's weights, obeys stop strings, and reads what continues an earlier text from
    where that ended."""
    head = policy.decoder.head_weight
    room = cache_bytes(head.device)
    engine = NativeEngine(
        policy.config,
        cache_bytes=room,
        prefix_bytes=room // 4,
        detokenize=policy.tokenizer.decode,
        dtype=head.dtype,
        device=head.device,
    )
    sync_weights(engine, policy.decoder, version=0)
    return engine


def load_scorer(folder: Folder, policy: Policy) -> Scorer:
    """The scorer of a stage that trained a process reward model. ``CheckpointError`` where the folder holds none, or
    one with another vocabulary than the policy's."""
    path = folder if (folder / STEP_HEAD_FILE).is_file() else folder / "model"
    if not (path / STEP_HEAD_FILE).is_file():
        raise CheckpointError(f"{folder} holds no process reward model: neither it nor {path} has a {STEP_HEAD_FILE}")
    model, config = load_process_reward_model(path)
    if config.vocab_size != policy.config.vocab_size:
        raise CheckpointError(
            f"{path} was trained on {config.vocab_size} tokens, the policy has {policy.config.vocab_size}: they do not "
            "belong together"
        )
    model.to(policy.decoder.head_weight.device)
    return lambda paths: score_steps(model, policy.tokenizer, [(path.prompt_ids, path.token_ids) for path in paths])


def read_path(path: Path, policy: Policy) -> Response:
    """What a path says; a tag that its prompt opened belongs to it."""
    tail = policy.tokenizer.decode(path.prompt_ids[-64:])[-64:]
    return read_response(policy.tokenizer.decode(path.token_ids), prompt_tail=tail, tokens=len(path.token_ids))


def answer_key(problem: Problem, policy: Policy) -> Key:
    """What a vote on ``problem`` counts as one answer, by its checker."""

    def key(path: Path) -> str | None:
        found = find_answer(problem, read_path(path, policy))
        return None if found is None else checker_of(problem).vote_key(found.text)

    return key


def build_strategy(name: str, root: Path, params: SamplingParams, budget: int, key: Key) -> Strategy:
    """vote, best-of-n, beam, lookahead (by one step) or mcts.

    ``budget`` is the number of texts, the width of a beam (which keeps one step in four, or one of all where the width
    is no multiple of four), or half the number of simulations, of four steps each. ``SettingError`` for another name.
    """
    expand = EXPAND if budget % EXPAND == 0 else budget
    if name == "vote":
        return vote(root, params, samples=budget, key=key)
    if name == "best-of-n":
        return best_of_n(root, params, samples=budget, aggregate=last)
    if name == "mcts":
        return mcts(root, params, stops=STEP_STOPS, simulations=2 * budget, width=min(EXPAND, budget), key=key)
    if name not in ("beam", "lookahead"):
        raise SettingError(f"no search {name!r}: {nearest(name, ('vote', 'best-of-n', 'beam', 'lookahead', 'mcts'))}")
    ahead = int(name == "lookahead")
    return beam(root, params, stops=STEP_STOPS, width=budget, expand=expand, key=key, lookahead=ahead)
