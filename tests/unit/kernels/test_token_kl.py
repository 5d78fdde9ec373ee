"""Exact per-token KL from hidden states: by hand, against full logits, and in memory that a chunk bounds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modpo.core.logps import sampled_kl
from modpo.kernels.head import ResponseHead
from modpo.kernels.token_kl import TokenKL, token_kl
from tests.unit.kernels.test_head import Recorder

POSITIONS, VOCABULARY = 23, 11
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}


def head(size: int, *, seed: int, bias: bool = False, scale: float = 1.0, dtype: torch.dtype) -> ResponseHead:
    torch.manual_seed(seed)
    return ResponseHead(torch.nn.Linear(size, VOCABULARY, bias=bias, dtype=dtype), scale=scale)


def states(size: int, *, seed: int, dtype: torch.dtype) -> Tensor:
    return 3 * torch.randn(POSITIONS, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def targets() -> Tensor:
    return torch.randint(VOCABULARY, (POSITIONS,), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def full(policy: tuple[Tensor, ResponseHead], reference: tuple[Tensor, ResponseHead]) -> tuple[Tensor, Tensor]:
    """k1 and exact KL of one response, from the logits of all positions by the other route."""
    logits = [
        head.scale * torch.nn.functional.linear(hidden, head.weight, head.bias) for hidden, head in (policy, reference)
    ]
    # Labels stand one place after what predicts them.
    shifted = [torch.cat([each, each[:1]]).unsqueeze(0) for each in logits]
    labels = torch.cat([torch.tensor([-100]), targets()]).unsqueeze(0)
    k1, exact = sampled_kl(shifted[0], shifted[1], labels)
    return k1[0], exact[0]


def test_two_tokens_by_hand() -> None:
    """3/4 and 1/4 against 1/2 each: KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.1308 nats, whatever token was sampled."""
    logits = [torch.tensor([[0.75, 0.25]] * 2, dtype=torch.float64).log(), torch.zeros(2, 2, dtype=torch.float64)]
    plain = torch.nn.Linear(2, 2, bias=False, dtype=torch.float64)
    plain.weight.data = torch.eye(2, dtype=torch.float64)
    found = token_kl(*logits, torch.tensor([0, 1]), policy_head=ResponseHead(plain), reference_head=ResponseHead(plain))
    assert found.policy_logps.tolist() == pytest.approx([math.log(0.75), math.log(0.25)], rel=1e-12)
    assert found.reference_logps.tolist() == pytest.approx([math.log(0.5)] * 2, rel=1e-12)
    assert found.exact.tolist() == pytest.approx([0.75 * math.log(1.5) + 0.25 * math.log(0.5)] * 2, rel=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("chunk_size", [1, 4, 23, None])
def test_the_numbers_are_those_of_full_logits(dtype: torch.dtype, chunk_size: int | None) -> None:
    """Two models of their own, with hidden sizes, scales and biases of their own."""
    heads = head(5, seed=0, bias=True, dtype=dtype), head(7, seed=1, scale=0.5, dtype=dtype)
    hidden = states(5, seed=0, dtype=dtype), states(7, seed=1, dtype=dtype)
    found = token_kl(*hidden, targets(), policy_head=heads[0], reference_head=heads[1], chunk_size=chunk_size)
    k1, exact = full((hidden[0], heads[0]), (hidden[1], heads[1]))
    assert float((found.policy_logps - found.reference_logps).sum()) == pytest.approx(float(k1), abs=TOLERANCES[dtype])
    assert float(found.exact.sum()) == pytest.approx(float(exact), abs=TOLERANCES[dtype])
    assert {value.dtype for value in vars(found).values()} == {torch.float64}


def near(step: float) -> TokenKL:
    """A policy whose hidden states are this far from its reference's."""
    plain, hidden = head(5, seed=0, dtype=torch.float64), states(5, seed=0, dtype=torch.float64)
    moved = hidden + step * states(5, seed=9, dtype=torch.float64)
    return token_kl(moved, hidden, targets(), policy_head=plain, reference_head=plain)


def test_nothing_is_left_where_the_models_agree() -> None:
    assert near(0.0).exact.tolist() == [0.0] * POSITIONS


def test_small_distances_are_resolved() -> None:
    """KL falls with the square of a small step: a tenth of the step is a hundredth of it, far below float32."""
    large, small = near(1e-4).exact, near(1e-5).exact
    assert (large / small).tolist() == pytest.approx([100.0] * POSITIONS, rel=2e-2)
    assert 0 < float(small.max()) < 1e-8


def test_only_a_chunk_of_logits_exists() -> None:
    plain, hidden = head(5, seed=0, dtype=torch.float32), states(5, seed=0, dtype=torch.float32)
    with Recorder() as recorder:
        token_kl(hidden, hidden, targets(), policy_head=plain, reference_head=plain, chunk_size=4)
    assert recorder.largest <= max(4 * VOCABULARY, hidden.numel())


def test_models_with_different_vocabularies_have_no_kl() -> None:
    torch.manual_seed(0)
    other = ResponseHead(torch.nn.Linear(5, VOCABULARY + 1, dtype=torch.float64))
    plain, hidden = head(5, seed=0, dtype=torch.float64), states(5, seed=0, dtype=torch.float64)
    with pytest.raises(ValueError, match="a KL needs one vocabulary, got 11 and 12 tokens"):
        token_kl(hidden, hidden, targets(), policy_head=plain, reference_head=other)


def test_no_positions_give_nothing() -> None:
    plain = head(5, seed=0, dtype=torch.float32)
    nothing = torch.empty(0, 5)
    found = token_kl(nothing, nothing, torch.empty(0, dtype=torch.long), policy_head=plain, reference_head=plain)
    assert [value.shape for value in vars(found).values()] == [(0,)] * 3
