"""Published settings of supervised fine-tuning on long reasoning, a row each: ``--set STAGE.preset=s1`` takes one.

``batch`` counts examples, ``warmup_share`` updates of all; what a source does not say is None and stays as it was set.
All that pack do so here without letting examples see each other, so that packing changes no loss.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """``Preset(epochs=3, batch=64, lr=8e-5, final_ratio=0.1, context=32_768, source="...")``."""

    source: str
    epochs: int
    lr: float
    batch: int | None = None
    warmup_share: float | None = None
    final_ratio: float = 0.0
    context: int = 32_768
    rope_theta: float | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None


_DISTILL = "R1v2 (2501.12948v2) B.4.3 and table 6: 2-3 epochs, cosine to a tenth, 32,768, batch 64"
PRESETS = {
    "r1": Preset(
        "R1v2 (2501.12948v2) B.4.2, both SFT stages: 2-3 epochs, cosine 5e-5 to 5e-6, 32,768, batch 128",
        epochs=2, lr=5e-5, batch=128, final_ratio=0.1,
    ),
    "distill-qwen-1.5b": Preset(_DISTILL, epochs=2, lr=1e-4, batch=64, final_ratio=0.1),
    "distill-qwen-7b": Preset(_DISTILL, epochs=2, lr=8e-5, batch=64, final_ratio=0.1),
    "distill-qwen-14b": Preset(_DISTILL, epochs=2, lr=7e-5, batch=64, final_ratio=0.1),
    "distill-qwen-32b": Preset(_DISTILL, epochs=2, lr=6e-5, batch=64, final_ratio=0.1),
    "distill-llama-8b": Preset(_DISTILL, epochs=2, lr=5e-5, batch=64, final_ratio=0.1),
    "distill-llama-70b": Preset(_DISTILL, epochs=2, lr=2e-5, batch=64, final_ratio=0.1),
    "open-r1": Preset(
        "OpenR1-Distill-7B (open-r1): 4e-5, cosine to 10 %, 3 % warm-up, batch 128, clip 0.2, RoPE theta 300,000",
        epochs=5, lr=4e-5, batch=128, warmup_share=0.03, final_ratio=0.1, rope_theta=300_000.0, max_grad_norm=0.2,
    ),
    "limo": Preset(
        "LIMO (2502.03387): 15 epochs, 5e-6 cosine without warm-up, batch 64, 16,384 (from memory but for the epochs)",
        epochs=15, lr=5e-6, batch=64, warmup_share=0.0, context=16_384,
    ),
    "s1": Preset(
        "s1 (2501.19393): 5 epochs (315 updates) of 1,000, 1e-5 cosine, 5 % warm-up, weight decay 1e-4, batch 16",
        epochs=5, lr=1e-5, batch=16, warmup_share=0.05, weight_decay=1e-4,
    ),
}  # fmt: skip
