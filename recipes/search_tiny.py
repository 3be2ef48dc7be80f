"""A process reward model for the toy's reasoner, and what it is worth as a guide: the first half of test-time search.

    aha run search_tiny --set policy=runs/r1_tiny/r1
    aha bench search runs/search_tiny/policy --scorer runs/search_tiny/scorer --bench countdown

``policy`` is a finished stage of r1_tiny, or any model folder of aha. It answers problems at a temperature at which it
errs, rollouts from the end of every step say whether that can still end right, and a copy of the policy learns to say
so without rollouts. docs/search.md shows what search gains by it.
"""

from __future__ import annotations

from pathlib import Path

from aha.pipeline.graph import Pipeline, Stage
from aha.stages import foundation, problems, process_reward


def search_tiny(*, policy: Path = Path("runs/r1_tiny/r1"), seed: int = 0) -> Pipeline:
    """``seed`` decides problems, samples and the order of training."""
    asker = Stage("policy", foundation.run, foundation.Settings(folder=policy), cost=1)
    asked = Stage("problems", problems.run, problems.Settings(source="toy"), cost=1)
    settings = process_reward.Settings(
        problems=5_000, each=3, rollouts=2, temperature=1.3, epochs=4, lr=3e-4, warmup=10
    )
    scorer = Stage("scorer", process_reward.run, settings, {"policy": asker, "problems": asked}, cost=300)
    return Pipeline("search_tiny", 1, {"seed": seed, "policy": str(policy)}, (asker, asked, scorer))
