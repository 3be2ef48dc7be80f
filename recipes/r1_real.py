"""R1's recipe on a real checkpoint: cold-start SFT, GRPO from easy to hard, evaluation, report.

    aha run r1_real --set model=models/smollm2 --set problems=my_problems.jsonl

``model`` is any Hugging Face folder of llama, qwen2 or qwen3; ``problems`` any file or folder of rows with ``problem``,
``answer`` and, for the cold start, ``solution`` (``--set own_examples=0`` does without). The defaults are a short run
on two cores; where torch sees a GPU the same stages run there: raise steps, prompts and lengths with ``--set``. First
come generated one-digit products and sums of one and two digits, by growing level; then these and your own problems
in turn, where a file is given. With no cold start a small model never writes the asked-for tags and every reward is 0.
"""

from __future__ import annotations

from pathlib import Path

from aha.data.pool import Choice
from aha.pipeline.graph import Pipeline, Stage
from aha.stages import evaluate, examples, foundation, rl, sft
from aha.stages import problems as problem_sets

CHATML = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def r1_real(
    *,
    model: Path = Path("models/smollm2"),
    problems: Path | None = None,
    template: str = CHATML,
    own_examples: int = 40,
    seed: int = 0,
) -> Pipeline:
    """``template`` is what the model was tuned on, with one ``{question}``; the default is ChatML without a system
    message. ``own_examples`` of your problems, which then need a ``solution``, go into the cold start; 0 takes none.
    """
    untrained = Stage("untrained", foundation.run, foundation.Settings(folder=model, template=template), cost=10)
    arithmetic = Stage("arithmetic", problem_sets.run, problem_sets.Settings(source="arithmetic", train=800, test=120))
    worked = Stage("worked", examples.run, examples.Settings(clean=200), {"problems": arithmetic})
    sources = {"data": worked}
    stages = [untrained, arithmetic, worked]
    if problems is not None:
        own = Stage("own", problem_sets.run, problem_sets.Settings(source=problems, test=60))
        stages.append(own)
        if own_examples:
            own_worked = Stage("own_worked", examples.run, examples.Settings(clean=own_examples), {"problems": own})
            stages.append(own_worked)
            sources["data_own"] = own_worked
    cold_start = Stage(
        "cold_start",
        sft.run,
        sft.Settings(epochs=1, lr=5e-5, batch_tokens=512, row_length=256, rows=1),
        {"init": untrained, **sources},
        cost=300,
    )
    settings = rl.Settings(
        steps=30,
        prompts=12,
        samples=8,
        minibatches=1,
        lr=2e-5,
        beta=0.0,
        max_new_tokens=96,
        choice=Choice(strategy="curriculum"),
        token_budget=1_024,
    )
    reasoner = Stage("arithmetic_rl", rl.run, settings, {"init": cold_start, "problems": arithmetic}, cost=1500)
    stages += [cold_start, reasoner]
    judged = {"untrained": untrained, "cold_start": cold_start, "arithmetic_rl": reasoner}
    if problems is not None:
        # Both sets: in eight steps on word problems alone the model lost a quarter of its arithmetic.
        short = settings.model_copy(update={"steps": 8, "choice": Choice()})
        r1 = Stage("r1_real", rl.run, short, {"init": reasoner, "problems": arithmetic, "problems_own": own}, cost=400)
        stages.append(r1)
        judged["r1_real"] = r1
    protocol = evaluate.Settings(samples=4, temperature=0.6, top_p=0.95, max_new_tokens=96)
    for name, stage in judged.items():
        inputs = {"model": stage, "problems": arithmetic}
        stages.append(Stage(f"{name}_eval", evaluate.run, protocol, inputs, seed_name="evaluation", cost=100))
        if problems is not None:
            longer = protocol.model_copy(update={"samples": 2})
            inputs = {"model": stage, "problems": own}
            stages.append(Stage(f"{name}_own_eval", evaluate.run, longer, inputs, seed_name="own", cost=100))
    arguments = {
        "seed": seed,
        "model": str(model),
        "problems": str(problems or ""),
        "template": template,
        "own_examples": own_examples,
    }
    return Pipeline("r1_real", 1, arguments, tuple(stages), threads=2)
