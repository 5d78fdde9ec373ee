"""Packed rows with the frozen-head kernel against padded sequences with full logits, in the precisions of a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from modpo.core.trees import Tree, TreeBatch, tree_batch
from modpo.kernels.head import token_logps
from modpo.models import sequence_logps
from modpo.scoring import ResponseModel, unpacked
from tests.unit.kernels.families import random_trees, tiny_config

FAMILIES = ("gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")
# Trees of up to 36 tokens go as one masked batch, those of up to 480 one by one.
LENGTHS = {"small trees": 9, "large trees": 120}
NUM_RESPONSES = (2, 3, 1, 2)
# Of a float32 result, relative: up to 9e-7 was measured on a CPU, and a GPU's kernels add in other orders.
FLOAT32_TOLERANCE = 2e-5
# Times as far from the exact numbers as the padded way, in bfloat16: 0.9 to 1.2 was measured on a CPU.
NO_WORSE = 1.5


@dataclass(frozen=True)
class Scored:
    """Response log-probabilities, and all gradients of a sum in which every response has a weight of its own."""

    logps: Tensor
    gradients: Tensor


def random_model(family: str, *, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """Weights that bfloat16 can hold, so large that the logits are far from uniform: the same in every precision."""
    model = AutoModelForCausalLM.from_config(tiny_config(family, max_position_embeddings=512)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        mean, std = (0.0, 0.2) if parameter.dim() > 1 else (0.8, 0.2)
        torch.nn.init.normal_(parameter, mean, std, generator=generator)
    return model.to(torch.bfloat16).to(device, dtype)


def padded(model: torch.nn.Module, batch: TreeBatch) -> Tensor:
    return sequence_logps(model, unpacked(batch))


def packed(model: torch.nn.Module, batch: TreeBatch) -> Tensor:
    rows = ResponseModel(model, longest=batch.layout.longest)
    assert rows.is_packed
    return rows(batch)


def scored(model: torch.nn.Module, logps: Tensor) -> Scored:
    model.zero_grad()
    (torch.linspace(-1, 1, len(logps), dtype=logps.dtype, device=logps.device) * logps).sum().backward()
    flat = [parameter.grad.double().flatten() for parameter in model.parameters() if parameter.grad is not None]
    return Scored(logps.detach(), torch.cat(flat))


def error(found: Tensor, exact: Tensor) -> float:
    """Length of the difference, relative."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def trees(length: str) -> list[Tree]:
    return random_trees(NUM_RESPONSES, max_length=LENGTHS[length])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("family", FAMILIES)
class TestPackedAgainstPadded:
    def test_in_float32(self, device: torch.device, family: str, length: str) -> None:
        batch = tree_batch(trees(length)).to(device)
        model = random_model(family, dtype=torch.float32, device=device)
        own, plain = scored(model, packed(model, batch)), scored(model, padded(model, batch))
        errors = error(own.logps, plain.logps), error(own.gradients, plain.gradients)
        print(f"float32 {family}, {length}: log-probabilities {errors[0]:.1e}, gradients {errors[1]:.1e}")
        assert max(errors) <= FLOAT32_TOLERANCE

    def test_in_bfloat16_no_farther_from_the_exact_numbers(
        self, device: torch.device, family: str, length: str
    ) -> None:
        batch = tree_batch(trees(length)).to(device)
        exact_model = random_model(family, dtype=torch.float32, device=device)
        exact = scored(exact_model, padded(exact_model, batch))
        model = random_model(family, dtype=torch.bfloat16, device=device)
        own, plain = scored(model, packed(model, batch)), scored(model, padded(model, batch))
        for name in ("logps", "gradients"):
            errors = [error(getattr(found, name), getattr(exact, name)) for found in (own, plain)]
            print(f"bfloat16 {family}, {length}: {name} packed {errors[0]:.1e}, padded {errors[1]:.1e}")
            assert 0 < errors[0] <= NO_WORSE * errors[1]


@pytest.mark.parametrize("trains", [False, True], ids=["frozen head", "trained head"])
def test_the_head_in_bfloat16_is_no_farther_from_the_exact_numbers_than_full_logits(
    device: torch.device, trains: bool
) -> None:
    """Both make logits in bfloat16, and both round gradients to it in two places, though not in the same two."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 256, generator=generator).to(device, torch.bfloat16).requires_grad_()
    weight = (torch.randn(4096, 256, generator=generator) / 8).to(device, torch.bfloat16).requires_grad_(trains)
    targets = torch.randint(4096, (300,), generator=generator).to(device)
    upstream = torch.linspace(-1, 1, 300, dtype=torch.float64, device=device)

    def results(logps: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return logps.detach(), *torch.autograd.grad((upstream * logps.double()).sum(), inputs)

    def full(hidden: Tensor, weight: Tensor) -> Tensor:
        return torch.log_softmax((hidden @ weight.t()).float(), -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)

    inputs = (hidden, weight) if trains else (hidden,)
    wide = tuple(tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in (hidden, weight))
    logits = wide[0] @ wide[1].t()
    exact_logps = torch.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    exact = results(exact_logps, wide if trains else wide[:1])
    own = results(token_logps(hidden, weight, targets, chunk_size=128), inputs)
    plain = results(full(hidden, weight), inputs)
    for number, name in enumerate(("log-probabilities", "hidden states", "weight")[: 1 + len(inputs)]):
        errors = [error(found[number], exact[number]) for found in (own, plain)]
        print(f"{name}: kernel {errors[0]:.1e}, full logits {errors[1]:.1e}")
        assert 0 < errors[0] <= NO_WORSE * errors[1]
