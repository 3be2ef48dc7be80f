"""C files are built once, and who has no compiler is told so once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from aha.util.ccompile import load_library

TWICE = "double twice(double x) { return 2 * x; }\n"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv("AHA_KERNELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_library.cache_clear()
    yield
    load_library.cache_clear()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "made.c"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_source_is_built_once_and_again_when_it_changes(tmp_path: Path) -> None:
    for factor in (2, 3):
        for _ in range(2):
            load_library.cache_clear()
            library = load_library(written(tmp_path, TWICE.replace("2 *", f"{factor} *")))
            if library is None:
                pytest.skip("this machine has no C compiler")
            library.twice.argtypes, library.twice.restype = [ctypes.c_double], ctypes.c_double
            assert library.twice(1.5) == factor * 1.5
    assert len(list((tmp_path / "cache" / "aha").glob("made-*.so"))) == 2


def test_off_is_off_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AHA_KERNELS", "off")
    assert load_library(written(tmp_path, TWICE)) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("why", ["no compiler", "no such folder", "a source that does not compile"])
def test_one_line_says_why_there_is_none(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path, "int wrong(" if why.startswith("a source") else TWICE)
    if why == "no compiler":
        monkeypatch.setenv("CC", "/nowhere/cc")
    if why == "no such folder":
        monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/none")
    assert load_library(source) is None and load_library(source) is None
    said = capsys.readouterr().err
    assert said.count("without the compiled made.c") == 1
