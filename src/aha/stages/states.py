"""What a model that does not learn makes of every text of some preferences, computed once: the state of its last token
behind a few layers. Any number of heads is then learned from them in seconds (stages/reward_head.py).

Writes ``texts.json``, the texts' ids, and ``states-N.safetensors``, the rows of the first N micro-batches that the file
before it has not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from aha.config import Count, Frozen
from aha.errors import DataError, SettingError
from aha.model.attention.plan import Branches
from aha.model.decoder import Decoder
from aha.model.tensor_file import open_tensors, save_tensors_atomic
from aha.records import StageResult
from aha.reward.learned import Reads
from aha.stages.context import Context
from aha.stages.judged_texts import load_items
from aha.stages.models import load_policy
from aha.train.microbatch import split_branches
from aha.util.files import read_json, write_json_atomic

INDEX = "texts.json"


class Settings(Frozen):
    """States behind the first so many layers, for each of ``depths`` in ascending order; what is above the last is not
    computed. ``reads`` are the ways of reading a text that are asked for later. ``dtype`` is that of the weights and of
    what is computed; the states are kept in float32. ``token_budget`` tokens are computed together."""

    depths: tuple[Count, ...]
    reads: tuple[Reads, ...] = ("answer", "everything")
    dtype: Literal["float32", "bfloat16"] = "float32"
    token_budget: Count = 4_096


@dataclass(frozen=True)
class States:
    """``states.of([ids, other_ids], depth=12)`` is ``[2, D]``: what a stage wrote, by text."""

    depths: tuple[int, ...]
    places: Mapping[tuple[int, ...], int]
    states_RKD: Tensor

    def of(self, texts: Sequence[tuple[int, ...]], *, depth: int) -> Tensor:
        """``DataError`` for a text that was not asked for."""
        try:
            rows = [self.places[text] for text in texts]
        except KeyError as error:
            raise DataError(
                f"the state of a text of {len(error.args[0])} tokens was not computed: the stage of the states has "
                "other preferences, or does not read a text in this way"
            ) from None
        return self.states_RKD[rows, self.depths.index(depth)]


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """``init`` has the model, ``preferences`` the texts. Texts of one prompt are computed together, the prompt once."""
    policy = load_policy(inputs["init"] / "model", dtype=getattr(torch, settings.dtype))
    layers = policy.config.num_hidden_layers
    if list(settings.depths) != sorted(set(settings.depths)) or not 0 < settings.depths[-1] <= layers:
        raise SettingError(f"depths={list(settings.depths)}: rising numbers of layers are needed, {layers} at most")
    prompt_of: dict[tuple[int, ...], int] = {}
    for name in ("train", "test"):
        for reads in settings.reads:
            for item in load_items(inputs["preferences"], name, reads, "pointwise", policy.renderer)[0]:
                prompt_of[item.first] = item.prompt
    texts = list(prompt_of)
    prompts = [text[: prompt_of[text]] for text in texts]
    write_json_atomic(context.out / INDEX, {"depths": settings.depths, "texts": texts})
    batches = split_branches(
        prompts,
        [len(prompt) for prompt in prompts],
        [len(text) - len(prompt) for text, prompt in zip(texts, prompts, strict=True)],
        settings.token_budget,
    )
    done = max((int(path.stem.partition("-")[2]) for path in _files(context.out)), default=0)
    rows: list[int] = []
    found: list[Tensor] = []
    for number, batch in enumerate(batches[done:], done + 1):
        rows += batch
        found.append(_compute(policy.decoder, [texts[i] for i in batch], [prompts[i] for i in batch], settings.depths))
        if context.save_due() or number == len(batches):
            chunk = {"rows": torch.tensor(rows), "states": torch.cat(found)}
            save_tensors_atomic(context.out / f"states-{number:06}.safetensors", chunk)
            rows, found = [], []
        context.progress(number, len(batches))
    tokens = sum(len(text) for text in texts)
    return StageResult({"texts": len(texts), "tokens": tokens, "micro_batches": len(batches)})


def load_states(folder: Path) -> States:
    """What the stage wrote into ``folder``."""
    index = read_json(folder / INDEX)
    places: dict[tuple[int, ...], int] = {}
    parts = []
    for path in _files(folder):
        with open_tensors(path) as tensors:
            parts.append(tensors.get_tensor("states"))
            for row in tensors.get_tensor("rows").tolist():
                places[tuple(index["texts"][row])] = len(places)
    return States(tuple(index["depths"]), places, torch.cat(parts))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("states-*.safetensors"))


@torch.no_grad()
def _compute(
    decoder: Decoder, texts: Sequence[tuple[int, ...]], prompts: Sequence[tuple[int, ...]], depths: Sequence[int]
) -> Tensor:
    """``[R, K, D]`` on the CPU."""
    number_of = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    own = [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]
    branches = Branches(
        tuple(map(len, number_of)), tuple(map(len, own)), tuple(number_of[prompt] for prompt in prompts)
    )
    ids = [i for prompt in number_of for i in prompt] + [i for ids in own for i in ids]
    device = decoder.head_weight.device
    last_R = sum(branches.prompts) + torch.tensor(branches.continuations, device=device).cumsum(0) - 1
    streams = decoder.residuals(torch.tensor([ids], device=device), depths, branches=branches)
    return torch.stack([x_1TD[0, last_R].float() for x_1TD in streams], 1).cpu()
