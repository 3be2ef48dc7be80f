from __future__ import annotations

import sys
from multiprocessing.connection import Connection

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
