"""Knights and knaves: ``(1) Zoey is a knight (2) Oliver is a knave``: everybody's role, and all right (Logic-RL)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from aha.records import Problem

_ROLE = re.compile(
    r"(?P<name>[^\W\d_][\w'’-]*)\**\s*(?:\bis\b(?:\s+(?:an?|the))?|[:=→–-]+)\s*\**(?P<role>knight|knave)\b",
    re.IGNORECASE,
)
_UNDECIDED = re.compile(
    r"\b(?:or|if|not|either|neither|nor|unless|maybe|possibly|cannot|false|untrue|wrong|incorrect|\w+n['’]t)\b",
    re.IGNORECASE,
)
MAX_LENGTH = 2_000


def read_roles(text: str) -> Mapping[str, str] | None:
    """``{"zoey": "knight", "oliver": "knave"}``; ``None`` where nobody's role is said, somebody has two, or the text
    says ``if``, ``or``, ``not`` or ``false``, so that it commits to nothing."""
    if len(text) > MAX_LENGTH or _UNDECIDED.search(text):
        return None
    roles: dict[str, str] = {}
    for found in _ROLE.finditer(text):
        name, role = found["name"].casefold(), found["role"].lower()
        if roles.setdefault(name, role) != role:
            return None
    return roles or None


def is_correct(problem: Problem, answer: str) -> bool:
    """Everybody of the gold, and nobody else, has the gold's role; the order is free."""
    roles = read_roles(answer)
    return roles is not None and roles == read_roles(problem.answer)


def vote_key(answer: str) -> str | None:
    roles = read_roles(answer)
    return None if roles is None else ", ".join(f"{name} {role}" for name, role in sorted(roles.items()))
