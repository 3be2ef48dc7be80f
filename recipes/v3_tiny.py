"""R1-Zero from a toy with DeepSeek-V3's architecture: latent attention, experts, multi-token prediction.

    aha run v3_tiny                              # all of it, into runs/v3_tiny
    aha run v3_tiny --set r1_zero.speculate=1    # the module for further tokens drafts

Data, steps and rates are r1_tiny's; only the decoder is another: in each of its layers but the first a token is read by
one shared expert and 2 of 8 routed ones, whose load a bias keeps even in pre-training and in reinforcement learning.
The bias moves ten times as fast as DeepSeek-V3's, whose learning rate is a tenth of the toy's (docs/moe.md).
"""

from __future__ import annotations

from aha.pipeline.graph import Pipeline, Stage
from aha.stages import evaluate, pretrain, problems, rl, tokenizer
from aha.train.balance import Balance

SHAPE = pretrain.Shape(
    model_type="deepseek_v3",
    q_lora_rank=48,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=24,
    n_routed_experts=8,
    n_shared_experts=1,
    num_experts_per_tok=2,
    moe_intermediate_size=80,
    first_k_dense_replace=1,
    n_group=4,
    topk_group=2,
    routed_scaling_factor=2.5,
    num_nextn_predict_layers=1,
)


def v3_tiny(*, seed: int = 0) -> Pipeline:
    """``seed`` decides everything random: data, weights, prompts and samples."""
    words = Stage("tokenizer", tokenizer.run, tokenizer.Settings(), cost=2)
    asked = Stage("problems", problems.run, problems.Settings(source="toy"), cost=1)
    shaped = pretrain.Settings(shape=SHAPE, balance=Balance(speed=0.01))
    base = Stage("base", pretrain.run, shaped, {"tokenizer": words}, cost=500)
    zero = Stage(
        "r1_zero",
        rl.run,
        rl.Settings(steps=110, minibatches=2, lr=1.5e-4, final_ratio=0.1),
        {"init": base, "problems": asked},
        cost=360,
    )
    judged = [
        Stage(
            f"{model.name}_eval",
            evaluate.run,
            evaluate.Settings(),
            {"model": model, "problems": asked},
            seed_name="evaluation",
            cost=8,
        )
        for model in (base, zero)
    ]
    return Pipeline("v3_tiny", 1, {"seed": seed}, (words, asked, base, zero, *judged))
