"""Cache of a token in published models, and in DeepSeek-V3 if its attention were another: counted, not timed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from aha.model.attention.fp8_cache import entry_bytes
from aha.model.config_file import find_config
from aha.model.count import cache_values_per_layer, multi_head_values_per_layer
from aha.report.plots import PALETTE
from benchmarks.setting import versions

MODELS = ("deepseek-v3", "qwen2.5-72b", "llama-3.1-405b")
GROUPS = 8  # key-value heads of the grouped attention that V3 is set beside, as in the other two models


def measure(*, context: int = 131_072, picture: Path | None = Path("cache.png")) -> dict[str, Any]:
    """Numbers a token and layer, bytes a token in BF16, and GiB for ``context`` tokens of one sequence."""
    v3 = find_config("deepseek-v3")
    heads = v3.num_attention_heads
    latent, pair = cache_values_per_layer(v3), multi_head_values_per_layer(v3) // heads
    small = entry_bytes(v3.kv_lora_rank, v3.qk_rope_head_dim)
    kept = [("deepseek-v3, its latent in FP8", v3.num_hidden_layers, latent, small)]
    for name in MODELS:
        config = find_config(name)
        values = cache_values_per_layer(config)
        kept.append((name, config.num_hidden_layers, values, 2 * values))
    for count in (1, GROUPS, heads):
        name = f"deepseek-v3, had it {count} key-value head{'s' * (count > 1)}"
        kept.append((name, v3.num_hidden_layers, count * pair, 2 * count * pair))
    rows = [
        {
            "name": name,
            "layers": depth,
            "values_per_token_and_layer": values,
            "bytes_per_token": depth * size,
            "GiB": round(depth * size * context / 2**30, 1),
        }
        for name, depth, values, size in kept
    ]
    if picture is not None:
        draw(rows, context, picture)
        print(f"wrote {picture}", file=sys.stderr)
    return {
        "benchmark": "cache",
        "setting": {"context": context},
        "rows": rows,
        "ratios": {},
        "notes": [f"GiB is the cache of one sequence of {context:,} tokens; BF16 unless said"],
        "versions": versions(),
    }


def draw(rows: list[dict[str, Any]], context: int, path: Path) -> None:
    """A bar a model, on a scale that goes up tenfold."""
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    axes = figure.subplots()
    order = sorted(rows, key=lambda row: row["bytes_per_token"])
    for place, row in enumerate(order):
        size = row["bytes_per_token"]
        axes.barh(place, size, height=0.7, color=PALETTE["deepseek" in row["name"]])
        axes.text(size * 1.06, place, f"{size:,} bytes, {row['GiB']:,} GiB", va="center", fontsize=8)
    axes.set_yticks(range(len(order)), [row["name"] for row in order], fontsize=8)
    axes.set(xscale="log", xlabel=f"bytes of cache a token; GiB for {context:,} tokens")
    axes.set_xlim(right=axes.get_xlim()[1] * 6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
