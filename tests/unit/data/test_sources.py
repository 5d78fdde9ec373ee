"""Rows from files, folders and the hub: each with its place, each fault a problem with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from modpo.config.sources import SourceConfig
from modpo.data.sources import Row, lookup, read_rows
from modpo.errors import InputError, Problem


def rows_of(path: Path, **settings: Any) -> list[Row | Problem]:
    return list(read_rows(SourceConfig(path=str(path), **settings)))


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path | str, **settings: Any) -> Problem:
    with pytest.raises(InputError) as caught:
        list(read_rows(SourceConfig(path=str(path), **settings)))
    (problem,) = caught.value.problems
    return problem


def test_jsonl_rows_know_their_line(tmp_path: Path) -> None:
    """Blank lines are passed over and still counted, so that the number is the one an editor shows."""
    path = written(tmp_path, "rows.jsonl", '{"a": 1}\n\n  \n{"a": "ü"}\n{"a": null}')
    assert rows_of(path) == [Row(f"{path}:1", {"a": 1}), Row(f"{path}:4", {"a": "ü"}), Row(f"{path}:5", {"a": None})]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert [row.values for row in rows_of(path) if isinstance(row, Row)] == [{"a": 1}, {"a": 2}]


def test_reading_goes_on_after_every_bad_line(tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b'{"a": "\xff"}', b'{"a": ', b"[1]", b"3", b"[" * 100_000, b'{"a": 2}']
    path = written(tmp_path, "rows.jsonl", b"\n".join(lines))
    first, *faults, last = rows_of(path)
    assert (first, last) == (Row(f"{path}:1", {"a": 1}), Row(f"{path}:7", {"a": 2}))
    problems = [fault for fault in faults if isinstance(fault, Problem)]
    assert [(p.code, p.where) for p in problems] == [
        ("MS-203", f"{path}:2"),
        ("MS-204", f"{path}:3"),
        ("MS-204", f"{path}:4"),
        ("MS-204", f"{path}:5"),
        ("MS-204", f"{path}:6"),
    ]


def test_bytes_that_are_not_utf8_are_named_with_their_offset(tmp_path: Path) -> None:
    """`{"a": "gr` has nine bytes, so the latin-1 ü stands at offset 9."""
    (problem,) = rows_of(written(tmp_path, "rows.jsonl", '{"a": "grün"}'.encode("latin-1")))
    assert isinstance(problem, Problem)
    assert (problem.code, problem.got) == ("MS-203", "byte 0xfc at offset 9")
    assert "iconv" in problem.remedy


def test_malformed_json_says_where(tmp_path: Path) -> None:
    (problem,) = rows_of(written(tmp_path, "rows.jsonl", '{"a": 1,}'))
    assert isinstance(problem, Problem)
    assert (problem.code, problem.what) == ("MS-204", "the text is not a JSON object")
    assert "line 1 column 9" in problem.got


def test_json_array_of_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.json", json.dumps([{"a": 1}, 3, {"a": 2}]))
    first, fault, last = rows_of(path)
    assert (first, last) == (Row(f"{path}:row 1", {"a": 1}), Row(f"{path}:row 3", {"a": 2}))
    assert isinstance(fault, Problem)
    assert (fault.code, fault.where, fault.got) == ("MS-204", f"{path}:row 2", "a int")


@pytest.mark.parametrize(
    ("content", "got"),
    [(b'{"a": 1}', "a dict at the top level"), (b"[1,", "Expecting value"), (b"\xff", "can't decode byte 0xff")],
)
def test_json_file_without_an_array(tmp_path: Path, content: bytes, got: str) -> None:
    path = written(tmp_path, "rows.json", content)
    problem = refusal(path)
    assert (problem.code, problem.where) == ("MS-204", str(path))
    assert got in problem.got


def test_parquet_rows_equal_json_rows(tmp_path: Path) -> None:
    values = [{"a": "x", "nested": {"b": [1, 2]}, "score": 0.5}, {"a": "y", "nested": {"b": []}, "score": None}]
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), path, row_group_size=1)
    lines = written(tmp_path, "rows.jsonl", "".join(json.dumps(row) + "\n" for row in values))
    parquet, plain = rows_of(path), rows_of(lines)
    assert [row.where for row in parquet] == [f"{path}:row 1", f"{path}:row 2"]
    assert [row.values for row in parquet if isinstance(row, Row)] == [r.values for r in plain if isinstance(r, Row)]


def test_broken_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": list(range(1000))}), path)
    written(tmp_path, "rows.parquet", path.read_bytes()[:-20])
    problem = refusal(path)
    assert (problem.code, problem.where) == ("MS-205", str(path))


def test_folder_of_data_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    written(folder, "train.jsonl", '{"a": 1}\n{"a": 2}\n')
    written(folder, "test.jsonl", '{"a": 3}\n')
    assert rows_of(folder) == [Row(f"{folder}/train.jsonl:1", {"a": 1}), Row(f"{folder}/train.jsonl:2", {"a": 2})]
    assert rows_of(folder, split="test") == [Row(f"{folder}/test.jsonl:1", {"a": 3})]
    problem = refusal(folder, split="validation")
    assert (problem.code, problem.where) == ("MS-206", str(folder))
    assert "validation" in problem.got


def test_hub_that_cannot_be_reached() -> None:
    problem = refusal("no-such-org/no-such-data")
    assert (problem.code, problem.where) == ("MS-206", "no-such-org/no-such-data")
    assert "network" in problem.remedy


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.jsonl").code == "MS-206"


class TestLookup:
    row = Row("f:3", {"prompt": "p", "annotations": {"helpful": {"Rating": "5"}}, "chosen": "c"})

    def test_dotted_names_reach_into_nested_rows(self) -> None:
        assert lookup(self.row, "prompt") == "p"
        assert lookup(self.row, "annotations.helpful.Rating") == "5"

    @pytest.mark.parametrize(
        ("column", "hint", "known"),
        [
            ("chosn", "; did you mean 'chosen'?", "columns annotations, chosen, prompt"),
            ("annotations.helpfull", "; did you mean 'helpful'?", "columns helpful"),
            ("xyz", "", "columns annotations, chosen, prompt"),
            ("prompt.text", "", "'p'"),
        ],
    )
    def test_a_missing_column_is_named_with_those_there_are(self, column: str, hint: str, known: str) -> None:
        with pytest.raises(InputError) as caught:
            lookup(self.row, column)
        (problem,) = caught.value.problems
        assert problem.what == f"column {column!r} is missing{hint}"
        assert (problem.code, problem.where, problem.got) == ("MS-202", f"f:3 ({column})", known)
