"""Softmax tables whose optimum is known, and their fit by the loss that users run.

X prompts, Y responses, K objectives, C comparisons. A table can express every policy, so what a fit ends at is the
loss's own minimiser, which must be pi_ref exp(w.r~ / beta) / Z (method, equation 5) with r~_j = r_j / s_j.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modpo.config.objectives import ObjectiveConfig
from modpo.config.rewards import FunctionReward
from modpo.config.sources import Direction
from modpo.core.batch import PairLogps, PairRewards
from modpo.core.losses import LossSettings, modpo_loss
from modpo.rewards.base import Completion
from modpo.rewards.function import FunctionScorer

NUM_PROMPTS, NUM_RESPONSES, NUM_OBJECTIVES = 5, 7, 3
BETA = 0.3

Table = NDArray[np.float64]
Labels = Literal["drawn", "argmax", "none"]


@dataclass(frozen=True)
class TabularWorld:
    """Reference (X, Y) log-probabilities and raw rewards (X, Y, K), higher is better, with their units."""

    reference: Tensor
    rewards: Tensor
    units: tuple[float, ...]

    def optimum(self, weights: tuple[float, ...]) -> Table:
        """Equation 5, written out in probabilities."""
        reward = (self.rewards.numpy() / np.array(self.units)) @ np.array(weights)
        unnormalised = np.exp(self.reference.numpy()) * np.exp(reward / BETA)
        return np.asarray(unnormalised / unnormalised.sum(-1, keepdims=True))

    def value(self, policy: Table, objective: int) -> float:
        """E[r_j], the mean over prompts."""
        return float((policy * self.rewards[..., objective].numpy()).sum(-1).mean())

    @property
    def reference_policy(self) -> Table:
        return np.exp(self.reference.numpy())


@dataclass(frozen=True)
class Comparisons:
    """(C,) prompt, chosen and rejected response of each comparison, and how often it is seen."""

    prompt: Tensor
    chosen: Tensor
    rejected: Tensor
    frequency: Tensor


def random_world(
    *, num_prompts: int = NUM_PROMPTS, num_responses: int = NUM_RESPONSES, num_objectives: int = NUM_OBJECTIVES
) -> TabularWorld:
    """Standard normal logits and rewards."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    reference = torch.log_softmax(normal(num_prompts, num_responses), -1)
    return TabularWorld(reference, normal(num_prompts, num_responses, num_objectives), (1.0,) * num_objectives)


def declared(world: TabularWorld, units: Sequence[float], directions: Sequence[Direction]) -> TabularWorld:
    """The same wishes written as raw numbers of these sizes and directions, and read back by the scorers of users.

    What is to be minimised is written as a cost, and comes back as a reward.
    """
    places = list(itertools.product(*map(range, world.reference.shape)))
    completions = [Completion(x, str(y), (x,), (y,)) for x, y in places]
    columns = []
    for number, (unit, direction) in enumerate(zip(units, directions, strict=True)):
        objective = ObjectiveConfig(name=f"objective_{number}", unit=unit, direction=direction)
        written = objective.sign * unit * world.rewards[..., number]

        def numbers(prompts: list[int], responses: list[str], written: Tensor = written) -> list[float]:
            return [written[x, int(y)].item() for x, y in zip(prompts, responses, strict=True)]

        reward = FunctionReward(type="function", function="rewards:numbers")
        scorer = FunctionScorer(objective.name, numbers, reward, objective.sign)
        columns.append(scorer.score(completions, reference_logps=np.zeros(len(completions))))
    rewards = torch.from_numpy(np.stack(columns, -1)).reshape(world.rewards.shape)
    return replace(world, rewards=rewards, units=tuple(units))


def population(world: TabularWorld, labels: Labels, *, primary: int | None = None, unit: float = 1.0) -> Comparisons:
    """All ordered pairs of different responses, as often as two draws of the reference and their label give them.

    Args:
        labels: drawn by Bradley-Terry from the primary's reward in the unit `unit`, always the better response, or
            none, where a loss reads no label.
    """
    x, chosen, rejected = _ordered_pairs(world)
    frequency = (world.reference[x, chosen] + world.reference[x, rejected]).exp()
    if labels != "none":
        gap = world.rewards[x, chosen, primary] - world.rewards[x, rejected, primary]
        frequency = frequency * ((gap > 0).double() if labels == "argmax" else torch.sigmoid(gap / unit))
    return Comparisons(x, chosen, rejected, frequency)


def _ordered_pairs(world: TabularWorld) -> tuple[Tensor, ...]:
    num_prompts, num_responses = world.reference.shape
    rows = [(x, *pair) for x in range(num_prompts) for pair in itertools.permutations(range(num_responses), 2)]
    return torch.tensor(rows).unbind(-1)


def fit(
    world: TabularWorld,
    seen: Comparisons,
    point: LossSettings,
    *,
    margin_rewards: Tensor | None = None,
    steps: int = 1000,
) -> Table:
    """Policy (X, Y) that minimises the loss over what is seen, starting at the reference.

    Args:
        margin_rewards: what the loss gets for rewards, where they are not the true ones.
        steps: iterations of L-BFGS, where there is no minimum to end at.
    """
    rewards = world.rewards if margin_rewards is None else margin_rewards
    x, chosen, rejected = seen.prompt, seen.chosen, seen.rejected
    reference = PairLogps(world.reference[x, chosen], world.reference[x, rejected])
    pair_rewards = PairRewards(rewards[x, chosen], rewards[x, rejected])
    table = torch.zeros_like(world.reference, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [table],
        max_iter=steps,
        max_eval=4 * steps,
        history_size=50,
        tolerance_grad=1e-14,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        policy = torch.log_softmax(world.reference + table, -1)
        loss = modpo_loss(PairLogps(policy[x, chosen], policy[x, rejected]), reference, pair_rewards, point)
        total = (seen.frequency * loss.per_pair).sum()
        total.backward()
        return total

    optimiser.step(closure)
    return np.asarray(torch.softmax(world.reference + table, -1).detach().numpy())


def kl(first: Table, second: Table) -> float:
    """KL(first || second) in nats, the mean over prompts."""
    return float((first * (np.log(first) - np.log(second))).sum(-1).mean())
