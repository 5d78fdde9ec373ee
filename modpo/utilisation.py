"""What a model's steps cost at least, and how fast this machine multiplies matrices at best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from modpo.core.flops import MatmulShape
from modpo.models import plain_model

PEAK_REPEATS = 5
# Large enough for the full rate, small enough to be done in a fifth of a second on one core.
PEAK_SIZE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class _Product:
    """A linear layer that took part in a forward pass."""

    module: torch.nn.Module
    weights: int
    input_needs_grad: bool

    @property
    def trains(self) -> bool:
        return any(parameter.requires_grad for parameter in self.module.parameters(recurse=False))


def matmul_shape(policy: torch.nn.Module) -> MatmulShape:
    """Multiplications per token of a policy, found by a forward pass of one token: what takes part in it is counted.

    Call it before an engine partitions the weights. Experts that the token is not sent to do not count.
    """
    model = plain_model(policy)
    head = model.get_output_embeddings()
    with _recorded(model) as products:
        model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), use_cache=False)
    layers = [product for product in products if product.module is not head]
    config = model.config.get_text_config()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return MatmulShape(
        layers=sum(product.weights for product in layers),
        trained=sum(product.weights for product in layers if product.trains),
        without_input_grad=sum(product.weights for product in layers if not product.input_needs_grad),
        head=head.weight.shape[0] * head.weight.shape[1],
        head_trains=head.weight.requires_grad,
        attention=config.num_attention_heads * head_size * config.num_hidden_layers,
    )


@contextmanager
def _recorded(model: torch.nn.Module) -> Iterator[list[_Product]]:
    products: list[_Product] = []

    def record(module: Any, inputs: tuple[Any, ...]) -> None:
        products.append(_Product(module, _num_weights(module), inputs[0].requires_grad))

    hooks = [module.register_forward_pre_hook(record) for module in model.modules() if _multiplies(module)]
    try:
        with torch.enable_grad():
            yield products
    finally:
        for hook in hooks:
            hook.remove()


def _multiplies(module: torch.nn.Module) -> bool:
    """Whether it is a matrix that its input is multiplied with: torch's linear layer, or that of GPT-2."""
    # Its own: adapter layers pass on the weight of the layer inside.
    weight = module._parameters.get("weight")
    return isinstance(weight, torch.Tensor) and weight.ndim == 2 and not isinstance(module, torch.nn.Embedding)


def _num_weights(module: Any) -> int:
    """Of the matrix as it is multiplied: a quantised one is stored in fewer numbers."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features * module.out_features
    return int(module.weight.numel())


@cache
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large square product on this device, with torch's threads; measured once a process."""
    return 1 / min(seconds_per_operation(device, dtype) for _ in range(PEAK_REPEATS))


def seconds_per_operation(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Of one large square product, by this clock; the product before it, which warms up, is not counted."""
    size = PEAK_SIZE["cpu" if device.type == "cpu" else "cuda"]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.mm(left, right)
    _wait_for(device)
    started = clock()
    torch.mm(left, right)
    _wait_for(device)
    return (clock() - started) / (2 * size**3)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
