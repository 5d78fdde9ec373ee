"""Every form of preference data: which response is preferred, what is counted, and what a bad row is told."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from modpo.config.objectives import ObjectiveConfig
from modpo.config.sources import PairsConfig
from modpo.data.pairs import LoadedPairs, load_pairs
from modpo.errors import InputError

USER = {"role": "user", "content": "Hi"}
COMPARED = {"label": "label", "ties": ["tie"]}
BESIDE_TWO = {"chosen": "x", "rejected": "y"}
BESIDE_ROW: dict[str, Any] = {"prompt": "p", "response_0": "a", "response_1": "b", "label": 1, "x": 3, "y": "0.5"}
SYSTEM = {"role": "system", "content": "Be kind."}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def written(folder: Path, rows: list[Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(folder: Path, rows: list[Any], *, direction: Any = "maximize", **pairs: Any) -> LoadedPairs:
    raw = {"path": written(folder, rows), **pairs}
    objective = ObjectiveConfig(name="helpful", direction=direction, pairs=PairsConfig.model_validate(raw))
    return load_pairs(objective, seed=0)


def preferred(loaded: LoadedPairs) -> list[tuple[str, str]]:
    assert loaded.problems == []
    return [(pair.chosen, pair.rejected) for pair in loaded.pairs]


def counted(loaded: LoadedPairs) -> dict[str, int]:
    return {kind: count for kind, count in loaded.counts.as_dict().items() if count}


def fault(folder: Path, row: dict[str, Any], **pairs: Any) -> tuple[str, str, str, str]:
    (problem,) = load(folder, [row], **pairs).problems
    return problem.code, problem.where.rsplit("/", 1)[1], problem.got, problem.wanted


class TestCompared:
    """Six rows: the first wins twice, the second once, one tie, one without a label, one repeated the other way."""

    rows = (
        {"prompt": "p", "response_0": "better a", "response_1": "b", "label": 0},
        {"prompt": "p", "response_0": "c", "response_1": "better d", "label": 1},
        {"prompt": "q", "response_0": "better e", "response_1": "f", "label": 0},
        {"prompt": "q", "response_0": "g", "response_1": "h", "label": "tie"},
        {"prompt": "q", "response_0": "g", "response_1": "h", "label": None},
        {"prompt": "p", "response_0": "better a", "response_1": "b", "label": 1},
    )

    def test_the_label_says_which_one_is_chosen(self, tmp_path: Path) -> None:
        loaded = load(tmp_path, list(self.rows[:5]), compared=COMPARED)
        assert preferred(loaded) == [("better a", "b"), ("better d", "c"), ("better e", "f")]
        assert counted(loaded) == {"rows": 5, "pairs": 3, "ties": 1, "missing": 1}

    def test_contradicting_rows_stay_and_are_counted(self, tmp_path: Path) -> None:
        loaded = load(tmp_path, list(self.rows), compared=COMPARED)
        assert counted(loaded) == {"rows": 6, "pairs": 4, "ties": 1, "missing": 1, "conflicting": 1}

    def test_a_direction_does_not_turn_labels(self, tmp_path: Path) -> None:
        loaded = load(tmp_path, [self.rows[0]], direction="minimize", compared=COMPARED)
        assert preferred(loaded) == [("better a", "b")]

    @pytest.mark.parametrize("label", [2, "0", True, 0.5])
    def test_a_label_that_is_not_declared(self, tmp_path: Path, label: Any) -> None:
        """True equals 1 in Python, and is no 1 in a data set."""
        code, where, got, wanted = fault(tmp_path, {**self.rows[0], "label": label}, compared=COMPARED)
        assert (code, where, got) == ("MS-243", "rows.jsonl:1 (label)", repr(label))
        assert wanted == "first: 0; second: 1; tie: 'tie'"


class TestRanked:
    def test_rank_one_is_best_and_equal_ranks_tie(self, tmp_path: Path) -> None:
        """Ranks 2, 1, 2: two pairs won by the second response, one tie."""
        row = {"prompt": "p", "responses": ["a", "best", "c"], "ranks": [2, 1, 2]}
        loaded = load(tmp_path, [row], ranked={"ranks": "ranks"})
        assert preferred(loaded) == [("best", "a"), ("best", "c")]
        assert counted(loaded) == {"rows": 1, "pairs": 2, "ties": 1}

    def test_scores_inside_objects_with_a_missing_one(self, tmp_path: Path) -> None:
        """Of three responses one has no rating: one pair, and two comparisons that cannot be made. "10" > "9"."""
        items = [{"text": "a", "rating": "9"}, {"text": "best", "rating": "10"}, {"text": "c", "rating": "N/A"}]
        ranked = {"responses": "answers.text", "scores": "answers.rating"}
        loaded = load(tmp_path, [{"prompt": "p", "answers": items}], ranked=ranked)
        assert preferred(loaded) == [("best", "a")]
        assert counted(loaded) == {"rows": 1, "pairs": 1, "missing": 2}

    def test_an_empty_response_is_no_reason_to_lose_the_row(self, tmp_path: Path) -> None:
        row = {"prompt": "p", "responses": ["best", " ", "b"], "scores": [3, 2, 1]}
        loaded = load(tmp_path, [row], ranked={"scores": "scores"})
        assert preferred(loaded) == [("best", "b")] and counted(loaded) == {"rows": 1, "pairs": 1, "missing": 2}

    def test_a_cost_is_turned_once_and_ranks_are_not(self, tmp_path: Path) -> None:
        row = {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2], "scores": [1, 2]}
        costs = load(tmp_path, [row], direction="minimize", ranked={"scores": "scores"})
        ranks = load(tmp_path, [row], direction="minimize", ranked={"ranks": "ranks"})
        assert preferred(costs) == preferred(ranks) == [("a", "b")]

    def test_a_limit_for_each_prompt(self, tmp_path: Path) -> None:
        row = {"prompt": "p", "responses": [f"r{n}" for n in range(6)], "ranks": list(range(6))}
        loaded = load(tmp_path, [row], ranked={"ranks": "ranks", "max_pairs_per_prompt": 4})
        assert len(set(preferred(loaded))) == 4

    def test_one_rank_for_each_response(self, tmp_path: Path) -> None:
        row = {"prompt": "p", "responses": ["a", "b"], "ranks": [1]}
        code, where, got, _ = fault(tmp_path, row, ranked={"ranks": "ranks"})
        assert (code, where, got) == ("MS-244", "rows.jsonl:1 (ranks)", "1 values for 2 responses")


class TestScored:
    def test_ratings_as_text_and_missing_ones(self, tmp_path: Path) -> None:
        """Four responses, one without a rating: three pairs less the tie of the two that scored 4."""
        scores = {"a": "4", "b": 4, "best": "10", "d": "N/A"}
        rows = [{"prompt": "p", "response": text, "score": score} for text, score in scores.items()]
        loaded = load(tmp_path, rows, scored={"score": "score"})
        assert preferred(loaded) == [("best", "a"), ("best", "b")]
        assert counted(loaded) == {"rows": 4, "pairs": 2, "ties": 1, "missing": 1}


class TestImplicitPrompts:
    def test_conversations_that_begin_alike(self, tmp_path: Path) -> None:
        """TRL's convention: no prompt column, and all turns but the last are the prompt."""
        before = [SYSTEM, USER, answer("Hello"), {"role": "user", "content": "Bye"}]
        row = {"chosen": [*before, answer("Take care")], "rejected": [*before, answer("Go")]}
        loaded = load(tmp_path, [row])
        (pair,) = loaded.pairs
        assert pair.prompt == tuple((turn["role"], turn["content"]) for turn in before)
        assert (pair.chosen, pair.rejected) == ("Take care", "Go")
        assert counted(loaded) == {"rows": 1, "pairs": 1, "implicit_prompts": 1}

    def test_text_is_cut_between_words_and_only_when_asked(self, tmp_path: Path) -> None:
        row = {"chosen": "Say hi. Hello there", "rejected": "Say hi. Help me"}
        loaded = load(tmp_path, [row], columns={"prompt": None})
        (pair,) = loaded.pairs
        assert (pair.prompt, pair.chosen, pair.rejected) == ("Say hi. ", "Hello there", "Help me")
        assert fault(tmp_path, row)[0] == "MS-202", "of plain text, a forgotten prompt column is more likely"

    @pytest.mark.parametrize(
        ("chosen", "rejected"),
        [
            ("One thing", "Another thing"),
            ("Say hi. ", "Say hi. Hello"),
            ([USER, answer("a")], [SYSTEM, answer("b")]),
            ([USER, answer("a")], [USER]),
        ],
    )
    def test_responses_that_do_not_begin_alike(self, tmp_path: Path, chosen: Any, rejected: Any) -> None:
        code, where, _, _ = fault(tmp_path, {"chosen": chosen, "rejected": rejected}, columns={"prompt": None})
        assert (code, where) == ("MS-245", "rows.jsonl:1 (chosen, rejected)")

    def test_a_response_may_repeat_its_prompt(self, tmp_path: Path) -> None:
        row = {"prompt": [USER], "chosen": [USER, answer("better")], "rejected": [answer("b")]}
        assert preferred(load(tmp_path, [row])) == [("better", "b")]
        other = {"prompt": [USER], "chosen": [SYSTEM, answer("better")], "rejected": "b"}
        got = "2 messages that do not begin as the prompt does"
        assert fault(tmp_path, other)[:3] == ("MS-209", "rows.jsonl:1 (chosen)", got)


class TestColumnRewards:
    """Numbers beside the responses go with them, whichever was preferred."""

    def loaded(self, folder: Path, rows: list[Any], reward: dict[str, Any], **pairs: Any) -> LoadedPairs:
        config = PairsConfig.model_validate({"path": written(folder, rows), **pairs})
        labelled = ObjectiveConfig(name="helpful", pairs=config)
        cost = ObjectiveConfig.model_validate(
            {"name": "cost", "direction": "minimize", "reward": {"type": "columns", **reward}}
        )
        return load_pairs(labelled, seed=0, objectives=(labelled, cost))

    def test_of_compared_responses(self, tmp_path: Path) -> None:
        """The second response is chosen, so its 0.5 comes first; a cost is negated, once."""
        loaded = self.loaded(tmp_path, [BESIDE_ROW], BESIDE_TWO, compared={"label": "label"})
        assert [pair.column_rewards for pair in loaded.pairs] == [(("cost", -0.5, -3.0),)]
        assert loaded.column_rewards == {"cost"}

    def test_of_scored_and_ranked_responses(self, tmp_path: Path) -> None:
        rows = [{"prompt": "p", "response": text, "score": s, "cost": c} for text, s, c in (("a", 1, 7), ("b", 2, 8))]
        scored = self.loaded(tmp_path, rows, {"score": "cost"}, scored={"score": "score"})
        ranked_row = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 2], "cost": [7, 8]}
        ranked = self.loaded(tmp_path, [ranked_row], {"score": "cost"}, ranked={"scores": "scores"})
        for loaded in (scored, ranked):
            assert [(p.chosen, p.column_rewards) for p in loaded.pairs] == [("b", (("cost", -8.0, -7.0),))]

    def test_columns_that_no_row_has(self, tmp_path: Path) -> None:
        rows = [{key: value for key, value in BESIDE_ROW.items() if key not in ("x", "y")}]
        loaded = self.loaded(tmp_path, rows, BESIDE_TWO, compared={"label": "label"})
        assert loaded.column_rewards == frozenset() and loaded.problems == []

    @pytest.mark.parametrize("lacking", [{"x": None}, {"x": "many"}, {"y": True}])
    def test_columns_that_some_rows_have(self, tmp_path: Path, lacking: dict[str, Any]) -> None:
        rows = [BESIDE_ROW, {**BESIDE_ROW, **lacking}, {**BESIDE_ROW, "prompt": "q"}]
        (problem,) = self.loaded(tmp_path, rows, BESIDE_TWO, compared={"label": "label"}).problems
        assert (problem.code, problem.got) == ("MS-241", "no finite number for 1 of 3 pairs")
        assert problem.where.endswith("rows.jsonl:2 (x, y)")


class TestFiles:
    """The same two pairs from every kind of file, each row with its place."""

    rows = ({"prompt": "p", "chosen": 'a,\n"b"', "rejected": "c"}, {"prompt": "ü", "chosen": "d", "rejected": "e"})

    def load_file(self, path: Path | str) -> list[tuple[str, str, str, str]]:
        loaded = load_pairs(ObjectiveConfig(name="helpful", pairs=PairsConfig(path=str(path))), seed=0)
        assert loaded.problems == []
        return [(str(p.prompt), p.chosen, p.rejected, p.where.rsplit("/", 1)[1]) for p in loaded.pairs]

    def test_csv_with_quotes_and_line_breaks(self, tmp_path: Path) -> None:
        """The first row takes two lines after the header, so it ends on line 3 and the second on line 4."""
        path = tmp_path / "rows.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
            writer.writeheader()
            writer.writerows(self.rows)
        assert self.load_file(path) == [("p", 'a,\n"b"', "c", "rows.csv:3"), ("ü", "d", "e", "rows.csv:4")]

    def test_folder_of_shards_and_an_address(self, tmp_path: Path) -> None:
        (tmp_path / "shards" / "deep").mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([self.rows[0]]), tmp_path / "shards" / "a.parquet")
        (tmp_path / "shards" / "deep" / "b.ndjson").write_text(json.dumps(self.rows[1]), encoding="utf-8")
        (tmp_path / "shards" / ".hidden.jsonl").write_text("no JSON", encoding="utf-8")
        expected = [("p", 'a,\n"b"', "c", "a.parquet:row 1"), ("ü", "d", "e", "b.ndjson:1")]
        assert self.load_file(tmp_path / "shards") == expected
        assert self.load_file((tmp_path / "shards").as_uri()) == expected
        assert self.load_file((tmp_path / "shards" / "deep" / "b.ndjson").as_uri()) == expected[1:]

    @pytest.mark.parametrize(
        ("name", "content", "code", "place", "got"),
        [
            ("a.csv", b"prompt,chosen\np,a\nq\n", "MS-240", "a.csv:3", "1 fields"),
            ("a.csv", b'prompt,chosen\n"p,a\n', "MS-240", "a.csv:2", "unexpected end of data"),
            ("a.csv", b"prompt,chosen\np,gr\xfcn\n", "MS-203", "a.csv:2", "byte 0xfc at offset 4"),
            ("a.jsonl", b'{"prompt": "p", "prompt": "q"}', "MS-204", "a.jsonl:1", "key 'prompt' is given twice"),
            ("a.jsonl", b'{"prompt": NaN}', "MS-209", "a.jsonl:1 (prompt)", "a number"),
            ("a.jsonl", b'{"prompt": "p"}\n{"prompt": "q', "MS-204", "a.jsonl:2", "Unterminated string"),
        ],
    )
    def test_broken_files(self, tmp_path: Path, name: str, content: bytes, code: str, place: str, got: str) -> None:
        (tmp_path / name).write_bytes(content)
        loaded = load_pairs(ObjectiveConfig(name="helpful", pairs=PairsConfig(path=str(tmp_path / name))), seed=0)
        found = next(problem for problem in loaded.problems if problem.code == code)
        assert found.where.rsplit("/", 1)[1] == place
        assert found.got.startswith(got)

    def test_an_address_where_nothing_is(self, tmp_path: Path) -> None:
        source = PairsConfig(path=(tmp_path / "gone").as_uri())
        (problem,) = load_pairs(ObjectiveConfig(name="helpful", pairs=source), seed=0).problems
        assert (problem.code, problem.where) == ("MS-206", source.path)


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        ({"prompt": "p", "chosen": "a\x00", "rejected": "b"}, "MS-242", "chosen"),
        ({"prompt": "p", "chosen": "\ud83d", "rejected": "b"}, "MS-210", "chosen"),
        ({"prompt": 7, "chosen": "a", "rejected": "b"}, "MS-209", "prompt"),
        ({"prompt": "p", "chosen": None, "rejected": "b"}, "MS-209", "chosen"),
        ({"prompt": "p", "chosen": "a", "rejected": " \n"}, "MS-208", "rejected"),
        ({"prompt": "p", "choosen": "a", "rejected": "b"}, "MS-202", "chosen"),
        ({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}, "MS-209", "prompt"),
    ],
)
def test_a_bad_value_is_named_with_its_row_and_field(
    tmp_path: Path, row: dict[str, Any], code: str, field: str
) -> None:
    (problem,) = load(tmp_path, [row]).problems
    assert (problem.code, problem.where) == (code, f"{tmp_path / 'rows.jsonl'}:1 ({field})")
    assert problem.remedy


def test_a_million_bad_rows_would_fit_on_a_screen(tmp_path: Path) -> None:
    """Their number comes first, and with the 19 that are listed a message shows all."""
    problems = load(tmp_path, [{"prompt": "p", "chosen": "", "rejected": "b"}] * 50).problems
    assert [problem.code for problem in problems] == ["MS-246"] + ["MS-208"] * 19
    assert problems[0].got == "50 times MS-208"
    assert "more of" not in InputError(problems).render()


@pytest.mark.parametrize("text", ["👩‍👩‍👧 family", "\u202eright to left", "e\u0301", "x" * 1_000_000])
def test_odd_but_valid_text_comes_back_as_it_is(tmp_path: Path, text: str) -> None:
    assert preferred(load(tmp_path, [{"prompt": text, "chosen": text, "rejected": "b"}])) == [(text, "b")]
