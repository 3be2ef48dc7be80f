"""A problem and what was answered to it, side by side, each token shaded by its advantage, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from aha.records import Sample
from aha.report.names import number
from aha.report.samples import Transcript

_MOST_TOKENS = 1500  # of one transcript; the rest is counted, not shown


def transcript_html(transcript: Transcript) -> str:
    """The question, and what each of the columns made of it."""
    answer = f"answer <b>{escape(transcript.answer)}</b>" if transcript.answer else "no single right answer"
    step = {sample.step for _, sample in transcript.columns}
    place = (
        f"step {next(iter(step))}, "
        if len(step) == 1 and any(sample.advantages for _, sample in transcript.columns)
        else ""
    )
    columns = "".join(_answer(title, sample) for title, sample in transcript.columns)
    task = escape(transcript.task.replace("_", " "))
    return (
        f'<div class="transcript"><div class="question">{escape(transcript.prompt.strip())}<small>{place}{task}, '
        f"{answer}</small></div>"
        f'<div class="answers">{columns}</div></div>'
    )


def _answer(title: str, sample: Sample) -> str:
    parts = ", ".join(f"{escape(name)} {number(score)}" for name, score in sample.rewards.items())
    if sample.advantages:  # an evaluation gives no reward, it judges
        scores = f"reward {number(sample.reward)}{f'; unweighted parts: {parts}' if parts else ''}"
    else:
        scores = parts
    ended = " · cut at the limit" if sample.finish_reason == "length" else ""
    length = f" · {len(sample.tokens)} tokens" if sample.tokens else ""
    advantage = (
        f" · advantage {sample.advantages[0]:+.2f}".replace("-", "−")
        if sample.advantages and len(set(sample.advantages)) == 1
        else ""
    )
    return (
        f'<div class="answer"><header><b>{escape(title)}</b><span>{scores}{advantage}{length}{ended}</span></header>'
        f'<p class="text">{_shaded(sample)}</p></div>'
    )


def _shaded(sample: Sample) -> str:
    """The completion; where every token has an advantage, runs of equal advantage share one shade."""
    if not sample.tokens or len(sample.tokens) != len(sample.advantages):
        text = sample.completion or "".join(sample.tokens)
        return escape(text) if text.strip() else "<i>(empty)</i>"
    largest = max(1.0, *(abs(advantage) for advantage in sample.advantages))
    tokens = list(zip(_spaced(sample), sample.advantages, strict=True))
    parts: list[str] = []
    place = 0
    while place < min(len(tokens), _MOST_TOKENS):
        end = place
        while end < min(len(tokens), _MOST_TOKENS) and tokens[end][1] == tokens[place][1]:
            end += 1
        text = escape("".join(token for token, _ in tokens[place:end]))
        advantage = tokens[place][1]
        parts.append(
            f'<i style="background:{tint(advantage / largest)}" title="advantage {advantage:+.3f}">{text}</i>'
            if advantage
            else text
        )
        place = end
    if len(tokens) > _MOST_TOKENS:
        parts.append(f" … ({len(tokens) - _MOST_TOKENS} more tokens)")
    return "".join(parts)


def _spaced(sample: Sample) -> Sequence[str]:
    """The tokens so that joined they read as the completion does: word-level tokens carry no spaces of their own."""
    text, at, spaced = sample.completion, 0, list[str]()
    for token in sample.tokens:
        found = text.find(token, at) if token else -1
        gap = text[at:found] if found >= 0 else ""
        if found >= 0 and not gap.strip():
            spaced.append(gap + token)
            at = found + len(token)
        else:
            spaced.append(token)  # a special token that the text does not show
    return spaced


def tint(strength: float) -> str:
    """The shade of an advantage, 1 and -1 the strongest."""
    return f"rgba(var(--{'up' if strength > 0 else 'down'}),{min(0.45, 0.08 + 0.37 * abs(strength)):.2f})"
