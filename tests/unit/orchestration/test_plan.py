"""Trials and digests: what is trained once, what a change misses, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modpo.config.tree import SweepConfig
from modpo.orchestration.digests import Inputs
from modpo.orchestration.plan import SweepPlan, identity_digest, plan_sweep
from tests.acceptance.plugin import Accept

INPUTS = Inputs(data="d", model="m", files={"rewards:short": "f"})


def config(**changes: Any) -> SweepConfig:
    raw: dict[str, Any] = {
        "name": "plan",
        "model": {"name_or_path": "org/model"},
        "objectives": [
            {"name": "helpful", "pairs": {"path": "h.jsonl"}},
            {
                "name": "short",
                "pairs": {"path": "s.jsonl"},
                "reward": {"type": "function", "function": "rewards:short"},
            },
        ],
        "sweep": {"weights": {"lattice": 4}},
    }
    return SweepConfig.model_validate(raw | changes)


def stage_digests(plan: SweepPlan) -> list[str]:
    return [plan.prepared, plan.start_model, plan.reference, plan.rewards]


def test_vertices_at_the_sweeps_beta_are_the_ends_of_the_front() -> None:
    plan = plan_sweep(config(), INPUTS)
    assert [trial.weights for trial in plan.points] == [(1, 0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0, 1)]
    assert plan.vertices["helpful"] == plan.points[0] and plan.vertices["short"] == plan.points[-1]
    assert len(plan.trials) == 5


def test_a_vertex_with_its_own_beta_is_trained_beside_the_front() -> None:
    raw = config().model_dump(mode="json")
    raw["objectives"][0]["beta"] = 0.3
    plan = plan_sweep(SweepConfig.model_validate(raw), INPUTS)
    assert plan.vertices["helpful"].beta == 0.3 and plan.points[0].beta == 0.1
    assert len(plan.trials) == 6


def test_names_of_trials_with_many_objectives_are_still_names_of_folders() -> None:
    """Names and weights of thirty objectives are 425 characters; a folder's name has at most 255."""
    objectives = [{"name": f"dimension_of_{n}", "pairs": {"path": f"{n}.jsonl"}} for n in range(30)]
    vectors = [{f"dimension_of_{n}": 0.75, "dimension_of_29": 0.25} for n in range(29)]
    plan = plan_sweep(config(objectives=objectives, sweep={"weights": {"list": vectors}}), INPUTS)
    names = {trial.trial_id for trial in plan.points}
    assert len(names) == 29
    assert max(len(name) for name in names) < 200


def test_points_are_every_combination_of_weights_betas_and_seeds() -> None:
    plan = plan_sweep(config(sweep={"weights": {"lattice": 1}, "betas": [0.1, 0.2], "seeds": [0, 1]}), INPUTS)
    assert [(t.weights, t.beta, t.seed) for t in plan.points[:3]] == [
        ((1, 0), 0.1, 0),
        ((1, 0), 0.1, 1),
        ((1, 0), 0.2, 0),
    ]
    assert len({trial.trial_id for trial in plan.points}) == 8


def test_auto_primary_is_the_largest_weight_and_the_first_named_on_a_tie() -> None:
    assert [trial.primary for trial in plan_sweep(config(), INPUTS).points] == [0, 0, 0, 1, 1]


def test_a_fixed_primary_trains_all_but_the_other_vertices() -> None:
    sweep = {"weights": {"lattice": 4}, "primary": "helpful"}
    assert [trial.primary for trial in plan_sweep(config(sweep=sweep), INPUTS).points] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("primary", ["auto", "helpful", "short"])
def test_no_point_is_labelled_by_an_objective_without_weight(primary: str, accept: Accept) -> None:
    """Where w_k is 0 another objective labels the loss: at the other end it is plain DPO on that one's own pairs."""
    plan = plan_sweep(config(sweep={"weights": {"lattice": 8}, "primary": primary}), INPUTS)
    undefined = sum(trial.primary is None or trial.weights[trial.primary] == 0 for trial in plan.points)
    assert len(plan.points) == 9 and {0.0} < {weight for trial in plan.points for weight in trial.weights}
    accept("A7", "points whose primary objective has no weight", undefined, at_most=0)


def test_adding_points_leaves_the_old_ones_and_every_stage_as_they_are() -> None:
    before, after = plan_sweep(config(), INPUTS), plan_sweep(config(sweep={"weights": {"lattice": 8}}), INPUTS)
    assert {trial.trial_id for trial in before.points} <= {trial.trial_id for trial in after.points}
    assert stage_digests(before) == stage_digests(after)


def test_another_layout_of_the_annotation_is_another_artefact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data is not prepared again, and no start model is trained again."""
    before = plan_sweep(config(), INPUTS)
    monkeypatch.setattr("modpo.orchestration.digests.ANNOTATION_VERSION", 0)
    after = plan_sweep(config(), INPUTS)
    changed = [old != new for old, new in zip(stage_digests(before), stage_digests(after), strict=True)]
    assert changed == [False, False, True, True]


@pytest.mark.parametrize(
    ("inputs", "changed"),
    [
        (Inputs("other", "m", INPUTS.files), [True, True, True, True]),
        (Inputs("d", "other", INPUTS.files), [False, True, True, True]),
        (replace(INPUTS, model_config="other"), [True, True, True, True]),
        (replace(INPUTS, tokenizer="other"), [True, True, True, True]),
        (replace(INPUTS, chat_template="other"), [True, True, True, True]),
        (Inputs("d", "m", {"rewards:short": "edited"}), [False, False, False, True]),
    ],
    ids=["data", "model", "model config", "tokenizer", "chat template", "reward code"],
)
def test_changed_content_misses_the_stages_that_depend_on_it(inputs: Inputs, changed: list[bool]) -> None:
    with_sft = config(sft={})
    before, after = (stage_digests(plan_sweep(with_sft, found)) for found in (INPUTS, inputs))
    assert [a != b for a, b in zip(before, after, strict=True)] == changed


def test_edited_reward_code_misses_mixed_points_but_not_plain_dpo() -> None:
    before = plan_sweep(config(), INPUTS).points
    after = plan_sweep(config(), Inputs("d", "m", {"rewards:short": "edited"})).points
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False, False, True]


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"learning_rate": 1e-3}},
        {"model": {"name_or_path": "org/model", "lora": {"r": 4}}},
        {"model": {"name_or_path": "org/model", "dtype": "float32"}},
        {"model": {"name_or_path": "org/model", "load_in_4bit": True}},
        {"data": {"max_length": 99}},
        {"seed": 1},
    ],
    ids=["learning rate", "lora", "dtype", "4 bits", "max_length", "seed"],
)
def test_every_setting_that_changes_training_changes_every_trial_and_the_runs_identity(change: dict[str, Any]) -> None:
    before, after = config(), config(**change)
    assert not {t.trial_id for t in plan_sweep(before, INPUTS).trials} & {
        t.trial_id for t in plan_sweep(after, INPUTS).trials
    }
    assert identity_digest(before) != identity_digest(after)


@pytest.mark.parametrize("sft", [None, {"lora": {}}], ids=["no sft", "sft"])
def test_a_table_of_whole_weights_is_not_the_one_of_weights_in_4_bits(sft: dict[str, Any] | None) -> None:
    """Everything that a model scores or is trained from; prepared data have no model in them."""
    plain, four_bits = (
        plan_sweep(config(model={"name_or_path": "org/model", "load_in_4bit": value}, sft=sft), INPUTS)
        for value in (False, True)
    )
    assert plain.prepared == four_bits.prepared
    assert plain.start_model != four_bits.start_model and plain.reference != four_bits.reference
    assert plain.rewards != four_bits.rewards and plain.measurement != four_bits.measurement


def test_workers_trackers_and_measurement_are_no_part_of_the_identity() -> None:
    changed = config(resources={"num_workers": 2}, trackers={"wandb": {}}, evaluation={"num_prompts": 3})
    assert identity_digest(changed) == identity_digest(config())


OTHER_CODE = Inputs("d", "m", {"rewards:short": "edited"})


@pytest.mark.parametrize(
    ("after", "inputs"),
    [
        (config(evaluation={"samples_per_prompt": 8}), INPUTS),
        (config(seed=1), INPUTS),
        (config(), OTHER_CODE),
        (config(evaluation={"enumerate": "rewards:all"}), Inputs("d", "m", {**INPUTS.files, "rewards:all": "x"})),
    ],
    ids=["samples", "seed", "reward code", "enumerated space"],
)
def test_whatever_changes_a_measurement_measures_again(after: SweepConfig, inputs: Inputs) -> None:
    assert plan_sweep(after, inputs).measurement != plan_sweep(config(), INPUTS).measurement


def test_more_points_or_slots_do_not_measure_again() -> None:
    after = config(sweep={"weights": {"lattice": 8}}, resources={"max_concurrent": 1})
    assert plan_sweep(after, INPUTS).measurement == plan_sweep(config(), INPUTS).measurement


def test_the_number_of_workers_is_part_of_a_trial() -> None:
    """The batch of one device is given: more workers train on larger batches."""
    one, two = (plan_sweep(config(resources={"num_workers": count}), INPUTS) for count in (1, 2))
    assert not {trial.trial_id for trial in one.trials} & {trial.trial_id for trial in two.trials}


def with_objective(number: int, **changes: Any) -> SweepConfig:
    raw = config().model_dump(mode="json")
    raw["objectives"][number] |= changes
    return SweepConfig.model_validate(raw)


class TestVertices:
    """A vertex is trained for its implicit reward, or because it is a point of the sweep anyway."""

    def test_none_is_trained_that_nothing_needs(self) -> None:
        """`short` has a scorer of its own, and with another beta its vertex is no end of the front."""
        plan = plan_sweep(with_objective(1, beta=0.3), INPUTS)
        assert list(plan.vertices) == ["helpful"]

    def test_the_model_behind_an_implicit_reward_is_plain_dpo_whatever_the_loss(self) -> None:
        plan = plan_sweep(config(training={"loss_type": "soft"}), INPUTS)
        assert plan.vertices["helpful"].loss_type == "sigmoid" and not plan.vertices["helpful"].uses_rewards
        assert {trial.loss_type for trial in plan.points} == {"soft"}
        assert all(trial.uses_rewards for trial in plan.points), "soft labels come from rewards, at the ends too"

    def test_a_fitted_unit_is_not_known_when_vertices_train(self) -> None:
        plan = plan_sweep(with_objective(0, normalize="std"), INPUTS)
        assert plan.points[0].weights == (1, 0) and plan.points[0].uses_rewards
        assert plan.points[0].trial_id != plan.vertices["helpful"].trial_id
        assert plan.vertices["short"] == plan.points[-1] and not plan.points[-1].uses_rewards


class TestRegression:
    def test_no_labels_no_primary_and_the_pairs_of_all(self) -> None:
        plan = plan_sweep(config(training={"loss_type": "regression"}), INPUTS)
        assert {(trial.primary, trial.sources) for trial in plan.points} == {(None, (0, 1))}

    def test_only_pairs_on_which_every_weighted_objective_is_known(self) -> None:
        """Numbers of `short` stand in the rows of its own pairs alone."""
        columns = {"type": "columns", "chosen": "a", "rejected": "b"}
        sweep = with_objective(1, reward=columns)
        sweep = sweep.model_copy(update={"training": sweep.training.model_copy(update={"loss_type": "regression"})})
        inputs = Inputs("d", "m", {}, {"helpful": frozenset(), "short": frozenset({"short"})})
        assert [trial.sources for trial in plan_sweep(sweep, inputs).points] == [(0, 1), (1,), (1,), (1,), (1,)]


def test_numbers_in_columns_decide_who_can_be_primary() -> None:
    """At (0.75, 0.25) `helpful` weighs most, but on its pairs nobody knows how short the responses are."""
    sweep = with_objective(1, reward={"type": "columns", "chosen": "a", "rejected": "b"})
    everywhere = Inputs("d", "m", {}, {"helpful": frozenset({"short"}), "short": frozenset({"short"})})
    beside_own = Inputs("d", "m", {}, {"helpful": frozenset(), "short": frozenset({"short"})})
    assert [trial.primary for trial in plan_sweep(sweep, everywhere).points] == [0, 0, 0, 1, 1]
    assert [trial.primary for trial in plan_sweep(sweep, beside_own).points] == [0, 1, 1, 1, 1]


class TestLabels:
    """Pairs made from prompts: everything downstream hangs on how they were made."""

    def labelled(self, **label: Any) -> SweepConfig:
        raw = config().model_dump(mode="json")
        raw["objectives"][1]["pairs"] = None
        return SweepConfig.model_validate(raw | {"label": {"prompts": {"path": "p.jsonl"}, **label}})

    def test_an_objective_with_a_scorer_gets_pairs_and_can_label_the_loss(self) -> None:
        plan = plan_sweep(self.labelled(), INPUTS)
        assert self.labelled().labelled() == ("short",)
        assert [trial.primary for trial in plan.points] == [0, 0, 0, 1, 1]

    def test_what_the_labels_depend_on(self) -> None:
        before = plan_sweep(self.labelled(), INPUTS)
        for changed, inputs in (
            (self.labelled(responses_per_prompt=5), INPUTS),
            (self.labelled(), Inputs("d", "m", {"rewards:short": "edited"})),
        ):
            after = plan_sweep(changed, inputs)
            assert after.prepared == before.prepared and after.labelled != before.labelled
            assert after.reference != before.reference
            assert not {trial.trial_id for trial in after.trials} & {trial.trial_id for trial in before.trials}

    def test_without_the_stage_there_is_no_artefact(self) -> None:
        assert plan_sweep(config(), INPUTS).labelled == ""


def test_a_reward_model_of_the_run_is_trained_again_when_its_settings_change() -> None:
    trained = {"type": "trained", "name_or_path": "org/small"}
    before, other_rate, other_batch = (
        plan_sweep(with_objective(1, reward={**trained, **change}), INPUTS)
        for change in ({}, {"learning_rate": 1e-5}, {"batch_size": 3})
    )
    assert before.reward_models["short"] != other_rate.reward_models["short"]
    assert before.rewards != other_rate.rewards and before.reference == other_rate.reference
    assert before.reward_models == other_batch.reward_models, "how many texts are scored at once changes nothing"
