"""Rows come in from every format, whole or rejected by name; what goes out is the same bytes every time."""

from __future__ import annotations

import bz2
import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from aha.data.fields import named, read_named
from aha.data.files import Rejected, Row, encode_rows, find_files, read_rows
from aha.errors import DataError

ROWS: list[dict[str, Any]] = [{"problem": f"What is {i} + 1?\n你好", "answer": str(i + 1)} for i in range(3000)]


def fields(path: Path) -> list[dict[str, Any]]:
    rows = list(read_rows(path))
    assert all(isinstance(row, Row) for row in rows)
    return [row.fields for row in rows if isinstance(row, Row)]


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_what_is_written_is_read_again_and_has_the_same_bytes(tmp_path: Path, form: str) -> None:
    (tmp_path / f"a.{form}").write_bytes(encode_rows(ROWS, form))
    assert fields(tmp_path / f"a.{form}") == ROWS
    assert encode_rows(ROWS, form) == encode_rows(ROWS, form)


def test_a_number_that_parquet_cannot_hold_is_said() -> None:
    with pytest.raises(DataError, match="do not fit the columns of Parquet .* write jsonl instead"):
        encode_rows([{"problem": "a", "answer": "1", "big": 2**70}], "parquet")


def test_json_csv_and_their_compressed_forms(tmp_path: Path) -> None:
    array = json.dumps(ROWS, ensure_ascii=False, indent=1).encode()
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + array)
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(array))
    (tmp_path / "c.json.bz2").write_bytes(bz2.compress("\n".join(map(json.dumps, ROWS)).encode()))
    lines = ["problem,answer", *(f'"{row["problem"]}",{row["answer"]}' for row in ROWS)]
    (tmp_path / "d.csv").write_bytes("\r\n".join(lines).encode())
    for name in ("a.json", "b.json.gz", "c.json.bz2", "d.csv"):
        assert fields(tmp_path / name) == ROWS, name
    assert [file.name for file in find_files([tmp_path])] == ["a.json", "b.json.gz", "c.json.bz2", "d.csv"]
    assert find_files([f"{tmp_path}/*.csv", tmp_path / "d.csv"]) == [tmp_path / "d.csv"]


def test_bad_lines_are_set_aside_with_line_and_reason_and_no_other(tmp_path: Path) -> None:
    good = b'{"problem": "ok", "answer": 1}\n'
    bad = [
        (b'{"problem": \n', "not JSON"),
        (b"[1, 2]\n", "expected an object, found list"),
        (b'{"problem": "\xff"}\n', "not UTF-8 at byte 13"),
        (b'{"problem": "x", "answer": NaN}\n', "NaN is no number"),
        (b'{"problem": "\\ud800"}\n', "half of a surrogate pair"),
        (b'{"a": ' * 20_000 + b"\n", "nested too deeply"),
        (b"\x00\n", "not JSON"),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n" + b"".join(line + good for line, _ in bad))
    rows = list(read_rows(tmp_path / "a.jsonl"))
    rejected = [row for row in rows if isinstance(row, Rejected)]
    assert [row.line for row in rejected] == [2, 4, 6, 8, 10, 12, 14]
    assert all(why in row.why for row, (_, why) in zip(rejected, bad, strict=True)), rejected
    assert len(rows) - len(rejected) == len(bad)
    (tmp_path / "b.csv").write_bytes(b"problem,answer\nok,1\nshort\n\xff,2\nok,3\n")
    kinds = [(row.line, type(row).__name__) for row in read_rows(tmp_path / "b.csv")]
    assert kinds == [(2, "Row"), (3, "Rejected"), (4, "Rejected"), (5, "Row")]


def test_parquet_with_dates_and_bytes(tmp_path: Path) -> None:
    table = pyarrow.table({"problem": ["a", "b"], "when": [date(2025, 1, 20), None], "raw": [None, b"\x00"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    first, second = read_rows(tmp_path / "a.parquet")
    assert first == Row(str(tmp_path / "a.parquet"), 1, {"problem": "a", "when": "2025-01-20"})
    assert isinstance(second, Rejected) and second.line == 2 and "bytes" in second.why


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_file_that_was_cut_is_an_error_and_not_a_short_file(tmp_path: Path, name: str) -> None:
    data = encode_rows(ROWS, name.removeprefix("a."))
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cannot be read to its end"):
        list(read_rows(tmp_path / name))


def test_json_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"problem": "a"}, {"problem": ')
    with pytest.raises(DataError, match="from row 2 on"):
        list(read_rows(tmp_path / "a.json"))
    with pytest.raises(DataError, match="the name tells no format"):
        find_files([__file__])


def test_of_a_data_set_its_rows_alone_are_read_and_of_other_folders_all(tmp_path: Path) -> None:
    files = (
        "set/part-00000.jsonl.gz", "set/part-00001.jsonl.gz", "taught/examples.jsonl",  # the rows of two data sets
        "set/card.json", "set/removed.jsonl", "set/rejected.jsonl", "set/work/rows-00000.jsonl",
        "taught/card.json", "taught/removed.jsonl", "taught/samples.jsonl", "taught/result.json",
        "a.jsonl", "b/c/d.csv", "b/.hidden.jsonl", ".cache/e.jsonl", "b/notes.txt",
    )  # fmt: skip
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(*sources: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in find_files([tmp_path / source for source in sources])]

    assert found("set", "taught") == [*files[:3]]
    assert found(".") == ["a.jsonl", "b/c/d.csv", *files[:3]] and found("b") == ["b/c/d.csv"]


def test_chats_and_other_names_become_one_set_of_names() -> None:
    def to(**given: Any) -> Any:
        row = named(Row("f/x.jsonl", 3, given))
        return row.fields if isinstance(row, Row) else row.why

    ask, reply = {"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}
    assert to(question="q", answer=4) == {"id": "x.jsonl:3", "problem": "q", "answer": "4"}
    assert to(instruction="q", output="r", id=7) == {"id": "7", "problem": "q", "completion": "r"}
    assert to(Question="q?", Body="s.")["problem"] == "s. q?" and to(question="q", context="c")["problem"] == "c\n\nq"
    for more in ({"input": "it"}, {"input": "", "context": "it"}):
        assert to(instruction="do", **more)["problem"] == "do\n\nit"
    assert to(instruction="do", input="")["problem"] == "do" and to(problem="q", context="c")["problem"] == "q"
    assert {to(question="q", id=no)["id"] for no in (None, "")} == {"x.jsonl:3"} and to(problem="q", id=0)["id"] == "0"
    assert to(messages=[ask, reply]) == {"id": "x.jsonl:3", "problem": "q", "completion": "r"}
    assert to(prompt=[ask]) == {"id": "x.jsonl:3", "problem": "q"}
    shared = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]
    assert to(conversations=shared) == {"id": "x.jsonl:3", "problem": "q", "completion": "r", "system": "s"}
    long = to(messages=[ask, reply, ask, reply])
    assert long["problem"] == "q" and long["messages"] == [ask, reply, ask, reply] and "completion" not in long
    assert "no question" in to(answer=3) and "no question" in to(problem=["q"][0:0] or " ")
    assert "no turn of the user" in to(messages=[reply]) and "a role and a text" in to(messages=[{"role": "user"}])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["", "\n"], r"a\.jsonl, .*b\.jsonl: no rows"),
        (["", '{"frage": "q"}\n{'], r"no row can be used; the first is .*b\.jsonl:1: no question.*fields: frage"),
        (["{\n", '{"frage": "q"}\n'], r"no row can be used; the first is .*a\.jsonl:1: not JSON"),
        (["{\n", '{"problem": "q"}\n'], None),
    ],
)
def test_files_of_which_no_row_can_be_used_are_an_error(tmp_path: Path, texts: list[str], message: str | None) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    if message is None:
        assert [type(row) for row in read_named(paths)] == [Rejected, Row]
        return
    with pytest.raises(DataError, match=message):
        list(read_named(paths))
