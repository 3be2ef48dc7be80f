"""A diamond of four stages, as a recipe file: a -> b, a -> c, (b, c) -> d."""

from __future__ import annotations

import toy_stages

from aha.pipeline.graph import Pipeline, Stage


def toy_recipe(*, seed: int = 0, steps: int = 5, seconds: float = 0.0) -> Pipeline:
    settings = toy_stages.Settings(steps=steps, seconds=seconds)
    a = Stage("a", toy_stages.run, settings)
    b = Stage("b", toy_stages.run, settings, {"left": a})
    c = Stage("c", toy_stages.run, settings, {"left": a}, cost=2.0)
    d = Stage("d", toy_stages.run, settings, {"left": b, "right": c})
    return Pipeline("toy_recipe", 1, {"seed": seed, "steps": steps, "seconds": seconds}, (d, c, b, a))
