"""A run of the toy recipe in a process of its own, which tests may kill: ``drive.py FOLDER STEPS SECONDS``."""

from __future__ import annotations

import sys
from pathlib import Path

from toy_recipe import toy_recipe

from aha.errors import AhaError
from aha.pipeline import runner
from aha.pipeline.display import PlainDisplay

if __name__ == "__main__":
    folder, steps, seconds = sys.argv[1:]
    runner.hash_sources = lambda package: "code"  # an edit of the sources while tests run is no part of them
    pipeline = toy_recipe(steps=int(steps), seconds=float(seconds))
    try:
        runner.run_pipeline(pipeline, Path(folder), display=PlainDisplay(sys.stdout), jobs=2)
    except AhaError as error:
        print(error)
        sys.exit(error.exit_code)
