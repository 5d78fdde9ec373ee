"""Rows from files, folders and the hub: each with its place, each fault a problem with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from modpo.config.sources import SourceConfig
from modpo.data.rows import Row, lookup
from modpo.data.sources import read_rows
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
    assert problem.got.endswith(" at character 9"), "the line is told by the place"


def test_json_array_of_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.json", json.dumps([{"a": 1}, 3, {"a": 2}]))
    first, fault, last = rows_of(path)
    assert (first, last) == (Row(f"{path}:row 1", {"a": 1}), Row(f"{path}:row 3", {"a": 2}))
    assert isinstance(fault, Problem)
    assert (fault.code, fault.where, fault.got) == ("MS-204", f"{path}:row 2", "a number")


def test_json_file_without_an_array(tmp_path: Path) -> None:
    """One object a line is the usual reason, and has another ending."""
    problem = refusal(written(tmp_path, "rows.json", b'{"a": 1}\n{"a": 2}\n'))
    assert (problem.code, problem.where) == ("MS-204", str(tmp_path / "rows.json"))
    assert problem.got == "an object at the top level" and ".jsonl" in problem.remedy


@pytest.mark.parametrize(
    ("content", "num_rows", "place", "got"),
    [
        (b'[{"a": 1},\n {"a": 2]', 1, ":2", "Expecting ',' delimiter at character 9"),
        (b'[{"a": 1}\n {"a": 2}]', 1, ":2", "Expecting ',' delimiter at character 2"),
        (b'[{"a": 1},', 1, ":1", "Expecting value at character 11"),
        (b'[{"a": 1}]\n\n{"a": 2}', 1, ":3", "Extra data at character 1"),
        (b'[{"a": 1, "a": 2}, {"a": 3}]', 1, ":row 1", "key 'a' is given twice"),
        (b'[{"a": 1},\n{"a": "\xff"}]', 0, ":2", "byte 0xff at offset 7"),
        (b"[" + b"[" * 100_000, 0, ":1", "maximum recursion depth exceeded"),
        (b"[" + b"1" * 5000 + b"]", 0, ":1", "Exceeds the limit"),
    ],
)
def test_broken_json_array(tmp_path: Path, content: bytes, num_rows: int, place: str, got: str) -> None:
    """The rows before a fault are read, and those after it where it is known where they begin."""
    path = written(tmp_path, "rows.json", content)
    found = rows_of(path)
    (problem,) = (item for item in found if isinstance(item, Problem))
    assert problem.where == f"{path}{place}"
    assert problem.got.startswith(got)
    assert len(found) == num_rows + 1


@pytest.mark.parametrize("content", [b"", b" \n", b"\xef\xbb\xbf", b"[]", b"[ ]\n"])
def test_json_file_without_rows(tmp_path: Path, content: bytes) -> None:
    assert rows_of(written(tmp_path, "rows.json", content)) == []


def test_every_line_of_a_csv_file_that_is_not_utf8(tmp_path: Path) -> None:
    """A quoted text may have several lines; the rows around such a text are read."""
    path = written(tmp_path, "rows.csv", b'\xef\xbb\xbfa,b\n1,\xfc\n"2\n\xfc",3\n4,5\n')
    first, second, last = rows_of(path)
    assert isinstance(first, Problem) and isinstance(second, Problem)
    assert [first.where, second.where] == [f"{path}:2", f"{path}:4"]
    assert last == Row(f"{path}:5", {"a": "4", "b": "5"})


def test_a_csv_file_may_begin_with_blank_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", "\r\n\r\na,b\r\n\r\n1,2\r\n")
    assert rows_of(path) == [Row(f"{path}:5", {"a": "1", "b": "2"})]


def test_a_csv_column_that_is_there_twice(tmp_path: Path) -> None:
    problem = refusal(written(tmp_path, "rows.csv", "a,b,a\n1,2,3\n"))
    assert (problem.code, problem.got) == ("MS-240", "column 'a' is given twice")


def test_a_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    """Arrow does not look at the bytes that a file calls text."""
    binary = pyarrow.array([b"x", b"\xfc", b"y"], pyarrow.binary())
    table = pyarrow.table({"n": [1, 2, 3], "a": binary.view(pyarrow.string())})
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(table, path)
    first, fault, last = rows_of(path)
    assert (first, last) == (Row(f"{path}:row 1", {"n": 1, "a": "x"}), Row(f"{path}:row 3", {"n": 3, "a": "y"}))
    assert isinstance(fault, Problem)
    assert (fault.code, fault.where) == ("MS-203", f"{path}:row 2 (a)")


def test_a_broken_file_does_not_hide_what_is_wrong_with_the_next(tmp_path: Path) -> None:
    written(tmp_path, "a.parquet", b"no parquet")
    written(tmp_path, "b.jsonl", b"no JSON\n")
    written(tmp_path, "c.jsonl", b'{"a": 1}\n')
    assert [item.code if isinstance(item, Problem) else item.values for item in rows_of(tmp_path)] == [
        "MS-205",
        "MS-204",
        {"a": 1},
    ]


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
    row = Row("f:3", {"prompt": "p", "annotations": {"helpful": {"Rating": "5"}}, "list": [{"text": 1}, {"txt": 2}]})

    def test_dotted_names_reach_into_nested_rows(self) -> None:
        assert lookup(self.row, "prompt") == "p"
        assert lookup(self.row, "annotations.helpful.Rating") == "5"

    @pytest.mark.parametrize(
        ("column", "hint", "known"),
        [
            ("prmpt", "; did you mean 'prompt'?", "columns annotations, list, prompt"),
            ("annotations.helpfull", "; did you mean 'helpful'?", "columns helpful"),
            ("xyz", "", "columns annotations, list, prompt"),
            ("prompt.text", "", "text (1 character)"),
            ("list.text", "", "item 2 of 2 with columns txt"),
            ("list.5", "", "a list of 2"),
        ],
    )
    def test_a_missing_column_is_named_with_those_there_are(self, column: str, hint: str, known: str) -> None:
        with pytest.raises(InputError) as caught:
            lookup(self.row, column)
        (problem,) = caught.value.problems
        assert problem.what == f"column {column!r} is missing{hint}"
        assert (problem.code, problem.where, problem.got) == ("MS-202", f"f:3 ({column})", known)

    def test_a_column_with_a_dot_in_its_name_comes_first(self) -> None:
        """A CSV file cannot nest."""
        row = Row("f:3", {"scores.fluency": "5", "scores": {"fluency": 1, "other": 2}})
        assert (lookup(row, "scores.fluency"), lookup(row, "scores.other")) == ("5", 2)

    def test_names_that_may_be_texts_are_not_shown(self) -> None:
        """A CSV file without a header has the texts of its first row for names."""
        values = {"my secret question": "p", "id": 1, "a" * 41: 2, **{f"column{n:02}": n for n in range(12)}}
        with pytest.raises(InputError) as caught:
            lookup(Row("f:3", values), "prompt")
        listed = ", ".join(f"column{n:02}" for n in range(12))
        assert caught.value.problems[0].got == f"columns {listed} and 3 more"
        with pytest.raises(InputError) as caught:
            lookup(Row("f:3", {"my secret question": "p"}), "prompt")
        assert caught.value.problems[0].got == "1 columns, none with a plain name"
