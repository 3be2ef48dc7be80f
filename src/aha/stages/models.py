"""A stage's model folder: weights, tokenizer, and the prompt template it was trained with, loaded and saved as one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from aha.errors import CheckpointError
from aha.model.config import ModelConfig
from aha.model.decoder import Decoder
from aha.model.folder import load_model, save_model
from aha.model.heads import STEP_HEAD_FILE, ProcessRewardModel, load_process_reward_model
from aha.rollout.native.engine import NativeEngine
from aha.rollout.native.int8 import rest_of
from aha.rollout.sync import sync_weights
from aha.tokens.render import Renderer
from aha.tokens.tokenizer import Tokenizer, load_tokenizer
from aha.util.files import read_object, write_json_atomic
from aha.util.memory import total_memory

TEMPLATE_FILE = "aha.json"


@dataclass(frozen=True)
class Policy:
    """A decoder with what is needed to talk to it; ``sampler``: the number type to sample in, if not the decoder's."""

    decoder: Decoder
    config: ModelConfig
    renderer: Renderer
    sampler: torch.dtype | None = None

    @property
    def sampling_dtype(self) -> torch.dtype:
        return self.sampler or self.decoder.head_weight.dtype

    @property
    def tokenizer(self) -> Tokenizer:
        return self.renderer.tokenizer


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_engine(policy: Policy, *, speculate: int = 0) -> NativeEngine:
    """A sampler with the policy's device and the number type to sample in, which drafts ``speculate`` tokens a step; no
    weights yet.

    Its cache may take a quarter of the device's memory (or of a container's): of all, not of what is free, so that the
    number of rows, and with it the last bit of a log-prob, does not depend on what else runs.
    """
    head = policy.decoder.head_weight
    return NativeEngine(
        policy.config,
        cache_bytes=cache_bytes(head.device),
        speculate=speculate,
        dtype=policy.sampling_dtype,
        device=head.device,
    )


def cache_bytes(device: torch.device) -> int:
    """What the sampler's cache may take."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return (total_memory() or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) // 4


def build_loaded_engine(policy: Policy, *, speculate: int = 0) -> NativeEngine:
    """A sampler that holds the policy's weights as version 0, proven."""
    engine = build_engine(policy, speculate=speculate)
    sync_weights(engine, policy.decoder, version=0)
    return engine


def train_last_layers(policy: Policy, layers: int) -> None:
    """Leaves gradients to the last ``layers`` layers of the body and the norm behind them; 0 leaves them to all.

    What is below is computed once and not backwards: with a fifth of the layers a step costs half. Call it before a
    head and the optimiser are built.
    """
    if layers:
        policy.decoder.requires_grad_(False)
        for module in (*policy.decoder.body_layers()[-layers:], policy.decoder.model.norm):
            module.requires_grad_(True)


def save_policy(policy: Policy, folder: Path) -> None:
    """A Hugging Face folder with the template beside it."""
    save_model(policy.decoder, policy.config, folder)
    policy.tokenizer.save(folder)
    write_json_atomic(folder / TEMPLATE_FILE, {"template": policy.renderer.template})


def load_policy(folder: Path, *, template: str | None = None, dtype: torch.dtype = torch.float32) -> Policy:
    """Read a stage's ``model`` folder, or any Hugging Face folder when ``template`` is given, onto the best device, its
    weights as ``dtype``; with ``torch.int8`` as bfloat16, from which the sampler makes its own.

    ``CheckpointError`` when the tokenizer knows ids that the model has no embedding for, or there is no template.
    """
    tokenizer = load_tokenizer(folder)
    if template is None:
        path = folder / TEMPLATE_FILE
        if not path.is_file():
            raise CheckpointError(
                f"{folder} has no {TEMPLATE_FILE}: give the prompt template it expects, with {{question}} in it"
            )
        template = read_object(path).get("template")
        if not isinstance(template, str):
            raise CheckpointError(f"{path} has no text as 'template': the prompt, with {{question}} in it")
    renderer = Renderer(tokenizer, template)
    decoder, config = load_model(folder, dtype=rest_of(dtype))
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model embeds {config.vocab_size}: they do "
            "not belong together"
        )
    return Policy(decoder.to(best_device()), config, renderer, dtype if dtype == torch.int8 else None)


def load_step_model(folder: Path, policy: Policy) -> ProcessRewardModel:
    """The process reward model of a stage, or in a model folder, on the policy's device. ``CheckpointError`` where
    there is none, or one with other tokens than the policy: it would read other words than were said."""
    path = folder if (folder / STEP_HEAD_FILE).is_file() else folder / "model"
    if not (path / STEP_HEAD_FILE).is_file():
        raise CheckpointError(f"{folder} holds no process reward model: neither it nor {path} has a {STEP_HEAD_FILE}")
    if load_tokenizer(path).backend.get_vocab() != policy.tokenizer.backend.get_vocab():
        raise CheckpointError(f"the vocabulary of {path} is not that of the policy: they do not belong together")
    model, _ = load_process_reward_model(path)
    return model.to(policy.decoder.head_weight.device)
