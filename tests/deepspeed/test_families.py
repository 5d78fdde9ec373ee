"""Every supported family on the real path: at step 0 policy and reference agree, and the loss is that of the margin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from modpo.training.point import check_reference, loss_settings
from modpo.training.step import preference_micro_batch
from tests.acceptance.plugin import Accept
from tests.deepspeed.trainings import (
    GLOBAL_BATCH_SIZE,
    annotate,
    annotated_pairs,
    build_engine,
    point_work,
    sweep_config,
)
from tests.unit.kernels.families import SUPPORTED, tiny_config

# PEFT finds every family's linear layers by itself.
TRAINED = {"lora": {"r": 4, "target_modules": "all-linear"}, "full": None}
WEIGHTS = (0.7, 0.3)


def start_model(run_dir: Path, folder: Path, family: str) -> Path:
    """A fresh model of the family in float32, with the demo's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "start")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_config(family, vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("family", SUPPORTED)
def test_policy_and_reference_agree_at_step_0(run_dir: Path, tmp_path: Path, family: str, kind: str, accept: Accept):
    """The reference scored by the annotation, the policy under DeepSpeed in training's batches."""
    config = sweep_config(run_dir, lora=TRAINED[kind])
    start = start_model(run_dir, tmp_path / "start", family)
    annotate(run_dir, config, kind="reference", output=tmp_path / "reference", start_model=start)
    work = point_work(run_dir, config, weights=WEIGHTS)
    data = annotated_pairs(run_dir, work, reference=tmp_path / "reference")
    engine = build_engine(config, str(start), seed=0)
    try:
        accept("V2", "nats per token of the step-0 check", check_reference(engine, data, config), at_most=1e-6)
        batch = data.batch(range(GLOBAL_BATCH_SIZE), engine.device)
        with torch.no_grad():
            logps = engine.model(batch.trees)
            loss = preference_micro_batch(engine.model, batch, loss_settings(work)).loss
    finally:
        engine.close()
    reference = torch.stack([batch.reference.chosen, batch.reference.rejected], 1).flatten()
    accept("V2", "largest |log-ratio| of a response", (logps - reference).abs().max().item(), at_most=1e-6)
    margins = WEIGHTS[1] * (batch.margin_rewards.chosen - batch.margin_rewards.rejected)[:, 1]
    assert margins.abs().max() > 0.5
    expected = functional.softplus(margins / WEIGHTS[0]).mean()
    accept("V2", "difference of the loss from softplus(margin / w_k)", (loss - expected).abs().item(), at_most=1e-6)
