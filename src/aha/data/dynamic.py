"""Dynamic sampling: ask until a step has enough groups to learn from, and say what that cost.

A group whose rewards are all equal gives no gradient. DAPO (2503.14476) section 3.2 asks for more until the batch is
full of mixed ones. Nothing here samples; a stage does, in this loop::

    account = Account(wanted=16, max_rounds=4, max_tokens=200_000)
    while number := account.to_ask():
        groups = ...  # ask that many problems, judge their completions
        kept, account = account.settle([Judged(rewards, valid, tokens) for ... in groups])
        batch += [groups[i] for i in kept]
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from aha.errors import SettingError
from aha.records import FinishReason


@dataclass(frozen=True, slots=True)
class Judged:
    """What counts of a judged group: ``Judged(rewards=(1.0, 0.0), valid=(True, True), tokens=57)``; ``tokens`` of all
    its completions, ``valid`` False where no reward is known."""

    rewards: Sequence[float]
    valid: Sequence[bool]
    tokens: int


def is_mixed(group: Judged) -> bool:
    """Whether two known rewards differ: just then some advantage is not 0 (objective/advantages.py)."""
    known = [reward for reward, valid in zip(group.rewards, group.valid, strict=True) if valid]
    return bool(known) and max(known) > min(known)


@dataclass(frozen=True, kw_only=True)
class Account:
    """A step's bookkeeping, replaced by a new one after each round.

    Wanted are ``wanted`` groups in at most ``max_rounds`` rounds; ``max_tokens`` is a budget of sampled tokens that a
    further round is expected to stay in (``None``: no budget). ``asked`` and ``mixed`` count groups. ``tokens_wasted``
    are those of groups without a difference and of mixed ones that there was no room for.
    """

    wanted: int
    max_rounds: int
    max_tokens: int | None = None
    rounds: int = 0
    asked: int = 0
    mixed: int = 0
    kept: int = 0
    tokens_kept: int = 0
    tokens_wasted: int = 0

    def __post_init__(self) -> None:
        if self.wanted < 1 or self.max_rounds < 1 or (self.max_tokens is not None and self.max_tokens < 1):
            raise SettingError(
                f"dynamic sampling wants {self.wanted} groups in {self.max_rounds} rounds within {self.max_tokens} "
                "tokens: each must be at least 1"
            )

    @property
    def tokens(self) -> int:
        """Sampled so far."""
        return self.tokens_kept + self.tokens_wasted

    def to_ask(self) -> int:
        """How many groups the next round asks; 0 when the step has enough, the rounds are used up, or another round
        would not fit.

        First ``wanted``; then what is missing over the share of mixed groups so far, which is as many as should do,
        and never more than ``wanted``: where nothing is mixed yet, no share can be told.
        """
        missing = self.wanted - self.kept
        if not missing or self.rounds == self.max_rounds:
            return 0
        number = min(self.wanted, math.ceil(missing * self.asked / self.mixed)) if self.mixed else self.wanted
        return number if round_fits(self, number) else 0

    def settle(self, groups: Sequence[Judged]) -> tuple[list[int], Account]:
        """Which of a round's groups are kept, in order, and the account after it."""
        mixed = [i for i, group in enumerate(groups) if is_mixed(group)]
        kept = mixed[: self.wanted - self.kept]
        tokens_kept = sum(groups[i].tokens for i in kept)
        after = dataclasses.replace(
            self,
            rounds=self.rounds + 1,
            asked=self.asked + len(groups),
            mixed=self.mixed + len(mixed),
            kept=self.kept + len(kept),
            tokens_kept=self.tokens_kept + tokens_kept,
            tokens_wasted=self.tokens_wasted + sum(group.tokens for group in groups) - tokens_kept,
        )
        return kept, after


def round_fits(account: Account, number: int) -> bool:
    """Whether ``number`` more groups, as long as those so far on average, stay in the budget of sampled tokens. The
    first round always does: a step without completions is none."""
    if account.max_tokens is None or not account.asked:
        return True
    return account.tokens + number * account.tokens / account.asked <= account.max_tokens


def not_truncated(reasons: Sequence[FinishReason]) -> list[bool]:
    """Which completions count: the overlong filter masks those that were cut, whose reward says nothing of them.

    DAPO (2503.14476) section 3.4, DeepCoder. Skywork-OR1 found that it lets truncation grow at long caps: there, let
    them be wrong.
    """
    return [reason is not FinishReason.LENGTH for reason in reasons]
