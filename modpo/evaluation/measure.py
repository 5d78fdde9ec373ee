"""What one rank measures of a trained policy on its share of the held-out prompts: plain rows, nothing averaged yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modpo.config.objectives import ObjectiveConfig
from modpo.config.spec import Work
from modpo.core.exact import compare_with_exact
from modpo.core.trees import Tokens
from modpo.data.pair_table import open_pair_table
from modpo.data.prepared import HeldOutPrompt
from modpo.data.tokenize import Encoder, load_tokenizer
from modpo.evaluation.generate import sample_responses
from modpo.models import TrainedModel, load_model
from modpo.rewards.base import Completion, RewardScorer
from modpo.rewards.scorers import build_scorer, import_function
from modpo.scoring import ResponseModel, completion_kl, completion_logps
from modpo.training.batches import read_measured_units

Row = dict[str, Any]


Trained = Callable[[], AbstractContextManager[TrainedModel]]
"""Opens the policy for a block. Scorers use the base model, so they run outside of it."""


@dataclass(frozen=True)
class Measured:
    """The models and settings of one measurement; `scorers` by objective, in the order of the weights."""

    work: Work
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    scorers: dict[str, RewardScorer]

    @property
    def units(self) -> NDArray[np.float64]:
        """One per scorer, as the annotation fixed them; as declared while vertices train, before there is one."""
        declared = {objective.name: objective.unit for objective in self.work.config.objectives}
        fixed = declared if self.work.kind == "vertex" else read_measured_units(Path(self.work.inputs.rewards))
        return np.array([fixed[name] for name in self.scorers])


def open_measured(work: Work, *, objectives: Sequence[ObjectiveConfig], device: torch.device) -> Measured:
    """Loads the start model and builds the scorers of these objectives."""
    base = load_model(work.config.model, path=work.inputs.start_model).to(device)
    tokenizer = load_tokenizer(str(Path(work.inputs.prepared) / "tokenizer"))
    scorers = {o.name: build_scorer(work.config, o, work.inputs, base=base) for o in objectives}
    return Measured(work, base, tokenizer, scorers)


def sampled_rows(
    measured: Measured, prompts: Sequence[tuple[int, HeldOutPrompt]], *, trained: Trained, samples_per_prompt: int
) -> list[Row]:
    """One row for each sample of these numbered prompts: texts, rewards in declared units, KL, length.

    The random seed of a sample depends on the run's seed and the first prompt of the share only.
    """
    evaluation, config = measured.work.config.evaluation, measured.work.config
    numbered = [(number, prompt) for number, prompt in prompts for _ in range(samples_per_prompt)]
    if not numbered:
        return []
    with trained() as models:
        samples = sample_responses(
            models.policy,
            measured.tokenizer,
            [prompt.prompt_ids for _, prompt in numbered],
            max_new_tokens=evaluation.max_new_tokens,
            batch_size=evaluation.batch_size,
            seed=config.seed * 100_003 + numbered[0][0],
        )
        completions = [
            Completion(
                prompt.prompt,
                measured.tokenizer.decode(sample.response_ids, skip_special_tokens=True),
                prompt.prompt_ids,
                sample.response_ids,
            )
            for (_, prompt), sample in zip(numbered, samples, strict=True)
        ]
        kl = completion_kl(
            models,
            [c.prompt_ids for c in completions],
            [c.response_ids for c in completions],
            longest=config.longest_sequence,
            batch_size=evaluation.batch_size,
        )
    rewards = {
        name: scorer.score(completions, reference_logps=kl.reference_logps) / unit
        for (name, scorer), unit in zip(measured.scorers.items(), measured.units, strict=True)
    }
    return [
        {
            "prompt_number": number,
            "prompt": prompt.prompt if isinstance(prompt.prompt, str) else repr(prompt.prompt),
            "response": completion.response,
            "length": len(sample.response_ids),
            "truncated": sample.truncated,
            "kl": float(kl.exact[row]),
            "kl_k1": float(kl.k1[row]),
            **{name: float(values[row]) for name, values in rewards.items()},
        }
        for row, ((number, prompt), completion, sample) in enumerate(zip(numbered, completions, samples, strict=True))
    ]


def accuracy_rows(measured: Measured, *, trained: Trained, share: slice) -> list[Row]:
    """For each held-out pair: objective, number of its prompt, by how many nats the policy prefers the chosen side."""
    table = open_pair_table(Path(measured.work.inputs.reference))
    rows = table.held_out_rows()[share]
    if not len(rows):
        return []
    trees = table.trees(rows)
    with trained() as models:
        prompts = [tree.prompt_ids for tree in trees for _ in tree.response_ids]
        responses = [response for tree in trees for response in tree.response_ids]
        logps = _logps(measured, models.policy, prompts, responses).reshape(-1, 2)
    records = table.records[rows]
    stored = records["reference_logps"]
    gaps = (logps[:, 0] - stored[:, 0]) - (logps[:, 1] - stored[:, 1])
    return [
        {"objective": table.objectives[objective], "prompt": prompt, "gap": gap}
        for objective, prompt, gap in zip(
            records["objective"].tolist(), records["prompt"].tolist(), gaps.tolist(), strict=True
        )
    ]


def exact_rows(measured: Measured, prompts: Sequence[tuple[int, HeldOutPrompt]], *, trained: Trained) -> list[Row]:
    """Comparison with the exact optimum for each prompt whose answers can be enumerated."""
    config, trial = measured.work.config, measured.work.trial
    assert config.evaluation.enumerate is not None and trial is not None
    if not prompts:
        return []
    enumerate_answers: Callable[[Any], list[str]] = import_function(config.evaluation.enumerate)
    encoder = Encoder(measured.tokenizer, config.data)
    spaces = [_space(encoder, prompt, enumerate_answers(prompt.prompt)) for _, prompt in prompts]
    flat = [completion for space in spaces for completion in space]
    with trained() as models:
        policy_logps = _completion_logps(measured, models.policy, flat)
        with models.reference() as reference:
            reference_logps = _completion_logps(measured, reference, flat)
    rewards = np.stack([s.score(flat, reference_logps=reference_logps) for s in measured.scorers.values()], axis=-1)
    borders = np.cumsum([len(space) for space in spaces])[:-1]
    parts = (np.split(values, borders) for values in (policy_logps, reference_logps, rewards / measured.units))
    rows: list[Row] = []
    for (number, _), logps, reference_part, values in zip(prompts, *parts, strict=True):
        found = compare_with_exact(logps, reference_part, values, weights=np.array(trial.weights), beta=trial.beta)
        rows.append(
            {
                "prompt_number": number,
                "kl_to_exact": found.kl_to_exact,
                "kl_exact_to_reference": found.kl_exact_to_reference,
                "outside_mass": found.outside_mass,
                **{f"exact_{name}": float(v) for name, v in zip(measured.scorers, found.exact_values, strict=True)},
            }
        )
    return rows


def _space(encoder: Encoder, prompt: HeldOutPrompt, answers: Sequence[str]) -> list[Completion]:
    tokens = [encoder.response(prompt.prompt, answer) for answer in answers]
    return [
        Completion(prompt.prompt, answer, tuple(prompt_ids), tuple(response_ids))
        for answer, (prompt_ids, response_ids) in zip(answers, tokens, strict=True)
    ]


def _completion_logps(
    measured: Measured, model: PreTrainedModel, completions: Sequence[Completion]
) -> NDArray[np.float64]:
    return _logps(measured, model, [c.prompt_ids for c in completions], [c.response_ids for c in completions])


def _logps(
    measured: Measured, model: PreTrainedModel, prompts: Sequence[Tokens], responses: Sequence[Tokens]
) -> NDArray[np.float64]:
    config = measured.work.config
    return completion_logps(
        ResponseModel(model, longest=config.longest_sequence),
        prompts,
        responses,
        batch_size=config.evaluation.batch_size,
    )
