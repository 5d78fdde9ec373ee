"""What is written is what safetensors reads, and the digest is that of the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modpo.artifacts import file_sha256
from modpo.training.tensor_file import DTYPES, write_tensors
from tests.acceptance.bits import differing

GENERATOR = torch.Generator().manual_seed(0)
MIXED = {
    "bytes": torch.arange(7, dtype=torch.uint8),
    "wide": torch.randn(3, 5, generator=GENERATOR, dtype=torch.float64),
    "numbers": torch.randn(2, 3, 4, generator=GENERATOR),
    "one": torch.tensor(1.5),
    "none": torch.empty(0, 4),
    "half": torch.randn(9, generator=GENERATOR).bfloat16(),
    'ünïcode "quoted"': torch.arange(4),
}


@pytest.mark.parametrize("tensors", [MIXED, {"only": torch.zeros(1)}, {}], ids=["mixed", "one", "none"])
def test_the_library_reads_the_same_bits(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "t.safetensors"
    digest = write_tensors(path, tensors)
    assert differing(load_file(path), tensors) == 0
    assert digest.result() == file_sha256(path)


def test_every_tensor_starts_at_a_multiple_of_its_width(tmp_path: Path) -> None:
    """A mapped file is read in place, which types wider than a byte cannot be from everywhere."""
    write_tensors(tmp_path / "t", MIXED).result()
    content = (tmp_path / "t").read_bytes()
    length = int.from_bytes(content[:8], "little")
    starts = {name: entry["data_offsets"][0] for name, entry in json.loads(content[8 : 8 + length]).items()}
    assert length % 8 == 0
    assert all(starts[name] % tensor.element_size() == 0 for name, tensor in MIXED.items())


def test_views_are_written_as_what_they_show(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    write_tensors(tmp_path / "t", {"t": matrix.T, "column": matrix[:, 1]})
    loaded = load_file(tmp_path / "t")
    assert loaded["t"].tolist() == [[0, 3], [1, 4], [2, 5]] and loaded["column"].tolist() == [1, 4]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"t": torch.tensor([[0, 1], [2, 3]]).to(dtype)}
    write_tensors(tmp_path / "t", tensors)
    assert differing(load_file(tmp_path / "t"), tensors) == 0
