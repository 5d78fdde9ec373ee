"""LoRA of several policies on one frozen model: their rows go through a layer side by side, each with its own adapter.

Shapes: P policies, T tokens in a row, I inputs and O outputs of a layer, R rank of an adapter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# As torch's own clipping: no division by a norm of 0.
NORM_FLOOR = 1e-6


class NotStackableError(ValueError):
    """A model does something that would mix its policies up; the message is a sentence that says what."""


class StackedLora(torch.nn.Module):
    """A frozen linear layer with an adapter for each of P policies: row p of the input goes through adapter p.

    The parameters have the names that PEFT gives those of one adapter, and are stacked along a new first dimension.

    Args:
        frozen: the layer below the adapters, of any kind that maps (P, T, I) to (P, T, O).
        first_RI: A of PEFT's layer, with which every policy starts.
        second_OR: its B.
        scaling: lora_alpha / r.
        name: of the adapter.
    """

    def __init__(
        self,
        frozen: torch.nn.Module,
        first_RI: Tensor,
        second_OR: Tensor,
        *,
        num_policies: int,
        scaling: float,
        name: str,
    ) -> None:
        super().__init__()
        self.base_layer = frozen
        self.lora_A = torch.nn.ModuleDict({name: _Stack(first_RI, num_policies)})
        self.lora_B = torch.nn.ModuleDict({name: _Stack(second_OR, num_policies)})
        self._name, self._scaling = name, scaling

    def forward(self, inputs_PTI: Tensor) -> Tensor:
        """(P, T, O) in the dtype of the frozen layer's output.

        Raises:
            NotStackableError: the input is not a row for each policy.
        """
        first_PRI, second_POR = (stacks[self._name].get_parameter("weight") for stacks in (self.lora_A, self.lora_B))
        if inputs_PTI.dim() != 3 or len(inputs_PTI) != len(first_PRI):
            raise NotStackableError(
                f"a layer with an adapter gets inputs of shape {tuple(inputs_PTI.shape)}, "
                f"not a row for each of {len(first_PRI)} policies."
            )
        outputs_PTO = self.base_layer(inputs_PTI)
        low_PTR = torch.bmm(inputs_PTI.to(first_PRI.dtype), first_PRI.transpose(1, 2))
        if outputs_PTO.dtype == second_POR.dtype:
            # In place: nothing else holds the frozen layer's output.
            added: Tensor = outputs_PTO.baddbmm_(low_PTR, second_POR.transpose(1, 2), alpha=self._scaling)
            return added
        update_PTO = torch.bmm(low_PTR, second_POR.transpose(1, 2))
        rounded: Tensor = (outputs_PTO + self._scaling * update_PTO).to(outputs_PTO.dtype)
        return rounded


class _Stack(torch.nn.Module):
    """P copies of a matrix, as one parameter."""

    weight: torch.nn.Parameter

    def __init__(self, matrix: Tensor, count: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(matrix.detach().expand(count, *matrix.shape).clone())


@torch.no_grad()
def clip_each_policy(gradients: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scales the gradients of every policy, in place, to a global norm of at most `max_norm`: each by its own norm.

    Args:
        gradients: of stacked parameters, (P, ...) each.

    Returns:
        The norms (P,) before; not finite where a gradient was not.
    """
    parts = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
    norms_P: Tensor = torch.linalg.vector_norm(parts, dim=0)
    factors_P = (max_norm / (norms_P + NORM_FLOOR)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors_P.view(-1, *[1] * (gradient.dim() - 1)))
    return norms_P
