"""A student's update on its teacher: with nothing soft it is that of SFT, and a twin has nothing to learn."""

from __future__ import annotations

import pytest
import torch

from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.objective.distillation import teacher_kl
from aha.testing import tiny_policy
from aha.train.balance import Balance
from aha.train.batch import PackedBatch, collate_packed
from aha.train.distill_step import distill_step
from aha.train.nll_step import nll_step
from aha.train.optimizer import build_adamw

CONFIG = tiny_policy().config
EXPERTS = ModelConfig(
    model_type="deepseek_v3", vocab_size=CONFIG.vocab_size, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=6, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4,
    n_routed_experts=6, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=5, first_k_dense_replace=1,
    n_group=1, topk_group=1, num_nextn_predict_layers=1,
)  # fmt: skip
DOCUMENTS = [((5, 9, 2, 7, 1), (0, 0, 1, 1, 1)), ((4, 4, 8), (0, 1, 1)), ((3, 6, 6, 6), (0, 0, 0, 1))]


def batches(width: int = 16) -> list[PackedBatch]:
    return collate_packed(DOCUMENTS, width=width)


def step(student: Decoder, teacher: Decoder, *, soft: float, width: int = 16) -> dict[str, float]:
    optimizer = build_adamw(student, lr=1e-2)
    return distill_step(
        student, teacher, optimizer, batches(width), soft=soft, temperature=1.0, lr=1e-2, max_grad_norm=1.0
    )


def test_without_softness_it_is_supervised_fine_tuning() -> None:
    one, other, teacher = (build_decoder(CONFIG, seed=seed) for seed in (0, 0, 1))
    found = step(one, teacher, soft=0.0)
    wanted = nll_step(other, build_adamw(other, lr=1e-2), batches(), lr=1e-2, max_grad_norm=1.0)
    assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-6) and found["tokens"] == wanted["tokens"] == 6
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_load_is_balanced_and_modules_ahead_learn_beside_a_teacher() -> None:
    """Without softness all of it is that of supervised fine-tuning."""
    one, other = build_decoder(EXPERTS, seed=0), build_decoder(EXPERTS, seed=0)
    limits = {"lr": 1e-2, "max_grad_norm": 1.0, "balance": Balance(speed=0.1, loss=0.5), "mtp_weight": 0.3}
    optimizers = build_adamw(one, lr=1e-2), build_adamw(other, lr=1e-2)
    found = distill_step(
        one, build_decoder(EXPERTS, seed=1), optimizers[0], batches(), soft=0.0, temperature=1.0, **limits
    )
    wanted = nll_step(other, optimizers[1], batches(), **limits)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert {"max_vio", "balance", "mtp_loss"} <= wanted.keys()
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_a_twin_has_nothing_to_learn_and_micro_batches_do_not_matter() -> None:
    twin, teacher = build_decoder(CONFIG, seed=1), build_decoder(CONFIG, seed=1)
    alike = step(twin, teacher, soft=1.0)
    assert alike["kl"] == pytest.approx(0.0, abs=1e-6) and alike["grad_norm"] == pytest.approx(0.0, abs=1e-5)
    whole, parts = build_decoder(CONFIG, seed=0), build_decoder(CONFIG, seed=0)
    first, second = step(whole, teacher, soft=0.7, width=16), step(parts, teacher, soft=0.7, width=5)
    assert first == pytest.approx(second, rel=1e-5) and first["kl"] > 0.1
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_token_counts_by_its_weight_and_a_teacher_may_know_more_tokens() -> None:
    student = build_decoder(CONFIG, seed=0)
    teacher = build_decoder(CONFIG.model_copy(update={"vocab_size": CONFIG.vocab_size + 3}), seed=1)
    ids = torch.tensor([[5, 9]])
    with torch.no_grad():
        logits = teacher.logits(teacher(ids))[0, :, : CONFIG.vocab_size]
        first, second = teacher_kl(student(ids)[0], student.head_weight, logits, torch.eye(CONFIG.vocab_size)).tolist()
    packed = collate_packed([((5, 9, 2), (0, 1, 0.5))], width=4)
    metrics = distill_step(
        student, teacher, build_adamw(student, lr=0.0), packed, soft=1.0, temperature=1.0, lr=0.0, max_grad_norm=1.0
    )
    assert metrics["kl"] == pytest.approx((first + 0.5 * second) / 1.5, rel=1e-5)
