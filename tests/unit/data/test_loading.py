"""All rows of a sweep are read before any token is made: digests, and every bad row of every source at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modpo.config import SweepConfig, parse_config
from modpo.data.held_out import held_out_prompts
from modpo.data.loading import data_digest, load_data
from modpo.errors import InputError, Problem
from tests.sweeps import raw_sweep


def sweep(
    folder: Path, vivid: list[Any], brief: list[Any], sft: list[Any] | None = None, **sections: Any
) -> SweepConfig:
    """The small sweep on rows written as JSON lines."""
    raw = raw_sweep(**sections)
    for objective, rows in zip(raw["objectives"], (vivid, brief), strict=True):
        objective["pairs"] = {"path": str(lines(folder, objective["name"], rows))}
    if sft is not None:
        raw["sft"] = {"data": {"path": str(lines(folder, "sft", sft))}}
    return parse_config(raw)


def lines(folder: Path, name: str, rows: list[Any]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(prompt: str, chosen: str = "a", rejected: str = "b") -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def refusal(config: SweepConfig) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        load_data(config)
    return list(caught.value.problems)


class TestDigest:
    rows = (pair("p"), pair("q", "c", "d"))

    def digest(self, folder: Path, vivid: list[Any], brief: list[Any], sft: list[Any] | None = None) -> str:
        return data_digest(load_data(sweep(folder, vivid, brief, sft)))

    def test_equal_rows_from_another_place_have_the_same_digest(self, tmp_path: Path) -> None:
        rows = list(self.rows)
        other = tmp_path / "other"
        other.mkdir()
        assert self.digest(tmp_path, rows, rows) == self.digest(other, rows, rows)

    def test_every_kind_of_change_gives_another_digest(self, tmp_path: Path) -> None:
        rows, sft = list(self.rows), [{"prompt": "p", "response": "r"}]
        variants = {
            "plain": (rows, rows, sft),
            "another text": ([pair("p"), pair("q", "c", "D")], rows, sft),
            "sides swapped": ([pair("p", "b", "a"), rows[1]], rows, sft),
            "a row more": ([*rows, pair("r")], rows, sft),
            "a row twice": ([*rows, rows[0]], rows, sft),
            "another order": (rows[::-1], rows, sft),
            "another objective": ([rows[0]], [*rows, rows[1]], sft),
            "another text to imitate": (rows, rows, [{"prompt": "p", "response": "R"}]),
        }
        digests = {name: self.digest(tmp_path, *variant) for name, variant in variants.items()}
        assert len(set(digests.values())) == len(variants), digests


class TestRefusals:
    def test_bad_rows_of_all_sources_together(self, tmp_path: Path) -> None:
        config = sweep(
            tmp_path,
            [pair("p"), {"prompt": "p", "chosn": "a", "rejected": "b"}, pair("q", "same", "same")],
            [pair(" "), pair("q")],
            [{"prompt": "p"}, {"prompt": "p", "response": 3}],
        )
        assert [(problem.code, problem.where) for problem in refusal(config)] == [
            ("MS-202", f"{tmp_path}/vivid.jsonl:2 (chosen)"),
            ("MS-207", f"{tmp_path}/vivid.jsonl:3 (chosen, rejected)"),
            ("MS-208", f"{tmp_path}/brief.jsonl:1 (prompt)"),
            ("MS-202", f"{tmp_path}/sft.jsonl:1 (response)"),
            ("MS-209", f"{tmp_path}/sft.jsonl:2 (response)"),
        ]

    def test_missing_files_do_not_hide_bad_rows(self, tmp_path: Path) -> None:
        config = sweep(tmp_path, [pair("p")], [pair(" ")], [{"prompt": "p", "response": "r"}])
        (tmp_path / "vivid.jsonl").unlink()
        (tmp_path / "sft.jsonl").unlink()
        assert [problem.code for problem in refusal(config)] == ["MS-206", "MS-208", "MS-206"]

    def test_an_objective_whose_pairs_are_all_ties(self, tmp_path: Path) -> None:
        config = sweep(tmp_path, [pair("p"), pair("q")], [])
        scored = config.model_dump(mode="json")
        scored["objectives"][1]["pairs"]["scored"] = {"score": "score"}
        rows = [{"prompt": "p", "response": text, "score": 1} for text in "ab"]
        lines(tmp_path, "brief", rows)
        (problem,) = refusal(parse_config(scored))
        assert (problem.code, problem.what) == ("MS-221", "objective 'brief' has no pairs left")
        assert problem.got == "2 rows, 1 ties"

    def test_one_prompt_cannot_be_held_out_and_trained_on(self, tmp_path: Path) -> None:
        (problem,) = refusal(sweep(tmp_path, [pair("p")], [pair("p", "c", "d")]))
        assert (problem.code, problem.wanted) == ("MS-222", "at least two prompts")


def test_texts_to_imitate_are_read_with_their_own_columns(tmp_path: Path) -> None:
    config = sweep(tmp_path, [pair("p"), pair("q")], [pair("p")], [{"prompt": "x", "response": "y"}])
    assert list(load_data(config).sft) == [("x", "y")]


def test_objectives_without_pairs_are_no_source(tmp_path: Path) -> None:
    raw = raw_sweep()
    raw["objectives"][0]["pairs"] = {"path": str(lines(tmp_path, "vivid", [pair("p"), pair("q")]))}
    del raw["objectives"][1]["pairs"]
    data = load_data(parse_config(raw))
    assert list(data.objectives) == ["vivid"]
    assert [p.prompt for p in data.pairs] == ["p", "q"]


def test_a_share_of_the_prompts_is_not_the_share_that_is_held_out(tmp_path: Path) -> None:
    """Both are drawn by hash: 20 of 100 prompts, of which about a fifth are held out, and not all."""
    lines(tmp_path, "prompts", [{"prompt": f"p{number}"} for number in range(100)])
    raw = raw_sweep(label={"prompts": {"path": str(tmp_path / "prompts.jsonl")}, "max_prompts": 20})
    for objective in raw["objectives"]:
        del objective["pairs"]
    data = load_data(parse_config(raw))
    prompts = [str(prompt) for prompt in data.label_prompts]
    assert len(prompts) == 20 and prompts == sorted(prompts, key=lambda text: int(text[1:]))
    held_out = held_out_prompts((f"p{number}" for number in range(100)), fraction=0.2, seed=0)
    assert 0 < sum(prompt in held_out for prompt in prompts) < 12
    assert [str(prompt) for prompt in load_data(parse_config(raw)).label_prompts] == prompts
