"""Several policies on one frozen model: an adapter each, and one forward pass that scores a row under all of them.

Shapes: P policies, T tokens in the row, H hidden size, R response tokens, N responses.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from modpo.core.trees import Tree, TreeBatch, tree_batch
from modpo.kernels.head import response_sums
from modpo.kernels.stacked_lora import NotStackableError, StackedLora
from modpo.models import POLICY_ADAPTER
from modpo.scoring import ResponseModel

# Any tokens will do: what is looked at is which way they go.
PROBE = (Tree((0, 0, 0, 0), ((0, 0, 0), (0, 0))),)


class StackedResponseModel(ResponseModel):
    """P policies that differ in their adapters only, as a module that scores packed rows under all of them at once.

    The policy's LoRA layers are replaced: it is P policies from now on, which all start as it stood. Its parameters
    keep their names and get a first dimension, the policies.

    Args:
        policy: a model of PEFT with one adapter of plain LoRA layers, which is all of it that trains.
        longest: tokens of the longest prompt with one response that will ever be scored.

    Raises:
        NotStackableError: the model has other adapters, or would mix the policies up.
    """

    def __init__(self, policy: torch.nn.Module, *, longest: int, num_policies: int) -> None:
        super().__init__(policy, longest=longest)
        if not self.is_packed:
            raise NotStackableError("its responses are scored one by one and padded.")
        self.num_policies = num_policies
        # In a tuple, so that they are no parts of this module.
        self._replaced = tuple(_adapter_layers(policy).items())
        for name, layer in self._replaced:
            _put(policy, name, _stacked(layer, num_policies))
        self._check_rows()

    def forward(self, batch: TreeBatch) -> Tensor:
        """(P, N) float64 nats, with gradient where the policies train."""
        hidden_PTH = self.hidden_states(batch, num_rows=self.num_policies)
        hidden_QH = hidden_PTH[:, batch.predictors].flatten(0, 1)
        token_logps_PR = self.head(hidden_QH, batch.targets.repeat(self.num_policies)).view(self.num_policies, -1)
        return response_sums(token_logps_PR, batch.owners, batch.num_responses)

    def unstack(self) -> None:
        """Puts PEFT's own layers back, with the values that they had: it knows how to save those."""
        for name, layer in self._replaced:
            _put(self.policy, name, layer)

    @torch.no_grad()
    def _check_rows(self) -> None:
        """One pass as in training: every adapter must get a row for each policy, and nothing may be drawn.

        Dropout of the model itself would give every policy other numbers than it gets alone.
        """
        modes = [(module, module.training) for module in self.modules()]
        device = next(self.parameters()).device
        before = _random_state(device)
        self.train()
        try:
            self(tree_batch(PROBE).to(device))
        finally:
            for module, mode in modes:
                module.training = mode
        if not torch.equal(before, _random_state(device)):
            raise NotStackableError("the model draws random numbers in training, as dropout does.")


def _adapter_layers(policy: torch.nn.Module) -> dict[str, Any]:
    """The layers with an adapter, by name.

    Raises:
        NotStackableError: something else trains.
    """
    layers = {name: module for name, module in policy.named_modules() if _is_plain(module)}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad and name.rpartition(".lora_")[0] not in layers:
            raise NotStackableError(f"more than plain LoRA layers trains, such as {name}.")
    return layers


def _stacked(layer: Any, num_policies: int) -> StackedLora:
    return StackedLora(
        layer.base_layer,
        layer.lora_A[POLICY_ADAPTER].weight,
        layer.lora_B[POLICY_ADAPTER].weight,
        num_policies=num_policies,
        scaling=layer.scaling[POLICY_ADAPTER],
        name=POLICY_ADAPTER,
    )


def _put(policy: torch.nn.Module, name: str, layer: torch.nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(policy.get_submodule(parent), own, layer)


def _is_plain(module: torch.nn.Module) -> bool:
    """Whether it is a linear layer under an adapter without dropout."""
    return isinstance(module, LoraLinear) and isinstance(module.lora_dropout[POLICY_ADAPTER], torch.nn.Identity)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
