"""Is what a row says right by the verifier that would reward it? Its completion, or else its gold (replications 3: run
the grader on the reference itself, and drop what it rejects)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from aha import __version__
from aha.data.dataset import Chunks, Judge, Progress, Removal, Verdicts
from aha.data.files import Row
from aha.errors import DataError
from aha.records import Problem, Status
from aha.reward.accuracy import judge_accuracy
from aha.reward.response import Response, read_response
from aha.tasks.checkers import CHECKERS

BATCH = 1_000


@dataclass(frozen=True)
class Verify:
    """The step. ``task`` names the checker of rows that do not name one."""

    task: str = "number"
    name: str = "verify"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"task": self.task, "verifier": {"aha": __version__, "math-verify": version("math-verify")}}

    def prepare(self, chunks: Chunks, progress: Progress) -> Judge:
        def judge(number: int, rows: Sequence[Row]) -> Verdicts:
            found: list[Removal | None] = []
            for start in range(0, len(rows), BATCH):
                found += self.judge([row.fields for row in rows[start : start + BATCH]])
                progress("verifying", number * len(rows) + len(found), chunks.rows)
            return found

        return judge

    def judge(self, rows: Sequence[Mapping[str, Any]]) -> list[Removal | None]:
        """Why each row goes, or None. A verifier that failed says nothing of the answer, and is counted apart."""
        found: list[Removal | None] = [None] * len(rows)
        asked: list[tuple[int, Problem, Response]] = []
        for place, row in enumerate(rows):
            task, gold = str(row.get("task") or self.task), row.get("answer")
            answer = str(gold).strip() if isinstance(gold, str | int | float) and not isinstance(gold, bool) else ""
            if task not in CHECKERS:
                found[place] = Removal("no checker", f"task {task!r}")
            elif not answer and task != "code":
                found[place] = Removal("no answer", "" if gold is None else f"neither text nor a number: {gold!r:.80}")
            else:
                problem = Problem(str(row["id"]), row["problem"], answer, task, meta=row)
                said = row.get("completion")
                response = Response("", answer, False) if said is None else read_response(said)
                asked.append((place, problem, response))
        for (place, problem, response), (status, note) in zip(asked, _judge(asked), strict=True):
            what = "completion" if "completion" in rows[place] else "gold"
            if status is Status.ERROR:
                found[place] = Removal("verifier failed", note)
            elif status is not Status.RIGHT:
                found[place] = Removal(f"wrong {what}", note or f"{response.answer!r} for {problem.answer!r}")
        return found


def _judge(asked: Sequence[tuple[int, Problem, Response]]) -> list[tuple[Status, str]]:
    """All in one call, which is what makes it fast; one by one where a row lacks what its checker needs."""
    try:
        verdicts = judge_accuracy([problem for _, problem, _ in asked], [response for _, _, response in asked])
        return [(verdict.status, verdict.note) for verdict in verdicts]
    except DataError as error:
        if len(asked) == 1:
            return [(Status.ERROR, str(error))]
        return [verdict for one in asked for verdict in _judge([one])]
