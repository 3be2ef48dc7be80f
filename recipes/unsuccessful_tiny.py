"""What DeepSeek-R1's authors tried and left (R1v1 4.2), beside what they kept: process rewards and tree search.

    aha run unsuccessful_tiny --set base=runs/r1_tiny/student_base
    aha run unsuccessful_tiny --set base=runs/r1_tiny/student_base --set seeds=1 --set steps=10

Five ways from one base model, over seeds: GRPO on outcomes; GRPO on the rewards of steps, by a rule and by a process
reward model; fine-tuning on the base's own right samples, and on those that a Monte-Carlo tree search with the same
model as its value found. The report compares their gains.
"""

from __future__ import annotations

from pathlib import Path

from aha.pipeline.graph import Pipeline, Stage
from aha.stages import compare, evaluate, examples, foundation, problems, process_reward, rl, sft

PROMPTS, SAMPLES = 16, 16
REINFORCED = {"grpo": "grpo", "process_rule": "grpo-process", "prm": "grpo-process"}
SEARCHED = {"rejection_sft": 0, "mcts_sft": 8}
"""Simulations a problem, of four steps each: about the tokens of four samples."""


def unsuccessful_tiny(
    *, base: Path = Path("runs/r1_tiny/student_base"), seeds: int = 3, steps: int = 40, seed: int = 0
) -> Pipeline:
    """``base`` is a stage of r1_tiny; ``seeds`` runs of each way, ``steps`` updates or as many problems asked."""
    start = Stage("base", foundation.run, foundation.Settings(folder=base), cost=1)
    asked = Stage("problems", problems.run, problems.Settings(source="toy"), cost=1)
    labelled = process_reward.Settings(problems=800, each=2, rollouts=4, epochs=5, lr=2e-4, warmup=10)
    scorer = Stage("scorer", process_reward.run, labelled, {"policy": start, "problems": asked}, cost=60)
    judged = {"start": _judge("base_eval", start, asked)}
    stages = [start, asked, scorer, judged["start"]]
    for number in range(seeds):
        for name, algorithm in REINFORCED.items():
            settings = rl.Settings(
                algorithm=algorithm, steps=steps, prompts=PROMPTS, samples=SAMPLES, minibatches=2, lr=1.5e-4,
                final_ratio=0.3, rollback_every=0,
            )  # fmt: skip
            inputs = {"init": start, "problems": asked, **({"scorer": scorer} if name == "prm" else {})}
            model = Stage(f"{name}_{number}", rl.run, settings, inputs, seed_name=f"seed{number}", cost=30)
            judged[f"{name}/{number}"] = _judge(f"{model.name}_eval", model, asked)
            stages += [model, judged[f"{name}/{number}"]]
        for name, simulations in SEARCHED.items():
            sampled = examples.Settings(
                problems=steps * PROMPTS * SAMPLES // 4, samples=4, per_problem=4, simulations=simulations
            )
            inputs = {"policy": start, "problems": asked, "scorer": scorer}
            kept = Stage(f"{name}_{number}_samples", examples.run, sampled, inputs, seed_name=f"seed{number}", cost=30)
            learned = {"init": start, "data": kept}
            model = Stage(
                f"{name}_{number}", sft.run, sft.Settings(lr=5e-4), learned, seed_name=f"seed{number}", cost=15
            )
            judged[f"{name}/{number}"] = _judge(f"{model.name}_eval", model, asked)
            stages += [kept, model, judged[f"{name}/{number}"]]
    arms = (*REINFORCED, *SEARCHED)
    stages.append(Stage("controls", compare.run, compare.Settings(arms=arms), judged, cost=1))
    arguments = {"seed": seed, "seeds": seeds, "steps": steps, "base": str(base)}
    return Pipeline("unsuccessful_tiny", 1, arguments, tuple(stages))


def _judge(name: str, model: Stage, asked: Stage) -> Stage:
    settings = evaluate.Settings(general_samples=1)
    return Stage(name, evaluate.run, settings, {"model": model, "problems": asked}, seed_name="evaluation", cost=4)
