"""Blocks of docs/speed.md."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from aha.util.files import read_json
from building.results import Results, read_measured
from building.table import table

Block = Callable[[Results, Path], str]


def rollout_speed_in(folder: str) -> Block:
    """What ``aha bench rollout`` found, of every setting recorded in a folder of ``docs/measured``."""
    return partial(_rollout_speed, folder)


def _rollout_speed(folder: str, results: Results, root: Path) -> str:
    sides = ("aha", "aha without kernels", "transformers.generate", "vLLM", "llama.cpp")
    rows, said = [], set()
    for path in sorted((root / "docs" / "measured" / folder).glob("rollout_*.json")):
        found = read_json(path)
        setting = found["setting"]
        unit = "tokens/s" if setting["threads"] > 1 else "tokens/s of processor time"
        of = {row["name"]: row for row in found["rows"] if row["unit"] == unit}
        peers = {name: of[name]["median"] for name in sides[2:] if name in of}
        best = max(peers, key=lambda name: peers[name])
        ratios = [ours / theirs for ours, theirs in zip(of["aha"]["values"], of[best]["values"], strict=True)]
        limit = next(row["median"] for row in found["rows"] if row["name"] == "limit of the machine")
        lengths = "even" if isinstance(setting["new_tokens"], int) else "uneven"
        rows.append(
            (
                f"{setting['shape']}, {setting['dtype']}, {lengths}",
                *(f"{of[name]['median']:,.0f}" if name in of else "–" for name in sides),
                f"{of['aha']['median'] / peers[best]:.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
                f"{limit:,.0f}",
                f"{of['aha']['median'] / limit:.0%}",
                " / ".join(f"{of[name]['peak_rss_mib']:,.0f}" for name in sides if name in of),
            )
        )
        said.add(f"{_threads_of(setting)}, runs in turn: {setting['repeat']}")
    if not rows:
        return ""
    heads = ("model, numbers, lengths", *sides, "aha / best peer", "limit", "our share", "peak MiB, in this order")
    return table(heads, rows) + f"\n\nTokens a second, medians; {'; '.join(sorted(said))}."


def _threads_of(setting: dict[str, Any]) -> str:
    threads, processor = setting["threads"], setting["processor"]
    return f"{processor}, " + ("1 thread, processor time" if threads == 1 else f"{threads} threads, time on the wall")


def where(results: Results, root: Path) -> str:
    """What ``benchmarks/where.py`` found."""
    if (found := read_measured(root, "where")) is None:
        return ""
    rows = []
    for row in found["rows"]:
        for way, words in (("PyTorch", "PyTorch alone"), ("kernels", "compiled kernels")):
            of = row[way]
            parts = ", ".join(f"{part} {share:.0%}" for part, share in of["parts"].items() if share >= 0.005)
            rows.append((f"{row['dtype']}, {row['lengths']}", words, f"{of['tokens/s']:,.0f}", parts))
    return table(("numbers, lengths", "computed by", "tokens/s", "where the time goes"), rows)


def train_speed_in(name: str) -> Block:
    """What ``aha bench train`` found, one run after the other: steps beside TRL's and what the machine allows."""
    return partial(_train_speed, name)


def _train_speed(name: str, results: Results, root: Path) -> str:
    if (runs := read_measured(root, name)) is None:
        return ""
    parts = []
    for dtype in dict.fromkeys(run["setting"]["dtype"] for run in runs):
        lines = []
        for run in (run for run in runs if run["setting"]["dtype"] == dtype):
            found = {row["name"]: row for row in run["rows"]}
            for name, ratio in run["ratios"].items():
                case = name.removesuffix(": aha / TRL")
                ours, theirs = (found[f"{case}: {side}"] for side in ("aha", "TRL"))
                floor = run["floors"][f"{case}: aha"]
                times = [run["floors"][f"{case}: {side}"] for side in ("aha", "TRL")]
                seconds, others = (f"{of['seconds'] / of['share']:.2f}" for of in times)
                of_it = [name for name in found if name.startswith(f"{case}: aha, of it ")]
                spent = "; ".join(f"{name.rpartition(' ')[2]} {found[name]['median']:.2f}" for name in of_it)
                peak = ours["peak_rss_mib"]
                memory = f"{peak:,.0f} MiB, {peak / theirs['peak_rss_mib']:.2f}"
                clock = "cpu" if run["setting"]["threads"] == 1 else "wall"
                shown = (seconds + (f" ({spent})" if spent else ""), others, f"{ratio[clock]:.2f}")
                lines.append(
                    (case, *shown, f"{floor['seconds']:.2f}", f"{100 * floor['share']:.0f} %", memory)
                )
        headings = (
            dtype, "seconds a step", "TRL's", "TRL's by ours", "floor", "share of it", "peak, and by TRL's",
        )  # fmt: skip
        parts.append(table(headings, lines))
    setting, versions = runs[0]["setting"], runs[0]["versions"]
    rates = ", ".join(
        f"{max(run['setting']['gemm_gflops'] for run in runs if run['setting']['dtype'] == dtype):.0f} in {dtype}"
        for dtype in dict.fromkeys(run["setting"]["dtype"] for run in runs)
    )
    repeats = sorted({run["setting"]["repeat"] for run in runs})
    peers = ", ".join(f"{name} {versions[package]}" for name, package in (("TRL", "trl"), ("torch", "torch")))
    several = "" if len(repeats) == 1 else f"{repeats[0]} to "
    steps = "One step each" if repeats == [1] else f"Medians of {several}{repeats[-1]} steps"
    parts.append(
        f"{steps}; {_threads_of(setting)}; {peers}. Matrix products alone, GFLOP a second: {rates}."
    )
    return "\n\n".join(parts)


def where_update(results: Results, root: Path) -> str:
    """What ``benchmarks/where.py`` found of an update."""
    if (found := read_measured(root, "where")) is None or "updates" not in found:
        return ""
    ways = found["updates"]
    heads = [f"{one['dtype']}, {'kernels' if one['way'] == 'kernels' else 'PyTorch alone'}" for one in ways]
    rows = [("processor seconds", *(f"{one['seconds']:.2f}" for one in ways))]
    rows += [(part, *(f"{one['parts'][part]:.1%}" for one in ways)) for part in ways[0]["parts"]]
    return table(("", *heads), rows)


def cost(results: Results, root: Path) -> str:
    """What ``benchmarks/cost.py`` found."""
    if (found := read_measured(root, "cost")) is None:
        return ""
    quantities = ("rollout s", "update s", "rollout MiB", "update MiB")
    rows = []
    for axis, row in found["axes"].items():
        xs = [point["x"] for point in row["points"]]
        powers = [f"{row['powers'][name]['power']:.2f} ({row['powers'][name]['last']:.2f})" for name in quantities]
        rows.append((axis, f"{xs[0]:,} to {xs[-1]:,}", *powers))
    words = "Processor seconds of rollout and update against each thing that grows, beside a line of power 1"
    return f"![{words}](figures/cost.png)\n\n{table(('twice as many', 'from, to', *quantities), rows)}"


def group(results: Results, root: Path) -> str:
    """What ``benchmarks/group.py`` found."""
    if (found := read_measured(root, "group")) is None:
        return ""
    rows = []
    for row in found["rows"]:
        one, other = row["samples"]
        what = f"{one} to {other} samples of {row['new']} tokens"
        if row["new"] == 1:
            what = f"read for {one} and for {other} samples"
        ratio = f"{row['median']:.2f} ({row['low']:.2f}–{row['high']:.2f})"
        rows.append((row["dtype"], str(row["threads"]), str(row["prompt"]), what, ratio))
    said = f"Wall time of the second by that of the first, median of {found['repeat']} in turn; {found['processor']}."
    return table(("numbers", "threads", "tokens of the prompt", "what", "ratio"), rows) + f"\n\n{said}"
