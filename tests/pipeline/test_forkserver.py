from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection

import pytest

from aha.pipeline import forkserver
from aha.pipeline.forkserver import IMPORTED_LATE, stage_modules, start_forkserver


def say_what_is_imported(connection: Connection) -> None:
    connection.send(sorted(sys.modules))


def test_a_stage_begins_with_everything_imported() -> None:
    context = start_forkserver(stage_modules())
    ours, theirs = context.Pipe()
    process = context.Process(target=say_what_is_imported, args=(theirs,))
    process.start()
    imported = set(ours.recv())
    process.join()
    assert {"torch", "aha.stages.rl", *IMPORTED_LATE} <= imported


def test_what_a_user_tells_glibc_stays_beside_what_stages_need(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = "glibc.malloc.arena_max=2"
    monkeypatch.setenv("GLIBC_TUNABLES", theirs)
    with forkserver._environment_of_stages():
        assert os.environ["GLIBC_TUNABLES"] == f"{theirs}:glibc.malloc.tcache_count=0"
    assert os.environ["GLIBC_TUNABLES"] == theirs
