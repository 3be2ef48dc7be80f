"""Budget forcing: thinking is cut at a maximum, and goes on behind a "Wait" before a minimum (s1, 2501.19393, 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from aha.errors import SettingError
from aha.records import FinishReason
from aha.rollout.engine import SamplingParams
from aha.search.path import Choice, Path, Strategy, write


def force_budget(
    root: Path,
    params: SamplingParams,
    *,
    least: int,
    most: int,
    waits: int,
    wait_ids: tuple[int, ...],
    close_ids: tuple[int, ...],
    detokenize: Callable[[Sequence[int]], str],
) -> Strategy:
    """One text whose thinking has at most ``most`` tokens, and where it wants to end before ``least``, goes on: the
    closing tag is taken away and ``wait_ids`` put in its place, up to ``waits`` times.

    ``close_ids`` is the tag that ends the thinking; thinking that is cut gets it. The answer follows as far as
    ``params.max_new_tokens`` allows. A text that ends without the tag is left as it is. ``SettingError`` where that
    leaves no room to answer.
    """
    if not 0 <= least <= most or most + len(close_ids) >= params.max_new_tokens:
        raise SettingError(
            f"thinking of {least} to {most} tokens and a closing tag of {len(close_ids)} leave no room to answer in "
            f"max_new_tokens {params.max_new_tokens}"
        )
    tag = detokenize(close_ids).strip()
    think = replace(params, max_new_tokens=most, stop=(tag,))
    path = root
    while path.is_open(think):
        ((path,),) = yield from write([path], 1, think)
        if path.finish_reason is not FinishReason.STOP:
            break
        thought = path.token_ids
        before = detokenize(thought).partition(tag)[0]
        while len(detokenize(thought)) > len(before):  # also what is left of a tag of several tokens
            thought = thought[:-1]
        if len(thought) >= least or not waits:
            break
        path, waits = Path(root.prompt_ids, (*thought, *wait_ids)[:most]), waits - 1
    if path.finish_reason is not FinishReason.END:
        if path.finish_reason is not FinishReason.STOP:
            path = Path(root.prompt_ids, path.token_ids + close_ids)
        ((path,),) = yield from write([path], 1, params)
    return Choice(path, (path,))
