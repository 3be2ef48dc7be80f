"""Load balancing inside a training step: whole-batch counts, one global denominator, nothing without experts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from aha.model.config import ModelConfig
from aha.model.decoder import Decoder, build_decoder
from aha.model.heads import ProcessRewardModel, RewardModel, ValueModel
from aha.model.moe import Router
from aha.objective.algorithms import ALGORITHMS
from aha.objective.balance import sequence_balance_loss
from aha.objective.direct import PREFERENCES
from aha.train import nll_step as nll_module
from aha.train.balance import Balance, LoadBalancer
from aha.train.batch import (
    CompletionPair,
    LabelledSteps,
    PackedBatch,
    PolicyBatch,
    PolicyRow,
    collate_completion_pairs,
    collate_labelled,
    collate_packed,
    collate_policy,
    collate_preference,
    collate_steps,
)
from aha.train.direct_step import compute_sequence_logprobs, direct_step
from aha.train.nll_step import nll_step
from aha.train.policy_step import policy_step
from aha.train.reward_step import label_step, preference_step, process_step
from aha.train.value_step import value_step

CONFIG = ModelConfig(
    model_type="deepseek_v3", vocab_size=13, hidden_size=8, intermediate_size=12, num_hidden_layers=3,
    num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=6, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4,
    n_routed_experts=6, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=5, first_k_dense_replace=1,
    n_group=1, topk_group=1, routed_scaling_factor=1.5,
)  # fmt: skip
DOCUMENTS = [([1, 2, 3, 4, 5, 6], [1.0] * 6), ([7, 8, 9], [1.0] * 3), ([10, 11, 12, 1, 2], [1.0] * 5)]
STRONG = Balance(loss=0.7, speed=0.01)


def build(seed: int = 0) -> Decoder:
    return build_decoder(CONFIG, seed=seed, dtype=torch.float64)


def routers(decoder: Decoder) -> list[Router]:
    return [module for module in decoder.modules() if isinstance(module, Router)]


def loads(decoder: Decoder, rows: list[list[int]]) -> torch.Tensor:
    """Tokens of each expert in each layer, row by row and by hand."""
    counts = torch.zeros(2, 6)
    for ids in rows:
        decoder(torch.tensor([ids]))
        for layer, router in enumerate(routers(decoder)):
            assert router.routed is not None
            for expert in router.routed.experts_MK.flatten().tolist():
                counts[layer, expert] += 1
    return counts


@pytest.mark.parametrize("width", [5, 12, 21])
def test_a_step_on_documents_moves_the_bias_by_the_whole_batch(width: int) -> None:
    decoder, oracle = build(), build()
    counts = loads(oracle, [ids[:-1] for ids, _ in DOCUMENTS])
    batches = collate_packed(DOCUMENTS, width=width)
    metrics = nll_step(decoder, torch.optim.SGD(decoder.parameters(), lr=1.0), batches, lr=0.1, max_grad_norm=1e9,
                       balance=STRONG)
    for router, own in zip(routers(decoder), counts, strict=True):
        assert torch.allclose(router.e_score_correction_bias, 0.01 * torch.sign(own.mean() - own))
    assert metrics["max_vio"] == pytest.approx(float(((counts.amax(1) - counts.mean(1)) / counts.mean(1)).mean()))
    assert counts.sum() == 2 * 2 * 11


def test_gradients_are_equal_for_any_split_and_packing_and_include_the_balance() -> None:
    changes, uneven = [], []
    for width in (5, 12, 21):
        decoder = build()
        before = copy.deepcopy(decoder.state_dict())
        batches = collate_packed(DOCUMENTS, width=width)
        metrics = nll_step(decoder, torch.optim.SGD(decoder.parameters(), lr=1.0), batches, lr=1.0, max_grad_norm=1e9,
                           balance=STRONG)
        uneven.append(metrics["balance"])
        changes.append({name: before[name] - value for name, value in decoder.state_dict().items()})
    assert all(torch.allclose(change[name], changes[0][name]) for change in changes for name in change)
    # by hand: the loss of all documents, plus 0.7 times the mean over documents of each layer's sum of f P
    decoder = build()
    total, nll = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for ids, _ in DOCUMENTS:
        logits = decoder.logits(decoder(torch.tensor([ids[:-1]])))[0]
        nll = nll - logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum()
        for router in routers(decoder):
            assert router.routed is not None
            scores, experts = router.routed
            f = torch.bincount(experts.flatten(), minlength=6) * 6 / (2 * len(scores))
            total = total + (f * (scores / scores.sum(1, keepdim=True)).mean(0)).sum()
    assert uneven == pytest.approx([total.item() / 3 / 2] * 3)  # of three documents in two layers
    (nll / 11 + 0.7 * total / 3).backward()
    for name, parameter in decoder.named_parameters():
        assert torch.allclose(changes[0][name], parameter.grad), name


def test_a_policy_step_counts_a_shared_prompt_once_and_each_completion_with_its_prompt() -> None:
    rows = [PolicyRow((1, 2, 3), (4, 5, 6), 1.0, (-1.0,) * 3), PolicyRow((1, 2, 3), (7, 8), -1.0, (-1.0,) * 2),
            PolicyRow((9, 9), (10, 11, 12), 0.5, (-1.0,) * 3)]  # fmt: skip
    together, alone = build(), build()
    updates = {}
    for decoder, budget in ((together, 100), (alone, 1)):
        batches = collate_policy(rows, weights=[1.0] * 3, token_budget=budget)
        before = copy.deepcopy(decoder.state_dict())
        metrics = _policy(decoder, batches)
        updates[budget] = {n: before[n] - v for n, v in decoder.state_dict().items() if "bias" not in n}
        assert 0.9 < metrics["balance"] < 3
    assert all(torch.allclose(updates[100][name], updates[1][name]) for name in updates[1])
    # the prompt of two completions is computed once in one micro-batch
    prompts_once = loads(build(), [[1, 2, 3, 4, 5], [9, 9, 10, 11]]) + (
        loads(build(), [[1, 2, 3, 7]]) - loads(build(), [[1, 2, 3]])
    )
    for router, own in zip(routers(together), prompts_once, strict=True):
        assert torch.allclose(router.e_score_correction_bias, 0.01 * torch.sign(own.mean() - own))


def test_completions_that_are_left_out_make_the_load_no_evener() -> None:
    """A group without a signal is not computed and meets no expert."""
    rows = [PolicyRow((1, 2, 3), (4, 5, 6), 1.0, (-1.0,) * 3), PolicyRow((9, 9), (10, 11, 12), 0.5, (-1.0,) * 3)]
    batches = collate_policy(rows, weights=[1.0] * 2, token_budget=100)
    found = []
    for number in (2, 8):
        decoder = build()
        optimizer = torch.optim.SGD(decoder.parameters(), lr=0.0)
        how = {"num_sequences": number, "lr": 0.0, "max_grad_norm": 1.0}
        found.append(policy_step(decoder, optimizer, batches, algorithm=replace(ALGORITHMS["grpo"], beta=0.0), **how))
    few, many = found
    assert few["balance"] == many["balance"] > 0.9


def test_a_step_on_pairs_balances_all_of_them_however_it_is_split() -> None:
    pairs = [CompletionPair((1, 2, 3), (4, 5, 6), (7, 8)), CompletionPair((9, 9), (10, 11), (12,))]
    counts = loads(build(), [[1, 2, 3, 4, 5], [9, 9, 10]]) + (
        loads(build(), [[1, 2, 3, 7]]) - loads(build(), [[1, 2, 3]])
    )
    changes = []
    for budget, balance in ((100, STRONG), (1, STRONG), (100, Balance(loss=0.0))):
        decoder, reference = build(), build(1)
        batches = collate_completion_pairs(pairs, token_budget=budget)
        before = copy.deepcopy(decoder.state_dict())
        metrics = direct_step(
            decoder, torch.optim.SGD(decoder.parameters(), lr=1.0), batches, row=PREFERENCES["dpo"], lr=1.0,
            reference_R=compute_sequence_logprobs(reference, batches), max_grad_norm=1e9, balance=balance,
        )  # fmt: skip
        assert metrics["max_vio"] == pytest.approx(float(((counts.amax(1) - counts.mean(1)) / counts.mean(1)).mean()))
        for router, own in zip(routers(decoder), counts, strict=True):
            assert torch.allclose(router.e_score_correction_bias, balance.speed * torch.sign(own.mean() - own))
        changes.append({n: before[n] - v for n, v in decoder.state_dict().items() if "bias" not in n})
    assert all(torch.allclose(changes[0][name], changes[1][name]) for name in changes[0])
    assert not all(torch.allclose(changes[0][name], changes[2][name]) for name in changes[0] if "gate.weight" in name)


TEXTS = [[1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12], [4, 5, 9]]


def balance_loss(decoder: Decoder, texts: list[list[int]]) -> torch.Tensor:
    """Its sum over both layers with experts, mean over the texts, each read alone."""
    losses = []
    for ids in texts:
        decoder(torch.tensor([ids]))
        for router in routers(decoder):
            assert router.routed is not None
            scores_TE, experts_TK = router.routed
            shares_E = (scores_TE / scores_TE.sum(-1, keepdim=True)).sum(0)
            counts_E, tokens = torch.bincount(experts_TK.flatten(), minlength=6), torch.tensor([len(ids)])
            losses.append(sequence_balance_loss(counts_E[None], shares_E[None], tokens, 2))
    return torch.cat(losses).sum() / len(texts)


def _heads(budget: int) -> dict[str, tuple[nn.Module, Callable[[Balance], dict[str, float]]]]:
    """A step of each model with a head on the four texts, in micro-batches of ``budget`` tokens."""
    pairs = collate_preference([(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3])], token_budget=budget)
    labelled = collate_labelled(TEXTS, [1.0, 0.0, 1.0, 0.0], token_budget=budget)
    # what stands behind a text's last labelled step is not read, as padding is not
    ids = [[*text, 2, 2][: len(text) + 2 * (i == 1)] for i, text in enumerate(TEXTS)]
    steps = [LabelledSteps(own, 1, (1, len(text) - 1), (1.0, 0.0)) for own, text in zip(ids, TEXTS, strict=True)]
    stepped = collate_steps(steps, token_budget=budget)
    rows = [PolicyRow(text[:1], text[1:], 0.0, [0.0] * (len(text) - 1)) for text in TEXTS]
    valued = collate_policy(rows, weights=[1.0] * 4, token_budget=budget)
    wanted = [torch.ones(len(batch.predict_N), dtype=torch.float64) for batch in valued]
    reward, labels, process, value = RewardModel(build()), RewardModel(build()), ProcessRewardModel(build()), build()
    critic = ValueModel(value)
    with torch.no_grad():
        for model in (reward, labels, process):
            model.score.fill_(0.3)
        critic.value.fill_(0.3)

    def options(model: nn.Module, balance: Balance) -> dict[str, Any]:
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        return {"optimizer": optimizer, "lr": 1.0, "max_grad_norm": 1e9, "balance": balance}

    def critic_step(balance: Balance) -> dict[str, float]:
        how = options(critic, balance)
        return value_step(critic, how.pop("optimizer"), valued, wanted, wanted, clip=None, **how)

    return {
        "pairs": (reward, lambda b: preference_step(reward, batches=pairs, **options(reward, b))),
        "labels": (labels, lambda b: label_step(labels, batches=labelled, **options(labels, b))),
        "steps": (process, lambda b: process_step(process, batches=stepped, **options(process, b))),
        "critic": (critic, critic_step),
    }


@pytest.mark.parametrize("name", ["pairs", "labels", "steps", "critic"])
def test_models_with_a_head_keep_their_experts_even_however_a_step_is_split(name: str) -> None:
    read = [text[:-1] for text in TEXTS] if name == "critic" else TEXTS
    counts = loads(build(), read)
    found = []
    for budget, balance in ((100, STRONG), (1, STRONG), (100, Balance(loss=0.0))):
        model, step = _heads(budget)[name]
        before = copy.deepcopy(model.state_dict())
        metrics = step(balance)
        expected = ((counts.amax(1) - counts.mean(1)) / counts.mean(1)).mean()
        assert metrics["value_max_vio" if name == "critic" else "max_vio"] == pytest.approx(float(expected))
        for router, own in zip(routers(model), counts, strict=True):  # type: ignore[arg-type]
            assert torch.allclose(router.e_score_correction_bias, balance.speed * torch.sign(own.mean() - own))
        found.append({n: before[n] - v for n, v in model.state_dict().items() if "bias" not in n})
    assert all(torch.allclose(found[0][n], found[1][n]) for n in found[0])
    decoder = build()
    uneven = balance_loss(decoder, read)
    uneven.backward()  # type: ignore[no-untyped-call]
    gates = [n for n in found[0] if "gate.weight" in n]
    for gate, router in zip(gates, routers(decoder), strict=True):
        torch.testing.assert_close(found[0][gate] - found[2][gate], STRONG.loss * router.weight.grad)
    assert name == "critic" or metrics["balance"] == pytest.approx(uneven.item() / 2)


def test_the_balance_reads_a_batch_where_the_decoder_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where it was collated: with a GPU the router's choices are there and the batch is not."""
    moved: list[PackedBatch] = []
    read: list[PackedBatch] = []

    class Spied(LoadBalancer):
        def loss(self, batch: PackedBatch, *, num_sequences: int) -> torch.Tensor | float:  # type: ignore[override]
            read.append(batch)
            return super().loss(batch, num_sequences=num_sequences)

    def move(_: object, batch: PackedBatch) -> PackedBatch:
        moved.append(replace(batch))
        return moved[-1]

    monkeypatch.setattr(nll_module, "LoadBalancer", Spied)
    monkeypatch.setattr(nll_module, "on_device_of", move)
    decoder = build()
    batches = collate_packed(DOCUMENTS, width=12)
    nll_step(decoder, torch.optim.SGD(decoder.parameters()), batches, lr=0.1, max_grad_norm=1.0)
    assert len(read) == len(batches) and all(any(batch is one for one in moved) for batch in read)


def test_frozen_routers_stay_as_they_are() -> None:
    decoder = build()
    first, second = routers(decoder)
    decoder.requires_grad_(False)
    decoder.model.layers[2].requires_grad_(True)
    nll_step(decoder, torch.optim.SGD(decoder.model.layers[2].parameters(), lr=1.0),
             collate_packed(DOCUMENTS, width=12), lr=0.1, max_grad_norm=1e9, balance=STRONG)
    assert not first.e_score_correction_bias.any() and second.e_score_correction_bias.any()


def test_recomputed_layers_are_not_counted_twice() -> None:
    plain, recomputed = build(), build()
    for layer in recomputed.model.layers:
        forward = layer.forward
        layer.forward = lambda *x, forward=forward: checkpoint(forward, *x, use_reentrant=False)
    batches = collate_packed(DOCUMENTS, width=12)
    found = []
    for decoder in (plain, recomputed):
        before = copy.deepcopy(decoder.state_dict())
        metrics = nll_step(decoder, torch.optim.SGD(decoder.parameters(), lr=1.0), batches, lr=1.0, max_grad_norm=1e9,
                           balance=STRONG)
        found.append((metrics, {name: before[name] - value for name, value in decoder.state_dict().items()}))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


def test_a_model_without_experts_has_nothing_to_balance() -> None:
    dense = build_decoder(ModelConfig(vocab_size=13, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
                                      num_attention_heads=2, num_key_value_heads=1), seed=0)
    batches = collate_packed(DOCUMENTS, width=12)
    balancer = LoadBalancer(dense, STRONG)
    assert balancer.count_documents(batches) == 0 and balancer.loss(batches[0], num_sequences=0) == 0.0
    assert balancer.finish(taken=True) == {}


def test_the_bias_evens_the_load_while_a_model_learns() -> None:
    generator = torch.Generator().manual_seed(1)
    documents = [(torch.randint(0, 13, (33,), generator=generator).tolist(), [1.0] * 33) for _ in range(20)]
    batches = collate_packed(documents, width=32 * 20)
    uneven = {}
    for speed in (0.0, 0.005):
        decoder = build(seed=3)
        optimizer = torch.optim.SGD(decoder.parameters(), lr=1.0)
        balance = Balance(loss=0.0, speed=speed)
        steps = [nll_step(decoder, optimizer, batches, lr=0.02, max_grad_norm=1.0, balance=balance) for _ in range(60)]
        uneven[speed] = sum(row["max_vio"] for row in steps[-10:]) / 10
        assert steps[-1]["loss"] < steps[0]["loss"] and steps[0]["max_vio"] > 0.3
    assert uneven[0.005] < 0.1 < 0.3 < uneven[0.0]


def test_a_step_that_is_not_taken_leaves_the_bias() -> None:
    decoder = build()
    rows = [PolicyRow((1, 2, 3), (4, 5, 6), 1.0, (-1.0,) * 3)]
    batches = collate_policy(rows, weights=[1.0], token_budget=100)
    metrics = _policy(decoder, batches, num_sequences=1, skip_above=1e-9)
    assert metrics["skipped"] == 1.0 and metrics["max_vio"] > 0
    assert all(router.e_score_correction_bias.eq(0).all() for router in routers(decoder))


def _policy(
    decoder: Decoder, batches: Sequence[PolicyBatch], num_sequences: int = 3, skip_above: float = 1e9
) -> dict[str, float]:
    algorithm = replace(ALGORITHMS["grpo-r1"], beta=0.0)
    optimizer = torch.optim.SGD(decoder.parameters(), lr=1.0)
    return policy_step(decoder, optimizer, batches, algorithm=algorithm, num_sequences=num_sequences, lr=1.0,
                       max_grad_norm=1e9, skip_above=skip_above, balance=STRONG)
