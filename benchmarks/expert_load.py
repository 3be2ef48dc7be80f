"""How even the load of experts becomes while a tiny DeepSeek-V3 learns the toy's corpus, with and without balancing.

    python -m benchmarks.expert_load [--steps 400] [--seed 0] [--out docs]

Arms from one seed: no balancing, the sequence-wise loss alone, the bias alone, both as DeepSeek-V3 has them (alpha
1e-4, gamma 1e-3), and both with a bias that moves ten times as fast. MaxVio is how much more than the mean the busiest
expert of a layer got (2408.15664), mean over layers: of one step's tokens, and of the last ``WINDOW`` steps' together,
where chance has less of a share. Prints every figure and writes ``measured/expert_load.json`` and
``figures/expert_load.png`` into the folder OUT.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from aha.data.corpus import documents
from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.model.moe import Router
from aha.objective.balance import max_violation
from aha.stages import tokenizer as tokenizer_stage
from aha.stages.context import Context
from aha.tokens.render import Renderer
from aha.tokens.tokenizer import Tokenizer, load_tokenizer
from aha.train.balance import Balance
from aha.train.batch import collate_packed
from aha.train.nll_step import nll_step
from aha.train.optimizer import build_adamw
from aha.train.schedule import learning_rate
from aha.util.files import write_json_atomic
from aha.util.seeds import python_rng
from benchmarks.setting import versions

WINDOW = 20
ROWS, ROW_LENGTH, PEAK = 8, 192, 3e-3
ARMS = {
    "none": Balance(loss=0.0, speed=0.0),
    "loss": Balance(speed=0.0),
    "bias": Balance(loss=0.0),
    "both": Balance(),
    "fast": Balance(speed=1e-2),
}
EVEN = 0.1


def tiny_config(tokenizer: Tokenizer) -> ModelConfig:
    """The toy's base with latent attention and 8 experts of which 2 are chosen."""
    return ModelConfig(
        model_type="deepseek_v3", vocab_size=-(-tokenizer.vocab_size // 16) * 16, hidden_size=96, intermediate_size=256,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, q_lora_rank=48, kv_lora_rank=32,
        qk_nope_head_dim=24, qk_rope_head_dim=12, v_head_dim=24, n_routed_experts=8, n_shared_experts=1,
        num_experts_per_tok=2, moe_intermediate_size=64, first_k_dense_replace=1, routed_scaling_factor=1.0,
        max_position_embeddings=512, eos_token_id=tokenizer.eos_id,
    )  # fmt: skip


def train(tokenizer: Tokenizer, balance: Balance, *, steps: int, seed: int) -> dict[str, Any]:
    """Losses, MaxVio of each step and window, and every layer's share of load by expert, ``[steps][layers][E]``."""
    config = tiny_config(tokenizer)
    decoder, renderer = build_decoder(config, seed=seed), Renderer(tokenizer, "{question}")
    optimizer = build_adamw(decoder, lr=PEAK)
    chosen: list[Tensor] = []
    for router in (module for module in decoder.modules() if isinstance(module, Router)):
        router.register_forward_hook(lambda module, inputs, output: chosen.append(output[1]))
    window: deque[Tensor] = deque(maxlen=WINDOW)
    found: dict[str, Any] = {"loss": [], "max_vio": [], "max_vio_window": [], "load": []}
    for step in range(steps):
        texts = documents(python_rng(seed, "corpus", step))
        examples, budget = [], ROWS * ROW_LENGTH
        while budget > 0:
            example = renderer.document(next(texts))
            examples.append((example.ids, example.loss_mask))
            budget -= len(example.ids)
        lr = learning_rate(step, base=PEAK, warmup=30, total=2_800, shape="cosine", final_ratio=0.1)
        chosen.clear()
        batches = collate_packed(examples, width=ROWS * ROW_LENGTH)
        metrics = nll_step(decoder, optimizer, batches, lr=lr, max_grad_norm=1.0, balance=balance)
        layers = len(chosen) // len(batches)
        counts_LE = torch.zeros(layers, config.n_routed_experts, dtype=torch.long)
        for place, experts_MK in enumerate(chosen):
            read_M = (batches[place // layers].segments_BT != 0).flatten()  # padding is nobody's load
            counts_LE[place % layers] += torch.bincount(experts_MK[read_M].flatten(), minlength=counts_LE.shape[1])
        window.append(counts_LE)
        found["loss"].append(metrics["loss"])
        found["max_vio"].append(metrics["max_vio"])
        found["max_vio_window"].append(float(max_violation(torch.stack(tuple(window)).sum(0)).mean()))
        found["load"].append((counts_LE / counts_LE.sum(1, keepdim=True)).tolist())
    return found


def summarise(arms: dict[str, dict[str, Any]], steps: int) -> dict[str, Any]:
    """Means of each arm's last ``WINDOW`` steps, and after which step MaxVio of the window was below 0.1 to the end."""
    rows = {}
    for name, found in arms.items():
        uneven = [step + 1 for step, value in enumerate(found["max_vio_window"]) if value >= EVEN]
        rows[name] = {
            "alpha": ARMS[name].loss,
            "gamma": ARMS[name].speed,
            "loss": sum(found["loss"][-WINDOW:]) / WINDOW,
            "max_vio_step": sum(found["max_vio"][-WINDOW:]) / WINDOW,
            "max_vio_window": found["max_vio_window"][-1],
            "even_after": uneven[-1] if uneven[-1] < steps else None,
        }
    return {"benchmark": "expert_load", "steps": steps, "window": WINDOW, "arms": rows}


def draw(arms: dict[str, dict[str, Any]], path: Path) -> None:
    """MaxVio of every arm, and the load of each expert of the middle layer without and with balancing."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, *others = figure.subplots(1, 3)
    for name, found in arms.items():
        left.plot(found["max_vio_window"], label=name)
    left.axhline(EVEN, color="grey", linewidth=0.8, linestyle=":")
    left.set(title=f"MaxVio over {WINDOW} steps, mean of layers", xlabel="step", yscale="log")
    left.legend(frameon=False)
    for axes, name in zip(others, ("none", "fast"), strict=True):
        load_SLE = torch.tensor(arms[name]["load"])
        load_SE = load_SLE[:, load_SLE.shape[1] // 2]
        smooth = load_SE.unfold(0, WINDOW, 1).mean(-1)
        axes.plot(torch.arange(WINDOW, len(load_SE) + 1), 100 * smooth)
        axes.axhline(100 / load_SE.shape[1], color="grey", linewidth=0.8, linestyle=":")
        axes.set(title=f"load of each expert, middle layer: {name}", xlabel="step", ylabel="% of choices")
        axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder), name="tokenizer", seed=arguments.seed, run_seed=arguments.seed)
        tokenizer_stage.run(tokenizer_stage.Settings(), {}, context)
        tokenizer = load_tokenizer(Path(folder) / "tokenizer")
    arms = {name: train(tokenizer, b, steps=arguments.steps, seed=arguments.seed) for name, b in ARMS.items()}
    summary = summarise(arms, arguments.steps)
    for name, row in summary["arms"].items():
        print(name, {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    found = {**summary, "seed": arguments.seed, "versions": versions("torch")}
    write_json_atomic(arguments.out / "measured" / "expert_load.json", found)
    draw(arms, arguments.out / "figures" / "expert_load.png")


if __name__ == "__main__":
    main()
