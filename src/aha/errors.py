"""Errors a person can act on.

    AhaError                 what was wrong, where, both values, what to do: printed without a traceback, exit code 1
    ├── UsageError           the command line was wrong: exit code 2
    │   └── SettingError     an unknown or impossible setting (the nearest known name is offered)
    ├── DataError            a file, line or row that cannot be used
    ├── CheckpointError      a model folder, tensor or state that does not fit
    ├── InvariantError       a check that runs while training failed: the run would have trained on nonsense
    ├── VerifierError        verifiers failed more often than the run allows
    ├── EndpointError        a model behind an endpoint refuses, is gone, or would cost more than allowed
    ├── SandboxError         the sandbox itself failed: nothing is known of the program
    │   └── SandboxRefused   this machine cannot isolate programs as asked: nothing is run
    └── StageFailed          a stage ended with an error; everything finished before it stays usable

A programming error of ours is an ``AssertionError`` and does show its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AhaError(Exception):
    """Base of every error a user can cause or repair."""

    exit_code = 1


class UsageError(AhaError):
    """The command line is wrong."""

    exit_code = 2


class SettingError(UsageError):
    """A setting does not exist, or its value cannot be."""


class DataError(AhaError):
    """A problem file, line or row cannot be used."""


class CheckpointError(AhaError):
    """A model folder, a tensor or a saved state does not fit."""


class InvariantError(AhaError):
    """A check that runs while training failed."""


class VerifierError(AhaError):
    """Verifiers failed (not: judged wrong) more often than the run allows."""


class EndpointError(AhaError):
    """A model behind an endpoint does not answer as asked; what it answered before is kept."""


class SandboxError(AhaError):
    """The sandbox failed, not the program in it."""


class SandboxRefused(SandboxError):
    """This machine lacks a layer of isolation that was asked for, so no program is run."""


class StageFailed(AhaError):
    """A stage of a pipeline ended with an error."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest known name and lists what there is: ``did you mean 'steps'? known: ...``."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) if names else '(none)'}"
