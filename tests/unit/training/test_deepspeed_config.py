"""What DeepSpeed is told: the sweep file decides, a user's own file adds, and neither is edited."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest

from modpo.config.optimisation import OptimisationConfig
from modpo.core.memory import REDUCE_BUCKET
from modpo.training.deepspeed_config import deepspeed_config as with_numbers

deepspeed_config = partial(with_numbers, micro_batches=5, num_trained=1000)


def settings(**deepspeed: Any) -> OptimisationConfig:
    return OptimisationConfig.model_validate(
        {
            "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": 5,
            "max_grad_norm": 0.7,
            "deepspeed": deepspeed,
        }
    )


def test_sweep_file_alone() -> None:
    config = deepspeed_config(settings(stage=2), low_precision=False)
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert config["gradient_accumulation_steps"] == 5
    assert config["gradient_clipping"] == 0.7
    assert config["bf16"] == {"enabled": False}
    assert config["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1000}
    assert "train_batch_size" not in config, "it is the product with the world size, which DeepSpeed knows"


def test_no_more_room_is_made_for_reducing_than_there_are_numbers() -> None:
    """DeepSpeed would take 2 GB for the gradients of the smallest adapter."""
    for trained, room in ((7, 7), (REDUCE_BUCKET + 1, REDUCE_BUCKET)):
        config = with_numbers(settings(stage=1), micro_batches=1, num_trained=trained, low_precision=False)
        assert config["zero_optimization"]["reduce_bucket_size"] == room


def test_low_precision_weights_get_a_float32_master() -> None:
    assert deepspeed_config(settings(), low_precision=True)["bf16"] == {"enabled": True}


@pytest.mark.parametrize(
    ("offload", "expected"),
    [
        ({}, {}),
        ({"optimizer": True}, {"offload_optimizer": {"device": "cpu"}}),
        ({"parameters": True}, {"offload_param": {"device": "cpu"}}),
    ],
)
def test_offload_goes_to_host_memory(offload: dict[str, bool], expected: dict[str, Any]) -> None:
    assert (
        deepspeed_config(settings(stage=3, offload=offload), low_precision=False)["zero_optimization"]
        == {"stage": 3, "reduce_bucket_size": 1000} | expected
    )


def test_users_file_cannot_contradict_the_sweep_file() -> None:
    """Batch sizes, clipping, precision, optimiser and schedule are the sweep file's; everything else is kept."""
    user = {
        "train_batch_size": 999,
        "train_micro_batch_size_per_gpu": 999,
        "gradient_accumulation_steps": 999,
        "gradient_clipping": 999,
        "fp16": {"enabled": True},
        "bf16": {"enabled": True},
        "optimizer": {"type": "SGD"},
        "scheduler": {"type": "OneCycle"},
        "wall_clock_breakdown": True,
        "zero_optimization": {"stage": 1, "overlap_comm": True, "reduce_bucket_size": 5},
    }
    config = deepspeed_config(settings(stage=2), low_precision=False, user=user)
    alone = deepspeed_config(settings(stage=2), low_precision=False)
    kept = {name: user[name] for name in ("wall_clock_breakdown", "zero_optimization")}
    assert config == {**alone, **kept}


def test_auto_as_in_files_for_the_hugging_face_trainer_means_the_default() -> None:
    user = {
        "train_micro_batch_size_per_gpu": "auto",
        "zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto", "overlap_comm": True},
    }
    config = deepspeed_config(settings(stage=1), low_precision=False, user=user)
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert config["zero_optimization"] == {"stage": 1, "overlap_comm": True, "reduce_bucket_size": 1000}


def test_users_file_is_not_edited() -> None:
    user = {"fp16": {"enabled": True}, "zero_optimization": {"overlap_comm": True}}
    before = copy.deepcopy(user)
    config = deepspeed_config(settings(stage=1, offload={"optimizer": True}), low_precision=False, user=user)
    config["zero_optimization"]["stage"] = 7
    assert user == before
