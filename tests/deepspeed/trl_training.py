"""TRL's DPOTrainer on the pairs of a point: it knows no margins, so it gets the reference that the margins imply.

With r~_j = r_j / s_j, ref' = ref + w_-k . r~_-k / beta and beta' = s_k beta / w_k, DPO's logit is MODPO's:

    beta' Delta log(pi / ref') = (s_k / w_k) [beta Delta log(pi / ref) - w_-k . Delta r~_-k].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from peft import LoraConfig as PeftLoraConfig
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import DPOConfig, DPOTrainer

from modpo.config import SweepConfig
from modpo.config.spec import Work
from modpo.training.batches import AnnotatedPairs, read_units
from modpo.training.schedule import SampleOrder
from tests.deepspeed.trainings import DEVICE, GLOBAL_BATCH_SIZE, annotated_pairs


@dataclass(frozen=True)
class TrlOutcome:
    """Each step's loss and gradient norm before clipping, and the trained weights at the start and at the end."""

    losses: list[float]
    grad_norms: list[float]
    start: dict[str, Tensor]
    parameters: dict[str, Tensor]


class NotingTrainer(DPOTrainer):  # type: ignore[misc]
    """Takes the pairs in the order in which they stand, and notes every loss in full precision."""

    noted: list[float]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().compute_loss(*args, **kwargs)
        self.noted.append(loss.item())
        return loss


def trl_training(run_dir: Path, work: Work, folder: Path, *, sign: float = 1.0) -> TrlOutcome:
    """The steps of our loop taken by TRL, from texts on: it reads, pads, scores its reference and trains by itself.

    Args:
        sign: of the margins; -1 gives the reference that they do not imply.
    """
    config, data = work.config, annotated_pairs(run_dir, work)
    assert config.training.max_steps is not None
    assert work.trial is not None
    order = SampleOrder(len(data), seed=0).indices(0, config.training.max_steps * GLOBAL_BATCH_SIZE)
    fixed = read_units(Path(work.inputs.rewards))
    units = [fixed[name] for name in config.objective_names]
    primary, weights = work.trial.primary, work.trial.weights
    assert primary is not None
    trainer = started_trainer(
        run_dir,
        config,
        dataset(run_dir, data, order),
        folder,
        beta=units[primary] * config.training.beta / weights[primary],
    )
    check_tokens(trainer, data, order)
    shift_reference(trainer, sign * implied_shift(data, order, work, units))
    start = trained_weights(trainer.model)
    trainer.remove_callback(PrinterCallback)
    trainer.noted = []
    trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    return TrlOutcome(trainer.noted, norms, start, trained_weights(trainer.model))


def dataset(run_dir: Path, data: AnnotatedPairs, order: Sequence[int]) -> Dataset:
    """Texts: the demo's tokens are words, and TRL's own reading of them is checked."""
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "start")
    rows = []
    for tree in data.table.trees(data.rows[np.asarray(order)]):
        prompt, chosen, rejected = map(tokenizer.decode, (tree.prompt_ids, *tree.response_ids))
        rows.append({"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"})
    return Dataset.from_list(rows)


def started_trainer(run_dir: Path, config: SweepConfig, rows: Dataset, folder: Path, *, beta: float) -> NotingTrainer:
    """On disk first, as TRL stores what it precomputes beside its data."""
    training, lora = config.training, config.model.lora
    rows.save_to_disk(str(folder / "pairs"))
    model = AutoModelForCausalLM.from_pretrained(run_dir / "start", dtype=torch.float32)
    trained = [] if lora else list(model.parameters())
    # TRL's own optimiser leaves the norms' weights undecayed; an adapter has none.
    own = torch.optim.AdamW(trained, lr=training.learning_rate, weight_decay=training.weight_decay) if trained else None
    return NotingTrainer(
        model=model,
        args=DPOConfig(
            output_dir=str(folder / "output"),
            beta=beta,
            precompute_ref_log_probs=True,
            per_device_train_batch_size=GLOBAL_BATCH_SIZE,
            num_train_epochs=1,
            learning_rate=training.learning_rate,
            lr_scheduler_type="linear",
            optim="adamw_torch",
            weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm,
            max_length=None,
            bf16=False,
            gradient_checkpointing=False,
            seed=0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=DEVICE.type == "cpu",
        ),
        train_dataset=Dataset.load_from_disk(str(folder / "pairs")),
        processing_class=AutoTokenizer.from_pretrained(run_dir / "start"),
        optimizers=(own, None),
        peft_config=None
        if lora is None
        else PeftLoraConfig(
            r=lora.r, lora_alpha=lora.lora_alpha, target_modules=lora.target_modules, task_type="CAUSAL_LM"
        ),
    )


def check_tokens(trainer: NotingTrainer, data: AnnotatedPairs, order: Sequence[int]) -> None:
    """TRL has read the very tokens that we train on."""
    found = (trainer.train_dataset[column] for column in ("prompt_ids", "chosen_ids", "rejected_ids"))
    read = [tuple(map(tuple, ids)) for ids in zip(*found, strict=True)]
    assert read == [(tree.prompt_ids, *tree.response_ids) for tree in data.table.trees(data.rows[np.asarray(order)])]


def implied_shift(
    data: AnnotatedPairs, order: Sequence[int], work: Work, units: Sequence[float]
) -> NDArray[np.float64]:
    """What the margins add to each reference log-probability, (pairs, 2)."""
    assert work.trial is not None
    shift = np.zeros((len(order), 2))
    for objective, (weight, unit) in enumerate(zip(work.trial.weights, units, strict=True)):
        values = data.margin_rewards[objective]
        if objective != work.trial.primary and values is not None:
            shift += weight / unit * values[data.rows[np.asarray(order)]]
    return shift / work.config.training.beta


def shift_reference(trainer: NotingTrainer, shift: NDArray[np.float64]) -> None:
    """Adds to the columns that TRL precomputed."""
    for side, column in enumerate(("ref_chosen_logps", "ref_rejected_logps")):
        moved = (np.asarray(trainer.train_dataset[column], dtype=np.float64) + shift[:, side]).tolist()
        trainer.train_dataset = trainer.train_dataset.remove_columns(column).add_column(column, moved)


def trained_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}
