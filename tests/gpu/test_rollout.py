"""Sampling on a GPU, with CUDA graphs and without, against the same on a CPU.

    python -m pytest tests/gpu/test_rollout.py
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.records import Completion
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine, build_runner
from aha.rollout.native.graphs import GraphRunner
from aha.rollout.native.runner import Runner

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
LATENT: dict[str, Any] = {
    "model_type": "deepseek_v3", "num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 16,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2", "num_attention_heads": 4, "num_key_value_heads": 2},
    "qwen3": {"model_type": "qwen3", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
              "tie_word_embeddings": False},
    "latent": LATENT,
    "experts": {**LATENT, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
                "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
}  # fmt: skip
PARAMS = {
    "plain": SamplingParams(60, end_token_ids=(5,)),
    "greedy": SamplingParams(60, temperature=0.0),
    "cut": SamplingParams(60, temperature=0.7, top_k=30, top_p=0.9),
}
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13]]
SEEDS = [[100 * p + g for g in range(8)] for p in range(len(PROMPTS))]
LIMITS = [[60, 1, 33, 9, 2, 20, 48, 5]] * len(PROMPTS)
GPU = torch.device("cuda")


def roll_out(runner: Runner, decoder: Decoder, params: SamplingParams) -> list[list[Completion]]:
    engine = NativeEngine(decoder.config, max_slots=11)
    engine._held = runner
    engine.load_weights(decoder, 0)
    return engine.generate(PROMPTS, SEEDS, params, limits=LIMITS)


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "latent"])
def test_graphs_sample_what_single_launches_do(kind: str, params: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 and with a product of as many rows: text may part only where two uniform numbers nearly tie."""
    monkeypatch.setattr(GraphRunner, "_column_step", 16)
    decoder = build_decoder(ModelConfig(**SIZES, **KINDS[kind]), seed=0)
    plain = Runner(decoder.config, dtype=torch.float32, device=GPU)
    graphs = GraphRunner(decoder.config, dtype=torch.float32, device=GPU)
    for _ in range(2):  # the second call has rows, and so graphs, of its own
        wanted, found = (roll_out(runner, decoder, PARAMS[params]) for runner in (plain, graphs))
        assert len(graphs._graphs._captured) > 2
        for ours, theirs in zip(found, wanted, strict=True):
            assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
            for one, other in zip(ours, theirs, strict=True):
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_gpu_samples_is_as_likely_as_a_cpu_says(kind: str, dtype: torch.dtype) -> None:
    """Experts, too, which decode without graphs."""
    config = ModelConfig(**SIZES, **KINDS[kind])
    decoder = build_decoder(config, seed=0)
    here = NativeEngine(config)
    there = NativeEngine(config, max_slots=11, dtype=dtype, device=GPU)
    here.load_weights(decoder, 0)
    there.load_weights(decoder, 0)
    assert isinstance(there._runner, GraphRunner) == (kind != "experts")
    groups = there.generate(PROMPTS, SEEDS, PARAMS["plain"], limits=LIMITS)
    texts = [(ids, c) for ids, group in zip(PROMPTS, groups, strict=True) for c in group]
    scores = here.score([[*ids, *c.token_ids] for ids, c in texts])
    gaps = [
        abs(one - other)
        for (ids, completion), own in zip(texts, scores, strict=True)
        for one, other in zip(completion.logprobs, own[len(ids) - 1 :], strict=True)
    ]
    if dtype == torch.float32:
        assert max(gaps) < 1e-3
    else:  # rounding sends some tokens to other experts
        assert sum(gaps) / len(gaps) < 0.05


def test_new_weights_reach_the_graphs_and_release_frees_them() -> None:
    config = ModelConfig(**SIZES, **KINDS["qwen2"])
    engine = NativeEngine(config, max_slots=11, device=GPU)
    greedy = PARAMS["greedy"]
    for seed in (0, 1):
        decoder = build_decoder(config, seed=seed)
        engine.load_weights(decoder, seed)
        fresh = NativeEngine(config, max_slots=11, device=GPU)
        fresh._held = Runner(config, dtype=torch.float32, device=GPU)
        fresh.load_weights(decoder, seed)
        wanted = [[c.token_ids for c in group] for group in fresh.generate(PROMPTS, SEEDS, greedy)]
        assert [[c.token_ids for c in group] for group in engine.generate(PROMPTS, SEEDS, greedy)] == wanted
    fresh.release()
    before = torch.cuda.memory_allocated()
    engine.release()
    assert torch.cuda.memory_allocated() < before  # at once: nothing refers to itself


def test_a_gpus_runner_is_the_one_with_graphs() -> None:
    config = ModelConfig(**SIZES, **KINDS["qwen2"])
    assert isinstance(build_runner(config, dtype=torch.bfloat16, device=GPU, speculate=0), GraphRunner)
