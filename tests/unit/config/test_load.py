"""A sweep file is read whole or refused with every mistake at once, each with its path and remedy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from modpo.config import config_schema, load_config, parse_config
from modpo.errors import InputError, Problem
from tests.sweeps import raw_sweep, write_sweep


def refused(folder: Path, raw: dict[str, Any] | str, *overrides: str) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        load_config(write_sweep(folder, raw), overrides=overrides)
    assert caught.value.exit_status == 2
    return list(caught.value.problems)


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, [problem.render() for problem in problems]
    return problems[0]


def with_text(**sections: str) -> str:
    """The small sweep as YAML text with sections written by hand, for what a YAML writer would not write."""
    return yaml.safe_dump(raw_sweep()) + "".join(f"{name}: {text}\n" for name, text in sections.items())


def test_smallest_file_gets_the_documented_defaults(tmp_path: Path) -> None:
    config = load_config(write_sweep(tmp_path, raw_sweep()))
    assert config.objective_names == ("vivid", "brief")
    assert (config.training.beta, config.sweep.weights.lattice, config.sweep.primary) == (0.1, 4, "auto")
    assert config.vertex_beta(config.objective("vivid")) == 0.1


def test_config_cannot_be_edited(tmp_path: Path) -> None:
    config = load_config(write_sweep(tmp_path, raw_sweep()))
    with pytest.raises(ValueError, match="frozen"):
        config.training.beta = 1.0


def test_stored_form_is_read_back_equal(tmp_path: Path) -> None:
    config = load_config(
        write_sweep(tmp_path, raw_sweep(sweep={"weights": {"list": [{"vivid": 1.0}]}, "betas": [0.1, 1]}))
    )
    assert parse_config(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize("text", ["5e-7", "5E-7", "5.0e-07", "0.0000005"])
def test_numbers_written_with_an_exponent(tmp_path: Path, text: str) -> None:
    """YAML 1.1 reads `5e-7` as text; a learning rate is a number however it is written."""
    config = load_config(write_sweep(tmp_path, with_text(training=f"{{learning_rate: {text}}}")))
    assert config.training.learning_rate == 5e-7


@pytest.mark.parametrize(
    ("section", "where", "hint", "known"),
    [
        ({"trainning": {}}, "trainning", "; did you mean 'training'?", "training"),
        (
            {"training": {"lerning_rate": 1}},
            "training.lerning_rate",
            "; did you mean 'learning_rate'?",
            "learning_rate",
        ),
        ({"model": {"name_or_path": "demo:model", "lora": {"rank": 4}}}, "model.lora.rank", "", "lora_alpha"),
        ({"sweep": {"weights": {"latice": 4}}}, "sweep.weights.latice", "; did you mean 'lattice'?", "list"),
    ],
)
def test_unknown_key_is_refused_with_its_neighbours(
    tmp_path: Path, section: dict[str, Any], where: str, hint: str, known: str
) -> None:
    problem = refused(tmp_path, raw_sweep(**section))[0]
    assert (problem.code, problem.where) == ("MS-111", where)
    assert problem.what == f"unknown key {where.rsplit('.', maxsplit=1)[-1]!r}{hint}"
    assert known in problem.wanted.removeprefix("one of: ").split(", ")


def test_unknown_key_inside_a_choice_of_types(tmp_path: Path) -> None:
    """The path is what the user wrote: no name of a member type in it."""
    raw = raw_sweep()
    raw["objectives"][0]["reward"]["functoin"] = "x"
    raw["objectives"][1]["pairs"]["columns"] = {"chosn": "better"}
    first, second = refused(tmp_path, raw)
    assert (first.where, first.what) == (
        "objectives.0.reward.functoin",
        "unknown key 'functoin'; did you mean 'function'?",
    )
    assert (second.where, second.what) == (
        "objectives.1.pairs.columns.chosn",
        "unknown key 'chosn'; did you mean 'chosen'?",
    )


def test_all_mistakes_of_all_kinds_at_once(tmp_path: Path) -> None:
    """Spelling, type, bound, a missing key, an override, and what only a cross-check sees, in one refusal."""
    raw = raw_sweep(
        training={"betta": 1, "learning_rate": "fast", "max_steps": 0},
        sweep={"weights": {"list": [{"vivid": 0.5, "brief": 0.4}]}},
        evaluation={"enumerate": "modpo.data.demo.rewards:nothing"},
    )
    del raw["name"]
    raw["objectives"][1]["pairs"]["path"] = "missing.jsonl"
    problems = refused(tmp_path, raw, "no-equals-sign")
    assert sorted((problem.code, problem.where) for problem in problems) == [
        ("MS-103", "--set no-equals-sign"),
        ("MS-111", "training.betta"),
        ("MS-112", "name"),
        ("MS-113", "training.learning_rate"),
        ("MS-113", "training.max_steps"),
        ("MS-133", "sweep.weights.list.0"),
        ("MS-142", "objectives.1.pairs.path"),
        ("MS-145", "evaluation.enumerate"),
    ]


def test_value_of_the_wrong_type_says_got_and_wanted(tmp_path: Path) -> None:
    problem = only(refused(tmp_path, raw_sweep(training={"learning_rate": "fast"})))
    assert problem.render() == (
        "error[MS-113]: a value is not what this key takes\n"
        "  --> training.learning_rate\n"
        "  got: 'fast'\n"
        "  wanted: Input should be a valid number, unable to parse string as a number\n"
        "  help: correct the value; docs/config.md lists every key"
    )


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ({"model": {"name_or_path": "demo:model", "lora": {"target_modules": 5}}}, "model.lora.target_modules"),
        ({"model": {"name_or_path": "demo:model", "lora": {"target_modules": [1]}}}, "model.lora.target_modules"),
        ({"sweep": {"seeds": [0, -1]}}, "sweep.seeds.1"),
        ({"sweep": {"weights": {"lattice": 0}}}, "sweep.weights.lattice"),
        ({"training": {"beta": 0}}, "training.beta"),
        ({"training": {"beta": math.inf}}, "training.beta"),
        ({"training": {"learning_rate": math.nan}}, "training.learning_rate"),
        ({"training": {"max_steps": 2.5}}, "training.max_steps"),
        ({"training": {"deepspeed": {"stage": 4}}}, "training.deepspeed.stage"),
        ({"data": {"eval_fraction": 1}}, "data.eval_fraction"),
        ({"name": "../elsewhere"}, "name"),
        ({"name": ""}, "name"),
        ({"evaluation": {"enumerate": "no_colon"}}, "evaluation.enumerate"),
    ],
)
def test_value_out_of_bounds_is_refused_at_its_path(tmp_path: Path, section: dict[str, Any], where: str) -> None:
    problems = refused(tmp_path, raw_sweep(**section))
    assert {problem.code for problem in problems} == {"MS-113"}
    assert problems[0].where.startswith(where)
    assert "str" not in problems[0].where.split(".")


@pytest.mark.parametrize("weights", [{"lattice": 0}, {"latice": 4}, {"list": [{"vivid": -0.5, "brief": 1.5}]}])
def test_a_faulty_key_is_reported_once_and_not_as_missing_too(tmp_path: Path, weights: dict[str, Any]) -> None:
    """Neither `lattice` nor `list` is left, and the weights left over do not sum to 1: both only follow."""
    assert only(refused(tmp_path, raw_sweep(sweep={"weights": weights}))).code in {"MS-111", "MS-113"}


@pytest.mark.parametrize("reward", [{"type": "functoin"}, {"function": "a:b"}, {"type": "modle", "path": "x"}])
def test_unknown_kind_of_reward(tmp_path: Path, reward: dict[str, str]) -> None:
    raw = raw_sweep()
    raw["objectives"][0]["reward"] = reward
    problem = only(refused(tmp_path, raw))
    assert (problem.code, problem.where) == ("MS-113", "objectives.0.reward")


@pytest.mark.parametrize("key", ["name", "model", "objectives"])
def test_missing_key(tmp_path: Path, key: str) -> None:
    raw = raw_sweep()
    del raw[key]
    problem = only(refused(tmp_path, raw))
    assert (problem.code, problem.what, problem.where) == ("MS-112", f"key {key!r} is missing", key)


def test_missing_key_of_an_objective(tmp_path: Path) -> None:
    raw = raw_sweep()
    del raw["objectives"][1]["name"]
    assert only(refused(tmp_path, raw)).where == "objectives.1.name"


class TestOverrides:
    def test_values_are_yaml_and_paths_go_by_key_index_and_name(self, tmp_path: Path) -> None:
        config = load_config(
            write_sweep(tmp_path, raw_sweep(sweep={"seeds": [3, 4]})),
            overrides=[
                "training.learning_rate=5e-7",
                "model.lora=null",
                "objectives.0.unit=2",
                "objectives.brief.beta=0.5",
                "sweep.seeds.1=9",
                "sweep.betas=[0.1, 1]",
                "data.template='Q: {prompt}=A'",
            ],
        )
        assert config.training.learning_rate == 5e-7
        assert config.model.lora is None
        assert [objective.unit for objective in config.objectives] == [2, 1]
        assert [objective.beta for objective in config.objectives] == [None, 0.5]
        assert config.sweep.seeds == (3, 9)
        assert config.sweep.betas == (0.1, 1.0)
        assert config.data.template == "Q: {prompt}=A"

    def test_a_later_override_wins_and_the_file_stays_as_it_is(self, tmp_path: Path) -> None:
        path = write_sweep(tmp_path, raw_sweep())
        before = path.read_bytes()
        assert load_config(path, overrides=["training.beta=1", "training.beta=2"]).training.beta == 2
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        ("override", "what"),
        [
            ("training.beta", "an override has the form a.b=value"),
            ("=1", "an override has the form a.b=value"),
            ("training.beta=[", "the value is not valid YAML"),
            ("objectives.2.unit=1", "objectives.2 has no item 'unit'"),
            ("objectives.nobody.unit=1", "objectives.nobody has no item 'unit'"),
            ("sweep.seeds.5=1", "sweep.seeds has no item '5'"),
            ("name.first=1", "name has no item 'first'"),
        ],
    )
    def test_one_that_leads_nowhere(self, tmp_path: Path, override: str, what: str) -> None:
        problem = only(refused(tmp_path, raw_sweep(sweep={"seeds": [0]}), override))
        assert (problem.code, problem.what, problem.where) == ("MS-103", what, f"--set {override}")

    def test_an_unknown_key_is_refused_like_one_in_the_file(self, tmp_path: Path) -> None:
        problem = only(refused(tmp_path, raw_sweep(), "training.lerning_rate=1"))
        assert (problem.code, problem.where) == ("MS-111", "training.lerning_rate")


class TestYaml:
    def test_a_key_given_twice_is_refused_with_its_line(self, tmp_path: Path) -> None:
        text = "name: small\ntraining: {beta: 1}\nmodel: {name_or_path: 'demo:model'}\ntraining: {beta: 2}\n"
        problem = only(refused(tmp_path, text))
        assert problem.code == "MS-102"
        assert problem.where == f"{tmp_path / 'sweep.yaml'}:4"
        assert problem.got == "key 'training' is given twice"

    def test_a_nested_key_given_twice_is_refused(self, tmp_path: Path) -> None:
        assert "key 'beta' is given twice" in only(refused(tmp_path, with_text(training="{beta: 1, beta: 2}"))).got

    def test_merged_keys_may_be_overridden(self, tmp_path: Path) -> None:
        text = with_text(
            training="&base {learning_rate: 5e-7, max_steps: 3}",
            sft="{<<: *base, max_steps: 4}",
        )
        config = load_config(write_sweep(tmp_path, text))
        assert config.sft is not None
        assert (config.sft.learning_rate, config.sft.max_steps, config.training.max_steps) == (5e-7, 4, 3)

    def test_a_mapping_that_was_merged_before_is_no_repetition(self, tmp_path: Path) -> None:
        """An anchor that itself overrides what it merges, merged again from a place that is read before it."""
        text = with_text(sft="{data: &inner {<<: {max_steps: 1}, max_steps: 2}}", training="{<<: *inner}")
        assert [(p.code, p.where) for p in refused(tmp_path, text)] == [
            ("MS-112", "sft.data.path"),
            ("MS-111", "sft.data.max_steps"),
        ]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("- a\n- b\n", "the top level is list, not a mapping"),
            ("", "the top level is NoneType, not a mapping"),
            ("name: [", "expected the node content"),
            ("name: {{ run }}\n", "a key is not plain text"),
            ("? [a, b]\n: 3\n", "a key is not plain text"),
            ("name: !!python/object/apply:os.getcwd []\n", "could not determine a constructor for the tag"),
        ],
    )
    def test_what_is_no_mapping_of_plain_values(self, tmp_path: Path, text: str, reason: str) -> None:
        problem = only(refused(tmp_path, text))
        assert problem.code == "MS-102"
        assert problem.where.partition(":")[0] == str(tmp_path / "sweep.yaml")
        assert reason in problem.got

    def test_bytes_that_are_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "latin.yaml"
        path.write_bytes("name: größe".encode("latin-1"))
        with pytest.raises(InputError, match="MS-102"):
            load_config(path)

    def test_a_file_of_the_wrong_kind_is_not_parsed_for_minutes(self, tmp_path: Path) -> None:
        problem = only(refused(tmp_path, "# " + "x" * 1_000_000))
        assert problem.got == "1000002 bytes; a sweep file has at most 1000000"

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            load_config(tmp_path / "nowhere.yaml")
        problem = only(list(caught.value.problems))
        assert (problem.code, problem.where) == ("MS-101", str(tmp_path / "nowhere.yaml"))
        assert problem.got == "No such file or directory"


def test_published_schema_is_the_one_of_the_code(repository: Path) -> None:
    r"""Editors complete sweep files by docs/sweep.schema.json.

    After a change of the config tree write it again:


    python -c "import json; from modpo.config import config_schema; print(json.dumps(config_schema(), indent=2))" \
        > docs/sweep.schema.json
    """
    published = json.loads((repository / "docs" / "sweep.schema.json").read_text(encoding="utf-8"))
    assert published == config_schema(), "docs/sweep.schema.json is out of date: see this test's docstring"


def test_every_key_of_the_schema_is_described() -> None:
    schema = config_schema()
    nodes = [schema, *schema["$defs"].values()]
    bare = [key for node in nodes for key, value in node["properties"].items() if not value.get("description")]
    assert bare == []
