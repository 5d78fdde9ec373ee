"""The two sweeps that `modpo verify` runs: as configs, as anybody could write them.

Two objectives the way of the paper: all weights train on labels that are draws, and the margin is the implicit reward
of a DPO model. Three with what else can go wrong: adapters, functions as rewards, an objective to minimise, a unit that
is not 1, and a loss that reads the probability of a label.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modpo.config.load import parse_config
from modpo.config.tree import SweepConfig
from modpo.storage import address
from modpo.verification.table import OBJECTIVES, REWARDS

BETA = 0.5
UNITS = {"taste": 1.0, "health": 1.0, "thrift": 2.0}
NUM_OBJECTIVES = (2, 3)

TWO_OBJECTIVES: dict[str, Any] = {
    "objectives": [{"name": name} for name in OBJECTIVES[:2]],
    "sweep": {"weights": {"lattice": 4}},
    "training": {"loss_type": "sigmoid", "max_steps": 500, "per_device_train_batch_size": 128},
}
THREE_OBJECTIVES: dict[str, Any] = {
    "objectives": [
        {
            "name": name,
            "reward": {"type": "function", "function": f"{function.__module__}:{function.__name__}"},
            "direction": direction,
            "unit": UNITS[name],
        }
        for name, (function, direction) in REWARDS.items()
    ],
    "training": {"loss_type": "soft", "max_steps": 300, "per_device_train_batch_size": 64},
    "sweep": {
        "weights": {
            "list": [
                {"taste": 1.0},
                {"thrift": 1.0},
                {"taste": 0.5, "health": 0.5},
                {"taste": 0.5, "health": 0.3, "thrift": 0.2},
                {"taste": 0.2, "health": 0.2, "thrift": 0.6},
                {"taste": 0.3, "health": 0.4, "thrift": 0.3},
            ]
        }
    },
}


def verification_sweep(num_objectives: int, *, world: Path, storage_path: Path) -> SweepConfig:
    """The sweep over two or three objectives of the world in a folder."""
    own = TWO_OBJECTIVES if num_objectives == 2 else THREE_OBJECTIVES
    objectives = [o | {"pairs": {"path": str(world / f"{o['name']}.jsonl")}} for o in own["objectives"]]
    lora = None if num_objectives == 2 else {"r": 16, "lora_alpha": 32}
    return parse_config(
        {
            "name": f"verify-{num_objectives}",
            "storage_path": address(storage_path),
            "model": {"name_or_path": str(world / "model"), "dtype": "float32", "lora": lora},
            "data": {"template": "{prompt}\n", "max_length": 16, "eval_fraction": 0.1},
            "sft": {
                "data": {"path": str(world / "texts.jsonl")},
                "learning_rate": 3e-3,
                "max_steps": 300,
                "per_device_train_batch_size": 256,
            },
            "evaluation": {"num_prompts": 1, "samples_per_prompt": 64, "max_new_tokens": 4, "batch_size": 64},
            **own,
            "objectives": objectives,
            "training": {"beta": BETA, "learning_rate": 3e-3, "save_steps": 100, **own["training"]},
        }
    )
