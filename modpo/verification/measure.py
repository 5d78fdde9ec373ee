"""A trained point against the optimum: its weights are read back, and every dish of every meal is scored.

Log-probabilities are computed with padded rows and full logits, not with the packed rows that the training used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn import Module

from modpo.config.spec import StageInputs, TrialSpec
from modpo.config.tree import SweepConfig
from modpo.core.exact import compare_with_exact
from modpo.data.prepared import read_held_out
from modpo.data.tokenize import Encoder, load_tokenizer
from modpo.models import load_model, make_sequences, sequence_logps, trained_model
from modpo.verification.table import DISHES, MEALS, rewards_of

KL_TOLERANCE = 1e-3
LOG_ERROR_TOLERANCE = 0.05

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One Pareto point; of its prompts the worst.

    Attributes:
        kl: KL(pi_w || pi*_w) in nats, on the listed responses.
        max_log_error: max |log pi_w - log pi*_w| in nats, over the same.
        outside_mass: probability of everything that is not listed.
    """

    num_objectives: int
    weights: dict[str, float]
    kl: float
    max_log_error: float
    outside_mass: float

    @property
    def passed(self) -> bool:
        return self.kl <= KL_TOLERANCE and self.max_log_error <= LOG_ERROR_TOLERANCE

    def as_json(self) -> dict[str, Any]:
        tolerance = {"kl": KL_TOLERANCE, "max_log_error": LOG_ERROR_TOLERANCE}
        return {**asdict(self), "tolerance": tolerance, "passed": self.passed}


def measure_points(config: SweepConfig, inputs: StageInputs, finals: Sequence[tuple[TrialSpec, Path]]) -> list[Case]:
    """Reads each point's final weights back and compares it with the optimum."""
    prepared = Path(inputs.prepared)
    encoder = Encoder(load_tokenizer(str(prepared / "tokenizer")), config.data)
    meals = trained_meals(prepared)
    base = load_model(config.model, path=inputs.start_model)
    reference = dish_logps(base, encoder, meals)
    cases = []
    for trial, final in finals:
        with trained_model(base, config.model, final) as models:
            policy = dish_logps(models.policy, encoder, meals)
        cases.append(judge(config, trial, meals, reference=reference, policy=policy))
    return cases


def judge(config: SweepConfig, trial: TrialSpec, meals: Sequence[str], *, reference: Table, policy: Table) -> Case:
    """Compares log-probabilities (X, Y) of all dishes with pi_ref exp(w.r~ / beta) / Z."""
    names = config.objective_names
    units = np.array([objective.unit for objective in config.objectives])
    found = [
        compare_with_exact(
            policy_logps,
            reference_logps,
            rewards_of(meal, names) / units,
            weights=np.array(trial.weights),
            beta=trial.beta,
        )
        for meal, reference_logps, policy_logps in zip(meals, reference, policy, strict=True)
    ]
    return Case(
        num_objectives=len(names),
        weights=dict(zip(names, trial.weights, strict=True)),
        kl=max(f.kl_to_exact for f in found),
        max_log_error=max(f.max_log_error for f in found),
        outside_mass=max(f.outside_mass for f in found),
    )


def trained_meals(prepared: Path) -> list[str]:
    """All but those that the sweep held out, as every sweep does."""
    held_out = {prompt.prompt for prompt in read_held_out(prepared, limit=len(MEALS))}
    return [meal for meal in MEALS if meal not in held_out]


def dish_logps(model: Module, encoder: Encoder, meals: Sequence[str]) -> Table:
    """Log-probabilities (X, Y) of all dishes with their end token, in nats."""
    encoded = [encoder.response(meal, dish) for meal in meals for dish in DISHES]
    prompts, responses = zip(*encoded, strict=True)
    batch = make_sequences(prompts, responses, pad_token_id=0)
    logps = sequence_logps(model, batch).detach().numpy()
    return np.asarray(logps, dtype=np.float64).reshape(len(meals), len(DISHES))
