"""Pairs as given and as formed from scores, counted by hand; every bad row reported together with its place."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from modpo.config.objectives import ObjectiveConfig
from modpo.config.sources import PairColumns, PairsConfig, ScoredColumns
from modpo.data.pairs import LoadedPairs, load_pairs
from modpo.data.rows import Row
from modpo.data.texts import prompt_key, read_prompt
from modpo.errors import InputError

USER = {"role": "user", "content": "Hi"}


def load(
    folder: Path,
    rows: list[Any] | bytes,
    *,
    name: str = "helpful",
    direction: Any = "maximize",
    seed: int = 0,
    **pairs: Any,
) -> LoadedPairs:
    path = folder / f"{name}.jsonl"
    path.write_bytes(rows if isinstance(rows, bytes) else "".join(json.dumps(row) + "\n" for row in rows).encode())
    objective = ObjectiveConfig(name=name, direction=direction, pairs=PairsConfig(path=str(path), **pairs))
    return load_pairs(objective, seed=seed)


def given(prompt: Any, chosen: Any, rejected: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def scored(prompt: str, response: str, score: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response": response, "score": score}


def texts(loaded: LoadedPairs) -> set[tuple[Any, str, str]]:
    return {(pair.prompt, pair.chosen, pair.rejected) for pair in loaded.pairs}


class TestGivenPairs:
    def test_rows_become_pairs_in_their_order(self, tmp_path: Path) -> None:
        loaded = load(tmp_path, [given("p", "a", "b"), given("q", "c", "d")])
        assert loaded.problems == []
        assert [(p.objective, p.prompt, p.chosen, p.rejected) for p in loaded.pairs] == [
            ("helpful", "p", "a", "b"),
            ("helpful", "q", "c", "d"),
        ]
        assert [pair.where.rsplit(":", 1)[1] for pair in loaded.pairs] == ["1", "2"]
        assert loaded.counts.as_dict() == {
            "rows": 2,
            "pairs": 2,
        } | dict.fromkeys(loaded.counts.as_dict().keys() - {"rows", "pairs"}, 0)

    def test_columns_may_have_other_names_and_be_nested(self, tmp_path: Path) -> None:
        columns = PairColumns(prompt="x.question", chosen="better", rejected="worse")
        loaded = load(tmp_path, [{"x": {"question": "p"}, "better": "a", "worse": "b"}], columns=columns)
        assert texts(loaded) == {("p", "a", "b")}

    def test_chat_messages(self, tmp_path: Path) -> None:
        """A prompt of messages is kept as messages; a response may be one message of the assistant."""
        system = {"role": "system", "content": "Be kind."}
        loaded = load(tmp_path, [given([system, USER], [{"role": "assistant", "content": "Hello"}], "Go away")])
        assert texts(loaded) == {((("system", "Be kind."), ("user", "Hi")), "Hello", "Go away")}

    def test_equal_rows_are_separate_draws_with_separate_ids(self, tmp_path: Path) -> None:
        """Sampled labels repeat and contradict each other: all of them count."""
        rows = [given("p", "a", "b"), given("p", "a", "b"), given("p", "b", "a"), given("p", "a", "b")]
        loaded = load(tmp_path, rows)
        ids = [pair.pair_id for pair in loaded.pairs]
        assert len(set(ids)) == 4
        assert loaded.counts.duplicates == 2
        assert [pair_id.rsplit("-", 1)[1] for pair_id in ids] == ["0", "1", "0", "2"]

    def test_ids_depend_on_objective_and_texts_only(self, tmp_path: Path) -> None:
        rows = [given("p", "a", "b"), given("q", "c", "d")]
        ids = [pair.pair_id for pair in load(tmp_path, rows).pairs]
        assert [pair.pair_id for pair in load(tmp_path, rows[::-1]).pairs] == ids[::-1]
        assert not set(ids) & {pair.pair_id for pair in load(tmp_path, rows, name="brief").pairs}
        assert (
            load(tmp_path, [given("p", "ab", "c")]).pairs[0].pair_id
            != load(tmp_path, [given("p", "a", "bc")]).pairs[0].pair_id
        )

    def test_every_bad_row_is_reported_together(self, tmp_path: Path) -> None:
        lines = [
            json.dumps(given("p", "a", "b")).encode(),
            json.dumps({"prompt": "p", "chosn": "a", "rejected": "b"}).encode(),  # 2
            json.dumps(given("  ", "a", "\n")).encode(),  # 3: two faults
            json.dumps(given("p", "same", "same")).encode(),  # 4
            '{"prompt": "größe"}'.encode("latin-1"),  # 5
            b'{"prompt": ',  # 6
            json.dumps(given(5, None, "b")).encode(),  # 7: two faults
            json.dumps(given([], "a", [USER])).encode(),  # 8: two faults
            rb'{"prompt": "cut emoji \ud83d", "chosen": "a", "rejected": "b"}',  # 9
            json.dumps(given([{"role": "user", "content": ""}], "a", "b")).encode(),  # 10
        ]
        loaded = load(tmp_path, b"\n".join(lines))
        path = tmp_path / "helpful.jsonl"
        assert sorted((p.code, p.where) for p in loaded.problems) == sorted(
            [
                ("MS-202", f"{path}:2 (chosen)"),
                ("MS-208", f"{path}:3 (prompt)"),
                ("MS-208", f"{path}:3 (rejected)"),
                ("MS-207", f"{path}:4 (chosen, rejected)"),
                ("MS-203", f"{path}:5"),
                ("MS-204", f"{path}:6"),
                ("MS-209", f"{path}:7 (prompt)"),
                ("MS-209", f"{path}:7 (chosen)"),
                ("MS-209", f"{path}:8 (prompt)"),
                ("MS-209", f"{path}:8 (rejected)"),
                ("MS-210", f"{path}:9 (prompt)"),
                ("MS-208", f"{path}:10 (prompt, message 1)"),
            ]
        )
        assert texts(loaded) == {("p", "a", "b")}
        assert (loaded.counts.rows, loaded.counts.pairs) == (10, 1)
        wrong_column = next(p for p in loaded.problems if p.code == "MS-202")
        assert wrong_column.what == "column 'chosen' is missing; did you mean 'chosn'?"
        assert next(p for p in loaded.problems if p.code == "MS-210").got == "U+D83D at character 10"

    def test_messages_never_show_the_texts(self, tmp_path: Path) -> None:
        """Prompts can be private: a fault of form is reported by place, not by content."""
        secret = "attack at dawn"
        rows = [given(secret, secret, secret), {"prompt": secret}, given([{"role": secret}], {"x": secret}, secret)]
        message = "\n".join(problem.render() for problem in load(tmp_path, rows).problems)
        assert "MS-207" in message
        assert secret not in message

    def test_an_empty_source_is_a_problem(self, tmp_path: Path) -> None:
        loaded = load(tmp_path, b"\n\n")
        assert [(p.code, p.where) for p in loaded.problems] == [("MS-201", str(tmp_path / "helpful.jsonl"))]

    def test_a_source_that_cannot_be_opened_is_a_problem_not_a_crash(self, tmp_path: Path) -> None:
        objective = ObjectiveConfig(name="helpful", pairs=PairsConfig(path=str(tmp_path / "gone.jsonl")))
        assert [problem.code for problem in load_pairs(objective, seed=0).problems] == ["MS-206"]


class TestFormedPairs:
    columns = ScoredColumns(score="score")
    rows = (scored("p", "a", 3), scored("q", "x", 0.5), scored("p", "b", 1), scored("p", "c", 2), scored("q", "y", 0.5))

    def test_three_responses_give_three_pairs_and_two_equal_scores_a_tie(self, tmp_path: Path) -> None:
        """p: a > c > b, so (a,b), (a,c), (c,b); q: x and y have the same score."""
        loaded = load(tmp_path, list(self.rows), scored=self.columns)
        assert loaded.problems == []
        assert texts(loaded) == {("p", "a", "b"), ("p", "a", "c"), ("p", "c", "b")}
        assert (loaded.counts.rows, loaded.counts.pairs, loaded.counts.ties) == (5, 3, 1)

    def test_minimize_turns_every_pair_around(self, tmp_path: Path) -> None:
        loaded = load(tmp_path, list(self.rows), direction="minimize", scored=self.columns)
        assert texts(loaded) == {("p", "b", "a"), ("p", "c", "a"), ("p", "b", "c")}

    @pytest.mark.parametrize(("gap", "num_pairs", "num_ties"), [(0.5, 3, 1), (1, 1, 3), (1.5, 1, 3), (2, 0, 4)])
    def test_gap_must_be_exceeded(self, tmp_path: Path, gap: float, num_pairs: int, num_ties: int) -> None:
        """Gaps are 2, 1, 1 and 0: a gap equal to min_gap is a tie."""
        loaded = load(tmp_path, list(self.rows), scored=ScoredColumns(score="score", min_gap=gap))
        assert (loaded.counts.pairs, loaded.counts.ties) == (num_pairs, num_ties)

    def test_equal_texts_are_no_pair_whatever_their_scores(self, tmp_path: Path) -> None:
        loaded = load(tmp_path, [scored("p", "a", 1), scored("p", "a", 2)], scored=self.columns)
        assert (loaded.counts.pairs, loaded.counts.ties) == (0, 1)

    def test_negative_and_whole_scores(self, tmp_path: Path) -> None:
        loaded = load(tmp_path, [scored("p", "a", -3), scored("p", "b", -2.5)], scored=self.columns)
        assert texts(loaded) == {("p", "b", "a")}

    def test_limit_per_prompt_is_drawn_by_the_seed(self, tmp_path: Path) -> None:
        """Six responses make 15 pairs: four are kept, by the seed and not by the order of the rows."""
        rows = [scored("p", letter, number) for number, letter in enumerate("abcdef")]
        columns = ScoredColumns(score="score", max_pairs_per_prompt=4)
        kept = texts(load(tmp_path, rows, scored=columns))
        assert len(kept) == 4
        assert texts(load(tmp_path, rows, scored=columns)) == kept
        draws = [texts(load(tmp_path, rows, scored=columns, seed=seed)) for seed in range(5)]
        assert any(draw != kept for draw in draws)
        assert kept <= texts(load(tmp_path, rows, scored=self.columns))

    def test_order_of_prompts_in_the_file_does_not_matter(self, tmp_path: Path) -> None:
        rows = [scored(prompt, text, score) for prompt in "pqr" for text, score in (("a", 1), ("b", 2))]
        straight = [pair.pair_id for pair in load(tmp_path, rows, scored=self.columns).pairs]
        random.Random(0).shuffle(rows)
        shuffled = [pair.pair_id for pair in load(tmp_path, rows, scored=self.columns).pairs]
        assert sorted(shuffled) == sorted(straight)
        assert [pair_id for pair_id in shuffled] == straight

    @pytest.mark.parametrize(
        ("score", "wanted"),
        [
            (10**400, "a finite number"),
            ("1e999", "a finite number"),
            ("five", "a number"),
            (True, "a number"),
            ([5], "a number"),
        ],
    )
    def test_scores_are_finite_numbers(self, tmp_path: Path, score: Any, wanted: str) -> None:
        loaded = load(tmp_path, [scored("p", "a", 1), scored("p", "b", score)], scored=self.columns)
        (problem,) = loaded.problems
        assert (problem.code, problem.wanted) == ("MS-209", wanted)
        assert problem.where == f"{tmp_path / 'helpful.jsonl'}:2 (score)"

    def test_every_bad_row_is_reported_together(self, tmp_path: Path) -> None:
        rows = [scored("p", "", 1), {"prompt": "p", "response": "a"}, scored("p", "a", "x"), scored("p", "b", 2)]
        loaded = load(tmp_path, rows, scored=self.columns)
        path = tmp_path / "helpful.jsonl"
        assert [(p.code, p.where) for p in loaded.problems] == [
            ("MS-208", f"{path}:1 (response)"),
            ("MS-202", f"{path}:2 (score)"),
            ("MS-209", f"{path}:3 (score)"),
        ]


def test_prompt_keys_tell_prompts_apart() -> None:
    keys = [
        prompt_key(prompt)
        for prompt in ("Hi", (("user", "Hi"),), (("system", "Hi"),), (("user", "Hi"), ("user", "Hi")))
    ]
    assert len(set(keys)) == 4


def test_messages_are_read_as_role_and_content() -> None:
    assert read_prompt(Row("f:1", {"prompt": [USER]}), "prompt") == (("user", "Hi"),)
    with pytest.raises(InputError, match="MS-209"):
        read_prompt(Row("f:1", {"prompt": [{"role": "user"}]}), "prompt")


def test_rows_that_say_nothing_are_dropped_and_counted_where_that_is_asked_for(tmp_path: Path) -> None:
    """One empty response, one pair of equal ones, one good row; a row of another shape is still a problem."""
    rows = [
        {"prompt": "a", "chosen": " ", "rejected": "c"},
        {"prompt": "a", "chosen": "c", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": 7, "rejected": "c"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    objective = ObjectiveConfig.model_validate({"name": "a", "pairs": {"path": str(path)}})
    loaded = load_pairs(objective, seed=0, drop_unusable=True)
    assert (loaded.counts.rows, loaded.counts.pairs, loaded.counts.unusable) == (4, 1, 2)
    assert [problem.code for problem in loaded.problems] == ["MS-209"]
    assert [problem.code for problem in load_pairs(objective, seed=0).problems] == ["MS-208", "MS-207", "MS-209"]
