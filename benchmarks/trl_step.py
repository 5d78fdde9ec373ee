"""TRL's own DPOTrainer on the pairs of a workload: its dataset columns, tokenisation, collator, loss and backward pass.

TRL has no margins, so its step is that of plain DPO: what it would cost anyone to have them comes on top.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig as PeftLoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.workloads import END, word
from modpo.config.tree import LoraConfig
from modpo.data.prepared import TokenisedPair


def is_installed() -> bool:
    return importlib.util.find_spec("trl") is not None


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Reads the words of `workloads.word` as the tokens that they stand for."""
    backend = Tokenizer(models.WordLevel({word(token): token for token in range(vocabulary)}, unk_token=word(1)))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=word(END), pad_token=word(END))


class TrlStep:
    """A trainer and its one batch.

    Args:
        model: TRL patches it and puts an adapter into it: a model of this step alone.
        precomputed: whether the reference's log-probabilities are computed before the training, as TRL can.
        folder: where TRL keeps what it precomputed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pairs: Sequence[TokenisedPair],
        *,
        lora: LoraConfig,
        beta: float,
        precomputed: bool,
        folder: Path,
    ) -> None:
        # Progress bars of trainer and data sets do not belong among the tables.
        with contextlib.redirect_stderr(io.StringIO()):
            from trl import DPOConfig, DPOTrainer  # noqa: PLC0415  # an extra, and seconds to import

            self._trainer = DPOTrainer(
                model=model,
                args=DPOConfig(
                    output_dir=str(folder),
                    beta=beta,
                    per_device_train_batch_size=len(pairs),
                    precompute_ref_log_probs=precomputed,
                    # As the others are measured: in float32, without recomputing activations, nothing cut.
                    bf16=False,
                    gradient_checkpointing=False,
                    max_length=None,
                    use_cpu=True,
                    report_to="none",
                    disable_tqdm=True,
                ),
                train_dataset=_dataset(pairs, folder),
                processing_class=word_tokenizer(model.config.vocab_size),
                peft_config=PeftLoraConfig(
                    r=lora.r,
                    lora_alpha=lora.lora_alpha,
                    target_modules=list(lora.target_modules),
                    task_type="CAUSAL_LM",
                ),
            )
            self.batch: dict[str, Tensor] = next(iter(self._trainer.get_train_dataloader()))
        self.policy: Any = self._trainer.model
        self.policy.train()

    def loss(self) -> Tensor:
        """The trainer's loss of the batch, with gradient."""
        loss: Tensor = self._trainer.compute_loss(self.policy, self.batch)
        return loss


def _dataset(pairs: Sequence[TokenisedPair], folder: Path) -> Dataset:
    """On disk, as precomputed columns are stored beside it. Words stand apart on both sides of the boundary."""
    rows = [{"prompt": pair.prompt, "chosen": f" {pair.chosen}", "rejected": f" {pair.rejected}"} for pair in pairs]
    path = Path(tempfile.mkdtemp(dir=folder)) / "pairs"
    Dataset.from_list(rows).save_to_disk(str(path))
    return Dataset.load_from_disk(str(path))
