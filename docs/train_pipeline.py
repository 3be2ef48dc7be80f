"""Trains a small decoder on four processes.

    torchrun --nproc-per-node 4 docs/train_pipeline.py [DualPipe | DualPipeV]
"""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.parallel.dualpipe import DualPipe
from aha.parallel.dualpipev import DualPipeV
from aha.parallel.step import gather_weights, pipeline_step

BATCHES, ROWS, TOKENS = 8, 2, 12
CONFIG = ModelConfig(
    vocab_size=32,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=8,
    num_attention_heads=2,
    num_key_value_heads=1,
)


def loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """One micro-batch's part of the mean over the whole batch."""
    total = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum")
    return total / (BATCHES * ROWS * TOKENS)


def main(kind: type[DualPipe] | type[DualPipeV]) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    decoder = build_decoder(CONFIG, seed=0)
    pipe = kind(decoder, num_batches=BATCHES, loss=loss)
    optimizer = torch.optim.AdamW(pipe.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)  # the same on every process: each draws the whole batch
    for step in range(11):
        start = torch.randint(0, CONFIG.vocab_size, (BATCHES * ROWS, 1), generator=generator)
        counting = (start + torch.arange(TOKENS + 1)) % CONFIG.vocab_size
        figures = pipeline_step(pipe, optimizer, counting[:, :-1], counting[:, 1:], max_grad_norm=1.0)
        if pipe.rank == 0 and step % 5 == 0:
            print(f"step {step:2}  loss {figures['loss']:.3f}  gradient norm {figures['grad_norm']:.3f}", flush=True)
    gather_weights(pipe)  # now every process has the whole trained decoder, to be saved with model/folder.py
    dist.destroy_process_group()


if __name__ == "__main__":
    main({"DualPipe": DualPipe, "DualPipeV": DualPipeV}[sys.argv[1] if len(sys.argv) > 1 else "DualPipe"])
