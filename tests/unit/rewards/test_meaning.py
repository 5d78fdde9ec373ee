"""What rewards and labels say about each other: figures by hand, and each warning at both sides of its bound."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from modpo.config.tree import SweepConfig
from modpo.rewards.meaning import JudgedPairs, meaning_of

NAN = math.nan
FUNCTION = {"type": "function", "function": "rewards:any"}


def config(*objectives: dict[str, Any], **training: Any) -> SweepConfig:
    named = [{"name": f"o{number}", "pairs": {"path": "p.jsonl"}, **o} for number, o in enumerate(objectives)]
    raw = {"name": "m", "model": {"name_or_path": "org/m"}, "objectives": named}
    return SweepConfig.model_validate(raw | {"training": {"beta": 1.0, **training}})


def judged(objectives: str, held_out: list[int] | None = None, **gaps: list[float]) -> JudgedPairs:
    """Pairs with a prompt each; `objectives` has one digit a pair, "0" for o0."""
    count = len(objectives)
    return JudgedPairs(
        objectives=[f"o{digit}" for digit in objectives],
        prompts=[str(number) for number in range(count)],
        held_out=np.array([number in (held_out or []) for number in range(count)]),
        gaps={name: np.array(values, dtype=float) for name, values in gaps.items()},
    )


def codes(found: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in found["warnings"]]


ONES = {"o0": 1.0, "o1": 1.0}


class TestFigures:
    def test_each_reward_is_judged_on_its_own_pairs_and_against_the_others(self) -> None:
        """o0 prefers the chosen side of 2 of its own 3 pairs and of 1 of o1's 2; o1 of both its own and of 1.5."""
        pairs = judged("00011", o0=[2.0, 1.0, -1.0, 3.0, -1.0], o1=[1.0, -1.0, 0.0, 1.0, 2.0])
        rewards = meaning_of(config({"reward": FUNCTION}, {"reward": FUNCTION}), pairs, ONES)["rewards"]
        assert rewards["o0"]["accuracy"]["value"] == pytest.approx(2 / 3)
        assert rewards["o1"]["accuracy"]["value"] == 1.0
        assert rewards["o0"]["conflict"] == {"o1": 0.5}
        assert rewards["o1"]["conflict"] == {"o0": 0.5}

    def test_spread_is_in_declared_units_over_beta(self) -> None:
        """Gaps 3 and 4 in units of 2 have the root mean square sqrt(12.5) / 2, and beta is one half."""
        pairs = judged("01", o0=[3.0, -4.0], o1=[1.0, 1.0])
        two = config({"reward": FUNCTION, "unit": 2.0}, {"reward": FUNCTION}, beta=0.5)
        rewards = meaning_of(two, pairs, {"o0": 2.0, "o1": 1.0})["rewards"]
        assert rewards["o0"]["spread_over_beta"] == pytest.approx(math.sqrt(12.5) / 2 / 0.5)
        assert (rewards["o0"]["unit"], rewards["o1"]["unit"]) == (2.0, 1.0)

    def test_a_reward_learned_from_the_pairs_is_judged_on_held_out_ones(self) -> None:
        pairs = judged("0000", held_out=[2, 3], o0=[1.0, 1.0, 1.0, -1.0], o1=[1.0] * 4)
        for learned in ({}, {"reward": {"type": "trained"}}, {"reward": {"type": "implicit"}}):
            reward = meaning_of(config(learned, {"reward": FUNCTION}), pairs, ONES)["rewards"]["o0"]
            assert reward["accuracy"]["value"] == 0.5
            assert reward["drawn_accuracy"] is None, "its labels made it: they cannot testify for themselves"

    def test_a_regression_is_judged_on_held_out_pairs_and_its_labels_are_not_its_own(self) -> None:
        """It may have learned the very numbers that the training pairs were formed from."""
        regression = {"type": "trained", "loss": "regression", "data": {"path": "n.jsonl"}}
        pairs = judged("0000", held_out=[2, 3], o0=[1.0, 1.0, 1.0, -1.0], o1=[1.0] * 4)
        reward = meaning_of(config({"reward": regression}, {"reward": FUNCTION}), pairs, ONES)["rewards"]["o0"]
        assert reward["accuracy"]["value"] == 0.5
        assert reward["drawn_accuracy"] == pytest.approx(1 / (1 + math.exp(-1)))

    def test_agreement_that_draws_would_have(self) -> None:
        """Gaps log 3 and log 1: three of four and one half. Two nearly certain ones at 5 nats: 0.9933 each."""
        pairs = judged("00", o0=[math.log(3), 0.0], o1=[1.0, 1.0])
        rewards = meaning_of(config({"reward": FUNCTION}, {"reward": FUNCTION}), pairs, ONES)["rewards"]
        assert rewards["o0"]["drawn_accuracy"] == pytest.approx((0.75 + 0.5) / 2)
        assert rewards["o0"]["deterministic"] == 0.0
        certain = judged("00", o0=[5.0, -5.0], o1=[1.0, 1.0])
        rewards = meaning_of(config({"reward": FUNCTION}, {"reward": FUNCTION}), certain, ONES)["rewards"]
        assert rewards["o0"]["deterministic"] == 1.0

    def test_rewards_that_are_unknown_are_left_out(self) -> None:
        """A reward in columns is NaN on pairs of other sources: no figure counts those."""
        columns = {"reward": {"type": "columns", "chosen": "a", "rejected": "b"}}
        pairs = judged("0011", o0=[1.0, 2.0, NAN, NAN], o1=[1.0, -1.0, 1.0, 1.0])
        found = meaning_of(config(columns, {"reward": FUNCTION}), pairs, ONES)
        assert found["rewards"]["o0"]["conflict"] == {}
        assert found["rewards"]["o0"]["spread_over_beta"] == pytest.approx(math.sqrt(2.5))
        assert "NaN" not in json.dumps(found)

    def test_an_objective_without_pairs_has_no_accuracy(self) -> None:
        pairs = judged("00", o0=[1.0, 1.0], o1=[1.0, -1.0])
        reward = meaning_of(config({"reward": FUNCTION}, {"reward": FUNCTION, "pairs": None}), pairs, ONES)
        assert reward["rewards"]["o1"]["accuracy"] is None
        assert reward["rewards"]["o1"]["conflict"] == {"o0": 0.5}


class TestSign:
    @pytest.mark.parametrize(("right", "expected"), [(2, ["MS-711"]), (10, ["MS-712"]), (18, [])])
    def test_by_its_interval(self, right: int, expected: list[str]) -> None:
        """Of 20 pairs 2 right: surely below one half. 10: cannot be told. 18: surely above."""
        gaps = [0.5] * right + [-0.5] * (20 - right)
        pairs = judged("0" * 20 + "1", o0=[*gaps, 1.0], o1=[1.0] * 21)
        found = codes(meaning_of(config({"reward": FUNCTION}, {"reward": FUNCTION}), pairs, ONES))
        assert [code for code in found if code in ("MS-711", "MS-712")] == expected

    def test_the_message_says_what_to_turn_round(self) -> None:
        pairs = judged("0" * 20, o0=[-1.0] * 20, o1=[1.0] * 20)
        warning = meaning_of(config({"reward": FUNCTION}, {"reward": FUNCTION}), pairs, ONES)["warnings"][0]
        assert warning == {
            "code": "MS-711",
            "what": "the sign of the reward of 'o0' looks flipped: it prefers what its own pairs reject",
            "where": "objectives (o0)",
            "got": "the chosen side preferred in 0% [0%, 0%]",
            "wanted": "more than half",
            "remedy": "set `direction: minimize` if its numbers are costs, or see whether chosen and rejected "
            "are swapped",
        }


class TestLabels:
    """40 pairs of o0 with gaps of one unit: draws would agree with the reward in 73 %."""

    def pairs(self, *, agree: float = 1.0, conflict: float = 0.5, gap: float = 1.0) -> JudgedPairs:
        wrong = round(40 * (1 - agree))
        against = round(40 * conflict)
        return judged("0" * 40, o0=[-gap] * wrong + [gap] * (40 - wrong), o1=[-1.0] * against + [1.0] * (40 - against))

    def found(self, pairs: JudgedPairs, **training: Any) -> bool:
        return "MS-713" in codes(
            meaning_of(config({"reward": FUNCTION}, {"reward": FUNCTION}, **training), pairs, ONES)
        )

    def test_argmax_labels_that_another_objective_contradicts(self) -> None:
        assert self.found(self.pairs())

    def test_draws_are_fine(self) -> None:
        assert not self.found(self.pairs(agree=0.725))

    def test_agreement_is_fine_where_nothing_conflicts(self) -> None:
        assert not self.found(self.pairs(conflict=0.05))

    def test_draws_that_are_as_good_as_certain(self) -> None:
        assert self.found(self.pairs(gap=10.0))

    @pytest.mark.parametrize(("loss", "expected"), [("soft", False), ("regression", False), ("hinge", True)])
    def test_only_losses_that_read_labels(self, loss: str, expected: bool) -> None:
        assert self.found(self.pairs(), loss_type=loss) is expected


class TestScale:
    def found(self, small: float, large: float, **training: Any) -> list[str]:
        pairs = judged("0011", o0=[small] * 4, o1=[large] * 4)
        found = codes(meaning_of(config({"reward": FUNCTION}, {"reward": FUNCTION}, **training), pairs, ONES))
        return [code for code in found if code in ("MS-714", "MS-715", "MS-716")]

    def test_of_a_usual_size(self) -> None:
        assert self.found(0.2, 10.0) == []

    def test_small_beside_beta(self) -> None:
        assert self.found(0.05, 1.0) == ["MS-714"]

    def test_large_beside_beta(self) -> None:
        assert self.found(1.0, 60.0) == ["MS-715"]

    def test_two_scales(self) -> None:
        assert self.found(0.2, 30.0) == ["MS-716"]
