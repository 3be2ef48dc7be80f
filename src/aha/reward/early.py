"""Verdicts that are begun while others are still being sampled: checkers in processes of their own work meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from aha.records import Problem, Verdict
from aha.reward.accuracy import judge_accuracy
from aha.reward.response import Response


class EarlyVerdicts:
    """``judge_accuracy`` with a head start, in a thread beside the sampler's kernels.

    ``early.begin(problem, responses)`` as soon as a group has ended, ``early.judge(problems, responses)`` for the
    verdicts of all. It is worth while for tasks of ``BATCHES``, which other processes judge. A verdict is remembered
    until :meth:`forget`, so that several rewards of one text ask for it once; problems are told apart by their keys.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._begun: dict[tuple[str, Response], tuple[Future[list[Verdict]], int]] = {}

    def begin(self, problem: Problem, responses: Sequence[Response]) -> None:
        """Starts to judge them."""
        self._start([(problem, response) for response in responses])

    def judge(self, problems: Sequence[Problem], responses: Sequence[Response]) -> list[Verdict]:
        """The verdicts of all, of those that were not begun too; raises what ``judge_accuracy`` does."""
        pairs = list(zip(problems, responses, strict=True))
        self._start(pairs)
        found = [self._begun[problem.key, response] for problem, response in pairs]
        return [future.result()[place] for future, place in found]

    def forget(self) -> None:
        """Nothing is remembered any more: the same text may be judged anew."""
        self._begun.clear()

    def _start(self, pairs: Sequence[tuple[Problem, Response]]) -> None:
        new = {(p.key, r): (p, r) for p, r in pairs if (p.key, r) not in self._begun}
        if new:
            problems, responses = zip(*new.values(), strict=True)
            future = self._thread.submit(judge_accuracy, problems, responses)
            self._begun |= {key: (future, place) for place, key in enumerate(new)}
