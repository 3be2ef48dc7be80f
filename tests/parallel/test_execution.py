"""Four processes train what one would: gradients, loss, norm, clipped updates; NaN and a missing process are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight
from torch.utils.flop_counter import FlopCounterMode

import aha
from aha.errors import DataError
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.parallel.stage import DecoderStage

SCRIPT = Path(__file__).with_name("four_ranks.py")
KINDS = ("DualPipe", "DualPipeV")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str]:
    """What each of the four processes found, and what the documentation's example printed."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": str(Path(aha.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder)]
    run = subprocess.run(command, env=environment, timeout=300, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(4)], run.stdout


@pytest.fixture
def found(done: tuple[list[dict[str, Any]], str]) -> list[dict[str, Any]]:
    return done[0]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_loss_are_those_of_one_process(kind: str, found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank[kind]["gap"] < 1e-12 and rank[kind]["loss_gap"] < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_has_its_processes(kind: str, found: list[dict[str, Any]]) -> None:
    """Nine layers over eight or four stages; the embedding is the head. DualPipe has two copies of everything."""
    names = [set(rank[kind]["weights"]) for rank in found]
    layers = [{int(name.split(".")[2]) for name in own if ".layers." in name} for own in names]
    if kind == "DualPipe":
        assert layers == [{0, 1, 6, 7, 8}, {2, 3, 4, 5}, {2, 3, 4, 5}, {0, 1, 6, 7, 8}]
    else:
        assert layers == [{0, 7, 8}, {1, 6}, {2, 5}, {3, 4}]
    ends = (0, 3) if kind == "DualPipe" else (0,)
    for rank, own in enumerate(names):
        assert ({"model.embed_tokens.weight", "model.norm.weight"} <= own) == (rank in ends)


@pytest.mark.parametrize("kind", KINDS)
def test_clipped_updates_are_those_of_one_process(kind: str, found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank[kind]["norm"] > 0.05  # of four_ranks.MAX_GRAD_NORM: every step was clipped
        assert rank[kind]["norm_gap"] < 1e-13 and rank[kind]["trained_gap"] < 1e-11


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_stops_every_process_before_any_weight_changes(kind: str, found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank[kind]["nan"].startswith("update not taken, the weights are unchanged: loss nan")
        assert rank[kind]["unchanged"]


def test_a_process_that_never_comes_is_missed_at_the_deadline(found: list[dict[str, Any]]) -> None:
    """Rank 1 never runs: rank 0 waits for the first micro-batch that comes through it, the others in the end too."""
    said = [rank["alone"] for rank in found]
    assert said[0].startswith("waited in vain, rank 0: 2F5 from rank 1: ")
    assert said[2].startswith("waited in vain, rank 2: ") and said[3].startswith("waited in vain, rank 3: ")


def test_the_example_of_the_documentation_learns(done: tuple[list[dict[str, Any]], str]) -> None:
    losses = [float(line.split()[3]) for line in done[1].splitlines()]
    assert len(losses) == 3 and losses[0] > 3 and losses[2] < 0.5


@pytest.mark.parametrize("index", [3, 7])
def test_a_split_backward_pass_computes_nothing_twice(index: int) -> None:
    """Of a middle stage and of the last: input and weights together cost what the full pass costs, in products."""
    stage = DecoderStage(build_eight_layers(), index, 8)

    def forward() -> tuple[Tensor, Tensor, list[Tensor] | None]:
        x = torch.randn(2, 5, 16, requires_grad=True)
        y = stage(x)
        return (x, y.logsumexp(-1).sum(), None) if index == 7 else (x, y, [torch.ones_like(y)])

    _, y, gradients = forward()
    full = flops(lambda: torch.autograd.backward(y, gradients))
    x, y, gradients = forward()
    stage.zero_grad()
    groups: list[dict[str, Any]] = []
    first = flops(lambda: groups.extend(stage_backward_input([y], gradients, [x], stage.parameters())[1]))
    second = flops(lambda: stage_backward_weight(stage.parameters(), groups))
    assert first > 0 and second > 0 and first + second == full
    assert all(weight.grad is not None for weight in stage.parameters())


def test_a_stage_refuses_rows_beyond_the_window_as_the_decoder_does() -> None:
    decoder = build_eight_layers(model_type="mistral", sliding_window=6)
    ids = torch.zeros(1, 7, dtype=torch.long)
    for model in (decoder, DecoderStage(decoder, 0, 8)):
        model(ids[:, :6])
        with pytest.raises(DataError, match="7 tokens.* sliding_window is 6: attention that forgets"):
            model(ids)


def build_eight_layers(**more: Any) -> Decoder:
    config = ModelConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        **more,
    )
    return build_decoder(config, seed=0)


def flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
