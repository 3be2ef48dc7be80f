"""Preference models and preference optimisation of a real checkpoint on pairs of your own.

    aha run preferences_real --set model=models/smollm2 --set pairs=my_pairs.jsonl

``pairs`` is any file that data/preference_files.py reads, with ``chosen`` and ``rejected``. The model reads every text
once; a helpfulness model then learns to compare two answers, from all pairs and from those that leave length no say, a
safety model to tell the good answer from the bad one by itself, each as a head on some layer of it. The policy is
taught the preferred answers by DPO. What each is worth is measured on prompts that it did not learn from. The defaults
are for a model of a hundred million parameters and a few thousand pairs on two cores: of a dialogue the end is read,
and DPO changes the last fifth of the layers.
"""

from __future__ import annotations

from pathlib import Path

from aha.pipeline.graph import Pipeline, Stage
from aha.stages import foundation, preference, preference_data, reward_head, states

CHATML = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def preferences_real(
    *, pairs: Path, model: Path = Path("models/smollm2"), template: str = CHATML, seed: int = 0
) -> Pipeline:
    """``template`` is what the model was tuned on, with one ``{question}``."""
    untrained = Stage("untrained", foundation.run, foundation.Settings(folder=model, template=template), cost=10)
    made = preference_data.Settings(file=pairs, balance=False, longest=1_000, prompt_tail=150)
    ready = Stage("pairs", preference_data.run, made, cost=2)
    short = made.model_copy(update={"balance": True, "train": 384, "test": 128, "longest": 400})
    few = Stage("pairs_dpo", preference_data.run, short, cost=2)
    even = Stage("pairs_even", preference_data.run, made.model_copy(update={"balance": True}), cost=2)
    inputs = {"init": untrained, "preferences": ready}
    reading = states.Settings(depths=(6, 9, 12), dtype="bfloat16")
    read = Stage("read", states.run, reading, inputs, cost=700)
    learned = preference.Settings(batch=16, lr=1e-4, layers=6, precision="bf16")
    helpful = reward_head.Settings(reads="answer", folds=6, inner_folds=3)
    safe = helpful.model_copy(update={"reads": "everything", "loss": "pointwise"})
    stages = (
        untrained,
        ready,
        few,
        even,
        read,
        Stage("helpful", reward_head.run, helpful, {**inputs, "states": read}, cost=50),
        Stage("helpful_even", reward_head.run, helpful, {**inputs, "preferences": even, "states": read}, cost=50),
        Stage("safe", reward_head.run, safe, {**inputs, "states": read}, cost=60),
        Stage("dpo", preference.run, learned, {"init": untrained, "preferences": few}, cost=600),
    )
    arguments = {"seed": seed, "pairs": str(pairs), "model": str(model), "template": template}
    return Pipeline("preferences_real", 2, arguments, stages)
