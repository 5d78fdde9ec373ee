"""Log-probabilities from hidden states: by hand, against full and the models' own logits; products and memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from modpo.kernels.head import (
    CHUNK_BYTES,
    response_sums,
    token_logps,
)

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]  # hidden (R, H), weight (V, H), targets (R,), bias (V,)
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "matmul", "linear"}


def random_inputs(positions: int = 23, vocabulary: int = 11, size: int = 5, *, dtype: Any = torch.float64) -> Inputs:
    """Logits of about standard normal size, and a bias; the same numbers in every dtype, rounded to it."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((positions, size), (vocabulary, size), (vocabulary,))
    )
    targets = torch.randint(vocabulary, (positions,), generator=generator)
    return hidden.to(dtype), (weight / size**0.5).to(dtype), targets, bias.to(dtype)


def naive_logps(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, scale: float = 1.0) -> Tensor:
    """Full logits, log-softmax, gather: what a model and its loss do."""
    logits = scale * torch.nn.functional.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1).double()


def kernel_logps(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, scale: float = 1.0, *, chunk_size: int = 4
) -> Tensor:
    return token_logps(hidden, weight, targets, bias_V=bias, scale=scale, chunk_size=chunk_size)


large_chunks = partial(kernel_logps, chunk_size=128)


def with_gradients(logps: Callable[..., Tensor], inputs: Inputs, scale: float = 1.0) -> list[Tensor]:
    """Values and the gradients of their weighted sum in hidden states, weight and bias; every token has its weight."""
    hidden, weight, targets, bias = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    values = logps(leaves[0], leaves[1], targets, leaves[2], scale)
    (values * torch.linspace(-1, 2, len(values), dtype=torch.float64)).sum().backward()
    return [values.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def in_float64(inputs: Inputs) -> Inputs:
    hidden, weight, targets, bias = inputs
    return hidden.double(), weight.double(), targets, bias.double()


def rms(error: Tensor) -> float:
    return error.double().square().mean().sqrt().item()


def distance(left: Tensor, right: Tensor) -> float:
    return (left.double() - right.double()).abs().max().item()


class Recorder(TorchDispatchMode):
    """Counts matrix products; notes the elements of the largest tensor made, and the storages of `large` ones."""

    def __init__(self, large: float = math.inf) -> None:
        super().__init__()
        self.products, self.largest, self.large, self.storages = 0, 0, large, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket.__name__ in PRODUCTS
        for tensor in (leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)):
            self.largest = max(self.largest, tensor.numel())
            if tensor.numel() >= self.large:
                self.storages.add(tensor.untyped_storage().data_ptr())
        return result


class TestByHand:
    """Hidden size 2, three tokens, logits (0, log 2, log 3): probabilities 1/6, 2/6, 3/6."""

    weight = torch.tensor([[0, 0], [math.log(2), 0], [0, math.log(3)]], dtype=torch.float64)

    def test_each_token(self) -> None:
        logps = token_logps(torch.ones(3, 2, dtype=torch.float64), self.weight, torch.arange(3))
        assert logps.exp().tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6], rel=1e-14)

    def test_scale_multiplies_logits_and_bias(self) -> None:
        """Bias log 5 on token 0, scale 2: exponentials 25, 4, 9."""
        bias = torch.tensor([math.log(5), 0, 0], dtype=torch.float64)
        hidden = torch.ones(3, 2, dtype=torch.float64)
        logps = token_logps(hidden, self.weight, torch.arange(3), bias_V=bias, scale=2)
        assert logps.exp().tolist() == pytest.approx([25 / 38, 4 / 38, 9 / 38], rel=1e-14)

    def test_gradients_of_token_1(self) -> None:
        """1[target] - softmax = (-1/6, 2/3, -1/2), times the weight's rows, and times the hidden state (1, 3)."""
        hidden = torch.tensor([[1, 1]], dtype=torch.float64, requires_grad=True)
        weight, bias = self.weight.clone().requires_grad_(), torch.zeros(3, dtype=torch.float64, requires_grad=True)
        token_logps(hidden, weight, torch.tensor([1]), bias_V=bias).sum().backward()
        assert hidden.grad is not None and weight.grad is not None and bias.grad is not None
        assert hidden.grad.tolist()[0] == pytest.approx([2 / 3 * math.log(2), -1 / 2 * math.log(3)], rel=1e-14)
        assert bias.grad.tolist() == pytest.approx([-1 / 6, 2 / 3, -1 / 2], rel=1e-14)
        assert weight.grad[:, 0].tolist() == pytest.approx([-1 / 6, 2 / 3, -1 / 2], rel=1e-14)
        assert torch.equal(weight.grad[:, 0], weight.grad[:, 1])


class TestAgainstFullLogits:
    @pytest.mark.parametrize("scale", [1.0, 0.3])
    def test_values_and_gradients_in_float64(self, scale: float) -> None:
        values, *gradients = with_gradients(kernel_logps, random_inputs(), scale)
        naive_values, *naive_gradients = with_gradients(naive_logps, random_inputs(), scale)
        assert distance(values, naive_values) < 1e-10
        assert len(gradients) == 3
        assert all(distance(*pair) < 1e-9 for pair in zip(gradients, naive_gradients, strict=True))

    def test_float32_is_as_near_to_the_truth_as_full_logits(self) -> None:
        """Root mean square errors against float64: values at most half, gradients equal but for chance."""
        inputs = random_inputs(400, 3000, 64, dtype=torch.float32)
        truth = with_gradients(naive_logps, in_float64(inputs))
        routes = zip(truth, with_gradients(large_chunks, inputs), with_gradients(naive_logps, inputs), strict=True)
        ratios = [rms(ours - exact) / rms(naive - exact) for exact, ours, naive in routes]
        print("error of values and gradients in that of full logits", ratios)
        assert ratios[0] < 0.5
        assert max(ratios[1:]) < 1.05

    def test_bfloat16_values_are_off_by_the_rounding_of_logits_only(self) -> None:
        """Eight bits: at most 2**-9 of its size on the target's logit, and as much on the normaliser's."""
        inputs = random_inputs(400, 3000, 64, dtype=torch.bfloat16)
        hidden, weight, targets, bias = in_float64(inputs)
        largest = (hidden @ weight.T + bias).abs().max().item()
        error = distance(kernel_logps(*inputs), naive_logps(hidden, weight, targets, bias))
        print("error, nats", error, "of", 2 * 2**-9 * largest)
        assert error < 2 * 2**-9 * largest

    def test_bfloat16_gradients_have_one_more_rounding_than_those_of_full_logits(self) -> None:
        """A matrix product rounds them to bfloat16 before the upstream gradient and the other chunks join."""
        inputs = random_inputs(400, 3000, 64, dtype=torch.bfloat16)
        truth = with_gradients(naive_logps, in_float64(inputs))
        ours, naive = with_gradients(large_chunks, inputs), with_gradients(naive_logps, inputs)
        assert [gradient.dtype for gradient in ours[1:]] == [torch.bfloat16] * 3
        ratios = [rms(a - t) / rms(b - t) for t, a, b in zip(truth, ours, naive, strict=True)]
        print("error of values and gradients in that of full logits", ratios)
        assert max(ratios) < 2**0.5

    def test_bfloat16_gradient_of_a_token_that_is_nearly_certain(self) -> None:
        """Probability 1 - 1e-4 rounds to 1 in bfloat16: the gradient is of that size, and not 0 or a rounding."""
        hidden = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.tensor([[9.25], [0]], dtype=torch.bfloat16)
        token_logps(hidden, weight, torch.tensor([0])).sum().backward()
        assert hidden.grad is not None and hidden.grad.item() == pytest.approx(9.25 / (1 + math.exp(9.25)), rel=2**-7)

    def test_derivatives_by_finite_differences(self) -> None:
        hidden, weight, targets, bias = random_inputs(5)
        leaves = tuple(tensor.requires_grad_() for tensor in (hidden, weight, bias))

        def logps(hidden_RH: Tensor, weight_VH: Tensor, bias_V: Tensor) -> Tensor:
            return token_logps(hidden_RH, weight_VH, targets, bias_V=bias_V, scale=0.7, chunk_size=2)

        assert torch.autograd.gradcheck(logps, leaves)

    def test_second_derivatives_are_refused(self) -> None:
        hidden, weight, targets, _ = random_inputs()
        hidden.requires_grad_()
        (first,) = torch.autograd.grad(token_logps(hidden, weight, targets).square().sum(), hidden, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            first.sum().backward()


class TestEveryWayOfCalling:
    @pytest.mark.parametrize("chunk_size", [1, 3, 7, 23, 1000, None])
    def test_chunks_change_nothing(self, chunk_size: int | None) -> None:
        hidden, weight, targets, bias = random_inputs()
        logps = token_logps(hidden, weight, targets, bias_V=bias, chunk_size=chunk_size)
        assert distance(logps, naive_logps(hidden, weight, targets, bias)) < 1e-12

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_no_gradient_wanted_gives_the_same_bits(self, dtype: torch.dtype) -> None:
        hidden, weight, targets, bias = random_inputs(dtype=dtype)
        hidden.requires_grad_()
        trained = token_logps(hidden, weight, targets, bias_V=bias)
        with torch.no_grad():
            frozen = token_logps(hidden, weight, targets, bias_V=bias)
        assert trained.dtype == frozen.dtype == torch.float64
        assert trained.requires_grad and not frozen.requires_grad
        assert torch.equal(trained, frozen)

    @pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
    def test_gradients_come_only_where_they_are_wanted(self, frozen: tuple[int, ...]) -> None:
        hidden, weight, targets, bias = random_inputs()
        every = with_gradients(kernel_logps, (hidden, weight, targets, bias))[1:]
        leaves = [t.clone().requires_grad_(i not in frozen) for i, t in enumerate((hidden, weight, bias))]
        values = kernel_logps(leaves[0], leaves[1], targets, leaves[2])
        (values * torch.linspace(-1, 2, len(values), dtype=torch.float64)).sum().backward()
        for i, (leaf, gradient) in enumerate(zip(leaves, every, strict=True)):
            assert (leaf.grad is None) == (i in frozen)
            assert leaf.grad is None or torch.equal(leaf.grad, gradient)

    def test_no_positions(self) -> None:
        hidden, weight, targets, bias = random_inputs(positions=0)
        values, *gradients = with_gradients(kernel_logps, (hidden, weight, targets, bias))
        assert values.shape == (0,) and values.dtype == torch.float64
        assert [gradient.shape for gradient in gradients] == [(0, 5), (11, 5), (11,)]
        assert all(gradient.count_nonzero() == 0 for gradient in gradients)
        assert response_sums(token_logps(hidden, weight, targets), targets, 2).tolist() == [0, 0]

    def test_one_hidden_state_predicts_two_tokens(self) -> None:
        """The last prompt token predicts the first token of both responses: its gradient is the sum of both."""
        hidden, weight, targets, _ = random_inputs(positions=3)
        hidden.requires_grad_()
        token_logps(hidden[[0, 0, 1]], weight, targets).sum().backward()
        shared = hidden.grad
        hidden.grad = None
        naive_logps(hidden[[0, 0, 1]], weight, targets, None).sum().backward()
        assert shared is not None and hidden.grad is not None
        assert shared[0].abs().min() > 0 and shared[2].count_nonzero() == 0
        assert distance(shared, hidden.grad) < 1e-12

    def test_strided_inputs(self) -> None:
        hidden, weight, targets, bias = random_inputs()
        strided = (hidden.T.contiguous().T, weight.T.contiguous().T, targets.repeat_interleave(2)[::2])
        assert not any(tensor.is_contiguous() for tensor in strided)
        ours, plain = (with_gradients(kernel_logps, (*t, bias)) for t in (strided, (hidden, weight, targets)))
        assert all(distance(*pair) < 1e-12 for pair in zip(ours, plain, strict=True))

    def test_states_of_another_dtype_than_the_head(self) -> None:
        hidden, weight, targets, bias = random_inputs(dtype=torch.bfloat16)
        wide = hidden.float().requires_grad_()
        logps = token_logps(wide, weight, targets, bias_V=bias)
        assert torch.equal(logps, token_logps(hidden, weight, targets, bias_V=bias))
        logps.sum().backward()
        assert wide.grad is not None and wide.grad.dtype == torch.float32

    def test_inside_a_checkpointed_region(self) -> None:
        hidden, weight, targets, bias = random_inputs()

        def region(hidden_RH: Tensor, weight_VH: Tensor, targets_R: Tensor, bias_V: Tensor, scale: float) -> Tensor:
            return kernel_logps(torch.tanh(hidden_RH), weight_VH, targets_R, bias_V, scale).square()

        def checkpointed(*arguments: Any) -> Tensor:
            result: Tensor = checkpoint(region, *arguments, use_reentrant=False)
            return result

        pairs = (with_gradients(route, (hidden, weight, targets, bias)) for route in (region, checkpointed))
        assert all(torch.equal(*pair) for pair in zip(*pairs, strict=True))

    def test_a_frozen_head_is_not_needed_for_the_way_back(self) -> None:
        """ZeRO-3 takes weights away after the forward pass, and gives back those that train."""
        hidden, weight, targets, bias = random_inputs()
        expected = with_gradients(kernel_logps, (hidden, weight, targets, bias))
        for trains in (False, True):
            state, head = hidden.clone().requires_grad_(), Parameter(weight.clone(), requires_grad=trains)
            values = kernel_logps(state, head, targets, bias)
            head.data = weight.clone() if trains else torch.empty(0, dtype=weight.dtype)
            (values * torch.linspace(-1, 2, len(values), dtype=torch.float64)).sum().backward()
            assert state.grad is not None and torch.equal(state.grad, expected[1])
            assert not trains or (head.grad is not None and torch.equal(head.grad, expected[2]))


class TestRefusals:
    def test_shapes_that_do_not_fit(self) -> None:
        hidden, weight, targets, bias = random_inputs()
        wanted = r"wanted \(R, H\), \(V, H\), \(R,\), \(V,\)"
        with pytest.raises(ValueError, match=r"got \(23, 5\), \(11, 5\), \(22,\), None, " + wanted):
            token_logps(hidden, weight, targets[1:])
        for arguments in ((hidden, weight[:, 1:], targets), (hidden[0], weight, targets), (hidden, weight[0], targets)):
            with pytest.raises(ValueError, match=wanted):
                token_logps(*arguments)
        with pytest.raises(ValueError, match=wanted):
            token_logps(hidden, weight, targets, bias_V=bias[1:])

    @pytest.mark.parametrize("token", [-100, 11])
    def test_targets_outside_the_vocabulary(self, token: int) -> None:
        hidden, weight, _, _ = random_inputs(positions=2)
        low, high = sorted((3, token))
        with pytest.raises(ValueError, match=f"^targets: got token ids from {low} to {high}, wanted 0 to 10$"):
            token_logps(hidden, weight, torch.tensor([3, token]))

    def test_chunks_without_positions(self) -> None:
        hidden, weight, targets, _ = random_inputs()
        with pytest.raises(ValueError, match=r"^chunk_size: got 0, wanted at least 1 position$"):
            token_logps(hidden, weight, targets, chunk_size=0)

    def test_values_on_a_device_are_not_waited_for(self) -> None:
        """Tensors on `meta` have no values: whoever asked for one would fail."""
        hidden, weight, targets, bias = (tensor.to("meta") for tensor in random_inputs())
        logps = token_logps(hidden.requires_grad_(), weight.requires_grad_(), targets, bias_V=bias)
        response_sums(logps, targets, 2).sum().backward()
        assert logps.device.type == "meta"
        assert hidden.grad is not None and weight.grad is not None


@pytest.fixture(scope="module")
def large_inputs() -> Inputs:
    return random_inputs(2048, 32_000, 64, dtype=torch.float32)


class TestCost:
    @pytest.mark.parametrize(("trains", "per_chunk"), [("", 1), ("hidden", 2), ("weight", 3), ("hidden weight", 4)])
    def test_matrix_products(self, trains: str, per_chunk: int) -> None:
        """Logits and direction; where the head trains, logits again and its gradient. 23 positions are 6 chunks."""
        hidden, weight, targets, bias = random_inputs()
        hidden.requires_grad_("hidden" in trains)
        weight.requires_grad_("weight" in trains)
        with Recorder() as recorder:
            values = kernel_logps(hidden, weight, targets, bias)
            if trains:
                values.sum().backward()
        assert recorder.products == 6 * per_chunk
        with torch.no_grad(), Recorder() as recorder:
            kernel_logps(hidden, weight, targets, bias)
        assert recorder.products == 6

    def test_one_chunk_of_logits_is_all_that_grows_with_the_vocabulary(self, large_inputs: Inputs) -> None:
        """A frozen head: 64 MiB of logits, forward and backward; full logits are 250 MiB, several times over."""
        hidden, weight, targets, _ = large_inputs
        hidden = hidden.clone().requires_grad_()
        with Recorder(large=16 * 32_000) as recorder:
            token_logps(hidden, weight, targets).sum().backward()
        recorder.storages.discard(weight.untyped_storage().data_ptr())
        assert len(recorder.storages) == 1
        assert 4 * recorder.largest <= CHUNK_BYTES
        assert recorder.largest < 2048 * 32_000 / 3

    def test_a_frozen_head_keeps_one_tensor_of_hidden_size(self, large_inputs: Inputs) -> None:
        hidden, weight, targets, _ = large_inputs
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda nothing: nothing):
            token_logps(hidden.clone().requires_grad_(), weight, targets)
        assert [(tuple(tensor.shape), tensor.dtype) for tensor in kept] == [((2048, 64), torch.float32)]

    def test_a_head_that_trains_never_has_all_logits_either(self, large_inputs: Inputs) -> None:
        hidden, weight, targets, _ = large_inputs
        with Recorder() as recorder:
            token_logps(hidden, weight.clone().requires_grad_(), targets).sum().backward()
        assert 4 * recorder.largest <= CHUNK_BYTES
