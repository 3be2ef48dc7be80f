"""Steps of every kind of model on a GPU against the same on a CPU.

    python -m pytest tests/gpu/test_steps.py
"""

from __future__ import annotations

import copy

import pytest
import torch

from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.objective.algorithms import ALGORITHMS
from aha.train.batch import PolicyRow, collate_packed, collate_policy
from aha.train.nll_step import nll_step
from aha.train.policy_step import policy_step

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

DENSE = ModelConfig(
    model_type="qwen2", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip
EXPERTS = ModelConfig(
    model_type="deepseek_v3", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
    num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=16,
    v_head_dim=16, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=16,
    first_k_dense_replace=1, n_group=1, topk_group=1,
)  # fmt: skip
LIMITS = {"lr": 1e-2, "max_grad_norm": 1.0}


@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("kind", ["documents", "policy"])
def test_a_step_is_that_of_a_cpu(config: ModelConfig, kind: str) -> None:
    here = build_decoder(config, seed=0)
    there = copy.deepcopy(here).cuda()
    found = []
    for decoder in (here, there):
        optimizer = torch.optim.SGD(decoder.parameters(), lr=1e-2)
        if kind == "documents":
            documents = [(list(range(1, n)), [1.0] * (n - 1)) for n in (20, 9, 30)]
            found.append(nll_step(decoder, optimizer, collate_packed(documents, width=32), **LIMITS))
            continue
        rows = [PolicyRow((1, 2, 3), tuple(range(5, 5 + n)), a, (-4.0,) * n) for n, a in ((6, 1.0), (9, -1.0))]
        batches = collate_policy(rows, weights=[1.0, 1.0], token_budget=64)
        row = ALGORITHMS["dapo"]
        found.append(policy_step(decoder, optimizer, batches, algorithm=row, num_sequences=2, **LIMITS))
    assert found[1] == {name: pytest.approx(value, rel=1e-2, abs=1e-4) for name, value in found[0].items()}
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-2, atol=1e-4)
