"""Preference models and preference optimisation of a real checkpoint on pairs of your own.

    aha run preferences_real --set model=models/smollm2 --set pairs=my_pairs.jsonl

``pairs`` is any file that data/preference_files.py reads, with ``chosen`` and ``rejected``. A helpfulness model learns
to compare the two answers, a safety model to tell the good from the bad one by itself, and the policy is taught the
preferred one by DPO. What each is worth is measured on prompts that nothing was trained on. The defaults are for a
model of a hundred million parameters on two cores: short texts, and only the last fifth of the layers learns.
"""

from __future__ import annotations

from pathlib import Path

from aha.pipeline.graph import Pipeline, Stage
from aha.stages import foundation, preference, preference_data, reward_model

CHATML = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def preferences_real(
    *, pairs: Path, model: Path = Path("models/smollm2"), template: str = CHATML, layers: int = 6, seed: int = 0
) -> Pipeline:
    """``template`` is what the model was tuned on, with one ``{question}``; the last ``layers`` learn, 0 means all."""
    untrained = Stage("untrained", foundation.run, foundation.Settings(folder=model, template=template), cost=10)
    made = preference_data.Settings(file=pairs, train=800, longest=800)
    ready = Stage("pairs", preference_data.run, made, cost=2)
    few = Stage("pairs_dpo", preference_data.run, made.model_copy(update={"train": 320}), cost=2)
    inputs = {"init": untrained, "preferences": ready}
    judged = reward_model.Settings(reads="answer", batch=16, lr=1e-4, longest=256, layers=layers)
    labelled = judged.model_copy(update={"reads": "everything", "loss": "pointwise", "batch": 32})
    learned = preference.Settings(batch=16, lr=2e-5, longest=256, layers=layers)
    stages = (
        untrained,
        ready,
        few,
        Stage("helpful", reward_model.run, judged, inputs, cost=900),
        Stage("dpo", preference.run, learned, {"init": untrained, "preferences": few}, cost=600),
        Stage("safe", reward_model.run, labelled, inputs, cost=900),
    )
    return Pipeline("preferences_real", 1, {"seed": seed, "layers": layers}, stages)
