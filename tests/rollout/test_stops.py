"""Stop strings over tokenizers whose tokens are not whole characters, or lose a space in front."""

from __future__ import annotations

from collections.abc import Sequence

from aha.rollout.native.stops import StopStrings


def _bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


def _words(ids: Sequence[int]) -> str:
    return "".join([" a", " b", "c ", " "][i] for i in ids).lstrip(" ")


def test_only_tokens_that_hold_the_last_character_are_suspects() -> None:
    stops = StopStrings(_bytes, 128)
    assert stops.tokens(["</answer>"]) == ([ord(">")], [])
    assert stops.tokens(["\n\n", "b"]) == ([ord("\n"), ord("b")], [ord("b")])


def test_parts_of_characters_are_suspects_and_the_whole_is_found() -> None:
    stops = StopStrings(_bytes, 256)
    tail = list("x。".encode())
    assert tail[-1] in stops.tokens(["。"])[0]
    assert stops.found(tail, ["。"]) and not stops.found(tail[:-1], ["。"])
    assert stops.found(list("éé x。".encode())[1:], ["x。"])  # a tail may start inside a character


def test_a_space_that_the_first_token_loses_still_counts() -> None:
    assert StopStrings(_words, 4).tokens(["a "]) == ([0, 1, 2, 3], [])
    assert StopStrings(_words, 4).tokens([" b"]) == ([1, 3], [1])


def test_window_holds_the_longest_stop_string_in_single_bytes() -> None:
    stops = StopStrings(_bytes, 256)
    stop = ["</think>", "。。"]
    tail = list(b"many words before</think>")[-stops.window(stop) :]
    assert len(tail) == 12 and stops.found(tail, stop)
    three = list("x。。。".encode())[-stops.window(["。。。"]) :]
    assert stops.window(["。。。"]) == 9 + 4 and stops.found(three, ["。。。"])
