"""What only shows when two keys, or a key and the disk, are looked at together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modpo.config import load_config, parse_config
from modpo.config.checks import check_config
from modpo.config.disk import is_hub_id, module_file
from modpo.config.points import primary_candidates, weight_vectors
from modpo.errors import Problem
from modpo.orchestration.own_code import code_digest
from tests.sweeps import raw_sweep, write_sweep


def problems_of(raw: dict[str, Any]) -> list[Problem]:
    return check_config(parse_config(raw))


def found(raw: dict[str, Any]) -> list[tuple[str, str]]:
    return [(problem.code, problem.where) for problem in problems_of(raw)]


def objectives(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    """The small sweep's objectives with keys replaced; a key set to None is left out."""
    result = []
    for objective, change in zip(raw_sweep()["objectives"], changes, strict=True):
        result.append({key: value for key, value in {**objective, **change}.items() if value is not None})
    return result


def listed(*entries: dict[str, float], **sweep: Any) -> dict[str, Any]:
    return raw_sweep(sweep={"weights": {"list": list(entries)}, **sweep})


def test_the_small_sweep_has_no_problems() -> None:
    assert found(raw_sweep()) == []


class TestObjectives:
    def test_one_is_not_enough(self) -> None:
        raw = raw_sweep()
        del raw["objectives"][1]
        problem = problems_of(raw)[0]
        assert (problem.code, problem.where, problem.got) == ("MS-121", "objectives", "1: vivid")
        assert "DPOTrainer" in problem.remedy

    def test_a_name_given_twice(self) -> None:
        raw = raw_sweep(objectives=objectives({}, {"name": "vivid"}))
        assert ("MS-122", "objectives") in found(raw)

    def test_neither_pairs_nor_reward(self) -> None:
        raw = raw_sweep(objectives=objectives({}, {"pairs": None, "reward": None}))
        assert ("MS-123", "objectives.1") in found(raw)

    def test_no_pairs_anywhere(self) -> None:
        raw = raw_sweep(objectives=objectives({"pairs": None}, {"pairs": None}))
        assert ("MS-124", "objectives") in found(raw)

    def test_unknown_primary(self) -> None:
        problem = problems_of(raw_sweep(sweep={"primary": "vivd"}))[0]
        assert (problem.code, problem.where, problem.got) == ("MS-125", "sweep.primary", "'vivd'")
        assert problem.remedy == "name a declared objective; did you mean 'vivid'?"

    def test_implicit_reward_without_a_source(self) -> None:
        raw = raw_sweep(objectives=objectives({}, {"pairs": None, "reward": {"type": "implicit"}}))
        assert ("MS-126", "objectives.1.reward") in found(raw)

    @pytest.mark.parametrize("half", [{"adapter": "x"}, {"adapter_beta": 0.1}])
    def test_adapter_and_its_beta_belong_together(self, half: dict[str, Any]) -> None:
        raw = raw_sweep(objectives=objectives({}, {"reward": {"type": "implicit", **half}}))
        assert ("MS-127", "objectives.1.reward") in found(raw)

    def test_adapter_folder_is_one(self, tmp_path: Path) -> None:
        reward = {"type": "implicit", "adapter": str(tmp_path), "adapter_beta": 0.1}
        raw = raw_sweep(objectives=objectives({}, {"reward": reward}))
        assert found(raw) == [("MS-128", "objectives.1.reward.adapter")]
        (tmp_path / "adapter_config.json").write_text("{}")
        assert found(raw) == []


class TestWeights:
    @pytest.mark.parametrize("weights", [{}, {"lattice": 4, "list": [{"vivid": 1.0}]}])
    def test_exactly_one_way_to_say_them(self, weights: dict[str, Any]) -> None:
        assert found(raw_sweep(sweep={"weights": weights})) == [("MS-131", "sweep.weights")]

    @pytest.mark.parametrize("key", ["weights.list", "betas", "seeds"])
    def test_a_sweep_without_points(self, key: str) -> None:
        section = {"weights": {"list": []}} if key == "weights.list" else {key: []}
        assert found(raw_sweep(sweep=section)) == [("MS-136", f"sweep.{key}")]

    def test_unknown_objective_by_its_entry_with_a_suggestion(self) -> None:
        problems = problems_of(listed({"vivid": 1.0}, {"vivid": 0.5, "breif": 0.5}))
        assert [(p.code, p.where) for p in problems] == [
            ("MS-132", "sweep.weights.list.1.breif"),
            ("MS-133", "sweep.weights.list.1"),
        ]
        assert problems[0].what == "a weight names an unknown objective; did you mean 'brief'?"
        assert problems[0].wanted == "one of: vivid, brief"

    def test_every_vector_off_the_simplex_is_named(self) -> None:
        problems = problems_of(listed({"vivid": 0.5, "brief": 0.6}, {"vivid": 0.5, "brief": 0.5}, {"brief": 0.9}))
        assert [(p.code, p.where, p.got) for p in problems] == [
            ("MS-133", "sweep.weights.list.0", "vivid: 0.5, brief: 0.6"),
            ("MS-133", "sweep.weights.list.2", "vivid: 0, brief: 0.9"),
        ]
        assert problems[0].remedy == "weights must sum to 1, got (0.5, 0.6) with the sum 1.1"

    def test_no_objective_with_pairs_has_weight(self) -> None:
        raw = listed({"vivid": 0.5, "brief": 0.5}, {"brief": 1.0})
        raw["objectives"] = objectives({}, {"pairs": None})
        problems = problems_of(raw)
        assert [(p.code, p.where, p.got) for p in problems] == [
            ("MS-134", "sweep.weights.list.1", "vivid: 0, brief: 1")
        ]

    def test_fixed_primary_without_weight(self) -> None:
        """A vertex of the other objective stays possible as plain DPO; a mixture without the fixed primary does not."""
        third = {**raw_sweep()["objectives"][0], "name": "third"}
        raw = raw_sweep(
            objectives=[*raw_sweep()["objectives"], third],
            sweep={"primary": "vivid", "weights": {"list": [{"brief": 1.0}, {"brief": 0.5, "third": 0.5}]}},
        )
        problems = problems_of(raw)
        assert [(p.code, p.where) for p in problems] == [("MS-134", "sweep.weights.list.1")]
        assert problems[0].wanted.endswith("(sweep.primary is vivid)")

    def test_more_trials_than_allowed(self) -> None:
        """5 weights, 2 betas and 3 seeds are 30 trials."""
        sweep = {"weights": {"lattice": 4}, "betas": [0.1, 1], "seeds": [0, 1, 2]}
        problem = problems_of(raw_sweep(sweep={**sweep, "max_trials": 29}))[0]
        assert (problem.code, problem.where, problem.got) == ("MS-135", "sweep.max_trials", "30 trials")
        assert problems_of(raw_sweep(sweep={**sweep, "max_trials": 30})) == []

    def test_vectors_follow_the_order_of_the_objectives_without_duplicates(self) -> None:
        config = parse_config(listed({"brief": 0.25, "vivid": 0.75}, {"brief": 1.0}, {"vivid": 0.75, "brief": 0.25}))
        assert weight_vectors(config) == [(0.75, 0.25), (0.0, 1.0)]

    def test_candidates_honour_a_fixed_primary(self) -> None:
        assert primary_candidates(parse_config(raw_sweep()), (0.5, 0.5)) == (0, 1)
        fixed = parse_config(raw_sweep(sweep={"primary": "brief"}))
        assert primary_candidates(fixed, (0.5, 0.5)) == (1,)
        assert primary_candidates(fixed, (1.0, 0.0)) == (0,)


class TestDisk:
    def test_model_folder_without_a_model(self, tmp_path: Path) -> None:
        problem = problems_of(raw_sweep(model={"name_or_path": str(tmp_path)}))[0]
        assert (problem.code, problem.where) == ("MS-141", "model.name_or_path")
        assert problem.what == "the model folder has no config.json"
        (tmp_path / "config.json").write_text("{}")
        assert problems_of(raw_sweep(model={"name_or_path": str(tmp_path)})) == []

    def test_a_hub_id_is_not_looked_for_on_disk(self) -> None:
        assert problems_of(raw_sweep(model={"name_or_path": "org/name"})) == []

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("org/name", True),
            ("org/name.v2", True),
            ("data/pairs.jsonl", False),
            ("../pairs", False),
            ("a/b/c", False),
            ("name", False),
        ],
    )
    def test_what_reads_as_a_hub_id(self, path: str, expected: bool) -> None:
        assert is_hub_id(path) is expected

    def test_missing_files_of_every_section_are_named_together(self, tmp_path: Path) -> None:
        odd = tmp_path / "pairs.tsv"
        odd.write_text("prompt,chosen,rejected\n")
        raw = raw_sweep(
            objectives=objectives({"pairs": {"path": "nowhere.jsonl"}}, {"pairs": {"path": str(odd)}}),
            sft={"data": {"path": "gone.parquet"}},
        )
        assert found(raw) == [
            ("MS-142", "objectives.0.pairs.path"),
            ("MS-143", "objectives.1.pairs.path"),
            ("MS-142", "sft.data.path"),
        ]

    def test_function_of_a_module_that_is_not_there(self) -> None:
        reward = {"type": "function", "function": "no_such_module.inner:score"}
        problem = problems_of(raw_sweep(objectives=objectives({"reward": reward}, {})))[0]
        assert (problem.code, problem.where, problem.got) == (
            "MS-144",
            "objectives.0.reward.function",
            "'no_such_module.inner'",
        )

    def test_code_is_found_without_running_any_of_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither the module nor the packages above it, which Python's own search would import."""
        package = tmp_path / "outer" / "inner"
        package.mkdir(parents=True)
        canary = f"open({str(tmp_path / 'imported')!r}, 'w').close()\ndef score(prompts, responses): ...\n"
        for path in (package.parent / "__init__.py", package / "__init__.py", package / "module.py"):
            path.write_text(canary, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        for dotted, expected in (
            ("outer:score", []),
            ("outer.inner.module:score", []),
            ("outer.inner.module:other", ["MS-145"]),
            ("outer.inner.module.deeper:score", ["MS-144"]),
            ("outer.nothing:score", ["MS-144"]),
        ):
            reward = {"type": "function", "function": dotted}
            assert [code for code, _ in found(raw_sweep(objectives=objectives({"reward": reward}, {})))] == expected
        assert module_file("outer.inner.module") == package / "module.py"
        assert code_digest("outer.inner.module:score")
        assert not (tmp_path / "imported").exists()

    def test_function_that_a_module_does_not_have(self) -> None:
        reward = {"type": "function", "function": "modpo.data.demo.rewards:livid"}
        problem = problems_of(raw_sweep(objectives=objectives({"reward": reward}, {})))[0]
        assert (problem.code, problem.where) == ("MS-145", "objectives.0.reward.function")
        assert problem.what == "module 'modpo.data.demo.rewards' has no function 'livid'"

    def test_reward_code_is_not_run_by_a_check(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "explosive_reward.py").write_text(
            "def score(prompts, responses): ...\nraise SystemExit('imported')\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        reward = {"type": "function", "function": "explosive_reward:score"}
        assert problems_of(raw_sweep(objectives=objectives({"reward": reward}, {}))) == []


class TestTraining:
    def test_early_stopping_needs_whole_parameters(self) -> None:
        raw = raw_sweep(training={"early_stopping": {}, "deepspeed": {"stage": 3}})
        assert found(raw) == [("MS-151", "training.early_stopping")]

    @pytest.mark.parametrize(
        ("section", "stage", "offload", "accepted"),
        [
            ("training", 0, {"optimizer": True}, False),
            ("training", 1, {"optimizer": True}, True),
            ("training", 2, {"parameters": True}, False),
            ("training", 3, {"parameters": True, "optimizer": True}, True),
            ("sft", 0, {"optimizer": True}, False),
        ],
    )
    def test_offload_needs_its_stage(self, section: str, stage: int, offload: dict[str, bool], accepted: bool) -> None:
        raw = raw_sweep(**{section: {"deepspeed": {"stage": stage, "offload": offload}}})
        assert found(raw) == ([] if accepted else [("MS-152", f"{section}.deepspeed.offload")])

    @pytest.mark.parametrize(("stage", "accepted"), [(0, False), (1, True)])
    def test_a_reward_model_that_the_run_trains_is_no_exception(self, stage: int, accepted: bool) -> None:
        reward = {"type": "trained", "deepspeed": {"stage": stage, "offload": {"optimizer": True}}}
        raw = raw_sweep(objectives=objectives({"reward": reward}, {}))
        assert found(raw) == ([] if accepted else [("MS-152", "objectives.0.reward.deepspeed.offload")])

    @pytest.mark.parametrize(("text", "reason"), [("[1]", "not a JSON object"), ("{", "Expecting property name")])
    def test_deepspeed_file_is_a_json_object(self, tmp_path: Path, text: str, reason: str) -> None:
        path = tmp_path / "deepspeed.json"
        path.write_text(text)
        problem = problems_of(raw_sweep(training={"deepspeed": {"config_file": str(path)}}))[0]
        assert (problem.code, problem.where) == ("MS-153", "training.deepspeed.config_file")
        assert reason in problem.got
        path.write_text(json.dumps({"wall_clock_breakdown": True}))
        assert problems_of(raw_sweep(training={"deepspeed": {"config_file": str(path)}})) == []


def test_loading_runs_every_check(tmp_path: Path) -> None:
    """`load_config` refuses what `check_config` finds."""
    from modpo.errors import InputError

    with pytest.raises(InputError, match="MS-135"):
        load_config(write_sweep(tmp_path, raw_sweep(sweep={"max_trials": 1})))
