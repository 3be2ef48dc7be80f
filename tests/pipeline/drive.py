"""A run of the toy recipe in a process of its own, which tests may kill: ``drive.py FOLDER STEPS SECONDS``."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from toy_recipe import toy_recipe

from aha.errors import AhaError
from aha.pipeline import plan, runner
from aha.pipeline.display import PlainDisplay
from aha.pipeline.fingerprint import compute_origins

if __name__ == "__main__":
    folder, steps, seconds = sys.argv[1:]
    plan.compute_origins = functools.partial(compute_origins, code=lambda run: "code")  # edits do not count
    pipeline = toy_recipe(steps=int(steps), seconds=float(seconds))
    try:
        runner.run_pipeline(pipeline, Path(folder), display=PlainDisplay(sys.stdout), jobs=2)
    except AhaError as error:
        print(error)
        sys.exit(error.exit_code)
