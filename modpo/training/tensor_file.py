"""Tensors in a safetensors file, hashed while they are written.

safetensors' own writer tells nobody what it writes: the file would be read again for its SHA-256, which for a large
checkpoint takes as long as writing it. The format is a length, a JSON header and the tensors' bytes; reading is left to
the library, which checks all of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
ALIGNMENT = 8


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Future[str]:
    """Writes a file without waiting until the disk has it; another thread computes its SHA-256, and may take longer."""
    digest = hashlib.sha256()
    pool = ThreadPoolExecutor(1)
    with path.open("wb", buffering=0) as file:
        for part in _parts(tensors):
            # In the order of the parts: there is one thread.
            pool.submit(digest.update, part)
            _write_all(file, part)
            # The disk begins at once, and not when it is waited for; an error is still that of the fsync.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    result = pool.submit(digest.hexdigest)
    pool.shutdown(wait=False)
    return result


def _write_all(file: FileIO, part: bytes | memoryview) -> None:
    """One call of the system takes 2 GB at most."""
    left = memoryview(part)
    while left:
        left = left[file.write(left) :]


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    # Wide types first, as the library does: then each tensor starts at a multiple of its own width.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, dict[str, object]] = {}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
