"""The setting every benchmark shares, so that figures can be compared: model, prompts, lengths, clock."""

from __future__ import annotations

import importlib.metadata
import platform
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aha.model.config import ModelConfig
from aha.model.product import is_widened

CONFIG = ModelConfig(
    model_type="qwen2",
    vocab_size=2048,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=1024,
)
QWEN25_1_5B = ModelConfig(  # the shape of Qwen2.5-1.5B
    model_type="qwen2",
    vocab_size=151_936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    max_position_embeddings=32_768,
)
NUM_PROMPTS = 8
NUM_SAMPLES = 8
PROMPT_TOKENS = 64
UNIFORM_TOKENS = 128
SKEWED_TOKENS = (*[16] * 32, *[64] * 16, *[128] * 12, *[256] * 4)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Work(NamedTuple):
    """So many prompts, and completions so many times as long as those that a CPU is asked for."""

    prompts: int = NUM_PROMPTS
    times: int = 1


SMALL, LARGE = Work(), Work(prompts=64, times=8)  # 64 sequences, and 512 of 1,024 new tokens


def build_prompts(work: Work = SMALL) -> list[list[int]]:
    """Prompts of 64 random tokens, the same in every run."""
    rng = random.Random(0)
    return [[rng.randrange(1, CONFIG.vocab_size) for _ in range(PROMPT_TOKENS)] for _ in range(work.prompts)]


def build_lengths(work: Work = SMALL, *, skew: bool) -> list[list[int]]:
    """New tokens of each of the 8 samples of a prompt; the skewed ones are mixed over the groups."""
    flat = list(SKEWED_TOKENS) if skew else [UNIFORM_TOKENS] * (NUM_PROMPTS * NUM_SAMPLES)
    flat = [work.times * length for length in flat * (work.prompts // NUM_PROMPTS)]
    random.Random(0).shuffle(flat)
    return [flat[p * NUM_SAMPLES : (p + 1) * NUM_SAMPLES] for p in range(work.prompts)]


class Peak:
    """Peak resident memory of a stretch of the program, in MiB; of the whole process where Linux cannot reset it."""

    def __enter__(self) -> Peak:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.mib = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        try:
            line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
            self.mib = int(line.split()[1]) / 1024
        except (OSError, StopIteration):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            self.mib = peak / (2**20 if sys.platform == "darwin" else 1024)


class Stopwatch:
    """Seconds on the wall and of the processor.

    The latter are less moved by what else the machine does, and count where there is one thread; of several they would
    be a sum, with what a thread waits for another in it.
    """

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Taken:
        """Since it was made."""
        return Taken(time.perf_counter() - self._wall, time.process_time() - self._cpu)

    def seconds(self) -> float:
        """Of the clock that counts here."""
        return getattr(self.read(), clock_of(torch.get_num_threads()))


def clock_of(threads: int) -> str:
    """Which of a :class:`Taken`'s counts."""
    return "cpu" if threads == 1 else "wall"


class Taken(NamedTuple):
    """``Taken(wall=2.1, cpu=2.0)``, in seconds."""

    wall: float
    cpu: float


class Side(NamedTuple):
    """What was measured of one side: every timed run, and the peak of its memory in MiB."""

    runs: list[Taken]
    peak: float


def time_in_turn(sides: Mapping[str, Callable[[], None]], *, repeat: int) -> dict[str, Side]:
    """``repeat`` runs of each side, after one run that does not count.

    The sides take turns, so that a machine that grows slower or faster treats them alike.
    """
    found = {name: Side([], 0.0) for name in sides}
    for turn in range(repeat + 1):
        for name, run in sides.items():
            with Peak() as peak:
                watch = Stopwatch()
                run()
                taken = watch.read()
            if turn:
                found[name] = Side([*found[name].runs, taken], max(found[name].peak, peak.mib))
            print(f"{name}: {taken.wall:.2f} s{'' if turn else ' (warm-up)'}", file=sys.stderr, flush=True)
    return found


def row(name: str, values: Sequence[float], *, unit: str, peak: float = 0.0) -> dict[str, Any]:
    """One measured quantity: median, least and most."""
    return {
        "name": name,
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "unit": unit,
        "peak_rss_mib": round(peak, 1),
        "values": list(values),
    }


def compare(sides: Mapping[str, Side], clocks: Sequence[str] = ("wall", "cpu")) -> dict[str, Any]:
    """How many times the median of ``aha`` every other side takes, on the wall and of the processor."""
    medians = {
        clock: {name: statistics.median(getattr(taken, clock) for taken in side.runs) for name, side in sides.items()}
        for clock in clocks
    }
    return {
        f"aha / {name}": {clock: of[name] / of["aha"] for clock, of in medians.items()}
        for name in sides
        if name != "aha"
    }


def describe(
    *, dtype: str, skew: bool, threads: int, repeat: int, config: ModelConfig = CONFIG, work: Work = SMALL
) -> dict[str, Any]:
    """The setting as it is printed beside the figures."""
    shares = zip(("half", "quarter", "3/16", "1/16"), dict.fromkeys(SKEWED_TOKENS), strict=True)
    uneven = ", ".join(f"{share} {work.times * length}" for share, length in shares)
    return {
        "model": config.model_dump(),
        "prompts": work.prompts,
        "samples": NUM_SAMPLES,
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": uneven if skew else work.times * UNIFORM_TOKENS,
        "dtype": dtype,
        "threads": threads,
        "repeat": repeat,
        "processor": processor_name(),
    }


def processor_name() -> str:
    """The processor as Linux names it, else as Python does, and the instructions that PyTorch has found."""
    instructions = torch.backends.cpu.get_cpu_capability()  # type: ignore[no-untyped-call]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} ({instructions})"


def multiplied_type(dtype: torch.dtype) -> torch.dtype:
    """In what type this processor is fastest at products of ``dtype``: float32 where it multiplies no BF16."""
    return torch.float32 if is_widened(dtype, torch.device("cpu")) else dtype


def versions(*packages: str) -> dict[str, str]:
    """Versions of those of ``packages`` that are installed, and of Python and aha."""
    import aha

    found = {"aha": aha.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
