"""The estimate against every allocation of real steps, counted to the byte (two steps: moments come with the first)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from aha.model import embedding, kernels
from aha.model.attention import compiled
from aha.model.checkpointing import checkpoint_layers
from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.model.heads import RewardModel, ValueModel
from aha.model.lora import add_lora
from aha.objective import logprob
from aha.objective.algorithms import ALGORITHMS
from aha.objective.logprob import token_logprobs
from aha.testing import measure_peak_memory
from aha.train.batch import PolicyRow, collate_packed, collate_policy, collate_preference
from aha.train.distill_step import distill_step
from aha.train.memory import (
    Layout,
    estimate_distillation,
    estimate_held,
    estimate_step,
    of_completions,
    of_documents,
    of_pairs,
)
from aha.train.nll_step import nll_step
from aha.train.optimizer import build_adamw
from aha.train.policy_step import policy_step
from aha.train.reward_step import preference_step
from aha.train.value_step import value_step

NARROW = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4}
LLAMA = ModelConfig(model_type="llama", num_attention_heads=4, num_key_value_heads=2, **NARROW)
QWEN2 = ModelConfig(model_type="qwen2", num_attention_heads=4, num_key_value_heads=1, **NARROW)
QWEN3 = ModelConfig(model_type="qwen3", head_dim=32, num_attention_heads=4, num_key_value_heads=4, **NARROW)
DEEP = LLAMA.model_copy(update={"num_hidden_layers": 12})
FAT = LLAMA.model_copy(update={"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2, "head_dim": 64})
WIDE = LLAMA.model_copy(update={"vocab_size": 6_000, "num_hidden_layers": 2})
UNTIED = LLAMA.model_copy(update={"tie_word_embeddings": False})
WIDE_UNTIED = WIDE.model_copy(update={"tie_word_embeddings": False})


@pytest.fixture(autouse=True)
def one_thread_and_small_chunks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Chunks of 2 MiB: a small vocabulary is one chunk, a wide one several, whose embedding's rows go to the head's."""
    monkeypatch.setattr(logprob, "CHUNK_ELEMENTS", 2**19)
    monkeypatch.setattr(embedding, "ROWS_FROM", 2**18)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check(
    config: ModelConfig,
    dtype: torch.dtype,
    layouts: list[Layout],
    train: Callable[[], object],
    *,
    logits: bool = True,
    recomputed: int = 0,
) -> None:
    held = estimate_held(config, bytes_per_number=dtype.itemsize, logits=logits)
    step = estimate_step(config, layouts, bytes_per_number=dtype.itemsize, logits=logits, recomputed=recomputed)
    measured = measure_peak_memory(train)
    assert held.weights + held.moments + step == pytest.approx(measured, rel=0.2)
    # What is there from step to step is known exactly, so that the part that is not must be near by itself.
    assert step == pytest.approx(measured - held.weights - held.moments, rel=0.2)


DOCUMENTS = {  # lengths, most tokens of a micro-batch
    "short": ([50] * 16, 800),
    "long": ([601] * 2, 1_200),
    "one at a time": ([191] * 4, 190),
    "uneven, under a mask": ([10] * 8 + [300], 400),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("config", "case"),
    [
        *((LLAMA, case) for case in DOCUMENTS),
        (QWEN2, "short"),
        (QWEN3, "short"),
        (UNTIED, "one at a time"),
        (DEEP, "short"),
        (FAT, "one at a time"),
        (WIDE, "short"),
        (WIDE_UNTIED, "one at a time"),
    ],
)
def test_a_step_on_documents(config: ModelConfig, case: str, dtype: torch.dtype) -> None:
    check_documents(config, case, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("config", "case"), [(LLAMA, "short"), (WIDE, "short"), (WIDE_UNTIED, "one at a time")])
def test_a_step_without_compiled_functions(
    config: ModelConfig, case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (kernels, compiled):
        monkeypatch.setattr(module, "load_library", lambda source: None)
    check_documents(config, case, dtype)


MLA = ModelConfig(
    model_type="deepseek_v3", num_attention_heads=4, num_key_value_heads=4, q_lora_rank=32, kv_lora_rank=32,
    qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, **NARROW,
)  # fmt: skip
EXPERTS = MLA.model_copy(
    update={"n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 32, "n_shared_experts": 1}
)


@pytest.mark.parametrize("config", [MLA, EXPERTS], ids=["latent attention", "experts"])
def test_what_is_not_counted_to_the_byte_is_not_counted_short(config: ModelConfig) -> None:
    lengths, width = DOCUMENTS["short"]
    documents = [(tuple(i % 200 for i in range(length)), (1,) * length) for length in lengths]
    decoder = build_decoder(config, seed=0)
    optimizer, batches = build_adamw(decoder, lr=1e-4), collate_packed(documents, width=width)

    def train() -> None:
        nll_step(decoder, optimizer, batches, lr=1e-4, max_grad_norm=1.0)

    train()
    decoder.zero_grad(set_to_none=True)
    measured = measure_peak_memory(train)
    layouts = of_documents(lengths, [length - 1 for length in lengths], width=width)
    assert measured <= 1.02 * estimate_step(config, layouts) <= 1.25 * measured


@pytest.mark.parametrize(("config", "case"), [(LLAMA, "short"), (FAT, "one at a time"), (WIDE_UNTIED, "short")])
@pytest.mark.parametrize("rank", [2, 16])
def test_a_step_of_adapters(config: ModelConfig, case: str, rank: int) -> None:
    lengths, width = DOCUMENTS[case]
    documents = [(tuple(i % 200 for i in range(length)), (1,) * length) for length in lengths]
    decoder = build_decoder(config, seed=0)
    weights = sum(parameter.nbytes for parameter in decoder.parameters())
    batches = collate_packed(documents, width=width)

    def train() -> None:
        add_lora(decoder, rank=rank, alpha=1.0)
        nll_step(decoder, build_adamw(decoder, lr=1e-4), batches, lr=1e-4, max_grad_norm=1.0)

    held = estimate_held(config, lora=rank)
    step = estimate_step(config, of_documents(lengths, [n - 1 for n in lengths], width=width), lora=rank)
    measured = weights + measure_peak_memory(train)
    assert held.weights + held.moments + step == pytest.approx(measured, rel=0.1)
    assert step == pytest.approx(measured - held.weights - held.moments, rel=0.15)


@pytest.mark.parametrize("vocab", [300, 30_000])
def test_a_step_with_a_teacher(vocab: int) -> None:
    """Its logits exist for a chunk of places at a time."""
    config = LLAMA.model_copy(update={"vocab_size": vocab, "num_hidden_layers": 1})
    student, teacher = build_decoder(config, seed=0), build_decoder(config, seed=1).requires_grad_(False)
    documents, lengths = [((1,) * 101, (1,) * 101)] * 8, [101] * 8
    optimizer, batches = build_adamw(student, lr=1e-4), collate_packed(documents, width=800)

    def train() -> None:
        distill_step(student, teacher, optimizer, batches, soft=1.0, temperature=1.0, lr=1e-4, max_grad_norm=1.0)

    train()
    student.zero_grad(set_to_none=True)
    measured = measure_peak_memory(train)
    layouts = of_documents(lengths, [100] * 8, width=800)
    assert measured <= 1.1 * (estimate_step(config, layouts) + estimate_distillation(config, layouts)) < 2 * measured


@pytest.mark.parametrize("recomputed", [5, 12])
def test_a_step_whose_first_layers_are_computed_again(recomputed: int) -> None:
    check_documents(DEEP, "one at a time", torch.float32, recomputed)


def check_documents(config: ModelConfig, case: str, dtype: torch.dtype, recomputed: int = 0) -> None:
    lengths, width = DOCUMENTS[case]
    documents = [([1] * length, [1.0] * length) for length in lengths]

    def train() -> None:
        decoder = build_decoder(config, seed=0, dtype=dtype)
        checkpoint_layers(decoder, recomputed)
        optimizer = build_adamw(decoder, lr=1e-3)
        for _ in range(2):
            batches = collate_packed(documents, width=width)
            nll_step(decoder, optimizer, batches, lr=1e-3, max_grad_norm=1.0)

    layouts = of_documents(lengths, [n - 1 for n in lengths], width=width)
    check(config, dtype, layouts, train, recomputed=recomputed)


COMPLETIONS = {  # prompts, samples, prompt tokens, completion tokens, token budget
    "short": (4, 8, 8, 24, 4_096),
    "long": (1, 6, 60, 240, 4_096),
    "a prompt far longer than what continues it": (1, 12, 300, 20, 4_096),
    "many micro-batches": (4, 4, 30, 60, 300),
    "one completion a micro-batch": (1, 3, 8, 12, 20),
}


def rows_of(case: str) -> list[PolicyRow]:
    prompts, samples, prompt, completion, _ = COMPLETIONS[case]
    return [
        PolicyRow((p + 1,) * prompt, (2,) * completion, 1.0, (-1.0,) * completion)
        for p in range(prompts)
        for _ in range(samples)
    ]


def layouts_of(case: str) -> list[Layout]:
    prompts, samples, prompt, completion, budget = COMPLETIONS[case]
    rows = prompts * samples
    return of_completions(prompts=prompts, rows=rows, prompt=prompt, completion=completion, token_budget=budget)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("config", "case"),
    [
        *((LLAMA, case) for case in COMPLETIONS),
        (QWEN2, "short"),
        (QWEN2, "long"),
        (QWEN3, "long"),
        (UNTIED, "many micro-batches"),
        (WIDE, "many micro-batches"),
        (WIDE, "one completion a micro-batch"),
        (WIDE_UNTIED, "short"),
    ],
)
def test_a_step_on_completions(config: ModelConfig, case: str, dtype: torch.dtype) -> None:
    rows, budget = rows_of(case), COMPLETIONS[case][-1]

    def train() -> None:
        decoder = build_decoder(config, seed=0, dtype=dtype)
        optimizer = build_adamw(decoder, lr=1e-3)
        for _ in range(2):
            policy_step(
                decoder,
                optimizer,
                collate_policy(rows, weights=[1.0] * len(rows), token_budget=budget),
                algorithm=replace(ALGORITHMS["grpo-r1"], beta=0.0),
                num_sequences=len(rows),
                lr=1e-3,
                max_grad_norm=1.0,
                importance_cap=2.0,
            )

    check(config, dtype, layouts_of(case), train)


@pytest.mark.parametrize("config", [LLAMA, WIDE_UNTIED], ids=["narrow", "wide, untied"])
def test_a_step_of_a_critic(config: ModelConfig) -> None:
    rows = rows_of("many micro-batches")

    def train() -> None:
        model = ValueModel(build_decoder(config, seed=0))
        optimizer = build_adamw(model, lr=1e-3)
        for _ in range(2):
            batches = collate_policy(rows, weights=[1.0] * len(rows), token_budget=300)
            targets = [torch.zeros(len(batch.targets_N)) for batch in batches]
            value_step(model, optimizer, batches, targets, targets, clip=0.2, lr=1e-3, max_grad_norm=1.0)

    check(config, torch.float32, layouts_of("many micro-batches"), train, logits=False)


@pytest.mark.parametrize("length", [40, 120])
def test_a_step_of_a_reward_model(length: int) -> None:
    pairs = [([1] * length, [2] * (length - 3))] * 12

    def train() -> None:
        model = RewardModel(build_decoder(LLAMA, seed=0))
        optimizer = build_adamw(model, lr=1e-3)
        for _ in range(2):
            preference_step(
                model, optimizer, collate_preference(pairs, token_budget=1_000), lr=1e-3, max_grad_norm=1.0
            )

    check(LLAMA, torch.float32, of_pairs([length] * 12, token_budget=1_000), train, logits=False)


def test_logits_are_never_those_of_the_whole_batch() -> None:
    # 300 tokens x 30,000 words are 36 MB of logits in float32; chunks of 2 MiB are all that may be there.
    head_VD = torch.randn(30_000, 8, requires_grad=True)
    targets_N = torch.zeros(300, dtype=torch.long)

    def chunked() -> None:
        hidden_ND = torch.randn(300, 8, requires_grad=True)
        token_logprobs(hidden_ND, head_VD, targets_N)[0].sum().backward()

    def whole() -> None:
        hidden_ND = torch.randn(300, 8, requires_grad=True)
        (hidden_ND @ head_VD.T).log_softmax(-1)[:, 0].sum().backward()

    logits = 300 * 30_000 * 4
    assert measure_peak_memory(chunked) < logits / 3
    head_VD.grad = None
    assert measure_peak_memory(whole) > 2 * logits
    one, two = (of_documents([n + 1], [n], width=n) for n in (300, 600))
    narrow, wide = (LLAMA.model_copy(update={"vocab_size": v}) for v in (30_000, 60_000))
    grown = {c.vocab_size: estimate_step(c, two) - estimate_step(c, one) for c in (narrow, wide)}
    assert grown[60_000] <= grown[30_000]  # twice the tokens cost no more with a larger vocabulary
    assert grown[30_000] < 300 * 30_000 * 4


def test_memory_is_counted_as_it_comes_and_goes() -> None:
    def run() -> None:
        kept = torch.zeros(1_000)
        for _ in range(3):
            torch.zeros(500)
        del kept
        torch.zeros(200)

    assert measure_peak_memory(run) == 6_000
