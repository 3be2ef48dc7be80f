"""Next-token training on the corpus: of a fresh decoder, the base that everything starts from, or of one that goes on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from aha.config import Amount, Count, Frozen, NotNegative, Rate, Share
from aha.data.corpus import TEMPLATE, documents
from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.model.precision import Precision, use_precision
from aha.records import StageResult
from aha.stages.context import Context
from aha.stages.models import Policy, best_device, load_policy, save_policy
from aha.tokens.render import Renderer
from aha.tokens.tokenizer import load_tokenizer
from aha.train.batch import collate_packed
from aha.train.optimizer import Moments, build_adamw
from aha.train.schedule import learning_rate
from aha.train.state import TrainState
from aha.train.step import nll_step
from aha.util.seeds import python_rng


class Shape(Frozen):
    """The decoder's dimensions; the vocabulary comes from the tokenizer."""

    hidden_size: Count = 96
    intermediate_size: Count = 256
    num_hidden_layers: Count = 4
    num_attention_heads: Count = 4
    num_key_value_heads: Count = 1


class Settings(Frozen):
    """Tokens seen = ``steps * rows * row_length``; learning rate warms up and falls as a cosine to ``final_ratio`` of
    its peak. ``precision`` is that of the linear maps' products, ``moments`` the optimiser's; weights stay float32."""

    shape: Shape = Shape()
    steps: Count = 2_800
    rows: Count = 8
    row_length: Count = 192
    lr: Rate = 3e-3
    warmup: Amount = 30
    final_ratio: Share = 0.1
    weight_decay: NotNegative = 0.1
    max_grad_norm: Rate = 1.0
    precision: Precision = "float32"
    moments: Moments = "float32"


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``tokenizer`` for a fresh decoder of ``shape``, or ``init``, a model that is trained further.

    Each step draws its own documents from a stream named by the step, so the step number is the data position.
    """
    policy = load_policy(inputs["init"] / "model") if "init" in inputs else _fresh(settings, inputs, context)
    decoder, renderer = policy.decoder, policy.renderer
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
        texts = documents(python_rng(context.seed, "corpus", state.step))
        examples, budget = [], settings.rows * settings.row_length
        while budget > 0:
            example = renderer.document(next(texts))
            examples.append((example.ids, example.loss_mask))
            budget -= len(examples[-1][0])
        lr = learning_rate(
            state.step,
            base=settings.lr,
            warmup=settings.warmup,
            total=settings.steps,
            shape="cosine",
            final_ratio=settings.final_ratio,
        )
        batches = collate_packed(examples, width=settings.row_length, rows_per_batch=settings.rows)
        metrics = nll_step(decoder, optimizer, batches, lr=lr, max_grad_norm=settings.max_grad_norm)
        state.step += 1
        state.extra["loss"] = metrics["loss"]
        context.log({"step": state.step, **metrics, "seconds": time.perf_counter() - started})
        if context.save_due():
            state.save(context.out / "state")
        context.progress(state.step, settings.steps, loss=metrics["loss"])
    save_policy(policy, context.out / "model")
    return StageResult({"loss": state.extra["loss"], "steps": settings.steps})


def _fresh(settings: Settings, inputs: Mapping[str, Path], context: Context) -> Policy:
    tokenizer = load_tokenizer(inputs["tokenizer"] / "tokenizer")
    config = ModelConfig(
        model_type="qwen2",
        vocab_size=-(-tokenizer.vocab_size // 16) * 16,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_id,
        **settings.shape.model_dump(),
    )
    decoder = build_decoder(config, seed=context.seed).to(best_device())
    return Policy(decoder, config, Renderer(tokenizer, TEMPLATE))
