"""Loss, gradients and advantages against TRL's GRPOTrainer: its own code on the same rows, weights and settings.

What differs, and by which factor, is in docs/decisions/0011-agreement-with-trl.md; each difference has a test here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.model.folder import load_model, save_model
from aha.objective.advantages import outcome_advantages
from aha.objective.algorithms import ALGORITHMS, Algorithm, Scale
from aha.objective.policy import importance_weights, policy_loss, sequence_mean
from aha.objective.weights import token_weights
from aha.train.batch import PolicyRow, collate_policy, with_old, with_reference
from aha.train.policy_step import compute_logprobs, policy_step

CONFIG = ModelConfig(
    model_type="qwen2", vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # TRL's own, of its settings

GROUP = 4
PROMPTS = [[5, 17, 30], [9, 2, 21, 33, 8]]
LENGTHS = [7, 2, 9, 1, 4, 12, 3, 6]  # completion tokens: GROUP of the first prompt, GROUP of the second
LONGEST = 12  # tokens that a completion may have
REWARDS = [1.0, 0.0, 0.25, 0.0, 0.0, 1.0, 1.0, 0.5]
CAP = 1.5  # of the importance weight
TOLERANCE = 1e-5  # relative, in the trainer's precision

CLIPS = {"epsilon": 0.2, "epsilon_high": 0.2}
GRPO, GSPO = replace(ALGORITHMS["grpo"], beta=0.0), replace(ALGORITHMS["gspo"], clip_low=0.02, clip_high=0.03)
THEIR_GRPO = {"loss_type": "grpo", **CLIPS}
THEIR_GSPO = {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.03}
WITH_KL, PLAIN_KL = {"beta": 0.4}, {"beta": 0.4, "use_bias_correction_kl": False}
# A row of the table, and GRPOConfig's settings for the same.
CASES: dict[str, tuple[Algorithm, dict[str, Any]]] = {
    "grpo": (GRPO, THEIR_GRPO),
    "grpo, KL in the loss": (replace(GRPO, beta=0.4), THEIR_GRPO | PLAIN_KL),
    "grpo, KL times the ratio": (replace(GRPO, beta=0.4, kl_weighted=True), THEIR_GRPO | WITH_KL),
    "grpo, two-sided clip": (replace(GRPO, clip_negative=1.3), THEIR_GRPO | {"delta": 1.3}),
    "dapo": (ALGORITHMS["dapo"], {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28}),
    "dr_grpo": (ALGORITHMS["dr-grpo"], {"loss_type": "dr_grpo", **CLIPS}),
    "gspo": (GSPO, THEIR_GSPO),
    "gspo, KL in the loss": (replace(GSPO, beta=0.4), THEIR_GSPO | PLAIN_KL),
    # TRL's epsilon_high is the largest weight itself, ours what it may exceed 1 by
    "cispo": (replace(ALGORITHMS["cispo"], clip_high=0.1), {"loss_type": "cispo", "epsilon_high": 1.1}),
}


class Folders(NamedTuple):
    """Three sets of weights: the reference, the policy that sampled, and what some updates made of it."""

    reference: Path
    old: Path
    now: Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    path = tmp_path_factory.mktemp("weights")
    decoder = build_decoder(CONFIG, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name in Folders._fields:
        with torch.no_grad():
            for parameter in decoder.parameters():  # biases too: at 0 their place would not show
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        save_model(decoder, CONFIG, path / name)
    return Folders(*(path / name for name in Folders._fields))


@pytest.fixture(autouse=True)
def leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """GRPOTrainer seeds all of Python's generators, and calls home unless this is a test."""
    monkeypatch.setenv("CI", "1")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def our_rows(folders: Folders, temperature: float = 1.0) -> list[PolicyRow]:
    """Completions at random; the sampler's log-probs are those of the old weights and noise."""
    generator = torch.Generator().manual_seed(5)
    ids = [torch.randint(CONFIG.vocab_size, (n,), generator=generator).tolist() for n in LENGTHS]
    bare = [PolicyRow(PROMPTS[i // GROUP], ids[i], 0.0, [0.0] * n) for i, n in enumerate(LENGTHS)]
    old = our_logprobs(folders.old, bare, temperature)
    noise = [torch.randn(n, generator=generator) * 0.5 for n in LENGTHS]
    return [r._replace(sampler_logprobs=(a + b).tolist()) for r, a, b in zip(bare, old, noise, strict=True)]


def our_logprobs(path: Path, rows: Sequence[PolicyRow], temperature: float) -> list[Tensor]:
    """One tensor for each row."""
    (batch,) = collate_policy(rows, weights=[1.0] * len(rows), token_budget=10_000)
    (logp_N,) = compute_logprobs(load_model(path, dtype=torch.float64)[0], [batch], temperature=temperature)
    found = batch.by_row(logp_N)
    return [found[i] for i in range(len(rows))]


def build_trainer(folders: Folders, rows: Sequence[PolicyRow], out: Path, **settings: Any) -> Any:
    """A real GRPOTrainer, in float64 where TRL and transformers let it; ``rows`` stand for what it would sample.

    ``num_iterations=2`` is what makes it keep the log-probs of the weights that sampled. Its correction of the sampler
    is written for vLLM alone, which is not needed for it: ``correct_sampler`` turns it on.
    """
    correct_sampler = settings.pop("correct_sampler", False)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(CONFIG.vocab_size)}, unk_token="w0"))
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folders.reference, dtype=torch.float64),
        reward_funcs=lambda completions, reward, **_: reward,
        args=GRPOConfig(
            output_dir=str(out), num_generations=GROUP, max_completion_length=LONGEST, bf16=False, use_cpu=True,
            report_to="none", vllm_importance_sampling_mode="token_truncate", vllm_importance_sampling_clip_max=CAP,
            **{"num_iterations": 2, "per_device_train_batch_size": len(rows), **settings},
        ),
        train_dataset=Dataset.from_dict({"prompt": ["w1"]}),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w0"),
        rollout_func=lambda prompts, trainer: {
            "prompt_ids": [row.prompt_ids for row in rows],
            "completion_ids": [row.completion_ids for row in rows],
            "logprobs": [row.sampler_logprobs for row in rows],
        },
    )  # fmt: skip
    if trainer.ref_model is not None:
        trainer.ref_model.double()
    trainer.use_vllm, trainer._last_loaded_step = correct_sampler, trainer.state.global_step
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps  # as Trainer.train() does
    return trainer


def put_weights(trainer: Any, path: Path) -> None:
    trainer.model.load_state_dict(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).state_dict())


def score(trainer: Any, rewards: Sequence[float | None] = REWARDS) -> dict[str, Tensor]:
    """The tensors that TRL makes of a rollout: padded ids, advantages, the log-probs of the old weights, ..."""
    trainer.model.train()
    return trainer._generate_and_score_completions([{"prompt": "w1", "reward": reward} for reward in rewards])


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Relative, of each pair: norm of the difference over norm."""
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("policy", ["on", "off", "corrected"])
@pytest.mark.parametrize("case", CASES)
def test_step_agrees(folders: Folders, tmp_path: Path, case: str, policy: str) -> None:
    """From token ids to the gradient of every weight, TRL in one padded batch and ours in several packed ones.

    "on": the weights that sampled are those that learn. "off": others, far enough for both clips. "corrected": and the
    sampler's log-probs are not the trainer's, which a truncated weight makes good.
    """
    algorithm, settings = CASES[case]
    temperature = 0.7 if policy == "corrected" else 1.0
    rows, now = our_rows(folders, temperature), folders.old if policy == "on" else folders.now
    trainer = build_trainer(
        folders, rows, tmp_path, correct_sampler=policy == "corrected", temperature=temperature,
        num_iterations=1 if policy == "on" else 2, **settings,
    )  # fmt: skip
    put_weights(trainer, folders.old)
    inputs = score(trainer)
    assert ("old_per_token_logps" in inputs) == (policy != "on")
    put_weights(trainer, now)
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    theirs = {"loss": loss.detach(), **{name: p.grad for name, p in trainer.model.named_parameters()}}

    old = our_logprobs(folders.old, rows, temperature)
    if policy != "corrected":  # without the correction TRL takes the sampler's log-probs for the old ones
        rows = [row._replace(sampler_logprobs=logp_N.tolist()) for row, logp_N in zip(rows, old, strict=True)]
    rows = [row._replace(advantage=a) for row, a in zip(rows, inputs["advantages"].tolist(), strict=True)]
    weights = token_weights(LENGTHS, algorithm.aggregation, constant=LONGEST)
    batches = collate_policy(rows, weights=weights, token_budget=20)
    assert len(batches) > 1
    if policy != "on":
        batches = with_old(batches, [torch.cat([old[i] for i in batch.rows]) for batch in batches])
    if algorithm.beta:
        reference = our_logprobs(folders.reference, rows, temperature)
        batches = with_reference(batches, [torch.cat([reference[i] for i in batch.rows]) for batch in batches])
    decoder = load_model(now, dtype=torch.float64)[0]
    metrics = policy_step(
        decoder, torch.optim.SGD(decoder.parameters(), lr=0.0), batches, algorithm=algorithm, num_sequences=len(rows),
        lr=0.0, max_grad_norm=torch.inf, temperature=temperature, importance_cap=CAP,
    )  # fmt: skip
    ours = {"loss": torch.tensor(metrics["loss"], dtype=torch.float64)}
    ours |= {name: p.grad for name, p in decoder.named_parameters() if p.grad is not None}

    if policy == "on" and algorithm.aggregation == "sequence" and not algorithm.beta:
        # minus the mean of advantages that sum to 0 in each group: only rounding is left to compare
        assert abs(ours.pop("loss")) < 1e-6 and abs(theirs.pop("loss")) < 1e-6
    if policy == "on":
        assert metrics["clip_low"] == metrics["clip_high"] == 0
    else:
        assert 0 < metrics["clip_high"] < 0.5 and (0 < metrics["clip_low"] < 0.5 or algorithm.clip == "weight")
    if policy == "corrected":
        assert 0 < metrics["is_truncated"] < 0.5
    assert ours.keys() == theirs.keys()
    assert largest_difference(list(ours.values()), [theirs[name] for name in ours]) < TOLERANCE


class Made(NamedTuple):
    """Log-probs and what goes with them, float64, padded on the right; ``mask_BT`` is where tokens are."""

    mask_BT: Tensor
    logp_BT: Tensor
    old_BT: Tensor
    sampler_BT: Tensor
    reference_BT: Tensor
    advantages_B: Tensor


@pytest.fixture
def made() -> Made:
    generator = torch.Generator().manual_seed(2)
    lengths_B1 = torch.tensor(LENGTHS)[:, None]
    mask_BT = torch.arange(LONGEST) < lengths_B1
    logp_BT, *noise = torch.randn(4, len(LENGTHS), LONGEST, generator=generator, dtype=torch.float64)
    old_BT = logp_BT + 0.3 * noise[0] * mask_BT
    advantages_B = torch.tensor([1.25, -0.75, -1.5, 1.0, 0.875, -1.0, 0.625, -0.5], dtype=torch.float64)
    return Made(mask_BT, logp_BT, old_BT, old_BT + 0.5 * noise[1], logp_BT + 0.5 * noise[2], advantages_B)


def their_loss(trainer: Any, made: Made, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """TRL's loss of these rows, and its gradient on each log-prob: what the model says is replaced, nothing else."""
    logp_BT = made.logp_BT[rows].clone().requires_grad_()
    mask_BT, old_BT = made.mask_BT[rows].long(), made.old_BT[rows]
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logp_BT, torch.zeros_like(logp_BT), None)
    trainer.model.train()
    inputs = {
        "prompt_ids": torch.ones(len(mask_BT), 1), "prompt_mask": torch.ones(len(mask_BT), 1),
        "completion_ids": torch.ones_like(mask_BT), "completion_mask": mask_BT,
        "advantages": made.advantages_B[rows], "num_items_in_batch": made.mask_BT.sum(),
        "old_per_token_logps": old_BT, "ref_per_token_logps": made.reference_BT[rows],
        "importance_sampling_ratio": importance_weights(old_BT, made.sampler_BT[rows], cap=CAP),
    }  # fmt: skip
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    assert logp_BT.grad is not None and not logp_BT.grad[mask_BT == 0].any()
    return loss.detach(), logp_BT.grad


def our_loss(algorithm: Algorithm, made: Made, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """The same from the parts of ``aha.objective``: these rows are one update."""
    logp_BT = made.logp_BT[rows].clone().requires_grad_()
    mask_BT = made.mask_BT[rows]
    logp_N, old_N, sampler_N, reference_N = (
        x_BT[mask_BT] for x_BT in (logp_BT, made.old_BT[rows], made.sampler_BT[rows], made.reference_BT[rows])
    )
    row_N = mask_BT.nonzero()[:, 0]
    policy = policy_loss(logp_N, old_N, made.advantages_B[rows][row_N], row_N, algorithm=algorithm)
    loss_N = policy.loss_N * importance_weights(old_N, sampler_N, cap=CAP)
    kl_N = algorithm.kl(logp_N, reference_N)
    loss_N = loss_N + algorithm.beta * (kl_N * (logp_N - old_N).exp() if algorithm.kl_weighted else kl_N)
    weights_B = token_weights(mask_BT.sum(1), algorithm.aggregation, constant=LONGEST)
    loss = (loss_N * weights_B[row_N]).sum() / len(mask_BT)
    loss.backward()
    assert logp_BT.grad is not None
    for clipped_N in (policy.clipped_low_N, policy.clipped_high_N):
        assert 0 < clipped_N.double().mean() < 0.5 or algorithm.clip == "weight" or rows != slice(None)
    return loss.detach(), logp_BT.grad


LOSS_TYPES = ["grpo", "dapo", "dr_grpo", "gspo", "cispo"]
FIRST, SECOND = slice(0, GROUP), slice(GROUP, None)


@pytest.mark.parametrize("case", CASES)
def test_gradient_of_every_logprob_agrees(folders: Folders, made: Made, tmp_path: Path, case: str) -> None:
    algorithm, settings = CASES[case]
    trainer = build_trainer(folders, our_rows(folders), tmp_path, correct_sampler=True, **settings)
    assert largest_difference(our_loss(algorithm, made), their_loss(trainer, made)) < 1e-12


@pytest.mark.parametrize("case", LOSS_TYPES)
def test_accumulated_micro_batches_agree(folders: Folders, made: Made, tmp_path: Path, case: str) -> None:
    """TRL's two micro-batches of as many rows are our one update: its denominators are the update's as well."""
    algorithm, settings = CASES[case]
    halves = {"per_device_train_batch_size": GROUP, "gradient_accumulation_steps": 2}
    trainer = build_trainer(folders, our_rows(folders), tmp_path, correct_sampler=True, **settings, **halves)
    (first, first_grad), (second, second_grad) = their_loss(trainer, made, FIRST), their_loss(trainer, made, SECOND)
    loss, grad = our_loss(algorithm, made)
    assert largest_difference([loss, grad], [first + second, torch.cat((first_grad, second_grad))]) < 1e-12


@pytest.mark.parametrize("case", LOSS_TYPES)
def test_several_updates_differ_by_their_denominator(folders: Folders, made: Made, tmp_path: Path, case: str) -> None:
    """Of one rollout's updates TRL's dapo and cispo divide by the mean number of tokens, ours by the update's own."""
    algorithm, settings = CASES[case]
    halves = {"per_device_train_batch_size": GROUP, "steps_per_generation": 2}
    trainer = build_trainer(folders, our_rows(folders), tmp_path, correct_sampler=True, **settings, **halves)
    for rows, lengths in ((FIRST, LENGTHS[FIRST]), (SECOND, LENGTHS[SECOND])):
        factor = sum(LENGTHS) / 2 / sum(lengths) if algorithm.aggregation == "token" else 1.0
        theirs = [factor * x for x in their_loss(trainer, made, rows)]
        assert largest_difference(our_loss(algorithm, made, rows), theirs) < 1e-12


def test_weighted_kl_of_a_sequence_ratio_differs(folders: Folders, made: Made, tmp_path: Path) -> None:
    """With GSPO and the KL times the ratio, TRL takes the sequence's ratio for every token, ours the token's."""
    algorithm, settings = replace(GSPO, beta=0.4, kl_weighted=True), THEIR_GSPO | WITH_KL
    trainer = build_trainer(folders, our_rows(folders), tmp_path, correct_sampler=True, **settings)
    change_N, row_N = (made.logp_BT - made.old_BT)[made.mask_BT], made.mask_BT.nonzero()[:, 0]
    kl_N = algorithm.kl(made.logp_BT[made.mask_BT], made.reference_BT[made.mask_BT])
    excess_N = sequence_mean(kl_N * (sequence_mean(change_N, row_N).exp() - change_N.exp()), row_N)
    excess = 0.4 * torch.stack([excess_N[row_N == i][0] for i in range(len(LENGTHS))]).mean()
    assert abs(excess) > 1e-4
    ours, theirs = our_loss(algorithm, made)[0], their_loss(trainer, made)[0]
    torch.testing.assert_close(theirs - ours, excess, rtol=1e-10, atol=0)


@pytest.mark.parametrize("scale", ["group", "none", "batch"])
def test_advantages_differ_by_their_deviation(folders: Folders, tmp_path: Path, scale: str) -> None:
    """TRL divides by the sample's deviation plus 1e-4, ours by the population's plus 1e-6.

    Over the batch TRL's is that of the rewards, ours that of what is left of them without their group's mean. Both
    leave out a reward that is unknown, and give 0 where all of a group are equal.
    """
    rewards: list[float | None] = [1.0, 0.0, 0.25, None, 0.7, 0.7, 0.7, 0.7]
    unknown_PG = torch.tensor([reward is None for reward in rewards]).view(2, GROUP)
    rewards_PG = torch.tensor([reward or 0.0 for reward in rewards], dtype=torch.float64).view(2, GROUP)
    ours: dict[str, Scale] = {"group": "group_std", "none": "none", "batch": "batch_std"}
    ours_PG = outcome_advantages(rewards_PG, ~unknown_PG, baseline="group", scale=ours[scale])
    known = [group[~unknown] for group, unknown in zip(rewards_PG, unknown_PG, strict=True)]
    if scale == "group":
        factor_P1 = torch.tensor([[(g.std(correction=0) + 1e-6) / (g.std() + 1e-4)] for g in known])
    elif scale == "batch":
        deviation = torch.cat([g - g.mean() for g in known]).std(correction=0)
        factor_P1 = (deviation + 1e-6) / (torch.cat(known).std() + 1e-4)
    else:
        factor_P1 = torch.ones(())
    trainer = build_trainer(folders, our_rows(folders), tmp_path, **CASES["grpo"][1], scale_rewards=scale)
    theirs_PG = score(trainer, rewards)["advantages"].view(2, GROUP).double()
    torch.testing.assert_close(theirs_PG, ours_PG * factor_P1, rtol=TOLERANCE, atol=0)
