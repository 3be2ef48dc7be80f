"""The one renderer: a question becomes a prompt, a prompt and a completion become ids with a loss mask.

Prompt and completion are tokenised apart and joined as ids, so the ids the sampler saw are the ids the trainer sees
(token in, token out): text is never tokenised a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aha.errors import SettingError
from aha.tokens.tokenizer import Tokenizer

R1_ZERO_TEMPLATE = (
    "A conversation between User and Assistant. The User asks a question and the Assistant solves it. The Assistant "
    "first thinks about the reasoning process in the mind and then gives the User the answer. The reasoning process "
    "and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>. User: {question}. Assistant:"
)
"""In the words of DeepSeek-R1, table 1; generation starts right after ``Assistant:``."""

THINK, END_THINK = "<think>", "</think>"


@dataclass(frozen=True)
class Example:
    """A training text: ``Example(ids=(5, 9, 2, 7, 1), loss_mask=(0, 0, 1, 1, 1))``: three completion tokens are
    learned."""

    ids: tuple[int, ...]
    loss_mask: tuple[int, ...]


class Renderer:
    """A prompt template with one ``{question}`` and a tokenizer.

    ``SettingError`` when the template has no question: every prompt would be the same and the reward would look random.
    """

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        if template.count("{question}") != 1:
            raise SettingError(
                f"template has {template.count('{question}')} places for the question, needs one '{{question}}': "
                f"{template!r}"
            )
        self.tokenizer, self.template = tokenizer, template

    def prompt_text(self, question: str) -> str:
        return self.template.replace("{question}", question)

    def prompt(self, question: str) -> tuple[int, ...]:
        """Ids of the prompt, from what the tokenizer begins every text with."""
        return tuple(self.tokenizer.encode_from_start(self.prompt_text(question)))

    def continuation(self, completion: str) -> str:
        """``completion`` without the ``<think>`` that the template has opened already, as some published ones do."""
        if not self.template.rstrip().endswith(THINK):
            return completion
        return completion.lstrip().removeprefix(THINK).lstrip()

    def example(self, question: str, completion: str) -> Example:
        """Prompt without loss, completion and end token with loss."""
        prompt = self.prompt(question)
        answer = (*self.tokenizer.encode(self.continuation(completion)), self.tokenizer.eos_id)
        return Example((*prompt, *answer), (0,) * len(prompt) + (1,) * len(answer))

    def document(self, text: str) -> Example:
        """Plain text for pre-training: loss on every token, end token added."""
        ids = (*self.tokenizer.encode_from_start(text), self.tokenizer.eos_id)
        return Example(ids, (1,) * len(ids))

    def token_texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.tokenizer.token_text(i) for i in ids)
