"""Reward scorers: sign, unit and scale once and in the right place, and every bad reward named."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from modpo.config import SweepConfig
from modpo.config.spec import StageInputs
from modpo.core.batch import PairRewards
from modpo.core.losses import LossSettings, log_ratio_gap, modpo_loss
from modpo.core.trees import Tree, tree_batch
from modpo.errors import InputError, Problem
from modpo.models import load_model, trained_model
from modpo.rewards.base import Completion, finite
from modpo.rewards.classifier import ClassifierScorer, ClassifierSource
from modpo.rewards.function import FunctionScorer
from modpo.rewards.scorers import ImplicitScorer, build_scorer, import_function
from modpo.scoring import ResponseModel, completion_logps, pair_logps
from tests.acceptance.plugin import Accept
from tests.sweeps import VIVID, world_sweep
from tests.unit.adapters import save_random_adapter

PAD = 0
NO_LOGPS = np.zeros(0)
COMPLETIONS = [
    Completion("Hi", "one two", (5, 6), (7, 8, 2)),
    Completion("Hi", "one", (5, 6), (7, 2)),
    Completion([{"role": "user", "content": "Hi"}], "one two three", (5,), (7, 8, 9, 10, 2)),
]


PAIRS = [
    Tree((5, 6), ((7, 8, 2), (7, 2))),
    Tree((5,), ((7, 8, 9, 10, 2), (11, 2))),
    Tree((12, 13, 14), ((15, 2), (16, 17, 18, 2))),
]
OF_PAIRS = [Completion("", "", tree.prompt_ids, response) for tree in PAIRS for response in tree.response_ids]


def refused(call: Callable[[], Any]) -> Problem:
    with pytest.raises(InputError) as caught:
        call()
    (problem,) = caught.value.problems
    return problem


class TestFunction:
    @pytest.mark.parametrize(
        ("values", "got"),
        [
            ([1.0, math.nan, 2.0], "nan for response 1 of the batch"),
            ([math.inf, 1.0, math.nan], "inf for response 0 of the batch"),
            ([1.0, 2.0], "shape (2,) of the batch"),
            ([[1.0], [2.0], [3.0]], "shape (3, 1) of the batch"),
            (1.0, "shape () of the batch"),
            (["one", "two", "three"], "values that are no plain numbers, in a list"),
            (("1", "2", "3"), "values that are no plain numbers, in a tuple"),
            ([1.0, [2.0], 3.0], "values that are no plain numbers, in a list"),
            ([1.0, None, 3.0], "nan for response 1 of the batch"),
        ],
    )
    def test_what_is_not_one_finite_number_per_response_is_refused(self, values: Any, got: str) -> None:
        problem = refused(lambda: finite("brief", values, 3))
        assert (problem.code, problem.where) == ("MS-231", "objectives (brief).reward")
        assert (problem.got, problem.wanted) == (got, "3 finite numbers")

    def test_function_is_imported_by_name(self) -> None:
        assert import_function(VIVID)(["Tell me about the fox at dawn ."], ["the fox rests ."]) == [0.0]

    @pytest.mark.parametrize(
        ("dotted", "got"),
        [
            ("no_such_module:score", "No module named 'no_such_module'"),
            ("modpo.data.demo.rewards:livid", "has no attribute 'livid'"),
        ],
    )
    def test_function_that_a_worker_lacks(self, dotted: str, got: str) -> None:
        problem = refused(lambda: import_function(dotted))
        assert (problem.code, problem.where) == ("MS-232", dotted)
        assert got in problem.got


class TestImplicit:
    """beta_j log(pi_j / pi_ref) of a saved adapter on the demo model."""

    @pytest.fixture(scope="class")
    @classmethod
    def world(cls, demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
        """The base model, and the folder of an adapter on it."""
        config = world_sweep(demo_world).model
        folder = save_random_adapter(config, tmp_path_factory.mktemp("implicit") / "adapter", seed=1)
        return load_model(config), folder

    def config(self, demo_world: Path, **objective: Any) -> SweepConfig:
        """A sweep whose first objective has the implicit reward."""
        config = world_sweep(demo_world, training={"beta": 0.25}).model_dump(mode="json")
        config["objectives"][0] |= {"reward": None, **objective}
        return SweepConfig.model_validate(config)

    def reference(self, base: PreTrainedModel, completions: Sequence[Completion] = COMPLETIONS) -> Any:
        model = ResponseModel(base, longest=64)
        prompts, responses = ([getattr(c, side) for c in completions] for side in ("prompt_ids", "response_ids"))
        return completion_logps(model, prompts, responses, batch_size=2)

    def score(
        self,
        config: SweepConfig,
        inputs: StageInputs,
        base: PreTrainedModel,
        completions: Sequence[Completion] = COMPLETIONS,
    ) -> Any:
        scorer = build_scorer(config, config.objectives[0], inputs, base=base)
        assert isinstance(scorer, ImplicitScorer)
        return scorer.score(completions, reference_logps=self.reference(base, completions))

    def test_reward_of_the_objectives_own_vertex(self, world: tuple[PreTrainedModel, Path], demo_world: Path) -> None:
        """At w = e_j z = s beta Delta log, so the raw reward is s beta log(pi / pi_ref): here 4 x .25 = 1 log ratio."""
        base, folder = world
        inputs = StageInputs(prepared="", start_model="", vertices={"vivid": str(folder)})
        rewards = self.score(self.config(demo_world, unit=4.0), inputs, base)
        from peft import PeftModel

        policy = PeftModel.from_pretrained(load_model(self.config(demo_world).model), str(folder)).eval()
        assert rewards.tolist() == pytest.approx((self.reference(policy) - self.reference(base)).tolist(), abs=1e-6)
        assert np.abs(rewards).min() > 1e-3

    def test_scale_is_the_beta_that_the_vertex_was_trained_with(
        self, world: tuple[PreTrainedModel, Path], demo_world: Path
    ) -> None:
        """Its own beta where it has one, the training's otherwise: a sweep over the trial's beta never rescales it."""
        base, folder = world
        inputs = StageInputs(prepared="", start_model="", vertices={"vivid": str(folder)})
        plain = self.score(self.config(demo_world), inputs, base)
        own = self.score(self.config(demo_world, beta=0.75), inputs, base)
        assert own.tolist() == pytest.approx((3 * plain).tolist(), rel=1e-12)

    def test_a_given_adapter_has_its_own_beta_whatever_the_unit(
        self, world: tuple[PreTrainedModel, Path], demo_world: Path
    ) -> None:
        base, folder = world
        reward = {"type": "implicit", "adapter": str(folder), "adapter_beta": 0.5}
        inputs = StageInputs(prepared="", start_model="")
        given = self.score(self.config(demo_world, reward=reward, unit=4.0, beta=9.0), inputs, base)
        vertex = self.score(
            self.config(demo_world), StageInputs(prepared="", start_model="", vertices={"vivid": str(folder)}), base
        )
        assert given.tolist() == pytest.approx((2 * vertex).tolist(), rel=1e-12)

    def test_direction_does_not_turn_a_preference_around(
        self, world: tuple[PreTrainedModel, Path], demo_world: Path
    ) -> None:
        """Pairs always say themselves what is better, so the implicit reward is higher-is-better already."""
        base, folder = world
        inputs = StageInputs(prepared="", start_model="", vertices={"vivid": str(folder)})
        up, down = (self.score(self.config(demo_world, direction=d), inputs, base) for d in ("maximize", "minimize"))
        assert up.tolist() == down.tolist()

    @pytest.mark.parametrize("unit", [1.0, 4.0])
    @pytest.mark.parametrize("weights", [(0.75, 0.25), (0.2, 0.8), (0.5, 0.25, 0.25)])
    def test_a_policy_that_is_its_own_margin_has_the_logit_of_the_closed_form(
        self,
        world: tuple[PreTrainedModel, Path],
        demo_world: Path,
        weights: tuple[float, ...],
        unit: float,
        accept: Accept,
    ) -> None:
        """z = (beta / w_k)(1 - w_m) Delta log-ratio; a third objective has a reward of 0. The margin is number 0."""
        base, folder = world
        config = self.config(demo_world, unit=unit)
        beta, (margin_weight, primary_weight, *_) = config.training.beta, weights
        with trained_model(base, config.model, folder) as trained, torch.no_grad():
            policy = pair_logps(ResponseModel(trained.policy, longest=64), tree_batch(PAIRS))
        with torch.no_grad():
            reference = pair_logps(ResponseModel(base, longest=64), tree_batch(PAIRS))
        rewards = self.score(
            config, StageInputs(prepared="", start_model="", vertices={"vivid": str(folder)}), base, OF_PAIRS
        )
        sides = torch.zeros(2, len(PAIRS), len(weights), dtype=torch.float64)
        sides[..., 0] = torch.from_numpy(rewards.reshape(-1, 2).T)
        units = (unit, *[1.0] * (len(weights) - 1))
        point = LossSettings(weights=weights, units=units, primary=1, beta=beta)
        z = modpo_loss(policy, reference, PairRewards(*sides), point).preference_logits
        expected = (beta / primary_weight) * (1 - margin_weight) * log_ratio_gap(policy, reference)
        assert expected.abs().min() > 1e-3
        accept("C5", "largest error of a logit", (z - expected).abs().max().item(), at_most=1e-4)

    def test_base_model_is_left_as_it_was(self, world: tuple[PreTrainedModel, Path], demo_world: Path) -> None:
        base, folder = world
        before = self.reference(base)
        self.score(
            self.config(demo_world), StageInputs(prepared="", start_model="", vertices={"vivid": str(folder)}), base
        )
        assert self.reference(base).tolist() == before.tolist()


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_declared_function_with_its_direction(demo_world: Path, direction: str, sign: int) -> None:
    raw = world_sweep(demo_world).model_dump(mode="json")
    raw["objectives"][0] |= {"direction": direction, "unit": 10.0}
    config = SweepConfig.model_validate(raw)
    scorer = build_scorer(
        config,
        config.objectives[0],
        StageInputs(prepared="", start_model=""),
        base=torch.nn.Identity(),
    )
    assert isinstance(scorer, FunctionScorer)
    completion = Completion("Tell me about the fox at dawn .", "the golden fox rests .", (5,), (6, 2))
    assert scorer.score([completion], reference_logps=NO_LOGPS).tolist() == pytest.approx([sign * 1.4])


class TestDeclaredClassifiers:
    """Sign, source and template of the scorers that model and trained rewards get."""

    BASE: Any = torch.nn.Identity()

    def scorer(self, demo_world: Path, reward: dict[str, Any], **objective: Any) -> ClassifierScorer:
        raw = world_sweep(demo_world).model_dump(mode="json")
        raw["objectives"][0] |= {"reward": reward, **objective}
        config = SweepConfig.model_validate(raw)
        inputs = StageInputs(prepared="", start_model="", reward_models={"vivid": "/trained/vivid"})
        scorer = build_scorer(config, config.objectives[0], inputs, base=self.BASE)
        assert isinstance(scorer, ClassifierScorer)
        return scorer

    @pytest.mark.parametrize(("direction", "sign"), [("maximize", 1.0), ("minimize", -1.0)])
    def test_a_users_model_scores_in_its_own_direction(self, demo_world: Path, direction: str, sign: float) -> None:
        reward = {"type": "model", "name_or_path": "/models/cost", "revision": "abc", "dtype": "bfloat16", "output": 1}
        scorer = self.scorer(demo_world, reward, direction=direction)
        assert scorer.sign == sign
        assert scorer.source == ClassifierSource("/models/cost", "abc", "bfloat16")
        assert scorer.settings.output == 1
        assert scorer.fallback == "{prompt}\n{response}"

    @pytest.mark.parametrize("direction", ["maximize", "minimize"])
    def test_a_model_of_pairs_is_higher_is_better_whatever_the_direction(
        self, demo_world: Path, direction: str
    ) -> None:
        """Pairs say what is better; pairs formed from numbers were turned round when they were formed."""
        scorer = self.scorer(demo_world, {"type": "trained"}, direction=direction)
        assert (scorer.sign, scorer.source) == (1.0, ClassifierSource("/trained/vivid"))

    @pytest.mark.parametrize(("direction", "sign"), [("maximize", 1.0), ("minimize", -1.0)])
    def test_a_model_of_raw_numbers_is_turned_round_when_it_scores(
        self, demo_world: Path, direction: str, sign: float
    ) -> None:
        reward = {"type": "trained", "loss": "regression", "data": {"path": "numbers.jsonl"}}
        assert self.scorer(demo_world, reward, direction=direction).sign == sign


def test_new_responses_of_an_objective_with_columns_have_its_own_implicit_reward(demo_world: Path) -> None:
    raw = world_sweep(demo_world).model_dump(mode="json")
    raw["objectives"][0] |= {"reward": {"type": "columns", "chosen": "a", "rejected": "b"}, "unit": 4.0}
    config = SweepConfig.model_validate(raw)
    inputs = StageInputs(prepared="", start_model="", vertices={"vivid": "/vertices/vivid"})
    base: Any = torch.nn.Identity()
    scorer = build_scorer(config, config.objectives[0], inputs, base=base)
    assert isinstance(scorer, ImplicitScorer)
    assert (scorer.folder, scorer.raw_beta) == (Path("/vertices/vivid"), 4 * config.training.beta)
