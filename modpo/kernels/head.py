"""Log-probabilities of target tokens straight from hidden states: the logits of all positions never exist at once.

Shapes: R scored positions (the responses of a batch, flat), C of them in one chunk, H hidden size, V vocabulary,
N responses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A chunk's logits are the only tensor here that grows with the vocabulary, so their bytes are bounded and not the
# count of positions: 512 positions are 8 MiB of float32 with 4,096 tokens and 512 MiB with 256,000.
CHUNK_BYTES = 64 * 2**20
# Every chunk reads the whole weight, which few positions do not pay for: measured on a CPU (H 512, V 32,000), 16 at a
# time take 2.3 times as long as 262, 65 take 1.3 and 131 take 1.1.
MIN_CHUNK = 128

# What transformers does between the output embeddings and the logits, by `model_type`: here is only what was read in
# its modelling code and is compared with the model's own logits in a test. These families do nothing ...
UNSCALED = frozenset(
    (
        *("bloom", "codegen", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox"),
        *("gptj", "llama", "ministral", "mistral", "mixtral", "mpt", "olmo", "olmo2", "olmo3", "opt", "phi", "phi3"),
        *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2"),
    )
)
# ... and these divide or multiply by a number in their config: one word means both.
DIVIDED_BY = {"granite": "logits_scaling", "granitemoe": "logits_scaling", "minicpm3": "logits_scaling"}
MULTIPLIED_BY = {"cohere": "logit_scale", "cohere2": "logit_scale", "hyperclovax": "logits_scaling"}


def token_logps(
    hidden_RH: Tensor,
    weight_VH: Tensor,
    targets_R: Tensor,
    *,
    bias_V: Tensor | None = None,
    scale: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    """Log-probability of each target token under `scale * (hidden @ weight.T + bias)`, (R,) float64 nats.

    Row r of `hidden_RH` is the state that predicts `targets_R[r]`: nothing is shifted here. Logits are made in the
    weight's dtype and normalised in float32 (in float64 for a float64 weight). Once differentiable in `hidden_RH`,
    `weight_VH` and `bias_V`; the gradient of the hidden states is prepared in the forward pass.

    Args:
        chunk_size: positions whose logits exist at a time; None for what `CHUNK_BYTES` hold.

    Raises:
        ValueError: shapes that do not fit, or a target outside the vocabulary. Only targets on the CPU are looked at:
            to look at a GPU's would make the host wait for it, and there the gather itself fails.
    """
    head = _Head(weight_VH, bias_V, scale)
    _check(head, hidden_RH, targets_R, chunk_size)
    chunk = chunk_size or _positions_per_chunk(head)
    inputs = (hidden_RH, weight_VH) if bias_V is None else (hidden_RH, weight_VH, bias_V)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        apply: Callable[..., Tensor] = _TokenLogps.apply
        return apply(hidden_RH, weight_VH, bias_V, targets_R, (scale, chunk))
    return _score(head, hidden_RH, targets_R, chunk, with_direction=False)[0]


def response_sums(token_logps: Tensor, owners_R: Tensor, num_responses: int) -> Tensor:
    """Summed log-probability (..., N) float64 of each response; `owners_R` says which of them a token belongs to.

    A response without tokens has log-probability 0.

    Args:
        token_logps: (..., R), of one policy or of several that score the same tokens.
    """
    shape = (*token_logps.shape[:-1], num_responses)
    sums = torch.zeros(shape, dtype=torch.float64, device=token_logps.device)
    return sums.index_add(-1, owners_R, token_logps.double())


class ResponseHead(torch.nn.Module):
    """A model's output embeddings as a module that gives log-probabilities of targets instead of logits.

    Weight and bias are the model's own Parameters, so that ZeRO-3 gathers them around this forward pass, an optimiser
    has one of each, and tied embeddings stay tied. They are not in this module's state dict: the model's has them.
    Where both are parts of one module, register the model first: parameters have the name of their first owner.

    Args:
        output_embeddings: what the model's `get_output_embeddings()` returns.
        scale: see `head_scale`.

    Raises:
        ValueError: the output embeddings are more than a linear layer, an adapter's for example.
    """

    bias: torch.nn.Parameter | None

    def __init__(self, output_embeddings: torch.nn.Module, *, scale: float = 1.0) -> None:
        super().__init__()
        if type(output_embeddings) is not torch.nn.Linear:
            got = f"{type(output_embeddings).__module__}.{type(output_embeddings).__name__}"
            raise ValueError(f"output embeddings: got {got}, wanted a plain torch.nn.Linear")
        self.weight = output_embeddings.weight
        self.register_parameter("bias", output_embeddings.bias)
        self.scale = scale

    def forward(self, hidden_RH: Tensor, targets_R: Tensor) -> Tensor:
        """(R,) float64 nats, as `token_logps` gives them."""
        return token_logps(hidden_RH, self.weight, targets_R, bias_V=self.bias, scale=self.scale)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a tensor under two names is written twice, and safetensors refuses it."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is missing and nothing is loaded."""


def head_scale(config: Any) -> float | None:
    """The factor between a transformers model's output embeddings and its logits, from its config.

    None where more than a factor lies between them (soft-capping) or the family is not known: `token_logps` does not
    apply, and the model's own logits are the way.
    """
    if any(value is not None and _caps_logits(name) for name, value in vars(config).items()):
        return None
    family = config.model_type
    setting = DIVIDED_BY.get(family) or MULTIPLIED_BY.get(family)
    if setting is None:
        return 1.0 if family in UNSCALED else None
    factor = getattr(config, setting)
    if factor is None:
        return None
    return 1 / factor if family in DIVIDED_BY else float(factor)


def _caps_logits(setting: str) -> bool:
    """Whether a setting caps output logits; what attention and routers cap lies before the hidden states."""
    return "logit" in setting and "cap" in setting and not setting.startswith(("attn", "attention", "moe", "router"))


@dataclass(frozen=True)
class _Head:
    """Output embeddings: logits are `scale * (hidden @ weight.T + bias)`."""

    weight_VH: Tensor
    bias_V: Tensor | None
    scale: float

    @property
    def exact_dtype(self) -> torch.dtype:
        """What logits are normalised in and gradients summed in."""
        return torch.promote_types(self.weight_VH.dtype, torch.float32)


class _Scratch:
    """Room for one chunk's logits, overwritten by the next, in the weight's dtype and the exact one: often the same."""

    def __init__(self, head: _Head, positions: int) -> None:
        weight = head.weight_VH
        shape = (positions, weight.shape[0])
        self.head = head
        self.made_CV = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        self.exact_CV = (
            self.made_CV
            if head.exact_dtype == weight.dtype
            else torch.empty(shape, dtype=head.exact_dtype, device=weight.device)
        )

    def logits(self, hidden_CH: Tensor) -> Tensor:
        """Scaled logits (C, V) in the exact dtype: a view into this room."""
        head, made_CV, exact_CV = self.head, self.made_CV[: len(hidden_CH)], self.exact_CV[: len(hidden_CH)]
        if head.bias_V is None:
            torch.mm(hidden_CH, head.weight_VH.t(), out=made_CV)
        else:
            torch.addmm(head.bias_V, hidden_CH, head.weight_VH.t(), out=made_CV)
        if exact_CV.dtype != made_CV.dtype:
            exact_CV.copy_(made_CV)
        return exact_CV if head.scale == 1 else exact_CV.mul_(head.scale)

    def as_made(self, exact_CV: Tensor) -> Tensor:
        """A chunk of this room in the weight's dtype, as the matrix products want it."""
        return exact_CV if self.exact_CV is self.made_CV else self.made_CV[: len(exact_CV)].copy_(exact_CV)


def _check(head: _Head, hidden_RH: Tensor, targets_R: Tensor, chunk_size: int | None) -> None:
    weight, bias = head.weight_VH.shape, None if head.bias_V is None else head.bias_V.shape
    hidden, targets = hidden_RH.shape, targets_R.shape
    fits = (len(hidden), len(weight)) == (2, 2) and hidden == targets + weight[1:] and bias in {None, weight[:1]}
    if not fits:
        got = ", ".join(str(None if shape is None else tuple(shape)) for shape in (hidden, weight, targets, bias))
        raise ValueError(f"hidden states, weight, targets and bias: got {got}, wanted (R, H), (V, H), (R,), (V,)")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: got {chunk_size}, wanted at least 1 position")
    if targets_R.device.type == "cpu" and len(targets_R):
        low, high = (int(end) for end in targets_R.aminmax())
        if low < 0 or high >= weight[0]:
            raise ValueError(f"targets: got token ids from {low} to {high}, wanted 0 to {weight[0] - 1}")


def _positions_per_chunk(head: _Head) -> int:
    bytes_per_position = max(len(head.weight_VH), 1) * head.exact_dtype.itemsize
    return max(CHUNK_BYTES // bytes_per_position, MIN_CHUNK)


def _chunks(positions: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, positions)) for start in range(0, positions, chunk))


def _score(
    head: _Head, hidden_RH: Tensor, targets_R: Tensor, chunk: int, *, with_direction: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities (R,) float64 and, if asked for, their gradients (R, H) in the hidden states."""
    count = len(targets_R)
    logps_R = torch.empty(count, dtype=torch.float64, device=hidden_RH.device)
    direction_RH = torch.empty_like(hidden_RH, dtype=head.exact_dtype) if with_direction else None
    scratch = _Scratch(head, min(chunk, count))
    for rows in _chunks(count, chunk):
        targets_C1 = targets_R[rows].unsqueeze(-1)
        scores_CV = scratch.logits(hidden_RH[rows].to(head.weight_VH.dtype))
        logps_R[rows], sums_C1 = _log_softmax_at(scores_CV, targets_C1)
        if direction_RH is not None:
            factors_C1 = torch.full_like(sums_C1, head.scale)
            gap_CV = _gap(scores_CV, sums_C1, targets_C1, factors_C1)
            direction_RH[rows] = torch.mm(scratch.as_made(gap_CV), head.weight_VH)
    return logps_R, direction_RH


def _log_softmax_at(logits_CV: Tensor, targets_C1: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (C,) float64 of the targets, and the sums (C, 1) of what `logits_CV` then holds.

    Overwrites the logits with their exponentials, the largest of each position being 1.
    """
    chosen_C1 = logits_CV.gather(-1, targets_C1)
    top_C1 = logits_CV.amax(-1, keepdim=True)
    sums_C1 = logits_CV.sub_(top_C1).exp_().sum(-1, keepdim=True)
    logps_C1 = chosen_C1.double() - top_C1.double() - sums_C1.double().log()
    return logps_C1.squeeze(-1), sums_C1


def _gap(exponentials_CV: Tensor, sums_C1: Tensor, targets_C1: Tensor, factors_C1: Tensor) -> Tensor:
    """`factor * (1[target] - softmax)` (C, V), written over the exponentials: factor times d logp / d logits.

    The target's entry is subtracted here, where it is exact, and not after a product in half precision: near a
    probability of 1 that difference is all there is.
    """
    return exponentials_CV.mul_(-factors_C1 / sums_C1).scatter_add_(-1, targets_C1, factors_C1)


class _TokenLogps(torch.autograd.Function):
    """Keeps the gradient of the hidden states (R, H); where the head trains, the way back makes the logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_R: Tensor,
        scale_and_chunk: tuple[float, int],
    ) -> Tensor:
        hidden_trains, *head_trains = ctx.needs_input_grad[:3]
        scale, chunk = ctx.scale_and_chunk = scale_and_chunk
        head = _Head(weight_VH, bias_V, scale)
        logps_R, direction_RH = _score(head, hidden_RH, targets_R, chunk, with_direction=hidden_trains)
        # The Parameters themselves and no views of them: ZeRO-3 takes their data away and gives it back in between.
        again = (hidden_RH, weight_VH, bias_V, targets_R) if any(head_trains) else (None,) * 4
        ctx.save_for_backward(direction_RH, *again)
        ctx.hidden_dtype = hidden_RH.dtype
        return logps_R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_R: Tensor) -> tuple[Tensor | None, ...]:
        direction_RH, hidden_RH, weight_VH, bias_V, targets_R = ctx.saved_tensors
        scale, chunk = ctx.scale_and_chunk
        hidden_grad = weight_grad = bias_grad = None
        if direction_RH is not None:
            upstream_R1 = upstream_R.unsqueeze(-1).to(direction_RH.dtype)
            hidden_grad = (direction_RH * upstream_R1).to(ctx.hidden_dtype)
        if hidden_RH is not None:
            head, needed = _Head(weight_VH, bias_V, scale), ctx.needs_input_grad[1:3]
            weight_grad, bias_grad = _head_grads(head, hidden_RH, targets_R, upstream_R, chunk, needed)
        return hidden_grad, weight_grad, bias_grad, None, None


def _head_grads(
    head: _Head, hidden_RH: Tensor, targets_R: Tensor, upstream_R: Tensor, chunk: int, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `upstream @ logps` in weight and bias, as far as needed: summed in the exact dtype, then cast."""
    dtype, exact = head.weight_VH.dtype, head.exact_dtype
    weight_grad_VH = torch.zeros_like(head.weight_VH, dtype=exact) if needed[0] else None
    bias_grad_V = torch.zeros_like(head.bias_V, dtype=exact) if needed[1] and head.bias_V is not None else None
    scratch = _Scratch(head, min(chunk, len(targets_R)))
    for rows in _chunks(len(targets_R), chunk):
        targets_C1 = targets_R[rows].unsqueeze(-1)
        hidden_CH = hidden_RH[rows].to(dtype)
        scores_CV = scratch.logits(hidden_CH)
        _, sums_C1 = _log_softmax_at(scores_CV, targets_C1)
        gap_CV = _gap(scores_CV, sums_C1, targets_C1, head.scale * upstream_R[rows].unsqueeze(-1).to(exact))
        if bias_grad_V is not None:
            bias_grad_V += gap_CV.sum(0)
        if weight_grad_VH is not None:
            _add_product(weight_grad_VH, scratch.as_made(gap_CV).t(), hidden_CH)
    return _cast(weight_grad_VH, dtype), _cast(bias_grad_V, dtype)


def _add_product(total_VH: Tensor, left_VC: Tensor, right_CH: Tensor) -> None:
    """`total += left @ right` in the total's dtype, with no second [V, H] where all have it."""
    if total_VH.dtype == left_VC.dtype:
        total_VH.addmm_(left_VC, right_CH)
    else:
        total_VH += torch.mm(left_VC, right_CH)


def _cast(grad: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if grad is None else grad.to(dtype)
