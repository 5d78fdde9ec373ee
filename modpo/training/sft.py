"""Supervised fine-tuning of the start model: what every trial then starts from and is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from modpo.artifacts import is_complete, writing
from modpo.config.spec import Work
from modpo.config.tree import SweepConfig
from modpo.data.prepared import read_sft
from modpo.data.tokenize import load_tokenizer, save_tokenizer
from modpo.models import DTYPES, attach_adapter, checkpoint_activations, load_model, save_trained
from modpo.scoring import ResponseModel
from modpo.training.batches import text_batch
from modpo.training.checkpoint import Checkpoints
from modpo.training.engine import DeepSpeedEngine
from modpo.training.loop import Hook, Training, train
from modpo.training.process_group import barrier
from modpo.training.step import MicroBatchResult, TrainEngine, sft_micro_batch
from modpo.utilisation import known_peak, known_shape

Parameters = dict[str, torch.Tensor]


def train_sft(work: Work, *, hooks: Sequence[Hook] = ()) -> int:
    """Fine-tunes on the prepared texts; commits a full model with its tokenizer to `work.output`.

    All ranks call it. Returns the number of steps.
    """
    config = work.config
    assert config.sft is not None, "sft work needs an sft section"
    model = load_model(config.model)
    policy = model if config.sft.lora is None else attach_adapter(model, config.sft.lora, seed=config.seed)
    if config.sft.gradient_checkpointing:
        checkpoint_activations(model)
    tokenizer = load_tokenizer(str(Path(work.inputs.prepared) / "tokenizer"))
    texts = read_sft(Path(work.inputs.prepared))
    shape = known_shape(policy, longest=config.longest_sequence)
    torch.manual_seed(config.seed)
    engine: TrainEngine = DeepSpeedEngine(
        ResponseModel(policy, longest=config.longest_sequence),
        config.sft,
        num_workers=config.resources.num_workers,
        trained=policy,
    )

    def micro_batch(model: torch.nn.Module, rows: list[int]) -> MicroBatchResult:
        return sft_micro_batch(model, text_batch(texts, rows, engine.device), shape)

    output = Path(work.output)
    try:
        steps = train(
            engine,
            Training(
                settings=config.sft,
                micro_batch=micro_batch,
                num_rows=len(texts),
                seed=config.seed,
                checkpoints=Checkpoints(Path(work.run_dir) / "work" / work.work_id, work.work_id, engine.rank),
                hooks=hooks,
                peak_flops_per_second=known_peak(shape, engine.device, DTYPES[config.model.dtype]),
            ),
        )
        parameters = engine.parameters()
        if engine.rank == 0 and not is_complete(output):
            with writing(output, {"stage": "start_model", "step": steps}) as aside:
                _save_start_model(config, engine.module, aside, parameters)
                save_tokenizer(tokenizer, aside)
        barrier()
    finally:
        engine.close()
    return steps


def _save_start_model(config: SweepConfig, module: torch.nn.Module, folder: Path, parameters: Parameters) -> None:
    """A full model either way: an adapter is merged, so that trials put theirs on a plain base.

    Of a model in 4 bits too: the adapter goes into the weights as they are on disk, and every later stage makes 4 bits
    of the sum.
    """
    assert config.sft is not None
    if config.sft.lora is None:
        save_trained(module, folder, parameters)
        return
    # On a fresh model: under ZeRO 3 the trained one has its weights spread over the ranks.
    plain = config.model.model_copy(update={"load_in_4bit": False})
    policy = attach_adapter(load_model(plain), config.sft.lora, seed=config.seed)
    for name, parameter in policy.named_parameters():
        if name in parameters:
            parameter.data.copy_(parameters[name])
    policy.merge_and_unload().save_pretrained(folder)
