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
from aha.objective.algorithms import ALGORITHMS, Algorithm
from aha.objective.policy import importance_weights, policy_loss, sequence_mean
from aha.objective.weights import token_weights
from aha.train.batch import PolicyRow, collate_policy, with_old, with_reference
from aha.train.step import compute_logprobs, policy_step

CONFIG = ModelConfig(
    model_type="qwen2", vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip
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


def our_rows(folders: Folders) -> list[PolicyRow]:
    """Completions at random; the sampler's log-probs are those of the old weights and noise."""
    generator = torch.Generator().manual_seed(5)
    bare = [
        PolicyRow(PROMPTS[i // GROUP], torch.randint(CONFIG.vocab_size, (n,), generator=generator).tolist(), 0.0, [0.0] * n)
        for i, n in enumerate(LENGTHS)
    ]
    old = our_logprobs(folders.old, bare, 1.0)
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
            output_dir=str(out), per_device_train_batch_size=len(rows), num_generations=GROUP, bf16=False, use_cpu=True,
            max_completion_length=LONGEST, report_to="none", vllm_importance_sampling_mode="token_truncate",
            vllm_importance_sampling_clip_max=CAP, **{"num_iterations": 2, **settings},
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
    trainer.current_gradient_accumulation_steps = 1  # Trainer.train() would set it
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
    rows, now = our_rows(folders), folders.old if policy == "on" else folders.now
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

    if policy == "on" and algorithm.clip == "objective" and not algorithm.beta:
        # minus the mean of advantages that sum to 0 in the group: nothing but rounding, where each row counts the same
        if algorithm.aggregation == "sequence":
            assert abs(ours.pop("loss")) < 1e-6 and abs(theirs.pop("loss")) < 1e-6
    if policy == "on":
        assert metrics["clip_low"] == metrics["clip_high"] == 0
    else:
        assert 0 < metrics["clip_high"] < 0.5 and (0 < metrics["clip_low"] < 0.5 or algorithm.clip == "weight")
    if policy == "corrected":
        assert 0 < metrics["is_truncated"] < 0.5
    assert ours.keys() == theirs.keys()
    assert largest_difference(list(ours.values()), [theirs[name] for name in ours]) < TOLERANCE
