"""Causal language models: loading, adapters, and padded forward passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from modpo.config.quantised import not_installed
from modpo.config.tree import LoraConfig, ModelConfig
from modpo.core.batch import IGNORED_LABEL, SequenceBatch
from modpo.core.logps import response_logps
from modpo.core.memory import ModelTensors
from modpo.errors import InputError, SetupError, shown
from modpo.kernels.tree_attention import checkpoint_context
from modpo.model_configs import not_loadable, read_config
from modpo.model_files import UNLOADABLE, loading_problem

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
POLICY_ADAPTER = "default"

Tokens = Sequence[int]


def load_model(config: ModelConfig, *, path: str | None = None) -> PreTrainedModel:
    """The start model (or another of its kind at `path`), frozen weights in the config's dtype, in eval mode.

    A model in 4 bits is made from files in any precision, on this process's own GPU where there is one.

    Raises:
        InputError: it cannot be loaded as a causal language model.
        SetupError: it is to be in 4 bits, and the package for that is not installed.
    """
    name = path or config.name_or_path
    try:
        # A config object of its own: transformers writes the attention kernel into it, and would share it.
        model_config = copy.deepcopy(read_config(name, config.revision))
        model = AutoModelForCausalLM.from_pretrained(
            name,
            revision=config.revision,
            trust_remote_code=False,
            config=model_config,
            dtype=DTYPES[config.dtype],
            attn_implementation=config.attn_implementation,
            quantization_config=quantisation(config),
        )
    except UNLOADABLE as error:
        raise InputError(loading_problem(not_loadable(str(error)), error, shown(name))) from error
    except ImportError as error:
        if config.load_in_4bit:
            raise SetupError(not_installed()) from error
        raise
    return model.eval()


def quantisation(config: ModelConfig) -> BitsAndBytesConfig | None:
    """How the frozen weights are stored, for transformers; None for weights in their own precision.

    PEFT's `prepare_model_for_kbit_training` is not called: it would make float32 of the embeddings, the output
    embeddings and the norms, and have a gradient computed below the first layer. An adapter freezes the rest by itself.
    """
    if not config.load_in_4bit:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[config.dtype],
    )


def policy_tensors(config: ModelConfig, *, path: str | None = None) -> ModelTensors:
    """Sizes of the tensors of the policy that is trained, from the model's config alone and without their memory.

    Raises:
        OSError: the model is neither on disk nor on a hub that can be reached.
        ValueError: it is no causal language model, or PEFT finds nothing to adapt.
    """
    name = path or config.name_or_path
    found = copy.deepcopy(AutoConfig.from_pretrained(name, revision=config.revision, trust_remote_code=False))
    dtype = DTYPES[config.dtype]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(found, dtype=dtype)
        layers = {
            name
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
        }
        quantised = sum(model.get_submodule(name).weight.numel() for name in layers) if config.load_in_4bit else 0
        policy: torch.nn.Module = model
        if config.lora is not None:
            policy = attach_adapter(model, config.lora, seed=0)
    trained = [parameter.numel() for parameter in policy.parameters() if parameter.requires_grad]
    frozen = [parameter.numel() for parameter in policy.parameters() if not parameter.requires_grad]
    if quantised:
        frozen = [sum(frozen) - quantised]
    text = found.get_text_config()
    return ModelTensors(
        trained=tuple(trained),
        frozen=tuple(frozen),
        quantised=quantised,
        dtype_bytes=dtype.itemsize,
        trained_bytes=4 if config.lora is not None else dtype.itemsize,
        hidden=text.hidden_size,
        inner=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        layers=text.num_hidden_layers,
        vocabulary=text.vocab_size,
    )


def attach_adapter(model: PreTrainedModel, lora: LoraConfig, *, seed: int) -> PeftModel:
    """A fresh LoRA adapter whose B matrices are zero: the policy starts at the reference.

    The adapter's weights are float32 whatever the model's dtype: they are their own master copy.
    """
    targets: Any = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    torch.manual_seed(seed)
    return get_peft_model(
        model,
        PeftLoraConfig(
            r=lora.r,
            lora_alpha=lora.lora_alpha,  # PEFT divides it by r; fractions are fine
            lora_dropout=lora.lora_dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
            # GPT-2's layers hold their weights the other way round.
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        ),
        adapter_name=POLICY_ADAPTER,
    )


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Recompute activations in the backward pass; non-reentrant, which needs no gradient at frozen embeddings."""
    again = {"use_reentrant": False, "context_fn": partial(checkpoint_context, model)}
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=again)


@dataclass(frozen=True)
class TrainedModel:
    """A trained policy and the reference it started from; `reference` switches an adapter off for a block.

    Attributes:
        is_start: the policy is the reference itself, which need not be run twice.
    """

    policy: PreTrainedModel
    reference: Callable[[], AbstractContextManager[PreTrainedModel]]
    is_start: bool = False


@contextmanager
def trained_model(base: PreTrainedModel, config: ModelConfig, folder: Path) -> Iterator[TrainedModel]:
    """What a training left in `folder`, for the length of a block in which `base` must not be used otherwise.

    An adapter is put into `base` and taken out again; a full model is loaded beside it.
    """
    if not is_adapter(folder):
        yield TrainedModel(load_model(config, path=str(folder)).to(base.device), lambda: nullcontext(base))
        return
    wrapped = PeftModel.from_pretrained(base, str(folder), adapter_name=POLICY_ADAPTER, is_trainable=False).eval()

    @contextmanager
    def without_adapter() -> Iterator[PreTrainedModel]:
        with wrapped.disable_adapter():
            yield base

    try:
        # The base with adapter layers inside: it generates and scores like any other model.
        yield TrainedModel(base, without_adapter)
    finally:
        wrapped.unload()


def plain_model(policy: torch.nn.Module) -> PreTrainedModel:
    """The model inside a policy in training, adapter layers included: it generates like any other model."""
    model = policy.get_base_model() if isinstance(policy, PeftModel) else policy
    assert isinstance(model, PreTrainedModel), f"cannot sample from a {type(model).__name__}"
    return model


def save_trained(module: torch.nn.Module, folder: Path, parameters: dict[str, Tensor]) -> None:
    """Writes trained parameters (full float32, by name) in Hugging Face's layout.

    An adapter keeps its float32; a full model is written in its own dtype.
    """
    assert isinstance(module, PeftModel | PreTrainedModel), f"cannot save a {type(module).__name__}"
    if isinstance(module, PeftModel):
        module.save_pretrained(str(folder), state_dict=parameters)
    else:
        module.save_pretrained(folder, state_dict={name: t.to(module.dtype) for name, t in parameters.items()})


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def make_sequences(prompts: Sequence[Tokens], responses: Sequence[Tokens], *, pad_token_id: int) -> SequenceBatch:
    """Right-padded rows `[prompt | response]`, labels on the response."""
    length = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    shape = (len(prompts), length)
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED_LABEL, dtype=torch.long)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        input_ids[row, :end] = torch.tensor([*prompt, *response])
        attention_mask[row, :end] = 1
        labels[row, len(prompt) : end] = input_ids[row, len(prompt) : end]
    return SequenceBatch(input_ids, attention_mask, labels)


def sequence_logits(model: torch.nn.Module, batch: SequenceBatch) -> Tensor:
    """One forward pass: (N, T, V) logits."""
    output: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    return output


def sequence_logps(model: torch.nn.Module, batch: SequenceBatch) -> Tensor:
    """Response log-probabilities (N,), float64 nats, of padded sequences."""
    return response_logps(sequence_logits(model, batch), batch.labels)


def to_device(batch: SequenceBatch, device: torch.device) -> SequenceBatch:
    return SequenceBatch(*(t.to(device) for t in (batch.input_ids, batch.attention_mask, batch.labels)))
