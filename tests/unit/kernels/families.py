"""Tiny random models of many families in float64, and the two routes to their response log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from modpo.core.trees import Tree, tree_batch
from modpo.kernels.tree_attention import tree_attention, tree_logits

# Llama and the families that differ from it in their norms, heads, positions, fused layers or factors.
SUPPORTED = ("gemma", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3")
VOCABULARY = 101
SIZES = {
    **{"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
# What a family needs beside `SIZES`. Names that it does not know do nothing.
SETTINGS: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 1.0},
    "gemma": {"head_dim": 8, "num_key_value_heads": 1},
    "gemma2": {"head_dim": 8},
    "gptj": {"rotary_dim": 4},
    "mistral": {"sliding_window": None},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "qwen3": {"head_dim": 8},
    "roberta": {"is_decoder": True},
}
# Families that compute their norms in float32, whatever the model's dtype.
FLOAT32_NORMS = ("RMSNorm", "CohereLayerNorm")


def tiny_config(family: str, **settings: Any) -> Any:
    return AutoConfig.for_model(family, **(SIZES | SETTINGS.get(family, {}) | settings))


def tiny_model(config: Any) -> PreTrainedModel:
    """In float64 and eval mode, with weights so large that its logits are far from uniform.

    Norms that would round to float32, and gradients to 1e-6 with it, are replaced: both routes have the same ones.
    """
    model = AutoModelForCausalLM.from_config(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        mean, std = (0.0, 0.2) if parameter.dim() > 1 else (0.8, 0.2)
        torch.nn.init.normal_(parameter, mean, std, generator=generator)
    for module in model.modules():
        if type(module).__name__.endswith(FLOAT32_NORMS):
            module.forward = _float64_norm.__get__(module)
    assert isinstance(model, PreTrainedModel)
    return model


def _float64_norm(self: Any, hidden: Tensor) -> Tensor:
    normed: Tensor = self.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)
    return normed


def random_trees(num_responses: Sequence[int], *, seed: int = 0, max_length: int = 9) -> list[Tree]:
    """One tree for each number, of random tokens and lengths from 1."""
    generator = torch.Generator().manual_seed(seed)

    def tokens() -> tuple[int, ...]:
        length = int(torch.randint(1, max_length + 1, (), generator=generator))
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())

    return [Tree(tokens(), tuple(tokens() for _ in range(number))) for number in num_responses]


def packed_logps(model: torch.nn.Module, trees: Sequence[Tree]) -> Tensor:
    """Log-probabilities of all response tokens (R,), in the order of the trees; inside `tree_attention`."""
    batch = tree_batch(trees)
    return _of_targets(tree_logits(model, batch), batch.targets)


def one_by_one_logps(model: torch.nn.Module, trees: Sequence[Tree]) -> Tensor:
    """The same, each response behind its prompt in a forward pass of its own."""
    logps = []
    for prompt, response in ((tree.prompt_ids, ids) for tree in trees for ids in tree.response_ids):
        row = torch.tensor([[*prompt, *response]])
        logits = model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits[0]
        logps.append(_of_targets(logits[len(prompt) - 1 : -1], torch.tensor(response)))
    return torch.cat(logps)


def _of_targets(logits: Tensor, targets: Tensor) -> Tensor:
    assert logits.dtype == torch.float64
    return torch.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def gradients(model: torch.nn.Module, logps: Tensor) -> dict[str, Tensor]:
    """Gradients of a sum in which every token has a weight of its own, by the names of the parameters that have one."""
    model.zero_grad()
    (torch.linspace(-1, 1, len(logps), dtype=logps.dtype) * logps).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def both_routes(model: torch.nn.Module, trees: Sequence[Tree]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Log-probabilities and gradients, packed and one by one."""
    with tree_attention(model):
        logps = packed_logps(model, trees)
        packed = logps.detach(), gradients(model, logps)
    logps = one_by_one_logps(model, trees)
    return [packed, (logps.detach(), gradients(model, logps))]


def assert_routes_agree(model: torch.nn.Module, trees: Sequence[Tree]) -> None:
    """To 1e-10, in nats and in every gradient."""
    (packed, packed_gradients), (single, single_gradients) = both_routes(model, trees)
    assert single.std() > 0.5
    worst = max(float((packed_gradients[name] - single_gradients[name]).abs().max()) for name in single_gradients)
    print(f"log-probabilities {float((packed - single).abs().max()):.1e}, gradients {worst:.1e}")
    assert torch.allclose(packed, single, rtol=0, atol=1e-10)
    assert packed_gradients.keys() == single_gradients.keys() != set()
    for name, gradient in single_gradients.items():
        # A bias of the keys moves all scores of a query alike.
        assert gradient.abs().max() > 1e-4 or name.endswith("k_proj.bias"), f"{name} does not matter"
        assert torch.allclose(packed_gradients[name], gradient, rtol=0, atol=1e-10), name
