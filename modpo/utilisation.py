"""What a model's steps cost at least, and how fast this machine multiplies matrices at best."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedConfig

from modpo.core.flops import MatmulShape
from modpo.kernels.families import limited_attention
from modpo.models import plain_model

logger = logging.getLogger(__name__)

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


class UncountableError(ValueError):
    """A model computes otherwise than by layers and attention that are seen at work: any count would be wrong."""


def known_shape(policy: torch.nn.Module, *, longest: int) -> MatmulShape | None:
    """What `matmul_shape` finds, or None with a line in the log where a model's operations cannot be counted.

    Args:
        longest: tokens of the longest prompt with one response.
    """
    config = plain_model(policy).config
    try:
        # The attention is counted as if it reached back to the first token.
        if limited := limited_attention(config.get_text_config(), longest):
            raise UncountableError(f"{config.model_type} models {limited}")
        return matmul_shape(policy)
    # A family that is built otherwise than it is looked at here: no training is to end for the sake of a figure.
    except (UncountableError, AttributeError, TypeError) as error:
        logger.info("operations of the training are not counted: %s", error)
        return None


def matmul_shape(policy: torch.nn.Module) -> MatmulShape:
    """Multiplications per token of a policy, found by a forward pass of one token: what takes part in it is counted.

    Call it before an engine partitions the weights.

    Raises:
        UncountableError: some of the weights are neither vectors, nor embeddings, nor of a layer that was seen to
            multiply by them: fused experts, experts that the token was not sent to, convolutions.
    """
    model = plain_model(policy)
    head = model.get_output_embeddings()
    with _plain_attention(model), _recorded(model) as products:
        model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), use_cache=False)
    _check_all_seen(model, head, products)
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


def _check_all_seen(model: torch.nn.Module, head: torch.nn.Module, products: list[_Product]) -> None:
    multiplied = {product.module for product in products}
    if head not in multiplied:
        raise UncountableError("the output embeddings are no plain linear layer")
    looked_up = {module for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    seen = {id(p) for module in multiplied | looked_up for p in module.parameters(recurse=False)}
    unseen = [name for name, p in model.named_parameters() if p.ndim > 1 and id(p) not in seen]
    if unseen:
        raise UncountableError(f"{len(unseen)} weights are not those of a layer at work, such as {unseen[0]}")


@contextmanager
def _plain_attention(model: torch.nn.Module) -> Iterator[None]:
    """For the length of a block, attention that runs on any device: kernels for GPUs refuse a model on the CPU."""
    configs = {id(c): c for m in model.modules() if isinstance(c := vars(m).get("config"), PreTrainedConfig)}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = "eager"
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


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


def known_peak(shape: MatmulShape | None, device: torch.device, dtype: torch.dtype) -> float | None:
    """The peak that a training's operations are held against, where they are counted."""
    return None if shape is None else matmul_peak(device, dtype)


def seconds_per_operation(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Of one large square product, by this clock; the product before it, which warms up, is not counted."""
    size = PEAK_SIZE["cpu" if device.type == "cpu" else "cuda"]
    # Its own, so that a training draws the same numbers whether or not its process has measured this before.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, device=device, dtype=dtype, generator=generator) for _ in range(2))
    torch.mm(left, right)
    _wait_for(device)
    started = clock()
    torch.mm(left, right)
    _wait_for(device)
    return (clock() - started) / (2 * size**3)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
