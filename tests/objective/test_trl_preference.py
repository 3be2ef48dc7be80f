"""Preference optimisation against TRL's DPOTrainer and KTOTrainer, and SimPO's loss against its CPOTrainer's.

Same weights, same ids, float64; TRL in one padded batch, ours in several packed ones. A pair of KTO counts as two of
TRL's examples, so that its mean over examples is our mean over pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOTrainer

from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.model.folder import load_model, save_model
from aha.objective.direct import PREFERENCES, compute_pair_losses
from aha.train.batch import CompletionPair, PolicyRow, collate_completion_pairs, collate_policy
from aha.train.direct_step import compute_sequence_logprobs, direct_step

CONFIG = ModelConfig(
    model_type="qwen2", vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip
PAIRS = [
    CompletionPair([5, 17, 30], [9, 2, 21], [33, 8]),
    CompletionPair([9, 2], [4], [7, 7, 12, 3, 6]),
    CompletionPair([11, 3, 3, 20], [25, 1, 38, 2], [14]),
    CompletionPair([8], [31, 30], [22, 10, 4]),
]
TOLERANCE = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


class Folders(NamedTuple):
    reference: Path
    now: Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    path = tmp_path_factory.mktemp("weights")
    decoder = build_decoder(CONFIG, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name in Folders._fields:
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        save_model(decoder, CONFIG, path / name)
    return Folders(path / "reference", path / "now")


@pytest.fixture(autouse=True)
def leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CI", "1")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    with torch.random.fork_rng(devices=[]):
        yield


def padded(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, Tensor]:
    """Ids, where they are, and which are the completion's, padded on the right."""
    width = max(len(prompt) + len(completion) for prompt, completion in rows)

    def fill(values: list[int]) -> list[int]:
        return values + [0] * (width - len(values))

    return {
        "input_ids": torch.tensor([fill([*p, *c]) for p, c in rows]),
        "attention_mask": torch.tensor([fill([1] * (len(p) + len(c))) for p, c in rows]),
        "completion_mask": torch.tensor([fill([0] * len(p) + [1] * len(c)) for p, c in rows]),
    }


CHOSEN = [(p.prompt_ids, p.chosen_ids) for p in PAIRS]
REJECTED = [(p.prompt_ids, p.rejected_ids) for p in PAIRS]
OTHERS = [(a.prompt_ids, b.chosen_ids) for a, b in zip(PAIRS, [*PAIRS[1:], PAIRS[0]], strict=True)]


def their_loss(folders: Folders, out: Path, name: str) -> dict[str, Tensor]:
    """TRL's loss and the gradient of every weight."""
    models = {key: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
              for key, path in folders._asdict().items()}  # fmt: skip
    backend = Tokenizer(WordLevel({f"w{i}": i for i in range(CONFIG.vocab_size)}, unk_token="w0"))
    backend.pre_tokenizer = Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w1", pad_token="w0")
    settings = {"output_dir": str(out), "bf16": False, "use_cpu": True, "report_to": "none", "beta": 0.3,
                "per_device_train_batch_size": 4, "gradient_checkpointing": False}  # fmt: skip
    row = {"prompt": ["w1", "w2"] * 2}
    if name == "kto":
        data = Dataset.from_dict({**row, "completion": ["w3", "w4"] * 2, "label": [True, False] * 2})
        trainer: Any = KTOTrainer(
            model=models["now"], ref_model=models["reference"], train_dataset=data, processing_class=words,
            args=KTOConfig(**settings, train_sampling_strategy="sequential"),
        )  # fmt: skip
        inputs = {
            **padded(CHOSEN + REJECTED),
            **{f"KL_{key}": value for key, value in padded(OTHERS).items()},
            "label": [True] * len(PAIRS) + [False] * len(PAIRS),
        }
        inputs["label"] = torch.tensor(inputs["label"])
    else:
        data = Dataset.from_dict({**row, "chosen": ["w3", "w4"] * 2, "rejected": ["w5", "w6"] * 2})
        trainer = DPOTrainer(
            model=models["now"], ref_model=models["reference"], train_dataset=data, processing_class=words,
            args=DPOConfig(**settings, loss_type={"dpo": "sigmoid"}.get(name, name)),
        )  # fmt: skip
        inputs = padded(CHOSEN + REJECTED)
    trainer.model.double()
    trainer.ref_model.double()
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, inputs, return_outputs=False)
    loss.backward()
    return {"loss": loss.detach(), **{n: p.grad for n, p in trainer.model.named_parameters()}}


@pytest.mark.parametrize("name", ["dpo", "ipo", "kto"])
def test_loss_and_gradient_agree(name: str, folders: Folders, tmp_path: Path) -> None:
    theirs = their_loss(folders, tmp_path, name)
    decoder, _ = load_model(folders.now, dtype=torch.float64)
    reference, _ = load_model(folders.reference, dtype=torch.float64)
    batches = collate_completion_pairs(PAIRS, token_budget=14)
    rows = [PolicyRow(prompt, completion, 0.0, [0.0] * len(completion)) for prompt, completion in OTHERS]
    others = collate_policy(rows, weights=[1.0] * len(rows), token_budget=9)
    assert len(batches) > 1 and len(others) > 1
    row = PREFERENCES[name]
    metrics = direct_step(
        decoder, torch.optim.SGD(decoder.parameters(), lr=0.0), batches, row=type(row)(
            name=name, loss=row.loss, beta=0.3, per_token=row.per_token
        ), reference_R=compute_sequence_logprobs(reference, batches), others=others,
        others_reference_R=compute_sequence_logprobs(reference, others), lr=0.0, max_grad_norm=torch.inf,
    )  # fmt: skip
    ours = {"loss": torch.tensor(metrics["loss"], dtype=torch.float64)}
    ours |= {n: p.grad for n, p in decoder.named_parameters() if p.grad is not None}
    assert len(ours) > 10 and ours.keys() <= theirs.keys()
    assert max(((ours[n] - theirs[n]).norm() / theirs[n].norm()).item() for n in ours) < TOLERANCE


def test_simpo_agrees() -> None:
    """TRL's gamma is taken from the difference before beta multiplies it, as a share of beta: the same."""
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = -torch.rand(2, 16, generator=generator, dtype=torch.float64) * 4
    row = PREFERENCES["simpo"]
    trainer = SimpleNamespace(
        alpha=0.0, loss_type="simpo", beta=row.beta, simpo_gamma=row.margin, label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    theirs, *rewards = CPOTrainer.cpo_loss(trainer, chosen, rejected)
    ours = compute_pair_losses(chosen, rejected, torch.zeros(()), row=row)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(row.beta * chosen, rewards[0])
