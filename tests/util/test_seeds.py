"""Named seed streams."""

from __future__ import annotations

import itertools

from aha.util.seeds import python_rng, stream


def test_streams_are_fixed_for_ever() -> None:
    # A change here would silently change every run of every recipe.
    assert stream(0, "a") == 739273521946992771
    assert python_rng(0, "a").random() == python_rng(0, "a").random()


def test_streams_differ_by_every_part_of_their_name() -> None:
    names = [(), ("a",), ("a", "b"), ("ab",), ("a", 3), ("a", "3"), (3, "a"), ("a,", "b")]
    seeds = [stream(seed, *name) for seed, name in itertools.product((0, 1, 10), names)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)


def test_bits_of_neighbouring_streams_are_balanced() -> None:
    ones = [sum(stream(0, "step", step) >> bit & 1 for step in range(2000)) for bit in range(63)]
    assert all(abs(count - 1000) < 5 * (2000 * 0.25) ** 0.5 for count in ones)
