"""Clipping of stacked gradients: each policy by its own norm, as torch clips it alone."""

from __future__ import annotations

import math

import torch

from modpo.kernels.stacked_lora import clip_each_policy


def test_each_by_its_own_norm() -> None:
    """Norms 5, 10 and 1 over both parameters; the limit is 5."""
    first = torch.tensor([[[3.0, 0.0]], [[6.0, 0.0]], [[1.0, 0.0]]])
    second = torch.tensor([[[0.0], [4.0]], [[0.0], [8.0]], [[0.0], [0.0]]])
    norms = clip_each_policy([first, second], 5.0)
    assert norms.tolist() == [5.0, 10.0, 1.0]
    assert torch.allclose(first, torch.tensor([[[3.0, 0.0]], [[3.0, 0.0]], [[1.0, 0.0]]]), atol=1e-5)
    assert torch.allclose(second, torch.tensor([[[0.0], [4.0]], [[0.0], [4.0]], [[0.0], [0.0]]]), atol=1e-5)


def test_as_torch_clips_each_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    stacked = [torch.randn(4, *shape, generator=generator) for shape in ((2, 5), (5, 2), (3,))]
    alone = [[torch.zeros_like(tensor[p]).requires_grad_() for tensor in stacked] for p in range(4)]
    for p, parameters in enumerate(alone):
        for parameter, gradient in zip(parameters, stacked, strict=True):
            parameter.grad = gradient[p].clone()
    expected = [float(torch.nn.utils.clip_grad_norm_(parameters, 4.5)) for parameters in alone]
    norms = clip_each_policy(stacked, 4.5).tolist()
    assert max(expected) > 4.5 > min(expected)
    for p, parameters in enumerate(alone):
        assert math.isclose(norms[p], expected[p], rel_tol=1e-6)
        for parameter, gradient in zip(parameters, stacked, strict=True):
            assert torch.allclose(gradient[p], parameter.grad, rtol=1e-6, atol=0)


def test_a_gradient_that_is_no_number_is_the_fault_of_its_policy_alone() -> None:
    gradient = torch.tensor([[1.0, math.nan], [3.0, 4.0], [math.inf, 0.0], [0.0, 0.0]])
    norms = clip_each_policy([gradient], 1.0)
    assert [math.isfinite(norm) for norm in norms] == [False, True, False, True]
    assert torch.allclose(gradient[1], torch.tensor([0.6, 0.8]), atol=1e-5)
    assert gradient[3].tolist() == [0.0, 0.0]
