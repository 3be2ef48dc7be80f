"""A policy searches: problems in, one chosen answer each, with every token counted."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path as Folder

from aha.evaluate.votes import Formulas, read_vote
from aha.records import Problem
from aha.reward.process import StepScorer
from aha.reward.response import Response, read_response
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine
from aha.rollout.sync import sync_weights
from aha.search.adaptive import adaptive
from aha.search.beam import beam
from aha.search.best_of_n import best_of_n
from aha.search.budget import force_budget
from aha.search.mcts import mcts
from aha.search.path import Key, Path, Scorer, Strategy
from aha.search.revise import revise
from aha.search.scores import AGGREGATES, Aggregate, last
from aha.search.vote import vote
from aha.stages.models import Policy, cache_bytes, load_step_model

STEP_STOPS = ("\n", " .", "</think>")
"""Where a step ends: at a line's end (Snell et al. appendix D), at a full stop that stands apart, as the toy writes it,
and where the thinking ends."""
EXPAND = 4
ROUNDS = 4  # of a chain of revisions
DIFFICULTIES = (0.5, 0.9)
"""Up to which mean score of its probes ``adaptive`` takes a problem for hard (it searches with beams) and for middling
(it takes a weighted vote); for an easy one the probes vote: beams pay where problems are hard (Snell et al. 5.3)."""

Builder = Callable[[Path, int, Key], Strategy]


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
        dtype=policy.sampling_dtype,
        device=head.device,
    )
    sync_weights(engine, policy.decoder, version=0)
    gc.freeze()  # what is loaded stays: a search makes many small objects, and the collector walks through all others
    return engine


def load_scorer(folder: Folder, policy: Policy) -> Scorer:
    """The model of ``load_step_model`` as a scorer of paths; it reads what continues an earlier path from there on."""
    model = load_step_model(folder, policy)
    score = StepScorer(model, policy.tokenizer, room=cache_bytes(model.score.device) // 4)
    return lambda paths: score([(path.prompt_ids, path.token_ids) for path in paths])


def read_path(path: Path, policy: Policy) -> Response:
    """What a path says; a tag that its prompt opened belongs to it."""
    tail = policy.tokenizer.decode(path.prompt_ids[-64:])[-64:]
    return read_response(policy.tokenizer.decode(path.token_ids), prompt_tail=tail, tokens=len(path.token_ids))


def answer_key(problem: Problem, policy: Policy) -> Key:
    """What a vote on ``problem`` counts as one answer, by its checker; equal texts are read once."""
    known: dict[tuple[int, ...], str | None] = {}
    formulas = Formulas()

    def key(path: Path) -> str | None:
        if path.token_ids not in known:
            vote = read_vote(problem, read_path(path, policy))
            known[path.token_ids] = vote and (formulas.join(*vote) if problem.task == "math" else vote[0])
        return known[path.token_ids]

    return key


def build_strategies(policy: Policy, params: SamplingParams, *, longest: int, scored: bool) -> dict[str, Builder]:
    """Every strategy by name, for a root, a budget and a vote's key; those that judge only where there is a scorer.

    ``budget`` is the number of texts, or of beams (one step in four is kept, or one of all where the budget is no
    multiple of four), or half the number of simulations, of four steps each; ``adaptive`` judges a quarter of it first.
    ``longest`` is that of the prompts, in tokens: a revision stands behind up to three answers, all of which must fit
    into the model's positions, so each may have a quarter of them; where a prompt alone takes that, there is no
    ``revise``. Budget forcing asks for 8 tokens of thinking and
    allows one "wait" for each unit of its budget.
    """
    room = min(params.max_new_tokens, policy.config.longest // ROUNDS - longest)
    quarter = replace(params, max_new_tokens=max(1, room))
    most = params.max_new_tokens * 3 // 4

    def revising(root: Path, n: int, key: Key) -> Strategy:
        return revise(root, quarter, rounds=min(n, ROUNDS), chains=max(1, n // ROUNDS), key=key)

    def forcing(root: Path, n: int, key: Key) -> Strategy:
        encode, decode = policy.tokenizer.encode, policy.tokenizer.decode
        close, wait = tuple(encode("</think>")), tuple(encode("wait"))
        least = min(most, 8 * n)
        return force_budget(
            root, params, least=least, most=most, waits=n, wait_ids=wait, close_ids=close, detokenize=decode
        )

    def voting(aggregate: Aggregate | None) -> Builder:
        return lambda root, n, key: vote(root, params, samples=n, key=key, aggregate=aggregate)

    found: dict[str, Builder] = {"vote": voting(None), **({"revise": revising} if room > 0 else {}), "budget": forcing}
    if not scored:
        return found

    def best(aggregate: Aggregate) -> Builder:
        return lambda root, n, key: best_of_n(root, params, samples=n, aggregate=aggregate)

    def beams(ahead: int) -> Builder:
        return lambda root, n, key: beam(
            root, params, stops=STEP_STOPS, width=n, expand=_expand(n), key=key, lookahead=ahead
        )

    def tree(root: Path, n: int, key: Key) -> Strategy:
        return mcts(root, params, stops=STEP_STOPS, simulations=2 * n, width=min(EXPAND, n), key=key)

    def chosen(root: Path, n: int, key: Key) -> Strategy:
        plans = (lambda: beams(0)(root, n, key), lambda: voting(last)(root, n, key), None)
        probes = max(1, n // EXPAND)
        return adaptive(root, params, probes=probes, thresholds=DIFFICULTIES, plans=plans, key=key)

    found |= {"weighted vote": voting(last), "best-of-n": best(last)}
    found |= {f"best-of-n {name}": best(AGGREGATES[name]) for name in ("min", "product")}
    return found | {"beam": beams(0), "lookahead": beams(1), "mcts": tree, "adaptive": chosen}


def _expand(width: int) -> int:
    return width if width % EXPAND else EXPAND
