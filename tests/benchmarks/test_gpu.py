"""The GPU benchmark's own code, on a tiny model and on whatever device is there."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import CASES, LENGTHS, LONGEST, TINY_CASES, PaddedModel, random_policy
from modpo.core.trees import tree_batch
from modpo.scoring import ResponseModel
from modpo.utilisation import matmul_shape

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
CPU = torch.device("cpu")


def run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)


def test_a_row_for_every_case_and_every_distribution_of_lengths(repository: Path, tmp_path: Path) -> None:
    done = run(repository, "--tiny", "--steps", "2", "--results", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    expected = [(case.name, lengths) for case in TINY_CASES for lengths in LENGTHS]
    assert [(row["case"], row["lengths"]) for row in found["rows"]] == expected
    for row in found["rows"]:
        # How large a share it is on a CPU in bfloat16, and of a peak that was measured in a busy moment, says nothing.
        assert row["tokens_per_s"] > 0 and 0 <= row["percent_of_peak"] < math.inf
    assert len(found["ratios"]) == 2 * len(expected)
    assert all(ratio["low"] <= ratio["median"] <= ratio["high"] for ratio in found["ratios"].values())
    assert found["matmul_peak_tflops"] > 0 and found["commit"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: it would be measured")
def test_without_a_gpu_it_says_so(repository: Path, tmp_path: Path) -> None:
    done = run(repository, "--results", str(tmp_path / "gpu.json"))
    assert done.returncode == 4
    assert done.stderr == "no CUDA device: this benchmark needs one, and --tiny runs its code on the CPU\n"
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.parametrize(("case", "passes"), [(TINY_CASES[0], 4), (TINY_CASES[1], 1)], ids=["adapter", "all weights"])
def test_both_ways_score_the_same_pairs(case: Any, passes: int) -> None:
    """The padded one after three more passes, where another model than the policy is an adapter switched off."""
    policy = random_policy(case, CPU).float()
    batch = tree_batch(case.pairs("qa", 0))
    calls: list[object] = []
    embeddings = next(module for module in policy.modules() if isinstance(module, torch.nn.Embedding))
    handle = embeddings.register_forward_hook(lambda *call: calls.append(call[2]))
    padded = PaddedModel(policy)(batch)
    handle.remove()
    packed = ResponseModel(policy, longest=LONGEST)(batch)
    assert padded.requires_grad and packed.requires_grad
    assert len(calls) == passes
    torch.testing.assert_close(padded, packed, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("name", "weights"), [("7b", 6_738_415_616), ("1b", 1_235_814_400)])
def test_shapes_are_those_of_the_models_they_are_named_after(name: str, weights: int) -> None:
    """Parameters as Llama-2-7B and Llama-3.2-1B publish them, counted without any storage."""
    config = next(case for case in CASES if case.shape == name).config
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights
    head = config.vocab_size * config.hidden_size
    assert model.get_output_embeddings().weight.numel() == head


def test_operations_of_the_adapter_case_by_hand() -> None:
    """Two layers of width 64: q, k, v, o of 64 x 64, three of 64 x 172, and four adapters of 64 x 64 twice."""
    shape = matmul_shape(random_policy(TINY_CASES[0], CPU))
    assert shape.layers == 2 * (4 * 64 * 64 + 3 * 64 * 172 + 4 * 2 * 64 * 64)
    assert shape.trained == 2 * 4 * 2 * 64 * 64 and not shape.head_trains
