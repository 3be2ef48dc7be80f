"""Speculative decoding with modules of multi-token prediction: what is kept of the drafts, and what that saves.

    aha bench mtp --dtype bfloat16 --threads 1 --json > docs/measured/mtp.json
    python -m benchmarks.mtp docs/measured/mtp.json docs/figures/mtp.png

The toy recipe's base, with one module, is pre-trained first, into runs/bench_mtp, once: six minutes of a quiet core.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aha.data.problems import toy_problem
from aha.model.config import ModelConfig
from aha.model.count import flops_per_token
from aha.model.decoder import Decoder, build_decoder
from aha.pipeline.display import build_display
from aha.pipeline.graph import Pipeline, Stage
from aha.pipeline.runner import run_pipeline
from aha.rollout.engine import SamplingParams
from aha.rollout.native.engine import NativeEngine
from aha.rollout.native.speculative import Speculation
from aha.stages import pretrain, tokenizer
from aha.stages.models import Policy, load_policy
from aha.util.seeds import python_rng, stream
from benchmarks.setting import DTYPES, processor_name, row, time_in_turn, versions

RUN = Path("runs/bench_mtp")
LAYERS, TIMES = 28, 6  # of the large model; times as wide as the toy: 576
NEW_TOKENS = 96
BATCHES = (1, 8, 64)
TOKENS_TIMED = {"toy": 1_500, "large": 400}  # of one timed run, about


def measure(*, repeat: int, peers: bool, dtype: str, skew: bool, threads: int) -> dict[str, Any]:
    """``peers`` and ``skew`` say nothing here: no peer drafts with modules behind a body of this kind."""
    torch.set_num_threads(threads)
    policy = train_base()
    os.environ["AHA_KERNELS"] = "off"  # drafts are verified with PyTorch, so what they are set beside is too
    toy = policy.decoder.to(DTYPES[dtype])
    models = {"toy": toy, "large": enlarge(toy, layers=LAYERS, times=TIMES)}
    prompts = build_prompts(policy)
    ends = policy.tokenizer.end_token_ids
    texts = {
        "greedy": sample(toy, prompts, SamplingParams(NEW_TOKENS, temperature=0.0, end_token_ids=ends)),
        "sampled": sample(toy, prompts, SamplingParams(NEW_TOKENS, end_token_ids=ends)),
    }
    acceptance = {name: compare_predictions(toy, text) for name, text in texts.items()}
    kinds = by_kind(policy, toy, texts["sampled"])

    timed = [
        time_decoding(name, decoder, prompts, ends, batch, repeat)
        for name, decoder in models.items()
        for batch in BATCHES
    ]
    rows = [found for one in timed for found in one["rows"]]
    ratios = {text: ratio for one in timed for text, ratio in one["ratios"].items()}
    drafts = {where: found for one in timed for where, found in one["drafts"].items()}
    notes = [
        f"{name} text: module and body agree on the most likely token at {both['agreement']:.1%} of {both['places']} "
        f"places; their distributions share {both['overlap']:.1%}"
        for name, both in acceptance.items()
    ]
    notes += [
        f"{where}: {found['acceptance']:.1%} of the drafts kept, {found['tokens_per_step']:.2f} tokens a step, which "
        f"for the price of the draft allows {found['allowed_ratio']:.2f}x"
        for where, found in drafts.items()
    ]
    notes.append(
        f"toy: the trained base, where a draft costs {draft_share(toy.config):.0%} of a token; large: the same text at "
        f"the cost of {LAYERS} layers {TIMES} times as wide, as what is added is 0: "
        f"{draft_share(models['large'].config):.0%}"
    )
    return {
        "benchmark": "mtp",
        "setting": {
            "model": toy.config.model_dump(),
            "large": {"layers": LAYERS, "width": models["large"].config.hidden_size},
            "prompts": len(prompts),
            "new_tokens": NEW_TOKENS,
            "dtype": dtype,
            "threads": threads,
            "repeat": repeat,
            "processor": processor_name(),
        },
        "acceptance": acceptance,
        "by_kind": kinds,
        "drafts": drafts,
        "rows": rows,
        "ratios": ratios,
        "notes": notes,
        "versions": versions("torch"),
    }


def time_decoding(
    name: str, decoder: Decoder, prompts: Sequence[list[int]], ends: tuple[int, ...], batch: int, repeat: int
) -> dict[str, Any]:
    """``batch`` rows at a time, with and without drafts in turn, greedy and sampled."""
    rows, ratios, drafts = [], {}, {}
    where, tokens = f"{name}, {batch} row{'s' if batch > 1 else ''}", TOKENS_TIMED[name]
    for way, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        params = SamplingParams(NEW_TOKENS, temperature=temperature, end_token_ids=ends)
        runs = {
            side: Run(decoder, prompts, params, batch, speculate, tokens)
            for side, speculate in (("plain", 0), ("drafts", 1))
        }
        sides = time_in_turn({f"{where}, {way}, {side}": run for side, run in runs.items()}, repeat=repeat)
        seconds: dict[str, dict[str, float]] = {}  # of one token
        for (side, run), taken in zip(runs.items(), sides.values(), strict=True):
            pairs = list(zip(taken.runs, run.tokens[1:], strict=True))  # the first run is the warm-up
            seconds[side] = {c: statistics.median(getattr(t, c) / n for t, n in pairs) for c in ("wall", "cpu")}
            rows.append(row(f"{where}, {way}, {side}", [n / t.wall for t, n in pairs], unit="tokens/s"))
        ratios[f"{where}, {way}: tokens/s with drafts / without"] = {
            clock: seconds["plain"][clock] / seconds["drafts"][clock] for clock in ("wall", "cpu")
        }
        found = runs["drafts"].total()
        drafts[f"{where}, {way}"] = {
            "acceptance": found.acceptance,
            "tokens_per_step": found.tokens_per_step,
            "allowed_ratio": found.tokens_per_step / (1 + draft_share(decoder.config)),
        }
    return {"rows": rows, "ratios": ratios, "drafts": drafts}


def train_base() -> Policy:
    """The recipe's base with one module; trained where it is not there yet."""
    words = Stage("tokenizer", tokenizer.run, tokenizer.Settings(), cost=2)
    shape = pretrain.Shape(num_nextn_predict_layers=1)
    base = Stage("base", pretrain.run, pretrain.Settings(shape=shape), {"tokenizer": words}, cost=350)
    display = build_display()
    try:
        run_pipeline(Pipeline("bench_mtp", 1, {"seed": 0}, (words, base)), RUN, display=display, jobs=1)
    finally:
        display.close()
    return load_policy(RUN / "base" / "model")


def enlarge(decoder: Decoder, *, layers: int, times: int) -> Decoder:
    """The same function with more layers, ``times`` as wide: all of the cost, none of the training.

    What is added is 0. A root mean square over ``times`` the channels is smaller by the root of ``times``, which the
    norms' weights undo.
    """
    small, first = decoder.config, decoder.config.num_hidden_layers
    wider = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    sizes = {name: times * getattr(small, name) for name in wider}
    config = small.model_copy(
        update={**sizes, "num_hidden_layers": layers, "rms_norm_eps": small.rms_norm_eps / times}
    )
    large = build_decoder(config, seed=0)
    own = {name: weight.float() for name, weight in decoder.state_dict().items()}
    with torch.no_grad():
        for name, weight in large.state_dict().items():
            weight.zero_()
            parts = name.split(".")
            index = int(parts[2]) if parts[1] == "layers" else -1
            if first <= index < layers:
                continue
            if index >= layers:
                parts[2] = str(index - layers + first)
            block = own[".".join(parts)]
            if "norm" in parts[-2]:
                weight[: len(block)] = block / times**0.5
            elif parts[-2] == "eh_proj":  # reads two vectors side by side
                width = small.hidden_size
                weight[:width, :width] = block[:, :width]
                weight[:width, times * width :][:, :width] = block[:, width:]
            else:
                weight[tuple(map(slice, block.shape))] = block
    return large.to(decoder.head_weight.dtype)


def draft_share(config: ModelConfig) -> float:
    """What one draft costs, in units of what the body costs for one token: its layer, the join before it, the head."""
    context = NEW_TOKENS / 2
    body = flops_per_token(config, context=context)
    layer = body - flops_per_token(
        config.model_copy(update={"num_hidden_layers": config.num_hidden_layers - 1}), context=context
    )
    return (layer + 4 * config.hidden_size**2 + 2 * config.vocab_size * config.hidden_size) / body


def build_prompts(policy: Policy) -> list[list[int]]:
    """Questions of the toy that the model is made to think about: text with more to it than a guess."""
    rng = python_rng(0, "bench_mtp")
    think = policy.tokenizer.encode("<think>")
    return [[*policy.renderer.prompt(toy_problem(rng, held_out=False).prompt), *think] for _ in range(128)]


def sample(decoder: Decoder, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[tuple[list[int], int]]:
    """Whole sequences, by the plain sampler, and where what was sampled begins."""
    engine = NativeEngine(decoder.config, dtype=decoder.head_weight.dtype)
    engine.load_weights(decoder, 0)
    groups = engine.generate(prompts, [[stream(0, "bench_mtp", i)] for i in range(len(prompts))], params)
    return [([*ids, *group[0].token_ids], len(ids)) for ids, group in zip(prompts, groups, strict=True)]


def predictions(decoder: Decoder, text: tuple[list[int], int]) -> tuple[Tensor, Tensor, list[int]]:
    """Probabilities [places, V] of the body and of the first module for every sampled token but the first; the tokens.
    """
    ids, start = text
    with torch.no_grad():
        body, module = decoder.forward_ahead(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))
        wanted, drafted = (decoder.logits(x[0]).float().softmax(-1) for x in (body, module))
    # Token j comes from the body's place j - 1, its draft from the module's place j - 2.
    return wanted[start:], drafted[start - 1 : len(ids) - 2], ids[start + 1 :]


def compare_predictions(decoder: Decoder, texts: Sequence[tuple[list[int], int]]) -> dict[str, float]:
    """The share of places where both find the same token most likely, and the probability they share: what greedy and
    sampled drafts have to expect."""
    agreement = overlap = places = 0.0
    for text in texts:
        wanted, drafted, _ = predictions(decoder, text)
        agreement += float((wanted.argmax(-1) == drafted.argmax(-1)).sum())
        overlap += float(torch.minimum(wanted, drafted).sum())
        places += len(wanted)
    return {"agreement": agreement / places, "overlap": overlap / places, "places": int(places)}


def by_kind(policy: Policy, decoder: Decoder, texts: Sequence[tuple[list[int], int]]) -> dict[str, dict[str, float]]:
    """The same by the kind of the token that was sampled."""
    sums: dict[str, Counter[str]] = {}
    for text in texts:
        wanted, drafted, tokens = predictions(decoder, text)
        same = (wanted.argmax(-1) == drafted.argmax(-1)).float()
        shared = torch.minimum(wanted, drafted).sum(-1)
        before = policy.renderer.token_texts(text[0][text[1] : -1])
        for i, word in enumerate(policy.renderer.token_texts(tokens)):
            found = sums.setdefault(kind_of(word.strip(), before[i].strip()), Counter())
            found.update(places=1, agreement=float(same[i]), overlap=float(shared[i]))
    return {
        kind: {"agreement": found["agreement"] / found["places"], "overlap": found["overlap"] / found["places"],
               "places": found["places"]}
        for kind, found in sorted(sums.items(), key=lambda item: -item[1]["places"])
    }  # fmt: skip


def kind_of(word: str, before: str) -> str:
    if word.isdigit():
        return "results" if before == "=" else "operands"
    if word in ("+", "-", "=", ".", ":") or word.startswith("#"):
        return "signs"
    if word in ("yes", "no", "ok"):
        return "verdicts"
    return "tags and ends" if word.startswith("<") else "words"


class Run:
    """One timed run after another of one engine: batches of ``batch`` prompts until about the same number of tokens."""

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        batch: int,
        speculate: int,
        at_least: int,
    ) -> None:
        self._engine = NativeEngine(decoder.config, dtype=decoder.head_weight.dtype, speculate=speculate)
        self._engine.load_weights(decoder, 0)
        self._prompts, self._params, self._batch, self._at_least = prompts, params, batch, at_least
        self._found: list[Speculation] = []
        self.tokens: list[int] = []

    def __call__(self) -> None:
        tokens, turn = 0, len(self.tokens)
        prompts = iter(self._prompts * 64)
        while tokens < self._at_least:
            chosen = list(islice(prompts, self._batch))
            seeds = [[stream(turn, "bench_mtp", tokens, i)] for i in range(len(chosen))]
            tokens += sum(len(g[0].token_ids) for g in self._engine.generate(chosen, seeds, self._params))
            if self._engine.speculation is not None:
                self._found.append(self._engine.speculation)
        self.tokens.append(tokens)

    def total(self) -> Speculation:
        """What came of all drafts."""
        return Speculation(
            sum(f.steps for f in self._found),
            sum(f.rows for f in self._found),
            sum(f.tokens for f in self._found),
            tuple(map(sum, zip(*(f.accepted for f in self._found), strict=True))),
        )


def draw(found: dict[str, Any], path: Path) -> None:
    """By kind of token how often module and body agree, and what they share."""
    from matplotlib.figure import Figure

    from aha.report.plots import PALETTE

    kinds = found["by_kind"]
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    axes = figure.subplots()
    for offset, (key, label) in enumerate((("agreement", "same most likely token"), ("overlap", "shared probability"))):
        places = [i + 0.38 * (offset - 0.5) for i in range(len(kinds))]
        values = [100 * of[key] for of in kinds.values()]
        axes.barh(places, values, height=0.36, color=PALETTE[offset], label=label)
        for place, value in zip(places, values, strict=True):
            axes.text(value - 1, place, f"{value:.0f}", va="center", ha="right", color="white", fontsize=8)
    axes.set_yticks(range(len(kinds)), [f"{kind} ({of['places']:,.0f})" for kind, of in kinds.items()])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the places, on text the model sampled itself")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=160, metadata={"Software": None})


def main(arguments: Sequence[str]) -> None:
    from aha.util.files import read_json

    draw(read_json(Path(arguments[0])), Path(arguments[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
