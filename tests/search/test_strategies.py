"""Each strategy on a scripted engine, by hand. Tokens: 1 ends, 2 ends a step, 3 closes the thinking, 4 says "Wait"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from torch import nn

from aha.errors import DataError, InvariantError, SettingError
from aha.records import FinishReason
from aha.rollout.engine import SamplingParams
from aha.search.adaptive import adaptive, best_per_bin, cross_validated, difficulty_bins
from aha.search.beam import beam
from aha.search.best_of_n import best_of_n
from aha.search.budget import force_budget
from aha.search.driver import Found, search
from aha.search.majority import majority, weighted_majority
from aha.search.mcts import mcts, puct
from aha.search.path import Path, Scorer, Strategy, Write
from aha.search.revise import revise
from aha.search.scores import AGGREGATES, last
from aha.search.vote import vote
from aha.testing import ScriptedEngine

PROMPT = (9,)
ROOT = Path(PROMPT)
PARAMS = SamplingParams(12, end_token_ids=(1,))
STOPS = (".",)
WORDS = {1: "", 2: ".", 3: "</think>", 4: "Wait"}

Script = Mapping[tuple[int, ...], Sequence[Sequence[int]]]


def text(ids: Sequence[int]) -> str:
    return " ".join(WORDS.get(i, str(i)) for i in ids)


def scripted(script: Script) -> ScriptedEngine:
    engine = ScriptedEngine(script, detokenize=text)
    engine.load_weights(nn.Identity(), 0)
    return engine


def run(script: Script, strategy: Strategy, scorer: Scorer | None = None) -> Found:
    """The strategy's find; the tokens that it counts are those that the engine counts."""
    engine = scripted(script)
    (found,) = search(engine, [strategy], [0], scorer)
    assert found.spent.sampled == engine.sampled_tokens
    return found


def answer(path: Path) -> int | None:
    """The token before the end, if it is an answer: 20 and more."""
    ids = path.token_ids
    return ids[-2] if len(ids) > 1 and ids[-1] == 1 and ids[-2] >= 20 else None


def table(scores: Mapping[tuple[int, ...], float]) -> Scorer:
    """One score for a whole path, by its tokens."""
    return lambda paths: [(scores[path.token_ids],) for path in paths]


def test_majority_ties_weights_and_abstentions() -> None:
    assert majority(["b", "a", None, "a", "b"]) == "b" and majority([None, None]) is None and majority([]) is None
    assert weighted_majority(["a", "b", "b"], [0.9, 0.4, 0.4]) == "a"
    assert weighted_majority(["a", "b", "b"], [0.7, 0.4, 0.4]) == "b"
    assert weighted_majority(["a", "b"], [0.0, 0.0]) == "a" and weighted_majority([None, "b"], [1.0, 0.0]) == "b"


FOUR = {PROMPT: [(20, 1), (21, 1), (5, 1), (6, 21, 1)]}


def test_vote_and_weighted_vote() -> None:
    found = run(FOUR, vote(ROOT, PARAMS, samples=4, key=answer))
    assert answer(found.choice.path) == 21 and len(found.choice.candidates) == 4
    assert (found.spent.sampled, found.spent.sequences, found.spent.scored) == (9, 4, 0)
    scores = table({(20, 1): 0.9, (21, 1): 0.3, (5, 1): 1.0, (6, 21, 1): 0.5})
    found = run(FOUR, vote(ROOT, PARAMS, samples=4, key=answer, aggregate=last), scores)
    assert found.choice.path.token_ids == (20, 1)  # 0.9 beats 0.3 + 0.5; what gives no answer does not vote
    assert found.spent.scored == 9 + 4  # each with the prompt's one token
    scores = table({(20, 1): 0.7, (21, 1): 0.3, (5, 1): 1.0, (6, 21, 1): 0.5})
    found = run(FOUR, vote(ROOT, PARAMS, samples=4, key=answer, aggregate=last), scores)
    assert found.choice.path.token_ids == (6, 21, 1)  # the better of the two that say 21
    found = run({PROMPT: [(5, 1), (6, 1)]}, vote(ROOT, PARAMS, samples=2, key=answer))
    assert found.choice.path.token_ids == (5, 1)  # nobody answers


@pytest.mark.parametrize(("name", "wins"), [("last", (5, 20, 1)), ("min", (6, 21, 1)), ("product", (7, 22, 1))])
def test_best_of_n_by_last_least_and_product(name: str, wins: tuple[int, ...]) -> None:
    steps = {(5, 20, 1): (0.1, 0.9), (6, 21, 1): (0.5, 0.5), (7, 22, 1): (0.9, 0.4)}
    found = run(
        {PROMPT: list(steps)},
        best_of_n(ROOT, PARAMS, samples=3, aggregate=AGGREGATES[name]),
        lambda paths: [steps[path.token_ids] for path in paths],
    )
    assert found.choice.path.token_ids == wins


TREE = {
    PROMPT: [(10, 2), (11, 2), (12, 2), (13, 2)],
    (9, 11, 2): [(20, 1), (14, 2)],
    (9, 12, 2): [(15, 2), (21, 1)],
    (9, 11, 2, 14, 2): [(22, 1), (23, 1)],
    (9, 12, 2, 15, 2): [(24, 1), (25, 1)],
}
VALUES = {
    (10, 2): 0.1, (11, 2): 0.8, (12, 2): 0.7, (13, 2): 0.2, (11, 2, 20, 1): 0.3, (11, 2, 14, 2): 0.6,
    (12, 2, 15, 2): 0.5, (12, 2, 21, 1): 0.4, (11, 2, 14, 2, 22, 1): 0.2, (11, 2, 14, 2, 23, 1): 0.95,
    (12, 2, 15, 2, 24, 1): 0.1, (12, 2, 15, 2, 25, 1): 0.3,
}  # fmt: skip


def test_beam_keeps_the_best_and_counts_what_it_throws_away() -> None:
    found = run(TREE, beam(ROOT, PARAMS, stops=STOPS, width=4, expand=2, key=answer), table(VALUES))
    assert found.choice.path.token_ids == (11, 2, 14, 2, 23, 1)
    ended = [path.token_ids[-2] for path in found.choice.candidates]
    assert ended == [20, 21, 22, 23, 24, 25]
    assert (found.spent.sampled, found.spent.sequences) == (8 + 8 + 8, 12)


def test_a_beam_narrows_by_what_ends_among_its_best() -> None:
    values = {**VALUES, (11, 2, 20, 1): 0.99}
    found = run(TREE, beam(ROOT, PARAMS, stops=STOPS, width=4, expand=2, key=answer), table(values))
    assert answer(found.choice.path) == 20 and found.spent.sequences == 10  # (12, 2, 15, 2) is not continued


def test_a_beam_that_has_narrowed_stays_narrow() -> None:
    """Behind 20, which has ended, the beam has one place: of two open children one goes on."""
    deep = (11, 2, 14, 2)
    script = {
        **TREE,
        (9, *deep): [(16, 2), (17, 2)],
        (9, *deep, 16, 2): [(22, 1), (23, 1)],
        (9, *deep, 17, 2): [(24, 1), (25, 1)],
    }
    values = {**VALUES, (11, 2, 20, 1): 0.99, (*deep, 16, 2): 0.5, (*deep, 17, 2): 0.4}
    values |= {(*deep, 16, 2, end, 1): 0.1 for end in (22, 23)} | {(*deep, 17, 2, end, 1): 0.1 for end in (24, 25)}
    found = run(script, beam(ROOT, PARAMS, stops=STOPS, width=4, expand=2, key=answer), table(values))
    assert found.spent.sequences == 4 + 4 + 2 + 2


def test_lookahead_is_greedy_and_steps_are_not() -> None:
    strategy = beam(ROOT, PARAMS, stops=STOPS, width=1, expand=1, key=answer, lookahead=1)
    first = next(strategy)
    second = strategy.send([[Path(PROMPT, (11, 2), FinishReason.STOP)]])
    assert isinstance(first, Write) and first.params.temperature == PARAMS.temperature > 0
    assert isinstance(second, Write) and second.params.temperature == 0


def test_lookahead_judges_by_where_a_step_leads() -> None:
    """(11, 2) looks best, but its next greedy step is the worst, and (13, 2), which looks bad, leads to the best."""
    script = {
        PROMPT: [(11, 2), (13, 2)],
        (9, 11, 2): [(20, 1)],
        (9, 13, 2): [(21, 1)],
    }
    values = {(11, 2): 0.9, (13, 2): 0.1, (11, 2, 20, 1): 0.2, (13, 2, 21, 1): 0.8}
    plain = run(script, beam(ROOT, PARAMS, stops=STOPS, width=2, expand=2, key=answer), table(values))
    ahead = run(script, beam(ROOT, PARAMS, stops=STOPS, width=2, expand=2, key=answer, lookahead=1), table(values))
    assert answer(plain.choice.path) == 20 and answer(ahead.choice.path) == 21
    assert (plain.spent.sampled, ahead.spent.sampled) == (4 + 4, 4 + 4 + 4)
    with pytest.raises(SettingError, match="multiple of expand"):
        run(script, beam(ROOT, PARAMS, stops=STOPS, width=3, expand=2, key=answer), table(values))


def test_mcts_finds_the_planted_line() -> None:
    """The best end, 25, lies behind the second best first step; two simulations are too few to see it."""
    values = {**VALUES, (12, 2, 15, 2): 0.9, (12, 2, 15, 2, 25, 1): 1.0}
    script = {**TREE, (9, 10, 2): [(26, 1)], (9, 13, 2): [(27, 1)]}
    values |= {(10, 2, 26, 1): 0.1, (13, 2, 27, 1): 0.1}

    def strategy(simulations: int) -> Strategy:
        return mcts(ROOT, PARAMS, stops=STOPS, simulations=simulations, width=4, key=answer, exploration=0.5)

    assert answer(run(script, strategy(12), table(values)).choice.path) == 25
    few = run(script, strategy(1), table({**values, (11, 2, 20, 1): 0.3}))
    assert few.choice.path.token_ids == (11, 2, 20, 1)  # only the root was opened: the best first step, written on
    assert few.spent.sampled == 8 + 2


def test_equal_steps_are_one_child_with_the_prior_of_both() -> None:
    assert puct(0.5, 0.25, 3, 16, 2.0) == 0.5 + 2.0 * 0.25 * 4 / 4
    script = {PROMPT: [(20, 1), (20, 1), (20, 1), (21, 1)]}
    values = table({(20, 1): 0.4, (21, 1): 0.5})
    found = run(script, mcts(ROOT, PARAMS, stops=STOPS, simulations=2, width=4, key=answer, exploration=4.0), values)
    assert [p.token_ids for p in found.choice.candidates] == [(20, 1), (21, 1)]
    assert found.spent.scored == 2 * 3


def test_mcts_follows_visits_and_priors_where_a_value_that_nobody_tried_is_higher() -> None:
    """The step that three of four samples take is visited, though the other's own value is a little higher."""
    script = {PROMPT: [(10, 2)] * 3 + [(11, 2)], (9, 10, 2): [(20, 1)], (9, 11, 2): [(21, 1)]}
    values = {(10, 2): 0.5, (11, 2): 0.55, (10, 2, 20, 1): 0.3, (11, 2, 21, 1): 0.9}
    found = run(script, mcts(ROOT, PARAMS, stops=STOPS, simulations=2, width=4, key=answer), table(values))
    assert [path.token_ids for path in found.choice.candidates] == [(10, 2, 20, 1)]


def test_the_best_of_each_chain_is_chosen_before_the_best_of_all() -> None:
    """Three rounds of two chains: 20 is the first's best with 0.5, 22 the second's, whose best text has 0.3."""
    strategy = revise(ROOT, PARAMS, rounds=3, chains=2, key=answer, aggregate=last)
    next(strategy)
    for first, second in ((20, 22), (21, 22)):
        strategy.send([[Path(PROMPT, (first, 1))], [Path(PROMPT, (second, 1))]])
    strategy.send([[Path(PROMPT, (21, 1))], [Path(PROMPT, (23, 1))]])
    with pytest.raises(StopIteration) as end:
        strategy.send([(score,) for score in (0.5, 0.1, 0.3, 0.3, 0.3, 0.2)])
    assert answer(end.value.value.path) == 20


def test_revision_shows_the_last_answers() -> None:
    script = {
        PROMPT: [(20, 1)],
        (9, 20, 1, 9): [(21, 1)],
        (9, 20, 1, 9, 21, 1, 9): [(21, 1)],
        (9, 21, 1, 9, 21, 1, 9): [(22, 1)],
    }
    found = run(script, revise(ROOT, PARAMS, rounds=4, chains=1, key=answer, remembered=2))
    assert [answer(path) for path in found.choice.candidates] == [20, 21, 21, 22] and answer(found.choice.path) == 21
    assert all(path.prompt_ids == PROMPT for path in found.choice.candidates)
    scores = table({(20, 1): 0.9, (21, 1): 0.2, (22, 1): 0.1})
    found = run(script, revise(ROOT, PARAMS, rounds=4, chains=1, key=answer, remembered=2, aggregate=last), scores)
    assert answer(found.choice.path) == 20


def forced(least: int, most: int, waits: int = 2, params: SamplingParams = PARAMS) -> Strategy:
    return force_budget(
        ROOT, params, least=least, most=most, waits=waits, wait_ids=(4,), close_ids=(3,), detokenize=text
    )


def test_thinking_is_cut_at_its_maximum_exactly() -> None:
    script = {PROMPT: [(5, 6, 7, 8, 9, 3, 20, 1)], (9, 5, 6, 7, 3): [(20, 1)]}
    found = run(script, forced(0, 3))
    assert found.choice.path.token_ids == (5, 6, 7, 3, 20, 1) and found.spent.sampled == 3 + 2


def test_thinking_goes_on_behind_a_wait_until_its_minimum() -> None:
    script = {
        PROMPT: [(5, 3, 20, 1)],
        (9, 5, 4): [(6, 3, 21, 1)],
        (9, 5, 4, 6, 4): [(7, 3)],
        (9, 5, 3): [(20, 1)],
        (9, 5, 4, 6, 3): [(21, 1)],
        (9, 5, 4, 6, 4, 7, 3): [(22, 1)],
        (9, 5, 4, 6, 4, 3): [(23, 1)],
    }
    expected = {0: (5, 3, 20, 1), 1: (5, 3, 20, 1), 2: (5, 4, 6, 3, 21, 1), 4: (5, 4, 6, 4, 7, 3, 22, 1)}
    for least, ids in expected.items():
        assert run(script, forced(least, 9)).choice.path.token_ids == ids
    assert run(script, forced(4, 9, waits=1)).choice.path.token_ids == expected[2]  # no wait is left
    assert run(script, forced(4, 9, waits=0)).choice.path.token_ids == expected[0]
    assert run(script, forced(4, 4)).choice.path.token_ids == (5, 4, 6, 4, 3, 23, 1)  # the maximum falls on the wait
    assert run({PROMPT: [(20, 1)]}, forced(4, 9)).choice.path.token_ids == (20, 1)
    with pytest.raises(SettingError, match="room to answer"):
        run(script, forced(4, 11))


def test_a_closing_tag_of_several_tokens_is_taken_away_whole() -> None:
    def several(ids: Sequence[int]) -> str:
        return "".join({3: "</", 13: "think", 14: ">"}.get(i, f" {i}") for i in ids)

    strategy = force_budget(
        ROOT, PARAMS, least=2, most=6, waits=1, wait_ids=(4,), close_ids=(3, 13, 14), detokenize=several
    )
    replies = [Path(PROMPT, (5, 3, 13, 14), FinishReason.STOP), Path(PROMPT, (5, 4, 6, 3, 13, 14), FinishReason.STOP)]
    asked = [next(strategy)]
    for reply in replies:
        asked.append(strategy.send([(reply,)]))
    assert [write.paths[0].token_ids for write in asked] == [(), (5, 4), (5, 4, 6, 3, 13, 14)]


def test_a_wait_of_several_tokens_does_not_lead_beyond_the_maximum() -> None:
    strategy = force_budget(
        ROOT, PARAMS, least=2, most=2, waits=1, wait_ids=(4, 4), close_ids=(3,), detokenize=text
    )
    found = run({PROMPT: [(5, 3, 20, 1)], (9, 5, 4, 3): [(23, 1)]}, strategy)
    assert found.choice.path.token_ids == (5, 4, 3, 23, 1)


def test_the_longest_text_counts_what_was_written_before() -> None:
    script = {(9, 5, 6): [(7, 8, 20, 1)]}
    found = run(script, vote(Path(PROMPT, (5, 6)), SamplingParams(4, end_token_ids=(1,)), samples=1, key=answer))
    assert found.choice.path.token_ids == (5, 6, 7, 8)


def test_difficulty_chooses_the_strategy() -> None:
    assert difficulty_bins([0.1, 0.9, 0.5, 0.5], 2) == [1, 0, 0, 1]
    correct = {"vote": [1.0, 1.0, 0.0, 0.0], "beam": [0.0, 1.0, 1.0, 0.0]}
    assert best_per_bin(correct, [0, 0, 1, 1]) == {0: "vote", 1: "beam"}
    # Fold 0 holds problems 0 and 2; from 1 and 3 alone both are equal and "vote" is named first.
    assert cross_validated(correct, [0, 0, 1, 1]) == [1.0, 1.0, 0.0, 0.0]
    # The two of a bin stand at places of one parity, and yet each is chosen for by the other.
    assert cross_validated(correct, [0, 1, 0, 1]) == [0.0, 1.0, 0.0, 0.0]
    with pytest.raises(DataError, match="bin 1"):
        cross_validated(correct, [0, 0, 0, 1])


def test_adaptive_asks_more_where_the_probes_look_bad() -> None:
    for score, wins, sampled in ((0.9, 20, 4), (0.2, 21, 4 + 9)):
        scores = {path: score for path in FOUR[PROMPT]}
        strategy = adaptive(
            ROOT,
            PARAMS,
            probes=2,
            thresholds=[0.5],
            plans=[lambda: vote(ROOT, PARAMS, samples=4, key=answer), None],
            key=answer,
        )
        found = run(FOUR, strategy, table(scores))
        assert (answer(found.choice.path), found.spent.sampled) == (wins, sampled)


def test_adaptive_goes_by_the_mean_of_the_probes() -> None:
    plans = [lambda: vote(ROOT, PARAMS, samples=4, key=answer), None]
    strategy = adaptive(ROOT, PARAMS, probes=2, thresholds=[0.5], plans=plans, key=answer)
    found = run(FOUR, strategy, table({(20, 1): 0.1, (21, 1): 0.6}))
    assert found.spent.sampled == 4 + 9  # 0.35 is below 0.5, though one of them is not: all four vote


def test_problems_are_asked_together_and_do_not_change_each_other() -> None:
    class Counting(ScriptedEngine):
        calls: list[list[list[int]]] = []

        def generate(self, prompts, seeds, params, *, limits=None, done=None):  # type: ignore[no-untyped-def]
            self.calls.append([list(own) for own in seeds])
            return super().generate(prompts, seeds, params, limits=limits)

    engine = Counting({**TREE, (8,): [(20, 1)]}, detokenize=text)
    engine.load_weights(nn.Identity(), 0)

    def strategies() -> list[Strategy]:
        return [
            beam(ROOT, PARAMS, stops=STOPS, width=4, expand=2, key=answer),
            vote(Path((8,)), PARAMS, samples=3, key=answer),
            beam(ROOT, PARAMS, stops=STOPS, width=4, expand=2, key=answer),
        ]

    both = search(engine, strategies(), [5, 6, 7], table(VALUES))
    together = list(engine.calls)
    engine.calls.clear()
    alone = search(engine, strategies()[2:], [7], table(VALUES))
    assert both[2] == alone[0]
    assert len(together) == 4  # three rounds of both beams, and the vote, which has no stop string
    assert [call[-1] for call in together if len(call[0]) != 3] == [call[-1] for call in engine.calls]
    seeds = [seed for call in together for own in call for seed in own]
    assert len(set(seeds)) == len(seeds)


def test_what_cannot_be_judged_or_continued() -> None:
    with pytest.raises(SettingError, match="scorer"):
        run(FOUR, best_of_n(ROOT, PARAMS, samples=2, aggregate=last))
    with pytest.raises(InvariantError, match="empty"):
        run(FOUR, best_of_n(ROOT, PARAMS, samples=2, aggregate=last), lambda paths: [() for _ in paths])
    with pytest.raises(InvariantError, match="finished"):
        run(FOUR, vote(Path(PROMPT, (20, 1), FinishReason.END), PARAMS, samples=2, key=answer))
