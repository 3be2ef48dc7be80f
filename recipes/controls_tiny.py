"""What is reinforcement learning worth, and which? Twelve ways to spend one budget on one base model, over five seeds.

    aha run controls_tiny
    aha run controls_tiny --set seeds=2 --set arms=grpo,ppo,random --out runs/few

Every arm starts from the same small base and asks the same problems in the same order (of its seed), as many times;
DAPO alone asks more where a group's rewards are equal, and PPO trains a critic beside. Eight are rows of the table of
algorithms at one learning rate. Four are controls: what an SFT on the base's own right samples gives, what more
pre-training gives, what a coin as the reward gives (any gain would be an artefact), and what a reward for the format
alone gives (a gain says that the answer was there and not readable).
"""

from __future__ import annotations

from aha.errors import SettingError, nearest
from aha.pipeline.graph import Pipeline, Stage
from aha.stages import compare, evaluate, examples, pretrain, problems, rl, sft, tokenizer
from aha.stages.rewarding import Weights

STEPS, PROMPTS, SAMPLES = 40, 16, 16
ALGORITHMS = {
    "grpo": "grpo",
    "ppo": "ppo",
    "rloo": "rloo",
    "reinforce_pp": "reinforce++",
    "dr_grpo": "dr-grpo",
    "dapo": "dapo",
    "gspo": "gspo",
    "cispo": "cispo",
}
REWARDS = {
    "random": Weights(accuracy=0.0, format=0.0, random=1.0),
    "format_only": Weights(accuracy=0.0, format=1.0),
}
ARMS = (*ALGORITHMS, "rejection_sft", "more_pretraining", *REWARDS)


def controls_tiny(*, seed: int = 0, seeds: int = 5, arms: tuple[str, ...] = ARMS) -> Pipeline:
    """``seeds`` runs of each of the ``arms``; ``seed`` decides the base and the problems."""
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise SettingError(f"no arm {unknown[0]!r}: {nearest(unknown[0], ARMS)}")
    words = Stage("tokenizer", tokenizer.run, tokenizer.Settings(), cost=2)
    asked = Stage("problems", problems.run, problems.Settings(source="toy"), cost=1)
    small = pretrain.Shape(hidden_size=48, intermediate_size=128, num_hidden_layers=3)
    pretraining = pretrain.Settings(shape=small, steps=2_700, lr=4e-3)
    base = Stage("base", pretrain.run, pretraining, {"tokenizer": words}, cost=130)
    start = _judge("base_eval", base, asked)
    stages, judged = [words, asked, base, start], {"start": start}
    for arm in arms:
        for number in range(seeds):
            model, more = _train(arm, number, base, asked, pretraining)
            evaluation = _judge(f"{model.name}_eval", model, asked)
            stages += [*more, model, evaluation]
            judged[f"{arm}/{number}"] = evaluation
    stages.append(Stage("controls", compare.run, compare.Settings(arms=arms), judged, cost=1))
    return Pipeline("controls_tiny", 1, {"seed": seed, "seeds": seeds, "arms": ",".join(arms)}, tuple(stages))


def _train(
    arm: str, number: int, base: Stage, asked: Stage, pretraining: pretrain.Settings
) -> tuple[Stage, list[Stage]]:
    """The trained model of an arm, and what had to be made before it. Every arm has the random streams of its seed."""
    name, stream = f"{arm}_{number}", f"seed{number}"
    inputs = {"init": base, "problems": asked}
    if arm == "rejection_sft":
        settings = examples.Settings(problems=STEPS * PROMPTS * SAMPLES // 4, samples=4, per_problem=4)
        sampled = {"policy": base, "problems": asked}
        kept = Stage(f"{name}_samples", examples.run, settings, sampled, seed_name=stream, cost=15)
        learned = {"init": base, "data": kept}
        return Stage(name, sft.run, sft.Settings(lr=5e-4), learned, seed_name=stream, cost=15), [kept]
    if arm == "more_pretraining":
        settings = pretraining.model_copy(update={"steps": 400, "lr": 1e-3})
        return Stage(name, pretrain.run, settings, {"init": base}, seed_name=stream, cost=25), []
    settings = rl.Settings(
        algorithm=ALGORITHMS.get(arm, "grpo"),
        steps=STEPS,
        prompts=PROMPTS,
        samples=SAMPLES,
        minibatches=2,
        lr=1.5e-4,
        final_ratio=0.3,
        rollback_every=0,
        weights=REWARDS.get(arm, Weights()),
    )
    return Stage(name, rl.run, settings, inputs, seed_name=stream, cost=30), []


def _judge(name: str, model: Stage, asked: Stage) -> Stage:
    settings = evaluate.Settings(general_samples=1)
    return Stage(name, evaluate.run, settings, {"model": model, "problems": asked}, seed_name="evaluation", cost=4)
