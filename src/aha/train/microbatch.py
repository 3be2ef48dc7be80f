"""Which sequences are computed together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def split_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of sequences in micro-batches of at most ``budget`` tokens, padding counted; every index once.

    Sequences of similar length go together, the longest first, so that too little memory shows at once. A sequence
    longer than the budget is a micro-batch of its own. Equal lengths keep their order.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or longest * (len(batches[-1]) + 1) > budget:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches


def split_branches(
    prompts: Sequence[Hashable], prompt_lengths: Sequence[int], lengths: Sequence[int], budget: int
) -> list[list[int]]:
    """The same for sequences that continue a prompt, where equal ``prompts`` are computed once in a micro-batch.

    The sequences of a prompt go together as far as the budget allows, the longest first, and so do their prompts. A
    micro-batch counts the longest of its prompts times their number, and likewise for what continues them.
    """
    longest_of: dict[Hashable, int] = {}
    for prompt, before, length in zip(prompts, prompt_lengths, lengths, strict=True):
        longest_of[prompt] = max(longest_of.get(prompt, 0), before + length)
    place = {prompt: rank for rank, prompt in enumerate(sorted(longest_of, key=lambda p: -longest_of[p]))}
    batches: list[list[int]] = []
    asked: set[Hashable] = set()
    longest_prompt = longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (place[prompts[i]], -lengths[i])):
        wider_prompt, wider = max(longest_prompt, prompt_lengths[index]), max(longest, lengths[index])
        num_prompts = len(asked) + (prompts[index] not in asked)
        if not batches or num_prompts * wider_prompt + (len(batches[-1]) + 1) * wider > budget:
            batches.append([])
            asked, wider_prompt, wider = set(), prompt_lengths[index], lengths[index]
        batches[-1].append(index)
        asked.add(prompts[index])
        longest_prompt, longest = wider_prompt, wider
    return batches
