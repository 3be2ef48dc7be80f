"""The training problems' pass rates, and the choice of the next ones by them: a record of counts that a state can keep.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import model_validator

from aha.config import Frozen, NotNegative, Rate, Share
from aha.data import choose
from aha.data.curriculum import choose_problems
from aha.errors import CheckpointError
from aha.records import Problem


class Choice(Frozen):
    """How a step chooses its problems; each strategy is a function of data/choose.py or data/curriculum.py.

    ``uniform`` any; ``curriculum`` easy levels more often at first; ``target`` (AdaRFT) nearest to a difficulty that
    follows the reward by ``eta`` (in shares of the problems' range of difficulties), ``alpha`` and ``beta``; ``window``
    (MiMo) pass rates from ``low`` to below ``high`` with ``easy_share`` above; ``history`` (SRPO) all but the mastered;
    ``failure`` (Kimi k1.5) and ``uncertainty`` (SPO) with chances by pass rate.

    ``decay`` is what older answers of a problem count beside those of its last visit: 1 all the same, 0 nothing.
    """

    strategy: Literal["uniform", "curriculum", "target", "window", "history", "failure", "uncertainty"] = "uniform"
    decay: Share = 0.0
    low: Share = 0.0
    high: Share = 1.0
    easy_share: Share = 0.1
    eta: NotNegative = 0.5
    alpha: Rate = 2.0
    beta: Share = 0.5

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"the window of pass rates from low={self.low} to below high={self.high} is empty")
        return self


@dataclass
class ProblemPool:
    """One set of problems: ``ProblemPool.of(problems, Choice(strategy="window"))``.

    A step calls :meth:`choose` and afterwards :meth:`record`. ``answers[key]`` is ``(right, all)``, older answers
    discounted; ``target`` is AdaRFT's. Both are all the state there is: the generator belongs to the step.
    """

    problems: Sequence[Problem]
    choice: Choice
    answers: dict[str, tuple[float, float]] = field(default_factory=dict)
    target: float = 0.0

    @classmethod
    def of(cls, problems: Sequence[Problem], choice: Choice) -> ProblemPool:
        """A pool that has asked nothing yet; the target begins at the easiest problem, as in AdaRFT."""
        pool = cls(problems, choice)
        pool.target = pool._range()[0] if choice.strategy == "target" else 0.0
        return pool

    @property
    def rates(self) -> dict[str, float]:
        """The pass rate of every problem that was asked, by its key."""
        return {name: right / total for name, (right, total) in self.answers.items()}

    def choose(self, count: int, rng: random.Random, *, progress: float) -> list[Problem]:
        """``count`` different problems by the strategy; ``progress`` in [0, 1] is how far the stage is."""
        problems, chosen = self.problems, self.choice
        match chosen.strategy:
            case "uniform" | "curriculum":
                curriculum = chosen.strategy == "curriculum"
                return choose_problems(problems, count, rng, progress=progress, curriculum=curriculum)
            case "target":
                return choose.nearest_difficulty(problems, count, rng, target=self.target)
            case "window":
                window = {"low": chosen.low, "high": chosen.high, "easy_share": chosen.easy_share}
                return choose.in_window(problems, self.rates, count, rng, **window)
            case "history":
                return choose.not_mastered(problems, self.rates, count, rng)
            case "failure":
                return choose.by_failure(problems, self.rates, count, rng)
            case "uncertainty":
                return choose.by_uncertainty(problems, self.rates, count, rng)

    def record(self, results: Iterable[tuple[str, int, int]]) -> None:
        """Take over what a step's groups showed: (problem's key, right answers, answers that could be judged).

        A group without a judged answer says nothing. The target difficulty moves once, by the share of right ones.
        """
        step_right = step_total = 0
        for name, right, total in results:
            if not 0 <= right <= total:
                raise ValueError(f"problem {name!r}: {right} of {total} answers right")
            if total:
                old_right, old_total = self.answers.get(name, (0.0, 0.0))
                decay = self.choice.decay
                self.answers[name] = (decay * old_right + right, decay * old_total + total)
            step_right, step_total = step_right + right, step_total + total
        if step_total and self.choice.strategy == "target":
            low, high = self._range()
            self.target = choose.next_target(
                self.target,
                step_right / step_total,
                eta=self.choice.eta * (high - low),
                alpha=self.choice.alpha,
                beta=self.choice.beta,
                low=low,
                high=high,
            )

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` continues from, in plain JSON values."""
        return {"answers": {name: list(counts) for name, counts in self.answers.items()}, "target": self.target}

    @classmethod
    def from_json(cls, problems: Sequence[Problem], choice: Choice, record: Mapping[str, Any]) -> ProblemPool:
        """The pool that :meth:`to_json` wrote, with its problems and settings; ``CheckpointError`` when it does not
        fit. Answers of problems that are gone are kept: they may come back."""
        try:
            answers = {str(name): (float(right), float(total)) for name, (right, total) in record["answers"].items()}
            target = float(record["target"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"a saved pool of problems does not fit ({error!r}); start the stage again") from None
        if odd := [name for name, (right, total) in answers.items() if not 0 <= right <= total or not total]:
            raise CheckpointError(f"a saved pool has {answers[odd[0]]} right answers of problem {odd[0]!r}")
        return cls(problems, choice, answers, target)

    def _range(self) -> tuple[float, float]:
        levels = [choose.difficulty(problem) for problem in self.problems]
        return min(levels), max(levels)
