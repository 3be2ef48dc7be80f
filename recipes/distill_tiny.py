"""A large reasoner's right answers, or reinforcement learning of one's own: what makes a small model reason better?

    aha run distill_tiny                      # three seeds of each arm, into runs/distill_tiny
    aha run distill_tiny --set seeds=1        # one, in about ten minutes of one core

A teacher learns from worked solutions and a little RL; its samples are verified, checked for readability and balanced
over the tasks, and a student of a fifth of its size learns from them. The control is RL on the same student directly,
and the student's base. DeepSeek-R1 found distillation far ahead of direct RL (R1v1 4.1, table 6). ``logits`` is the
same set, learned by the teacher's whole distribution over tokens: the two share a tokenizer.
"""

from __future__ import annotations

from aha.errors import SettingError, nearest
from aha.pipeline.graph import Pipeline, Stage
from aha.stages import compare, evaluate, examples, pretrain, problems, reject, rl, sft, tokenizer

ARMS = ("direct_rl", "distilled", "logits")
SHARES = {"chain": 0.7, "countdown": 0.3}  # of the tasks, as they are asked and tested


def distill_tiny(*, seed: int = 0, seeds: int = 3, arms: tuple[str, ...] = ("direct_rl", "distilled")) -> Pipeline:
    """``seeds`` runs of each of the ``arms`` (``logits`` is the third); ``seed`` decides problems, teacher and base."""
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise SettingError(f"no arm {unknown[0]!r}: {nearest(unknown[0], ARMS)}")
    words = Stage("tokenizer", tokenizer.run, tokenizer.Settings(), cost=2)
    asked = Stage("problems", problems.run, problems.Settings(source="toy"), cost=1)

    large = Stage("teacher_base", pretrain.run, pretrain.Settings(steps=1_200), {"tokenizer": words}, cost=110)
    worked = Stage("worked", examples.run, examples.Settings(clean=6_000), {"problems": asked}, cost=2)
    taught = Stage("teacher_sft", sft.run, sft.Settings(epochs=3), {"init": large, "data": worked}, cost=60)
    teacher = Stage(
        "teacher",
        rl.run,
        rl.Settings(steps=10, minibatches=2, lr=1.5e-4, final_ratio=0.1),
        {"init": taught, "problems": asked},
        cost=20,
    )
    samples = Stage(
        "samples",
        reject.run,
        reject.Settings(problems=8_000, samples=2, weights=SHARES),
        {"policy": teacher, "problems": asked},
        cost=10,
    )
    small = pretrain.Shape(hidden_size=48, intermediate_size=128, num_hidden_layers=3)
    student = Stage(
        "student_base",
        pretrain.run,
        pretrain.Settings(shape=small, steps=2_000, lr=4e-3),
        {"tokenizer": words},
        cost=90,
    )
    start, best = _judge(student, asked), _judge(teacher, asked)
    stages = [words, asked, large, worked, taught, teacher, samples, student, start, best]
    judged = {"start": start, "teacher": best}
    for arm in arms:
        for number in range(seeds):
            model = _train(arm, number, student, asked, samples, teacher)
            evaluation = _judge(model, asked)
            stages += [model, evaluation]
            judged[f"{arm}/{number}"] = evaluation
    stages.append(Stage("distillation", compare.run, compare.Settings(arms=arms), judged, cost=1))
    return Pipeline("distill_tiny", 1, {"seed": seed, "seeds": seeds, "arms": ",".join(arms)}, tuple(stages))


def _train(arm: str, number: int, student: Stage, asked: Stage, samples: Stage, teacher: Stage) -> Stage:
    """The student trained the way of the arm, with the random streams of its seed."""
    name, stream = f"{arm}_{number}", f"seed{number}"
    if arm == "direct_rl":
        settings = rl.Settings(steps=50, minibatches=2, lr=1.5e-4, final_ratio=0.3)
        return Stage(name, rl.run, settings, {"init": student, "problems": asked}, seed_name=stream, cost=60)
    learned = {"init": student, "data": samples} | ({"teacher": teacher} if arm == "logits" else {})
    return Stage(name, sft.run, sft.Settings(epochs=3, lr=2e-3), learned, seed_name=stream, cost=30)


def _judge(model: Stage, asked: Stage) -> Stage:
    settings = evaluate.Settings(general_samples=1)
    inputs = {"model": model, "problems": asked}
    return Stage(f"{model.name}_eval", evaluate.run, settings, inputs, seed_name="evaluation", cost=4)
