"""The whole R1 recipe at toy size: minutes on two CPU cores, every stage real.

    aha run r1_tiny                          # all of it, into runs/r1_tiny
    aha run r1_tiny --set seed=1 --out runs/seed1
    aha run r1_tiny --only r1_zero_eval      # this stage alone, once what it reads is there

A base model is trained from scratch on a small bilingual corpus of mixed quality. From it come R1-Zero (pure
reinforcement learning), then R1 through its four stages (cold start, reasoning RL, rejection sampling and SFT of the
base again, RL for all scenarios), and a student of a fifth of the size: its own base, RL on it directly, and the same
base distilled from R1's data. Which checkpoint starts where is DeepSeek-R1's (R1v1 2.3, R1v2 figure 2): R1-Zero only
makes data, both SFT stages restart from the base. Sizes and rates are ours; docs/r1_tiny.md says why.
"""

from __future__ import annotations

from functools import partial

from aha.pipeline.graph import Pipeline, Stage
from aha.stages import evaluate, examples, pretrain, problems, reward_model, rl, sft, tokenizer
from aha.stages.rewarding import Weights


def r1_tiny(*, seed: int = 0) -> Pipeline:
    """``seed`` decides everything random: data, weights, prompts and samples."""
    words = Stage("tokenizer", tokenizer.run, tokenizer.Settings(), cost=2)
    asked = Stage("problems", problems.run, problems.Settings(source="toy"), cost=1)

    # All but the student waits for it: two threads shorten the run by a sixth.
    base = Stage(
        "base",
        pretrain.run,
        pretrain.Settings(steps=2_400, final_ratio=0.0),
        {"tokenizer": words},
        cost=150,
        threads=2,
    )
    # Sampler and trainer agree to a millionth in float32, so ratios may be to the sampler's own log-probs.
    grpo = partial(rl.Settings, minibatches=2, importance_cap=None, beta=0.0)
    zero = Stage(
        "r1_zero",
        rl.run,
        grpo(steps=105, lr=1.5e-4, final_ratio=0.1),
        {"init": base, "problems": asked},
        cost=75,
    )
    coin = Weights(accuracy=0.0, format=0.0, random=1.0)
    random_reward = Stage(
        "random_reward",
        rl.run,
        grpo(steps=30, weights=coin),
        {"init": base, "problems": asked},
        cost=40,
    )

    cold_start = Stage(
        "cold_start",
        examples.run,
        examples.Settings(problems=300, samples=4, per_problem=1, rewritten=True, clean=200),
        {"policy": zero, "problems": asked},
        cost=5,
    )
    dev1 = Stage("dev1", sft.run, sft.Settings(epochs=3, lr=5e-4), {"init": base, "data": cold_start}, cost=10)
    dev2 = Stage(
        "dev2",
        rl.run,
        grpo(steps=50, lr=1.5e-4, final_ratio=0.1, weights=Weights(language=0.3)),
        {"init": dev1, "problems": asked},
        cost=35,
    )
    rejection = Stage(
        "rejection",
        examples.run,
        examples.Settings(problems=8_000, samples=2, general=1_000),
        {"policy": dev2, "problems": asked},
        cost=8,
    )
    dev3 = Stage("dev3", sft.run, sft.Settings(epochs=2), {"init": base, "data": rejection}, cost=32)
    helpful = Stage(
        "helpful", reward_model.run, reward_model.Settings(reads="answer"), {"init": dev3, "problems": asked}, cost=8
    )
    safe = Stage(
        "safe", reward_model.run, reward_model.Settings(reads="everything"), {"init": dev3, "problems": asked}, cost=8
    )
    everything = Weights(language=0.3, general=1.0, helpful=2.0, safe=2.0)
    r1 = Stage(
        "r1",
        rl.run,
        grpo(steps=80, lr=1.2e-4, final_ratio=0.2, general_share=0.375, weights=everything),
        {"init": dev3, "problems": asked, "helpful": helpful, "safe": safe},
        cost=35,
    )

    small = pretrain.Shape(hidden_size=48, intermediate_size=128, num_hidden_layers=3)
    student_base = Stage(
        "student_base",
        pretrain.run,
        pretrain.Settings(shape=small, steps=2_700, lr=4e-3, final_ratio=0.0),
        {"tokenizer": words},
        cost=140,
    )
    student_rl = Stage(
        "student_rl",
        rl.run,
        grpo(steps=50, lr=1.5e-4, final_ratio=0.3),
        {"init": student_base, "problems": asked},
        cost=26,
    )
    student_distilled = Stage(
        "student_distilled",
        sft.run,
        sft.Settings(epochs=3, lr=2e-3),
        {"init": student_base, "data": rejection},
        cost=15,
    )

    models = [base, zero, random_reward, dev1, dev2, dev3, r1, student_base, student_rl, student_distilled]
    judged = [
        Stage(
            f"{model.name}_eval",
            evaluate.run,
            evaluate.Settings(),
            {"model": model, "problems": asked, "helpful": helpful, "safe": safe},
            seed_name="evaluation",
            cost=4,
        )
        for model in models
    ]
    stages = (words, asked, *models, cold_start, rejection, helpful, safe, *judged)
    return Pipeline("r1_tiny", 1, {"seed": seed}, stages)
