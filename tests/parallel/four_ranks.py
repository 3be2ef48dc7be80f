"""Trains a tiny decoder on four processes and, in each, on that process alone; writes how far apart the two are.

    python four_ranks.py FOLDER     # FOLDER/rank0.json ... rank3.json

Then it runs the example of the documentation. One process imports torch and forks the four, which takes a quarter of
the time of starting four.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from aha.errors import InvariantError
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.parallel.dualpipe import DualPipe
from aha.parallel.dualpipev import DualPipeV
from aha.parallel.step import gather_weights, gradient_norm, pipeline_step

RANKS, BATCHES, ROWS, TOKENS, DEADLINE = 4, 10, 20, 5, 240.0
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "train_pipeline.py"
MAX_GRAD_NORM = 0.05  # every step is clipped
CONFIG = ModelConfig(
    model_type="qwen2",
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=9,  # of eight stages one has two
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=True,  # first and last stage share a weight
)


def loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum") / (ROWS * TOKENS)


def build() -> Decoder:
    return build_decoder(CONFIG, seed=0, dtype=torch.float64)


def gradients_alone(ids: Tensor, targets: Tensor) -> tuple[float, dict[str, Tensor]]:
    decoder = build()
    value = loss(decoder.logits(decoder(ids)), targets)
    value.backward()  # type: ignore[no-untyped-call]
    return value.item(), {name: weight.grad for name, weight in decoder.named_parameters() if weight.grad is not None}


def train_alone(ids: Tensor, targets: Tensor, *, steps: int) -> Decoder:
    decoder = build()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(decoder.logits(decoder(ids)), targets).backward()  # type: ignore[no-untyped-call]
        norm = torch.stack([weight.grad.norm() for weight in decoder.parameters() if weight.grad is not None]).norm()
        for weight in decoder.parameters():
            weight.grad = weight.grad * MAX_GRAD_NORM / norm
        optimizer.step()
    return decoder


def compare(kind: Any, ids: Tensor, targets: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {}
    value, expected = gradients_alone(ids, targets)
    pipe = kind(build(), num_batches=BATCHES, loss=loss)
    for _ in range(2):  # the second time must not add to the first
        got = pipe.forward_backward(ids, targets)
    own = {name: w.grad for name, w in pipe.decoder.named_parameters() if w.grad is not None}
    gaps = [((own[name] - expected[name]).abs().max() / expected[name].abs().max()).item() for name in own]
    found |= {"gap": max(gaps), "loss_gap": abs(got - value)}
    norm = torch.stack([gradient.norm() for gradient in expected.values()]).norm().item()
    found |= {"norm_gap": abs(gradient_norm(pipe) - norm), "norm": norm, "weights": sorted(own)}
    optimizer = torch.optim.AdamW(pipe.parameters(), lr=0.01)
    for _ in range(2):
        pipeline_step(pipe, optimizer, ids, targets, max_grad_norm=MAX_GRAD_NORM)
    gather_weights(pipe)
    alone = train_alone(ids, targets, steps=2)
    pairs = list(zip(pipe.decoder.parameters(), alone.parameters(), strict=True))
    found["trained_gap"] = max((ours - theirs).abs().max().item() for ours, theirs in pairs)
    with torch.no_grad():
        next(iter(pipe.stages[pipe.rank].layers[0].parameters())).fill_(torch.nan)  # type: ignore[union-attr]
    before = [weight.clone() for weight in pipe.parameters()]
    try:
        pipeline_step(pipe, optimizer, ids, targets, max_grad_norm=MAX_GRAD_NORM)
    except InvariantError as error:
        found["nan"] = str(error)
    unchanged = zip(before, pipe.parameters(), strict=True)
    found["unchanged"] = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in unchanged)
    return found


def wait_for_one_that_never_comes(rank: int, ids: Tensor, targets: Tensor) -> str:
    group = dist.new_group(timeout=timedelta(seconds=3))
    message = ""
    if rank != 1:
        pipe = DualPipe(build(), num_batches=BATCHES, loss=loss, group=group)
        try:
            pipe.forward_backward(ids, targets)
        except InvariantError as error:
            message = str(error)
    dist.barrier()  # of the group of all
    return message


def work(rank: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=DEADLINE))
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, CONFIG.vocab_size, (ROWS, TOKENS), generator=generator)
    targets = torch.randint(0, CONFIG.vocab_size, (ROWS, TOKENS), generator=generator)
    found: dict[str, Any] = {kind.__name__: compare(kind, ids, targets) for kind in (DualPipe, DualPipeV)}
    found["alone"] = wait_for_one_that_never_comes(rank, ids, targets)
    (folder / f"rank{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    sys.argv[1:] = ["DualPipe"]
    runpy.run_path(str(EXAMPLE), run_name="__main__")


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # any free port, as torchrun does it
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(rank, folder)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    until = time.monotonic() + DEADLINE
    while any(process.is_alive() for process in processes) and time.monotonic() < until:
        if any(process.exitcode for process in processes):  # the others would wait for it
            break
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.join()
    return max(abs(process.exitcode or 0) for process in processes)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
