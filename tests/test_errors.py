"""Errors have the exit codes of the command line, and names are offered that are near."""

from __future__ import annotations

import pytest

from aha import errors
from aha.errors import AhaError, SettingError, UsageError, nearest


def test_wrong_usage_exits_with_2_and_everything_else_with_1() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AhaError)]
    assert len(kinds) == 11
    assert {kind for kind in kinds if kind.exit_code == 2} == {UsageError, SettingError}


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("stepz", ["steps", "seed"], "did you mean 'steps'? known: seed, steps"),
        ("zzz", ["steps", "seed"], "known: seed, steps"),
        ("x", [], "known: (none)"),
    ],
)
def test_nearest(name: str, known: list[str], sentence: str) -> None:
    assert nearest(name, known) == sentence
