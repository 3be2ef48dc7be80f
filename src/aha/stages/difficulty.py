"""How often a given model answers a problem right, and which problems are then worth asking.

The replications choose by pass rate: Open-R1 keeps 0.1 to 0.6, Light-R1 0.2 to 0.625, PRIME 0.2 to 0.8, Skywork 1/16 to
15/16 (replications 3); a problem that is never or always right teaches a group nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aha import __version__
from aha.data.dataset import Chunks, Judge, Progress, Removal, Verdicts
from aha.data.files import Row
from aha.errors import DataError, nearest
from aha.model.config_file import model_folder
from aha.records import Problem, Status
from aha.reward.accuracy import judge_accuracy
from aha.reward.readability import language_of
from aha.reward.response import read_response
from aha.rollout.engine import SamplingParams
from aha.stages.generate import open_model
from aha.stages.sampling import PolicySampler, ask_for, collect_samples, sample_name
from aha.tasks.checkers import CHECKERS
from aha.util.files import sha256_file

BATCH = 1_000


@dataclass(frozen=True)
class Difficulty:
    """The step: every row gets ``pass_rate``, the share of ``samples`` that its checker calls right; rows outside
    ``low`` to ``high`` go. ``task`` names the checker of rows that name none.

    Samples are kept as they come, so a killed command samples at most one batch of the engine again.
    """

    model: Path
    samples: int = 8
    low: float = 0.0
    high: float = 1.0
    task: str = "number"
    template: str | None = None
    max_new_tokens: int = 1_024
    temperature: float = 1.0
    seed: int = 0
    name: str = "difficulty"

    @property
    def settings(self) -> Mapping[str, Any]:
        folder = model_folder(self.model)
        weights = {file.name: sha256_file(file) for file in sorted(folder.glob("*.safetensors"))}
        return {
            "model": {"folder": str(folder), "sha256": weights},
            "samples": self.samples,
            "low": self.low,
            "high": self.high,
            "task": self.task,
            "template": self.template,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "verifier": {"aha": __version__, "math-verify": version("math-verify")},
        }

    @cached_property
    def _sampler(self) -> PolicySampler:
        policy, _ = open_model(self.model, template=self.template)
        ends = policy.tokenizer.end_token_ids
        return PolicySampler(policy, SamplingParams(self.max_new_tokens, self.temperature, end_token_ids=ends))

    def prepare(self, chunks: Chunks, progress: Progress) -> Judge:
        done = 0

        def judge(number: int, rows: Sequence[Row]) -> Verdicts:
            nonlocal done
            problems = [self._problem(row, f"{number}/{place}") for place, row in enumerate(rows)]
            refused = [self._sampler.refuse(problem.prompt) for problem in problems]
            askable = [problem for problem, why in zip(problems, refused, strict=True) if not why]
            asked = ask_for(askable, self.samples, self.seed)
            before, done = done, done + len(asked)
            answers = collect_samples(
                self._sampler,
                asked,
                chunks.folder / f"difficulty-{number:05d}.jsonl",
                lambda now, _: progress("sampling", before + now, chunks.rows * self.samples),
            )
            found: list[Removal | None] = [Removal("too long", why) if why else None for why in refused]
            places = [place for place, why in enumerate(refused) if not why]
            for start in range(0, len(places), BATCH):
                part = places[start : start + BATCH]
                own = [problems[place] for place in part]
                said = [[answers[sample_name(p), g].text for g in range(self.samples)] for p in own]
                for place, why in zip(part, self._judge([rows[place] for place in part], own, said), strict=True):
                    found[place] = why
            return found

        return judge

    def _problem(self, row: Row, place: str) -> Problem:
        """Known by its place: two files may have rows of one id."""
        task = str(row.fields.get("task", self.task))
        if task not in CHECKERS:
            raise DataError(f"{row.file}:{row.line}: no checker for task {task!r}; {nearest(task, CHECKERS)}")
        answer = "" if row.fields.get("answer") is None else str(row.fields["answer"]).strip()
        return Problem(place, row.fields["problem"], answer, task, language_of(row.fields), meta=row.fields)

    def _judge(
        self, rows: Sequence[Row], problems: Sequence[Problem], said: Sequence[Sequence[str]]
    ) -> list[Removal | None]:
        """A failed verifier says nothing: the rate is over the samples that were judged."""
        asked = [(problem, text) for problem, texts in zip(problems, said, strict=True) for text in texts]
        responses = [read_response(text) for _, text in asked]
        verdicts = judge_accuracy([problem for problem, _ in asked], responses)
        found: list[Removal | None] = []
        for place, row in enumerate(rows):
            own = verdicts[place * self.samples : (place + 1) * self.samples]
            judged = [verdict.status is Status.RIGHT for verdict in own if verdict.status is not Status.ERROR]
            rate = sum(judged) / len(judged) if judged else None
            if rate is None:
                found.append(Removal("verifier failed", own[0].note))
                continue
            row.fields["pass_rate"] = rate
            fits = self.low <= rate <= self.high
            why = Removal("too hard" if rate < self.low else "too easy", f"{rate:.3g} of {len(judged)} samples right")
            found.append(None if fits else why)
        return found
