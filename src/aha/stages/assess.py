"""Evaluating a model folder by hand: its generations on several benches, kept on disk where asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from aha.errors import UsageError
from aha.evaluate.benches import Bench
from aha.evaluate.generations import Asked, Kept, asked
from aha.stages.evaluate import Settings, sample_judged
from aha.stages.generate import room_for_new_tokens
from aha.stages.models import Policy, build_loaded_engine
from aha.util.files import json_text, sha256_file

CHUNK = 400  # completions that are sampled together


@dataclass(frozen=True)
class Sampling:
    """How every bench is sampled: DeepSeek-R1's temperature and top-p (R1v1 3)."""

    temperature: float = 0.6
    top_p: float = 0.95
    seed: int = 0


def assess(
    policy: Policy,
    benches: Sequence[Bench],
    sampling: Sampling,
    *,
    progress: Callable[[int], None],
    model: str = "",
    weights: str = "",
    keep: Path | None = None,
) -> dict[str, list[Asked]]:
    """The generations of each bench by its name; with ``keep`` those in that folder are continued.

    ``model`` and ``weights`` tell whose they are in the settings that are kept. ``progress`` is told how many problems
    are done.
    """
    labels = [bench.label for bench in benches]
    for bench in benches:
        if any(problem.task == "general" for problem in bench.problems):
            raise UsageError(f"bench {bench.name} has general prompts, which have no answer to check: leave them out")
        if keep and labels.count(bench.label) > 1:
            raise UsageError(f"two benches would be kept as {bench.label}: evaluate them into folders of their own")
    engine = build_loaded_engine(policy)
    done, results = 0, {}
    for bench in benches:
        settings = Settings(
            samples=bench.samples,
            max_new_tokens=new_token_limit(policy, bench),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
        )
        chunk = max(1, CHUNK // bench.samples)
        kept = None
        if keep:
            whose = {"model": model, "weights_sha256": weights}
            kept = Kept(keep, bench.label, whose | _kept_settings(policy, bench, settings, sampling))
        found = kept.resume(chunk) if kept else []
        progress(done + len(found))
        for start in range(len(found), len(bench.problems), chunk):
            problems = bench.problems[start : start + chunk]
            judged = sample_judged(engine, policy, problems, bench.samples, settings, sampling.seed)
            new = [asked(one, policy.renderer.prompt_text(one.problem.prompt)) for one in judged]
            if kept:
                kept.append(new)
            found += new
            progress(done + len(found))
        done += len(found)
        results[bench.name] = found
    return results


def new_token_limit(policy: Policy, bench: Bench) -> int:
    """How many tokens may be sampled for each of a bench's problems: as asked, or what fits behind the longest."""
    longest = max(len(policy.renderer.prompt(problem.prompt)) for problem in bench.problems)
    return room_for_new_tokens(policy, longest, bench.max_new_tokens, limit=bench.most_new_tokens)


def weights_digest(folder: Path) -> str:
    """What tells one model folder from another: its weights, config and tokenizer."""
    files = sorted(file for file in folder.iterdir() if file.suffix == ".safetensors")
    files += [folder / name for name in ("config.json", "tokenizer.json")]
    return sha256("".join(sha256_file(file) for file in files if file.is_file()).encode()).hexdigest()


def dropped_golds(bench: Bench) -> list[dict[str, Any]]:
    """The rows that were left out, as the result lists them."""
    return [{"row": bad.row, "gold": bad.gold, "why": bad.why} for bad in bench.dropped]


def _kept_settings(policy: Policy, bench: Bench, settings: Settings, sampling: Sampling) -> dict[str, Any]:
    problems = json_text([asdict(problem) for problem in bench.problems])
    return {
        "dtype": str(policy.sampling_dtype).removeprefix("torch."),
        "bench": bench.name,
        "problems": len(bench.problems),
        "dropped_golds": dropped_golds(bench),
        "problems_sha256": sha256(problems.encode()).hexdigest(),
        "template": policy.renderer.template,
        "samples": settings.samples,
        "max_new_tokens": settings.max_new_tokens,
        **asdict(sampling),
    }
