from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aha.errors import DataError, UsageError
from aha.evaluate.benches import Bench
from aha.evaluate.generations import SUFFIX, Asked, Generation, load_kept
from aha.evaluate.scores import bench_scores, grade
from aha.records import Problem
from aha.stages import assess as assess_module
from aha.stages.assess import Sampling, assess
from aha.stages.assessed import Evaluation, compare_evaluations, evaluate_kept, evaluate_model
from aha.stages.models import save_policy
from aha.testing import tiny_policy

PROBLEMS = tuple(Problem(str(i), f"compute {i} + 1", str(i + 1), "number") for i in range(1, 6))
HOW = Sampling(temperature=1.0, top_p=1.0)


def nothing(done: int) -> None:
    pass


def evaluate(
    folder: Path,
    keep: Path | None,
    *,
    samples: int = 3,
    progress: Callable[[int], None] = nothing,
    seed: int = 0,
    most: int = 5,
    name: str = "one",
    against: Evaluation | None = None,
) -> Evaluation:
    benches = [Bench(name, PROBLEMS[:1], samples, most), Bench("my/two.jsonl", PROBLEMS, samples, most)]
    how = Sampling(temperature=1.0, top_p=1.0, seed=seed)
    return evaluate_model(folder, tiny_policy(), benches, how, keep=keep, progress=progress, against=against)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_policy(tiny_policy(), tmp_path / "model")
    return tmp_path / "model"


def test_every_bench_has_its_scores_and_progress_is_told(model: Path) -> None:
    told: list[int] = []
    found = evaluate(model, None, progress=told.append).result["benches"]
    assert told == [0, 1, 1, 6] and list(found) == ["one", "my/two.jsonl"] and found["my/two.jsonl"]["problems"] == 5
    # votes and pass@k have the largest power of two up to 3 samples
    assert {"pass@1", "pass@1_again", "cons@2", "pass@2", "format", "truncated", "length"} <= found["one"].keys()
    assert 1 <= found["my/two.jsonl"]["length"]["value"] <= 5


def test_graded_again_the_numbers_are_the_same(model: Path, tmp_path: Path) -> None:
    straight = evaluate(model, tmp_path / "kept")
    again = evaluate_kept(tmp_path / "kept")
    assert again.result["benches"] == straight.result["benches"] and again.result["model"] == str(model)
    path = tmp_path / "kept" / f"two{SUFFIX}"
    lines = path.read_text().splitlines()
    row = json.loads(lines[1])
    row["generations"][0]["text"] = "<think> 1 + 1 = 2 . </think> <answer> 2 </answer>"
    path.write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]) + "\n")
    better = evaluate_kept(tmp_path / "kept").result["benches"]["my/two.jsonl"]
    assert better["pass@1"]["value"] == pytest.approx(
        straight.result["benches"]["my/two.jsonl"]["pass@1"]["value"] + 1 / 15
    )


def test_stopped_anywhere_and_continued_it_is_the_same_bytes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assess_module, "CHUNK", 6)  # two problems of three samples at a time
    straight = evaluate(model, tmp_path / "straight")
    path, reference = (tmp_path / name / f"two{SUFFIX}" for name in ("stopped", "straight"))
    whole = reference.read_bytes()

    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tmp_path / "stopped", progress=stop)
    with pytest.raises(UsageError, match="2 of 5 problems are sampled"):
        load_kept(tmp_path / "stopped")
    lines = whole.splitlines(keepends=True)
    for kept in (path.read_bytes(), b"".join(lines[:4]), b"".join(lines[:5]) + lines[5][:20], lines[0], whole):
        path.write_bytes(kept)  # a chunk, half a chunk more, a line that was cut, none, all
        assert evaluate(model, tmp_path / "stopped").result["benches"] == straight.result["benches"]
        assert path.read_bytes() == whole


def test_other_settings_are_not_continued(model: Path, tmp_path: Path) -> None:
    evaluate(model, tmp_path)
    with pytest.raises(UsageError, match="samples 3, now 4"):
        evaluate(model, tmp_path, samples=4)
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    with pytest.raises(UsageError, match="weights_sha256"):
        evaluate(model, tmp_path)


def test_a_folder_keeps_one_evaluation(model: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    evaluate(model, kept)
    evaluate(model, kept, name="three")  # another bench of the same
    (kept / f"two{SUFFIX}").unlink()
    other = tmp_path / "other"
    shutil.copytree(model, other)
    whose = rf"one{SUFFIX} was sampled with model '{model}', now '{other}': ask the same, or keep in another folder"
    with pytest.raises(UsageError, match=whose):
        evaluate(other, kept, name="four")
    with pytest.raises(UsageError, match="seed 0, now 1"):
        evaluate(model, kept, seed=1, name="four")
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    with pytest.raises(UsageError, match="was sampled with weights_sha256 '.{64}', now '"):
        evaluate(model, kept, name="four")
    assert len(list(kept.iterdir())) == 2
    first, *rows = (kept / f"three{SUFFIX}").read_text().splitlines(keepends=True)
    first = first.replace('"seed": 0', '"seed": 1')  # as folders could be made before
    (kept / f"three{SUFFIX}").write_text(first + "".join(rows))
    with pytest.raises(UsageError, match=rf"three{SUFFIX} was sampled with seed 1, bench one 0: two evaluations"):
        evaluate_kept(kept)


@pytest.mark.parametrize("line", [b"{broken\n", b'{"problem": "\xff"}\n', b"[1]\n", b'{"problem": {}}\n', b"\n"])
def test_a_broken_line_is_named_by_file_and_number(model: Path, tmp_path: Path, line: bytes) -> None:
    kept = tmp_path / "kept"
    evaluate(model, kept)
    path = kept / f"two{SUFFIX}"
    lines = path.read_bytes().splitlines(keepends=True)
    for number in (1, 3):
        path.write_bytes(broken := b"".join([*lines[: number - 1], line, *lines[number:]]))
        with pytest.raises(DataError, match=rf"two{SUFFIX}(:{number}: | holds no settings in its first line)"):
            evaluate(model, kept)
        assert path.read_bytes() == broken


def test_two_evaluations_are_compared_problem_by_problem(model: Path) -> None:
    first, second = (evaluate(model, None, seed=seed) for seed in (0, 1))
    found = compare_evaluations(first, second)
    entry = found["benches"]["my/two.jsonl"]
    gap = entry["difference"]["length"]
    assert gap["value"] == pytest.approx(entry["second"]["length"]["value"] - entry["first"]["length"]["value"])
    assert compare_evaluations(first, first)["benches"]["my/two.jsonl"]["difference"]["pass@1"]["p_value"] == 1.0
    only = Evaluation(first.result, {"other": first.graded["one"]})
    with pytest.raises(UsageError, match="no bench is in both"):
        compare_evaluations(first, only)
    swapped = Evaluation(first.result, {"my/two.jsonl": first.graded["my/two.jsonl"][::-1]})
    with pytest.raises(UsageError, match="problem '1' of the one is not '5'"):
        compare_evaluations(first, swapped)
    shorter = "one: the one is sampled to 5 new tokens at most, the other to 4: .* 4$"
    with pytest.raises(UsageError, match=shorter):
        compare_evaluations(first, evaluate(model, None, most=4))
    told: list[int] = []
    with pytest.raises(UsageError, match=shorter):
        evaluate(model, None, most=4, against=first, progress=told.append)
    assert told == []


def test_general_prompts_are_refused() -> None:
    bench = Bench("mine", (Problem("g", "compute", "", "general"),), 1, 5)
    with pytest.raises(UsageError, match="general prompts"):
        assess(tiny_policy(), [bench], HOW, progress=nothing)


def test_lengths_of_right_and_wrong_samples_are_kept_apart() -> None:
    """Right: 2 tokens of the first problem, (4 + 6) / 2 of the second. Wrong: 10 of the first alone."""
    right, wrong = "<think> a </think> <answer> 2 </answer>", "<think> a </think> <answer> 9 </answer>"
    said = [[(right, 2), (wrong, 10)], [(right.replace("2", "3"), 4), (right.replace("2", "3"), 6)]]
    asked = [
        Asked(problem, "", tuple(Generation(text, tokens, "end") for text, tokens in own))
        for problem, own in zip(PROBLEMS, said, strict=False)
    ]
    scores = bench_scores(grade(asked))
    assert scores["length_right"]["value"] == (2 + 5) / 2 and scores["length_wrong"]["value"] == 10
    assert scores["length"]["value"] == (6 + 5) / 2
