"""Which thinking DeepSeek-R1's third stage leaves out: mixed languages, long paragraphs, code blocks (R1v1 2.3.3).

How long is too long is not published; it is a setting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aha.data.dataset import Chunks, Judge, Progress, Removal, Verdicts
from aha.data.files import Row
from aha.reward.response import read_response
from aha.reward.rules import language_share

LANGUAGES = ("en", "zh")
_PARAGRAPH = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Readable:
    """The step, over rows with a ``completion``; one without is judged by its question's language alone.

    ``languages``: questions in others go; none given, all stay. ``paragraph`` and ``longest`` count words (white space
    between them); ``share`` of the thinking's words must be in the question's language.
    """

    languages: tuple[str, ...] = ()
    share: float = 1.0
    paragraph: int = 500
    longest: int | None = None
    code: bool = False
    name: str = "filter"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "languages": list(self.languages),
            "language_share": self.share,
            "longest_paragraph": self.paragraph,
            "longest_completion": self.longest,
            "code_blocks": self.code,
        }

    def prepare(self, chunks: Chunks, progress: Progress) -> Judge:
        def judge(number: int, rows: Sequence[Row]) -> Verdicts:
            return [self.fault(row.fields) for row in rows]

        return judge

    def fault(self, fields: Mapping[str, Any]) -> Removal | None:
        """Why a row goes, if it does. The language of a thinking is judged for English and Chinese questions alone: no
        rule tells others apart."""
        language = language_of(fields)
        if self.languages and language not in self.languages:
            return Removal("another language", f"{language}")
        completion = fields.get("completion")
        if completion is None:
            return None
        if self.longest is not None and (words := len(completion.split())) > self.longest:
            return Removal("too long", f"{words} words")
        thought = read_response(completion).think
        if not self.code and "```" in thought:
            return Removal("code block in the thinking")
        longest = max(len(paragraph.split()) for paragraph in _PARAGRAPH.split(thought))
        if longest > self.paragraph:
            return Removal("long paragraph in the thinking", f"{longest} words")
        share = language_share(thought, language) if language in LANGUAGES else None
        if share is not None and share < self.share:
            return Removal("mixed languages in the thinking", f"{share:.3f} of its words are {language}")
        return None


def language_of(fields: Mapping[str, Any]) -> str:
    """The row's ``language`` or ``lang``, in lower case, and as a code where it is the name of English or Chinese; else
    ``en`` or ``zh`` if most words of the question are in its script (Latin counts as English), else ``other``."""
    named = fields.get("language", fields.get("lang"))
    if isinstance(named, str) and named.strip():
        named = named.strip().lower()
        return {"english": "en", "chinese": "zh"}.get(named, named)
    shares = {language: language_share(fields["problem"], language) for language in LANGUAGES}
    return next((language for language, share in shares.items() if share is None or share > 0.5), "other")
