r"""The same problems under lm-evaluation-harness: whether its verdicts and ours agree on the very same texts.

    python -m benchmarks.harness task MODEL gsm8k=FILE --out FOLDER       # FOLDER/aha_gsm8k.yaml and its prompts
    aha serve MODEL --port 8000
    lm_eval run --model local-completions --include_path FOLDER --tasks aha_gsm8k --log_samples \
        --output_path FOLDER/out --model_args \
        model=NAME,base_url=http://127.0.0.1:8000/v1/completions,tokenized_requests=False,tokenizer_backend=None
    aha evaluate MODEL --bench gsm8k=FILE --samples 1 --temperature 0 --max-new-tokens 320 --keep KEPT
    python -m benchmarks.harness compare FOLDER/out KEPT

``task`` writes the prompts as ``aha evaluate`` asks them, so that both ask the same. ``compare`` grades what the
harness has logged by our rules beside its own: ``boxed``, the last ``\boxed{}`` compared as a text, and
``flexible-extract``, the last number anywhere. Where KEPT is given, what ``aha evaluate`` sampled by itself stands
beside that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aha.cli_models import open_for_evaluation
from aha.evaluate.benches import load_bench
from aha.evaluate.estimators import share_interval
from aha.evaluate.generations import TAIL, Asked, Generation, load_kept
from aha.evaluate.paired import compare_paired
from aha.evaluate.scores import bench_scores, grade
from aha.records import Problem
from aha.util.files import json_text, read_jsonl, write_json_atomic, write_text_atomic

TASK = r"""task: TASK
dataset_path: json
dataset_kwargs: {data_files: {test: "FILE"}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<|im_end|>"], do_sample: false, temperature: 0.0, max_gen_toks: TOKENS}
filter_list:
  - name: boxed
    filter:
      - {function: regex, regex_pattern: '\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}', group_select: -1}
      - {function: take_first}
  - name: flexible-extract
    filter:
      - {function: regex, regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select: -1}
      - {function: take_first}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    regexes_to_ignore: [",", "\\$", "\\.$"]
metadata: {version: 1.0}
"""


def write_task(
    model: Path, bench: str, out: Path, *, template: str | None, limit: int | None, max_new_tokens: int
) -> Path:
    """The harness's task of a bench and the file of its prompts."""
    policy, _ = open_for_evaluation(model, template, "bfloat16")
    name = f"aha_{bench.partition('=')[0]}"
    rows = [
        {"prompt": policy.renderer.prompt_text(problem.prompt), "answer": problem.answer, "problem": asdict(problem)}
        for problem in load_bench(bench, limit=limit)
    ]
    prompts, task = out.resolve() / f"{name}.jsonl", out / f"{name}.yaml"
    write_text_atomic(prompts, "".join(json_text(row) + "\n" for row in rows))
    text = TASK.replace("TASK", name).replace("FILE", str(prompts)).replace("TOKENS", str(max_new_tokens))
    write_text_atomic(task, text)
    return task


def compare(samples: Path, kept: Path | None) -> dict[str, Any]:
    """Of one file of logged samples: the harness's verdicts by filter, ours on the same texts, and ours on our own."""
    by_filter: dict[str, list[dict[str, Any]]] = {}
    for row in read_jsonl(samples):
        by_filter.setdefault(row["filter"], []).append(row)
    logged = next(iter(by_filter.values()))
    graded = grade([_asked(row["doc"], row["resps"][0][0]) for row in logged])
    ours = [one.correct[0] for one in graded]
    found: dict[str, Any] = {"problems": len(logged), "aha": _share(ours), "filters": {}}
    for name, rows in by_filter.items():
        theirs = [row["exact_match"] == 1.0 for row in rows]
        pairs = list(zip(ours, theirs, strict=True))
        found["filters"][name] = {
            "accuracy": _share(theirs),
            "agree": sum(a == b for a, b in pairs),
            "ours_alone": sum(a and not b for a, b in pairs),
            "theirs_alone": sum(b and not a for a, b in pairs),
        }
    if kept is None:
        return found
    name = samples.name.removeprefix("samples_aha_").rpartition("_")[0]
    settings, rows = next(value for key, value in load_kept(kept).items() if key.partition("=")[0] == name)
    asked = {one.problem.id: number for number, one in enumerate(graded)}
    own = grade([row for row in rows if row.problem.id in asked])
    same = [graded[asked[one.problem.id]] for one in own]
    texts = [(a.asked.generations[0].text, b.asked.generations[0].text) for a, b in zip(same, own, strict=True)]
    found["evaluate"] = {
        "problems": len(own),
        "samples": settings["samples"],
        "temperature": settings["temperature"],
        "pass@1": bench_scores(own)["pass@1"],
        "same_text": sum(a.strip() == b.strip() for a, b in texts),
        "minus_harness": compare_paired(
            [float(one.correct[0]) for one in same], [sum(one.correct) / len(one.correct) for one in own]
        ).as_dict(),
    }
    return found


def _asked(doc: dict[str, Any], text: str) -> Asked:
    problem = doc["problem"]
    fields = {**problem, "meta": {key: value for key, value in problem["meta"].items() if value is not None}}
    return Asked(Problem(**fields), doc["prompt"][-TAIL:], (Generation(text, 0, "end"),))


def _share(right: Sequence[bool]) -> dict[str, float]:
    return share_interval(sum(right), len(right)).as_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    task = commands.add_parser("task")
    task.add_argument("model", type=Path)
    task.add_argument("bench")
    task.add_argument("--out", type=Path, required=True)
    task.add_argument("--template", default=None)
    task.add_argument("--limit", type=int, default=None)
    task.add_argument("--max-new-tokens", type=int, default=320)
    comparison = commands.add_parser("compare")
    comparison.add_argument("out", type=Path)
    comparison.add_argument("kept", type=Path, nargs="?")
    comparison.add_argument("--write", type=Path, help="JSON file for what was found")
    given = parser.parse_args()
    if given.command == "task":
        print(
            write_task(
                given.model,
                given.bench,
                given.out,
                template=given.template,
                limit=given.limit,
                max_new_tokens=given.max_new_tokens,
            )
        )
        return
    found = {
        path.name.removeprefix("samples_").rpartition("_")[0]: compare(path, given.kept)
        for path in sorted(given.out.rglob("samples_aha_*.jsonl"))
    }
    print(json.dumps(found, indent=1))
    if given.write:
        write_json_atomic(given.write, found)


if __name__ == "__main__":
    main()
