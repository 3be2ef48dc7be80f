"""The program verifier on published benchmarks: every reference solution must pass, changed ones must fail.

``python -m benchmarks.programs --humaneval FILE --mbpp FILE [--json]``; JSON lines. A mutant that
still passes is not always the verifier's fault: it may compute the same, or the benchmark's tests may be weak.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aha.records import Problem, Status
from aha.reward.programs import humaneval_problem, judge_programs, mbpp_problem
from aha.reward.sandbox import Limits, Sandbox, find_layers

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


def check_benchmarks(
    *, humaneval: Path | None, mbpp: Path | None, mutants: int, seed: int, workers: int | None
) -> dict[str, Any]:
    """Counts of each benchmark, programs per second, and the time of one sandbox to start."""
    rows = []
    for name, path, build in (("HumanEval", humaneval, humaneval_problem), ("MBPP", mbpp, mbpp_problem)):
        if path is not None:
            lines = path.read_text(encoding="utf-8").splitlines()
            rows.append(check(name, [build(json.loads(line)) for line in lines], mutants, seed, workers))
    began = time.perf_counter()
    with Sandbox() as sandbox:
        sandbox.run("")
        started = time.perf_counter()
        for _ in range(50):
            sandbox.run("")
        each = (time.perf_counter() - started) / 50
    return {
        "benchmark": "programs",
        "rows": rows,
        "start_ms": round((started - began) * 1000, 1),
        "empty_program_ms": round(each * 1000, 1),
        "layers": {layer.name: layer.missing or "active" for layer in find_layers()},
    }


def check(name: str, problems: list[Problem], mutants: int, seed: int, workers: int | None) -> dict[str, Any]:
    rng = random.Random(seed)
    programs = {problem.id: problem.meta.get("prefix", "") + problem.answer for problem in problems}
    limits = Limits(cpu_seconds=30, wall_seconds=120)
    began = time.perf_counter()
    verdicts = judge_programs(problems, [fence(programs[p.id]) for p in problems], limits=limits, workers=workers)
    seconds = time.perf_counter() - began
    changed = [(p, how, text) for p in problems for how, text in mutate(p, programs[p.id], mutants, rng)]
    began = time.perf_counter()
    found = judge_programs(
        [p for p, _, _ in changed],
        [fence(text) for _, _, text in changed],
        limits=Limits(cpu_seconds=2, wall_seconds=15),
        workers=workers,
    )
    seconds_changed = time.perf_counter() - began
    killed = sum(v.status is Status.WRONG for v in found)
    survivors = [(p.id, how) for (p, how, _), v in zip(changed, found, strict=True) if v.status is Status.RIGHT]
    empty = [v for (_, how, _), v in zip(changed, found, strict=True) if how == "return None"]
    return {
        "name": name,
        "references": len(problems),
        "passed": sum(v.status is Status.RIGHT for v in verdicts),
        "failed": [[p.id, v.note] for p, v in zip(problems, verdicts, strict=True) if v.status is not Status.RIGHT],
        "references_per_second": round(len(problems) / seconds, 1),
        "mutants": len(changed),
        "killed": killed,
        "killed_share": round(killed / max(len(changed), 1), 4),
        "returning_none": len(empty),
        "returning_none_killed": sum(v.status is Status.WRONG for v in empty),
        "errors": sum(v.status is Status.ERROR for v in found),
        "mutants_per_second": round(len(changed) / seconds_changed, 1),
        "survivors": survivors,
    }


def fence(program: str) -> str:
    return f"```python\n{program}\n```"


def mutate(problem: Problem, program: str, count: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    """The body replaced by ``return None``, and ``count`` mutants with one operator or constant changed."""
    tree = ast.parse(program)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    name = problem.meta.get("entry_point") or functions[-1].name if functions else ""
    place = max((i for i, f in enumerate(functions) if f.name == name), default=None)
    if place is None:
        return
    without = copy.deepcopy(tree)
    body = next(n for n in reversed(without.body) if isinstance(n, ast.FunctionDef) and n.name == name)
    body.body = [ast.Return(ast.Constant(None))]
    yield "return None", ast.unparse(ast.fix_missing_locations(without))
    places = [i for i, node in enumerate(ast.walk(functions[place])) if change(copy.copy(node))]
    for index in rng.sample(places, min(count, len(places))):
        changed = copy.deepcopy(tree)
        function = [node for node in changed.body if isinstance(node, ast.FunctionDef)][place]
        node = list(ast.walk(function))[index]
        how = change(node)
        yield f"line {getattr(node, 'lineno', 0)}: {how}", ast.unparse(changed)


def change(node: ast.AST) -> str:
    """Changes one operator or constant; says how, or nothing where there is none."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in _SWAPS:
        was, node.op = node.op, _SWAPS[type(node.op)]()  # type: ignore[assignment]
        return f"{type(was).__name__} to {type(node.op).__name__}"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPS:
        was_op, node.ops = node.ops[0], [_SWAPS[type(node.ops[0])](), *node.ops[1:]]  # type: ignore[list-item]
        return f"{type(was_op).__name__} to {type(node.ops[0]).__name__}"
    if isinstance(node, ast.Constant) and type(node.value) in (int, bool):
        was_value, node.value = node.value, not node.value if isinstance(node.value, bool) else node.value + 1
        return f"{was_value} to {node.value}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--humaneval", type=Path)
    parser.add_argument("--mbpp", type=Path)
    parser.add_argument("--mutants", type=int, default=2, help="a solution, beside the one that returns None")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="one a core without it")
    parser.add_argument("--json", action="store_true")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    found = check_benchmarks(**given)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for row in found["rows"]:
            print(
                f"{row['name']}: {row['passed']} of {row['references']} reference solutions pass "
                f"({row['references_per_second']} a second); {row['killed']} of {row['mutants']} mutants fail "
                f"({row['killed_share']:.1%}), of those that return None {row['returning_none_killed']} of "
                f"{row['returning_none']}; {row['errors']} errors"
            )
            for identity, note in row["failed"]:
                print(f"  {identity} does not pass: {note}")
            for identity, how in row["survivors"]:
                print(f"  {identity} still passes with {how}")
        print(f"start {found['start_ms']} ms, an empty program {found['empty_program_ms']} ms, {found['layers']}")
    sys.exit(any(row["failed"] or row["errors"] for row in found["rows"]))


if __name__ == "__main__":
    main()
