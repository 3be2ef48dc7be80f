"""The compiled kernels, for the tests that hold them to PyTorch."""

from __future__ import annotations

import pytest

from aha.rollout.native.kernels import Kernels, load_kernels


@pytest.fixture(scope="module")
def compiled() -> Kernels:
    found = load_kernels()
    if found is None:
        pytest.skip("no C compiler here")
    return found
