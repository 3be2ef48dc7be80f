"""Next-token training on the corpus: of a fresh decoder, the base that everything starts from, or of one that goes on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from aha.config import Amount, Count, Frozen, NotNegative, Rate, Share
from aha.data.corpus import TEMPLATE, documents
from aha.model.config import ModelConfig, ModelType
from aha.model.decoder import build_decoder
from aha.model.precision import Precision, use_precision
from aha.objective.mtp import mtp_weight
from aha.records import StageResult
from aha.stages.context import Context
from aha.stages.memory import check_memory, estimate_supervised, memory_metrics
from aha.stages.models import Policy, best_device, load_policy, save_policy
from aha.tokens.render import Renderer
from aha.tokens.tokenizer import load_tokenizer
from aha.train.balance import Balance
from aha.train.batch import Document, collate_packed
from aha.train.memory import of_documents
from aha.train.nll_step import nll_step
from aha.train.optimizer import Moments, build_adamw
from aha.train.schedule import learning_rate
from aha.train.state import TrainState
from aha.util.seeds import python_rng


class Shape(Frozen):
    """The decoder's dimensions; the vocabulary comes from the tokenizer. ``num_nextn_predict_layers`` modules of
    multi-token prediction stand behind the layers.

    What ``model_type`` has no use for stays None; with ``kv_lora_rank`` there are as many key/value heads as heads.
    """

    model_type: ModelType = "qwen2"
    hidden_size: Count = 96
    intermediate_size: Count = 256
    num_hidden_layers: Count = 4
    num_attention_heads: Count = 4
    num_key_value_heads: Count = 1
    q_lora_rank: Count | None = None
    kv_lora_rank: Count | None = None
    qk_nope_head_dim: Count | None = None
    qk_rope_head_dim: Count | None = None
    v_head_dim: Count | None = None
    n_routed_experts: Count | None = None
    n_shared_experts: Count | None = None
    num_experts_per_tok: Count | None = None
    moe_intermediate_size: Count | None = None
    first_k_dense_replace: Amount | None = None
    n_group: Count | None = None
    topk_group: Count | None = None
    routed_scaling_factor: Rate | None = None
    num_nextn_predict_layers: Amount = 0


class Settings(Frozen):
    """Tokens seen = ``steps * rows * row_length``, documents one behind the other without padding; learning rate warms
    up and falls as a cosine to ``final_ratio`` of its peak. Modules of multi-token prediction learn with DeepSeek-V3's
    weights (``objective/mtp.py``). ``precision`` is that of the linear maps' products, ``moments`` the optimiser's;
    weights stay float32."""

    shape: Shape = Shape()
    steps: Count = 2_800
    rows: Count = 8
    row_length: Count = 192
    lr: Rate = 3e-3
    warmup: Amount = 30
    final_ratio: Share = 0.1
    weight_decay: NotNegative = 0.1
    max_grad_norm: Rate = 1.0
    balance: Balance = Balance()
    precision: Precision = "float32"
    moments: Moments = "float32"


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``tokenizer`` for a fresh decoder of ``shape``, or ``init``, a model that is trained further.

    Each step draws its own documents from a stream named by the step, so the step number is the data position.
    """
    policy = load_policy(inputs["init"] / "model") if "init" in inputs else _fresh(settings, inputs, context)
    decoder, renderer = policy.decoder, policy.renderer
    layouts = (
        of_documents(
            [len(ids) for ids, _ in drawn],
            [len(ids) - 1 for ids, _ in drawn],
            width=settings.rows * settings.row_length,
        )
        for drawn in (_draw(settings, renderer, context.seed, step) for step in range(min(8, settings.steps)))
    )
    ahead = bool(policy.config.num_nextn_predict_layers)
    need = estimate_supervised(policy.config, layouts, like=decoder.head_weight, mtp=ahead)
    check_memory(need, policy, lower="rows or row_length")
    use_precision(decoder, settings.precision)
    optimizer = build_adamw(
        decoder,
        lr=settings.lr,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=settings.weight_decay,
        moments=settings.moments,
    )
    state = TrainState(0, decoder, optimizer, {"loss": None})
    state.resume(context.out / "state")
    context.rewind_metrics(state.step)
    while state.step < settings.steps:
        started = time.perf_counter()
        examples = _draw(settings, renderer, context.seed, state.step)
        lr = learning_rate(
            state.step,
            base=settings.lr,
            warmup=settings.warmup,
            total=settings.steps,
            shape="cosine",
            final_ratio=settings.final_ratio,
        )
        batches = collate_packed(examples, width=settings.rows * settings.row_length)
        metrics = nll_step(
            decoder,
            optimizer,
            batches,
            lr=lr,
            max_grad_norm=settings.max_grad_norm,
            balance=settings.balance,
            mtp_weight=mtp_weight(state.step / settings.steps) if ahead else 0.0,
        )
        state.step += 1
        state.extra["loss"] = metrics["loss"]
        memory = memory_metrics(state.step, need, decoder.head_weight.device)
        context.log({"step": state.step, **metrics, **memory, "seconds": time.perf_counter() - started})
        if context.save_due():
            state.save(context.out / "state")
        context.progress(state.step, settings.steps, loss=metrics["loss"])
    save_policy(policy, context.out / "model")
    return StageResult({"loss": state.extra["loss"], "steps": settings.steps})


def _draw(settings: Settings, renderer: Renderer, seed: int, step: int) -> list[Document]:
    """The documents of a step."""
    texts = documents(python_rng(seed, "corpus", step))
    drawn: list[Document] = []
    budget = settings.rows * settings.row_length
    while budget > 0:
        example = renderer.document(next(texts))
        drawn.append((example.ids, example.loss_mask))
        budget -= len(example.ids)
    return drawn
def model_config(shape: Shape, *, vocabulary: int, eos_token_id: int | None) -> ModelConfig:
    """The config of a fresh decoder for a tokenizer of ``vocabulary`` tokens, rounded up to a multiple of 16."""
    values = shape.model_dump(exclude_none=True)
    if shape.kv_lora_rank is not None:
        values["num_key_value_heads"] = shape.num_attention_heads
    return ModelConfig(
        vocab_size=-(-vocabulary // 16) * 16, max_position_embeddings=512, eos_token_id=eos_token_id, **values
    )


def _fresh(settings: Settings, inputs: Mapping[str, Path], context: Context) -> Policy:
    tokenizer = load_tokenizer(inputs["tokenizer"] / "tokenizer")
    config = model_config(settings.shape, vocabulary=tokenizer.vocab_size, eos_token_id=tokenizer.eos_id)
    decoder = build_decoder(config, seed=context.seed).to(best_device())
    return Policy(decoder, config, Renderer(tokenizer, TEMPLATE))
