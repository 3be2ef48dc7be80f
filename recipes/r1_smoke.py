"""r1_tiny with every stage cut to a few steps: proves in about a minute that the program runs whole. It learns nothing.

    aha run r1_smoke
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aha.pipeline.graph import Pipeline
from aha.pipeline.recipe import load_pipeline

SHORT = (
    "tokenizer.documents=2000",
    "problems.train=2000",
    "problems.test=24",
    "problems.general_train=300",
    "problems.general_test=24",
    "base.steps=100",
    "student_base.steps=100",
    *(
        f"{name}.{key}"
        for name in ("r1_zero", "random_reward", "dev2", "r1", "student_rl")
        for key in ("steps=4", "prompts=8", "samples=4")
    ),
    "r1.general_share=0.25",
    "cold_start.problems=24",
    "cold_start.clean=60",
    "rejection.problems=24",
    "rejection.general=60",
    "helpful.pairs=64",
    "helpful.held_out_pairs=16",
    "safe.pairs=64",
    "safe.held_out_pairs=16",
)


def r1_smoke(*, seed: int = 0) -> Pipeline:
    """The stages and edges of ``r1_tiny`` with the settings of ``SHORT``."""
    _, pipeline = load_pipeline(str(Path(__file__).with_name("r1_tiny.py")), [f"seed={seed}", *SHORT])
    return replace(pipeline, name="r1_smoke")
