"""One DPO training by TRL alone: `python -m tests.pipeline.trl_dpo START PAIRS OUTPUT SETTINGS`.

Its own columns, tokenisation, collator, reference, loss, loop and shuffling; of modpo only the pairs, as texts.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def main(start: Path, pairs: Path, output: Path, settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32),
            ref_model=AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32),
            args=DPOConfig(
                output_dir=scratch,
                bf16=False,
                gradient_checkpointing=False,
                max_length=None,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                **settings,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(start),
        )
        trainer.train()
        trainer.model.save_pretrained(output)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), json.loads(sys.argv[4]))
