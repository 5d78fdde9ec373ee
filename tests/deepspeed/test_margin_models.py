"""Scoring with a margin model leaves no trace: neither in the model that it was put into, nor in a policy after it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modpo.artifacts import folder_digest
from modpo.config import SweepConfig
from modpo.ledger import final_dir
from modpo.models import load_model, sequence_logits, trained_model
from modpo.scoring import unpacked
from modpo.training.point import build_policy, train_point
from tests.acceptance.bits import differing
from tests.acceptance.plugin import Accept
from tests.deepspeed.trainings import LORA, annotate, annotated_pairs, point_work, sweep_config

DTYPES = ("float32", "bfloat16")


@pytest.fixture(scope="module")
def margin_model(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of a vertex, larger than that of the policy and on other layers too."""
    lora = {"r": 8, "target_modules": ["q_proj", "v_proj", "o_proj", "down_proj"]}
    config = sweep_config(run_dir, lora=lora, max_steps=5, learning_rate=5e-3)
    place = tmp_path_factory.mktemp("margin")
    work = point_work(run_dir, config, weights=(0.0, 1.0)).model_copy(update={"run_dir": str(place)})
    train_point(work)
    assert work.trial is not None
    return final_dir(place, work.trial)


def with_margin_model(config: SweepConfig, adapter: Path) -> SweepConfig:
    """The same sweep with the implicit reward of the adapter in place of the last objective's own."""
    raw = config.model_dump(mode="json")
    raw["objectives"][-1]["reward"] = {"type": "implicit", "adapter": str(adapter), "adapter_beta": 0.5}
    return SweepConfig.model_validate(raw)


@torch.no_grad()
def logits(run_dir: Path, config: SweepConfig, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Of the responses of eight pairs, each in full."""
    batch = annotated_pairs(run_dir, point_work(run_dir, config)).batch(range(8), torch.device("cpu"))
    return {"logits": sequence_logits(model.eval(), unpacked(batch.trees))}


def policy(run_dir: Path, config: SweepConfig) -> torch.nn.Module:
    """A policy as a trial builds it, with an adapter that a training has moved: a fresh one adds nothing."""
    built = build_policy(config, str(run_dir / "start"), seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in built.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return built


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_policy_after_a_margin_model_has_the_logits_of_one_without(
    run_dir: Path, tmp_path: Path, margin_model: Path, accept: Accept, dtype: str
) -> None:
    """A trial never loads one; here the whole annotation runs with it between two policies of one process."""
    config = sweep_config(run_dir, dtype=dtype, lora=LORA)
    before = policy(run_dir, config)
    expected, files = logits(run_dir, config, before), folder_digest(margin_model)
    assert differing(expected, logits(run_dir, config, load_model(config.model, path=str(run_dir / "start")))) > 0
    annotate(run_dir, with_margin_model(config, margin_model), kind="rewards", output=tmp_path / "rewards")
    for found in (before, policy(run_dir, config)):
        accept("D2", "logits that differ in a bit", differing(logits(run_dir, config, found), expected), at_most=0)
    assert folder_digest(margin_model) == files, "scoring changed the margin model's files"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_that_carried_a_margin_model_is_as_it_was(
    run_dir: Path, margin_model: Path, accept: Accept, dtype: str
) -> None:
    config = sweep_config(run_dir, dtype=dtype, lora=LORA)
    base = load_model(config.model, path=str(run_dir / "start"))
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    expected = logits(run_dir, config, base)
    with trained_model(base, config.model, margin_model) as loaded:
        carried = differing(logits(run_dir, config, loaded.policy), expected)
    assert carried > 0, "a margin model that changes nothing would prove nothing"
    accept("D1", "frozen numbers that differ in a bit", differing(base.state_dict(), weights), at_most=0)
    accept("D2", "logits that differ in a bit", differing(logits(run_dir, config, base), expected), at_most=0)
