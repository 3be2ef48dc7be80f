"""Rejection sampling from endpoints that fail in every way: nothing is lost, nothing is paid twice, and a killed stage
goes on to the same bytes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from teachers import FAULTS, ScriptedTeacher, serving

import aha
from aha.errors import EndpointError, SettingError, StageFailed
from aha.pipeline.display import PlainDisplay
from aha.pipeline.graph import Pipeline, Stage
from aha.pipeline.runner import run_pipeline
from aha.records import Problem, Status
from aha.reward.judge import judge_prompt, read_verdict
from aha.reward.response import read_response
from aha.rollout.endpoint import Account, Endpoint, message_text, retry_after
from aha.stages import evaluate, reject
from aha.stages.context import Context
from aha.stages.models import save_policy
from aha.testing import tiny_policy
from aha.util.files import read_json, read_jsonl

SUMS = [(a, b) for a in range(2, 7) for b in range(1, 5)]


def right(a: int, b: int) -> str:
    return f"<think> {a} + {b} = {a + b} . </think> <answer> {a + b} </answer>"


def reply(content: str, seed: int) -> str:
    """Of eight seeds five right ones in three wordings, one wrong, one without tags, one with a code block."""
    a, b = (int(word) for word in content.rstrip("?").split()[2::2])
    good = right(a, b)
    kinds = [good, good, good.replace(" . ", " , so be it . "), good.replace(" . ", " . wait . ")]
    kinds += [right(a, b + 1), f"<answer> {a + b} </answer>", good.replace(" . ", " ```x``` . "), good]
    return kinds[seed % 8]


def scripted(content: str, seed: int) -> Sequence[str]:
    """Every sample fails in another way, some in two."""
    return (FAULTS[seed % 6], FAULTS[seed // 6 % 5])[: seed % 3]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems" / "train.jsonl"
    path.parent.mkdir()
    rows = [
        {"id": f"{a}+{b}", "problem": f"What is {a} + {b}?", "answer": str(a + b), "task": "number"} for a, b in SUMS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.parent


def endpoint(url: str, **more: object) -> Endpoint:
    return Endpoint(url=url, model="teacher", first_wait=0.01, timeout=0.5, price_in=1.0, price_out=2.0, **more)


def run(problems: Path, out: Path, settings: reject.Settings) -> dict[str, object]:
    out.mkdir(exist_ok=True)
    context = Context(out, name="samples", seed=5, run_seed=0)
    return dict(reject.run(settings, {"problems": problems}, context).metrics)


def test_what_fails_is_asked_again_and_nothing_is_lost_or_paid_twice(problems: Path, tmp_path: Path) -> None:
    found = {}
    for name, faults in (("calm", None), ("faulty", scripted)):
        teacher = ScriptedTeacher(reply, faults) if faults else ScriptedTeacher(reply)
        with serving(teacher) as url:
            settings = reject.Settings(endpoint=endpoint(url), samples=4)
            metrics = run(problems, tmp_path / name, settings)
        assert sum(teacher.billed.values()) == len(teacher.billed) == 4 * len(SUMS)
        assert metrics["account"]["teacher"]["samples"] == 4 * len(SUMS)  # type: ignore[index]
        assert bool(metrics["failed_attempts"]) == (name == "faulty")
        found[name] = [(tmp_path / name / file).read_bytes() for file in ("examples.jsonl", "removed.jsonl")]
    assert found["calm"] == found["faulty"]
    assert sum(teacher.attempts.values()) > 5 * len(SUMS)
    kept, removed = read_jsonl(tmp_path / "calm" / "examples.jsonl"), read_jsonl(tmp_path / "calm" / "removed.jsonl")
    assert len(kept) + len(removed) == 4 * len(SUMS)
    assert {row["why"] for row in removed} == {"wrong", "bad format", "code block in the thinking", "said before"}
    assert len({(row["id"], row["completion"]) for row in kept}) == len(kept)
    card = read_json(tmp_path / "calm" / "card.json")
    assert card["counts"]["in"] == 4 * len(SUMS) and card["counts"]["kept"] == len(kept)
    paid = card["plan"]["settings"]["account"]["teacher"]
    assert paid["cost"] == pytest.approx((paid["prompt_tokens"] * 1.0 + paid["tokens"] * 2.0) / 1e6)


KILLED = """
import sys
from pathlib import Path
from aha.stages import reject
from aha.stages.context import Context
problems, out, url = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
settings = reject.Settings(endpoint=reject.Endpoint(url=url, model="teacher", timeout=5), samples=4)
reject.run(settings, {"problems": problems}, Context(out, name="samples", seed=5, run_seed=0))
"""


def test_a_killed_stage_goes_on_to_the_same_bytes(problems: Path, tmp_path: Path) -> None:
    teacher = ScriptedTeacher(reply, pause=0.05)
    with serving(teacher) as url:
        settings = reject.Settings(endpoint=Endpoint(url=url, model="teacher", timeout=5), samples=4)
        out = tmp_path / "killed"
        out.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(Path(aha.__file__).parents[1])}
        words = [sys.executable, "-c", KILLED, str(problems), str(out), url]
        with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE) as process:
            ledger = out / "samples.jsonl"
            while process.poll() is None and (not ledger.exists() or ledger.read_bytes().count(b"\n") < 10):
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        before = ledger.read_bytes().count(b"\n")
        assert 10 <= before < 4 * len(SUMS)
        ledger.write_bytes(ledger.read_bytes() + b'{"key": ["2+1", 0], "te')  # as a full disk would leave it
        run(problems, out, settings)
        assert max(teacher.billed.values()) == 1 and len(teacher.billed) == 4 * len(SUMS)
        again = sum(teacher.attempts.values()) - 4 * len(SUMS)
        assert again <= 8  # what was under way when it was killed, and no more
        run(problems, tmp_path / "straight", settings)
    for name in ("examples.jsonl", "removed.jsonl", "card.json", "card.md"):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_what_no_attempt_can_mend_stops_at_once(problems: Path, tmp_path: Path) -> None:
    teacher = ScriptedTeacher(reply, lambda content, seed: ["401"] * 9)
    with serving(teacher) as url, pytest.raises(EndpointError, match="status 401: scripted 401"):
        run(problems, tmp_path / "a", reject.Settings(endpoint=endpoint(url)))
    assert sum(teacher.attempts.values()) <= 8  # one of each that was under way
    gone = "http://127.0.0.1:9/v1"
    with pytest.raises(EndpointError, match="samples in a row failed, the last: ConnectError"):
        run(problems, tmp_path / "b", reject.Settings(endpoint=endpoint(gone, attempts=2)))


def test_a_sample_that_is_given_up_costs_the_others_nothing(problems: Path, tmp_path: Path) -> None:
    ill = True
    teacher = ScriptedTeacher(reply, lambda content, seed: ["500"] * 99 if ill and "6 + 4" in content else [])
    with serving(teacher) as url:
        settings = reject.Settings(endpoint=endpoint(url, attempts=3), samples=2)
        with pytest.raises(EndpointError, match="2 of 40 samples got no answer.*'6\\+4/.*500.*run again"):
            run(problems, tmp_path / "a", settings)
        assert len(read_jsonl(tmp_path / "a" / "samples.jsonl")) == 38
        ill = False
        assert run(problems, tmp_path / "a", settings)["samples"] == 40
    assert set(teacher.billed.values()) == {1}


def test_rate_and_cost_have_limits(problems: Path, tmp_path: Path) -> None:
    teacher = ScriptedTeacher(reply)
    with serving(teacher) as url:
        few = reject.Settings(endpoint=endpoint(url, per_minute=3_000), samples=1)
        run(problems, tmp_path / "a", few)
        assert teacher.arrived[-1] - teacher.arrived[0] >= 0.9 * 19 * 0.02
        dear = reject.Settings(endpoint=endpoint(url, most_cost=1e-4, at_once=1), samples=4)
        with pytest.raises(EndpointError, match="0.0001.* spent, most_cost is 0.0001: raise it"):
            run(problems, tmp_path / "b", dear)
    kept = read_jsonl(tmp_path / "b" / "samples.jsonl")
    cost = [(row["prompt_tokens"] + 2 * row["tokens"]) / 1e6 for row in kept]
    assert sum(cost[:-1]) < 1e-4 <= sum(cost)


def test_answers_without_usage_are_not_free(problems: Path, tmp_path: Path) -> None:
    most = (len("What is 2 + 1?") + 256 + 2 * 80) / 1e6  # of one answer: 80 tokens are asked for
    with serving(ScriptedTeacher(reply, usage=False)) as url:
        capped = reject.Settings(endpoint=endpoint(url, most_cost=2.5 * most, at_once=1), samples=4)
        for _ in range(2):  # going on with what is there
            with pytest.raises(EndpointError, match=r"raise it \(3 answers without usage count as the most that they"):
                run(problems, tmp_path / "a", capped)
        assert len(read_jsonl(tmp_path / "a" / "samples.jsonl")) == 3
        paid = run(problems, tmp_path / "b", reject.Settings(endpoint=endpoint(url), samples=1))["account"]
        assert paid["teacher"] == {  # type: ignore[index]
            "samples": 20, "prompt_tokens": 20 * (14 + 256), "tokens": 20 * 80, "unmetered": 20,
            "cost": pytest.approx(20 * most),
        }  # fmt: skip
        unpriced = Endpoint(url=url, model="teacher", most_cost=1.0)
        with pytest.raises(SettingError, match="most_cost is 1, but nothing has a price"):
            run(problems, tmp_path / "c", reject.Settings(endpoint=unpriced))


@pytest.mark.parametrize("reason", ["content_filter", "insufficient_system_resource"])
@pytest.mark.parametrize("fragment", ["<answer> {} </answer>", "<think> so it is {}", None])
def test_what_was_broken_off_is_no_example(problems: Path, tmp_path: Path, reason: str, fragment: str | None) -> None:
    def answer(content: str, seed: int) -> object:
        a, b = (int(word) for word in content.rstrip("?").split()[2::2])
        said = {"content": fragment and fragment.format(a + b), "finish_reason": reason}
        return said if b == 1 else right(a, b)

    teacher = ScriptedTeacher(answer)
    with serving(teacher) as url:
        settings = reject.Settings(endpoint=endpoint(url), samples=1, well_formed=False)
        metrics = run(problems, tmp_path / "a", settings)
    assert (metrics["removed"], metrics["examples"]) == ({"broken off": 5}, 15)
    assert sum(teacher.attempts.values()) == 20


def test_a_run_never_loses_or_buys_again_what_was_paid(problems: Path, tmp_path: Path) -> None:
    teacher = ScriptedTeacher(reply)

    def go(paragraph: int = 500, **asked: object) -> str:
        settings = reject.Settings(
            source=problems / "train.jsonl", endpoint=endpoint(url, **asked), samples=2, paragraph=paragraph
        )
        said = io.StringIO()
        stages = (Stage("teacher", reject.run, settings),)
        run_pipeline(Pipeline("p", 1, {"seed": 0}, stages), tmp_path / "run", display=PlainDisplay(said), jobs=1)
        return said.getvalue()

    with serving(teacher) as url:
        for limits in ({"most_cost": 1e-4, "at_once": 1}, {"most_cost": 3e-4, "at_once": 2}):
            with pytest.raises(StageFailed, match="raise it"):
                go(**limits)
        paid = sum(teacher.billed.values())
        assert 0 < paid < 2 * len(SUMS)
        said = go(paragraph=400)  # not asked for otherwise, so all of it fits
        assert "teacher starts over: paragraph 500 -> 400" in said
        assert f"teacher keeps {paid} answers that were paid for; those that still fit are used" in said
        assert sum(teacher.billed.values()) == sum(teacher.attempts.values()) == 2 * len(SUMS)
        assert "1 stage done already" in go(paragraph=400, at_once=3, most_cost=2.0)
        assert f"keeps {2 * len(SUMS)} answers" in go(paragraph=300)  # from a finished stage as well
        assert sum(teacher.attempts.values()) == 2 * len(SUMS)
        assert f"keeps {2 * len(SUMS)} answers" in go(prompt="{question}?")
        assert sum(teacher.attempts.values()) == 4 * len(SUMS)
        assert f"keeps {4 * len(SUMS)} answers" in go()  # what did not fit for a while was not thrown away
        assert sum(teacher.attempts.values()) == 4 * len(SUMS)
    card = read_json(tmp_path / "run" / "teacher" / "card.json")
    assert card["plan"]["settings"]["account"]["teacher"]["samples"] == 2 * len(SUMS)


def test_one_of_each_problem_and_domains_in_balance(problems: Path, tmp_path: Path) -> None:
    rows = read_jsonl(problems / "train.jsonl")
    for place, row in enumerate(rows):
        row["subject"] = "rare" if place < 4 else "common"
    (problems / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(ScriptedTeacher(lambda content, seed: reply(content, 0))) as url:
        settings = reject.Settings(
            endpoint=endpoint(url), samples=2, keep="one", domain="subject", weights={"rare": 1.0, "common": 3.0}
        )
        metrics = run(problems, tmp_path / "a", settings)
    assert metrics["domains"] == {"common": 12, "rare": 4}
    assert metrics["removed"] == {"said before": 20, "balance of domains": 4}


def test_a_judge_says_what_no_rule_can(problems: Path, tmp_path: Path) -> None:
    rows = read_jsonl(problems / "train.jsonl")[:4]
    for row in rows:
        row |= {"task": "essay", "answer": f"it is {row['answer']}"}
    (problems / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(content: str, seed: int) -> object:
        if "[Reference answer]" not in content:
            return reply(content, 0)
        verdict = {"2 + 1": "correct", "2 + 2": "incorrect"}.get(content.split("What is ")[1][:5])
        said = json.dumps({"analysis": "a", "verdict": verdict}) if verdict else "I cannot say."
        return {"content": said, "reasoning_content": 'first {"verdict": "correct"} came to mind'}

    with serving(ScriptedTeacher(answer)) as url:
        alone = reject.Settings(endpoint=endpoint(url), samples=1)
        with pytest.raises(aha.errors.DataError, match="'no rule': 4"):
            run(problems, tmp_path / "a", alone)
        metrics = run(problems, tmp_path / "b", alone.model_copy(update={"judge": endpoint(url)}))
    assert metrics["removed"] == {"judge unclear": 2, "wrong by the judge": 1} and metrics["examples"] == 1
    assert metrics["account"]["judge"]["samples"] == 4  # type: ignore[index]


def test_the_engine_as_teacher_is_resumed_too(problems: Path, tmp_path: Path) -> None:
    rows = [{"id": "s", "problem": "compute 2 + 3", "answer": "5", "task": "number"}]
    (problems / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_policy(tiny_policy(), tmp_path / "policy" / "model")
    settings = reject.Settings(samples=3, max_new_tokens=4, well_formed=False)
    for name in ("a", "b"):
        with pytest.raises(aha.errors.DataError, match="no sample of 3 is left"):
            (tmp_path / name).mkdir()
            context = Context(tmp_path / name, name="samples", seed=5, run_seed=0)
            reject.run(settings, {"problems": problems, "policy": tmp_path / "policy"}, context)
    straight = (tmp_path / "a" / "samples.jsonl").read_bytes()
    assert straight == (tmp_path / "b" / "samples.jsonl").read_bytes() and straight.count(b"\n") == 3


def test_teacher_and_judge_at_one_address_share_what_may_be_spent(problems: Path, tmp_path: Path) -> None:
    """The teacher's 20 samples cost some 3e-4; the judge may spend what is left of 4e-4."""
    rows = read_jsonl(problems / "train.jsonl")
    (problems / "train.jsonl").write_text("".join(json.dumps(row | {"task": "essay"}) + "\n" for row in rows))

    def answer(content: str, seed: int) -> object:
        return '{"verdict": "correct"}' if "[Reference answer]" in content else reply(content, 0)

    with serving(ScriptedTeacher(answer)) as url:
        most = endpoint(url, most_cost=1.0, at_once=1)
        whole = run(problems, tmp_path / "a", reject.Settings(endpoint=most, judge=most, samples=1))
        teacher, judge = (whole["account"][who]["cost"] for who in ("teacher", "judge"))  # type: ignore[index]
        both = endpoint(url, most_cost=max(teacher, judge) + min(teacher, judge) / 2, at_once=1)
        with pytest.raises(EndpointError, match="raise it"):
            run(problems, tmp_path / "b", reject.Settings(endpoint=both, judge=both, samples=1))


def test_a_question_longer_than_the_teacher_reads_is_named_and_the_others_are_asked(
    problems: Path, tmp_path: Path
) -> None:
    rows = [{"id": "s", "problem": "compute 2 + 3", "answer": "5", "task": "number"}]
    rows.append({"id": "l", "problem": "compute 2 + 3 " * 500, "answer": "5", "task": "number"})
    (problems / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_policy(tiny_policy(), tmp_path / "policy" / "model")
    (tmp_path / "a").mkdir()
    context = Context(tmp_path / "a", name="samples", seed=5, run_seed=0)
    settings = reject.Settings(samples=3, max_new_tokens=4, well_formed=False)
    with pytest.raises(aha.errors.DataError, match="no sample of 6 is left: .*'too long': 3"):
        reject.run(settings, {"problems": problems, "policy": tmp_path / "policy"}, context)
    assert len(read_jsonl(tmp_path / "a" / "samples.jsonl")) == 3


@pytest.mark.parametrize("settings", [reject.Settings, evaluate.Settings])
def test_a_top_p_of_nothing_is_refused_at_once(settings: type[reject.Settings | evaluate.Settings]) -> None:
    assert settings(top_p=0.1).top_p == 0.1
    for top_p in (0.0, 1.1):
        with pytest.raises(SettingError, match="Settings.top_p"):
            settings(top_p=top_p)


def test_what_is_read_of_replies() -> None:
    assert message_text({"content": " 5 ", "reasoning_content": "2 + 3"}) == "<think> 2 + 3 </think> 5"
    assert message_text({"content": "5", "reasoning_content": None}) == "5"
    with pytest.raises(TypeError):
        message_text({"content": None})
    assert retry_after("2.5") == 2.5 and retry_after(None) is None and retry_after("soon") is None
    noon = datetime(2025, 1, 20, 12, tzinfo=UTC)
    assert retry_after("Mon, 20 Jan 2025 12:00:07 GMT", now=lambda: noon) == 7.0
    assert retry_after("Mon, 20 Jan 2025 11:00:00 GMT", now=lambda: noon) == 0.0
    assert Account(price_in=1.0, price_out=2.0, prompt_tokens=10**6, tokens=10**6).cost == 3.0
    asked = judge_prompt(Problem("p", "Q?", "42", "essay"), read_response("<think> hm </think> <answer> 42 </answer>"))
    assert "[Answer to judge]\n42\n" in asked and "hm" not in asked
    assert read_verdict('{"verdict": "incorrect"} then {"analysis": "x", "verdict": "Correct"}').status is Status.RIGHT
    assert read_verdict('<think> {"verdict": "correct"} </think> none').status is Status.ERROR
    assert read_verdict('{"verdict": "maybe"}').status is Status.ERROR
    for analysis in (r"Both give \frac{1}{2}.", "The sets {1, 2} and {2}.", 'He wrote {"verdict": "incorrect"}.', "{"):
        assert read_verdict(json.dumps({"analysis": analysis, "verdict": "correct"})).status is Status.RIGHT
    assert read_verdict('{"analysis": "a\nb", "verdict": "incorrect"}').status is Status.WRONG
    assert read_verdict('{"result": {"verdict": "correct"}}').status is Status.RIGHT
    assert read_verdict('{"a":' * 100_000).status is Status.ERROR
