"""Adapters that change the model they are put on, without any training."""

from __future__ import annotations

from pathlib import Path

import torch

from modpo.config.tree import LoraConfig, ModelConfig
from modpo.models import attach_adapter, load_model, save_trained


def save_random_adapter(config: ModelConfig, folder: Path, *, seed: int) -> Path:
    """Writes an adapter on the model of `config` whose weights, zero ones too, are drawn with the seed."""
    policy = attach_adapter(load_model(config), LoraConfig(r=2), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    trained = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    save_trained(policy, folder, {name: parameter.detach() for name, parameter in trained.items()})
    return folder
