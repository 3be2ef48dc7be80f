"""The texts that preference models learn from and are tested on, as ids: pairs, or single texts with a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from aha.data.preference_files import load_labelled, load_pairs
from aha.data.preferences import Pair
from aha.errors import DataError, SettingError
from aha.evaluate.estimators import share_interval
from aha.evaluate.preference import label_report, pair_report
from aha.reward.learned import Reads, text_to_judge
from aha.reward.response import TAGS, read_response
from aha.tokens.render import Renderer

Loss = Literal["pairwise", "pointwise"]


@dataclass(frozen=True, slots=True)
class Item:
    """A pair as ids, or, without a second text, a text with its label. The first ``prompt`` ids are the question."""

    first: tuple[int, ...]
    second: tuple[int, ...] = ()
    margin: float = 0.0
    label: float = 1.0
    prompt: int = 0

    @property
    def size(self) -> int:
        return max(len(self.first), len(self.second))


def load_items(folder: Path, name: str, reads: Reads, loss: Loss, renderer: Renderer) -> tuple[list[Item], int]:
    """The side ``name`` of what stages/preference_data.py wrote into ``folder``, and how many of its rows say nothing
    to whoever reads them so."""
    labelled = folder / f"labelled_{name}.jsonl"
    if not labelled.exists():
        return items_of_pairs(load_pairs(folder / f"pairs_{name}.jsonl"), reads, loss, renderer)
    if loss == "pairwise":
        raise SettingError(f"{folder} has labels, not pairs: set loss=pointwise, or give pairs")
    read = [(t, _read(t.text, reads)) for t in load_labelled(labelled)]
    found = [_item(renderer, t.problem.prompt, [text], label=t.label) for t, text in read if text]
    if read and not found:
        raise DataError(f"{labelled}: none of {len(read)} texts has an answer")
    return found, len(read) - len(found)


def items_of_pairs(
    pairs: Sequence[Pair], reads: Reads, loss: Loss, renderer: Renderer
) -> tuple[list[Item], int]:
    """Of a pair the chosen text is good and the rejected one bad, where each is judged by itself. A pair that is the
    same to whoever reads it so, or one of whose texts has no answer, is left out and counted; ``DataError`` where none
    is left."""
    read = [(p, _read(p.chosen, reads), _read(p.rejected, reads)) for p in pairs]
    told = [(p, chosen, rejected) for p, chosen, rejected in read if chosen and rejected and chosen != rejected]
    if read and not told:
        raise DataError(f"none of {len(read)} pairs has two different answers (reads={reads})")
    if loss == "pairwise":
        items = [_item(renderer, p.problem.prompt, texts, margin=p.margin) for p, *texts in told]
    else:
        items = [
            _item(renderer, p.problem.prompt, [text], label=label)
            for p, *texts in told
            for text, label in zip(texts, (1.0, 0.0), strict=True)
        ]
    return items, len(read) - len(told)


def sides(items: Sequence[Item]) -> list[list[tuple[int, ...]]]:
    """First texts, then second ones where there are."""
    found = [[item.first for item in items], [item.second for item in items]]
    return found if items[0].second else found[:1]


def report_of(scores: Sequence[Tensor], items: Sequence[Item]) -> dict[str, Any]:
    """What scores of ``sides(items)`` are worth. ``pairs``, where single texts are a pair each two: how often the good
    one has the higher score."""
    lengths = [[len(text) for text in texts] for texts in sides(items)]
    if len(scores) == 2:
        return pair_report(scores[0].tolist(), scores[1].tolist(), lengths[0], lengths[1])
    report = label_report(scores[0].tolist(), [item.label for item in items], lengths[0])
    if _are_pairs(items):
        higher = scores[0][::2] > scores[0][1::2]
        report["pairs"] = share_interval(int(higher.sum()), len(higher)).as_dict()
    return report


def _are_pairs(items: Sequence[Item]) -> bool:
    """Whether they stand as ``items_of_pairs`` makes them."""
    return len(items) % 2 == 0 and all(
        (good.label, bad.label) == (1.0, 0.0) and good.first[: good.prompt] == bad.first[: bad.prompt]
        for good, bad in zip(items[::2], items[1::2], strict=True)
    )


def _item(
    renderer: Renderer, question: str, texts: Sequence[str], *, margin: float = 0.0, label: float = 1.0
) -> Item:
    examples = [renderer.example(question, text) for text in texts]
    first, *second = (example.ids for example in examples)
    return Item(first, second[0] if second else (), margin, label, examples[0].loss_mask.count(0))


def _read(text: str, reads: Reads) -> str:
    """What the model sees of a text; a text without any of the tags is all answer, and behind thinking alone, as R1
    itself writes, so is the rest. Empty where there is no answer."""
    if not any(tag in text for tag in TAGS):
        return text
    response = read_response(text)
    if response.untagged:
        return response.untagged if reads == "answer" else response.think
    return text_to_judge(response, reads)
