"""Artefacts that run a canary when they are loaded by those who run what they load, planted wherever a run has files.

`hostile_artefacts` is also called where the figures of reliability are made.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modpo.config.tree import LoraConfig, ModelConfig
from modpo.data.pair_table import open_margin_rewards
from modpo.data.tokenize import load_tokenizer
from modpo.models import attach_adapter, load_model, trained_model
from tests.pipeline.bad_configs import BAD_CONFIGS, HOSTILE_NAMES, changed
from tests.pipeline.conftest import Shell
from tests.pipeline.grading import validated

# Files that programs of this field load by themselves where they find them.
BESIDE = (
    *("adapter_model.bin", "pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"),
    *("model.pt", "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt", "dataset.pkl"),
    *("tuner.pkl", "trainer.pkl", "searcher-state-x.pkl", "search_gen_state-x.json", ".is_checkpoint.pkl"),
)
WITH_CODE = ("an object that YAML would build", "a module that YAML would import")
PICKLED = {".pkl", ".pt", ".bin", ".pth"}


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, fired: Path) -> None:
        self.fired = fired

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, int]]:
        return os.open, (str(self.fired), os.O_CREAT)


@dataclass
class Found:
    """How many hostile artefacts there were, those that were executed, and those that wrote outside of their place."""

    tried: int = 0
    executed: list[str] = field(default_factory=list)
    escaped: list[str] = field(default_factory=list)


def pickled(fired: Path) -> bytes:
    return pickle.dumps(Canary(fired))


def torch_saved(fired: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": Canary(fired)}, file)
    return file.getvalue()


def plant(run: Path, fired: Path) -> int:
    """Puts hostile files beside everything that a run has, and in place of everything that is pickled there."""
    planted = 0
    for folder in [run, *(path for path in run.rglob("*") if path.is_dir() and not path.is_symlink())]:
        for name in BESIDE:
            content = torch_saved(fired) if Path(name).suffix in PICKLED - {".pkl"} else pickled(fired)
            (folder / name).write_bytes(content)
            planted += 1
    for path in run.rglob("*"):
        if path.is_file() and path.suffix == ".pkl" and path.name not in BESIDE:
            path.write_bytes(pickled(fired))
            planted += 1
    return planted


def commands_over(run: Path, *commands: str) -> Iterator[tuple[str, int]]:
    """Each command over a run with hostile files, with its exit status."""
    shell = Shell(run.parent.parent, timeout_s=800)
    for command in commands:
        argument = shell.folder / "sweep.yaml" if command in {"run", "plan"} else run
        yield command, shell.modpo(command, argument).returncode


def loaders(world: Path, folder: Path, fired: Path) -> dict[str, Callable[[], Any]]:
    """Everything that reads weights or arrays, over files that are hostile themselves."""
    config = ModelConfig(name_or_path=str(world / "model"), dtype="float32")
    weights, adapter, arrays = folder / "weights", folder / "adapter", folder / "arrays"
    shutil.copytree(world / "model", weights, ignore=shutil.ignore_patterns("*.safetensors"))
    (weights / "pytorch_model.bin").write_bytes(torch_saved(fired))
    attach_adapter(load_model(config), LoraConfig(r=2), seed=0).save_pretrained(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(torch_saved(fired))
    arrays.mkdir()
    np.save(arrays / "rewards_vivid.npy", np.array([[Canary(fired)]], dtype=object), allow_pickle=True)
    renamed = folder / "renamed"
    shutil.copytree(world / "model", renamed)
    (renamed / "model.safetensors").write_bytes(torch_saved(fired))

    def use_adapter() -> None:
        with trained_model(load_model(config), config, adapter):
            pass

    return {
        "weights that are pickled": lambda: load_model(config, path=str(weights)),
        "a pickle under another name": lambda: load_model(config, path=str(renamed)),
        "an adapter that is pickled": use_adapter,
        "an array of objects": lambda: open_margin_rewards(arrays, "vivid", num_pairs=1),
        "a tokenizer beside pickles": lambda: load_tokenizer(str(weights)),
    }


def hostile_artefacts(run: Path, world: Path, folder: Path) -> Found:
    """Pickles in a copy of a finished run, pickled weights, sweep files with code, and names that lead elsewhere.

    Args:
        run: `.../runs/NAME` of a run whose sweep file is `.../sweep.yaml`; it is only copied.
        folder: an empty one.
    """
    found = Found()
    _pickles(run, folder, found)
    _weights(world, folder, found)
    names_and_files(world, folder, found)
    return found


def _pickles(run: Path, folder: Path, found: Found) -> None:
    copied, fired = folder / "copied" / "runs" / run.name, folder / "fired"
    shutil.copytree(run.parent.parent, folder / "copied", symlinks=True)
    found.tried += plant(copied, fired)
    for command, _ in commands_over(copied, "status", "report", "run", "evaluate"):
        if fired.exists():
            found.executed.append(f"pickles: {command}")
            fired.unlink()


def _weights(world: Path, folder: Path, found: Found) -> None:
    fired = folder / "fired-by-weights"
    for name, load in loaders(world, folder, fired).items():
        found.tried += 1
        # Any refusal will do, as long as nothing is run.
        with suppress(Exception):
            load()
        if fired.exists():
            found.executed.append(name)
            fired.unlink()


def names_and_files(world: Path, folder: Path, found: Found) -> None:
    """Each hostile name for a run and for an objective, and sweep files that would run code."""
    inside = folder / "inside"
    inside.mkdir()
    cases = {name: BAD_CONFIGS[name].write(world) for name in WITH_CODE}
    for name in HOSTILE_NAMES:
        for what, path in (("run", ("name",)), ("objective", ("objectives", 0, "name"))):
            cases[f"the {what} {name!r}"] = changed(path, name)(world)
    before = _tree(folder)
    for name, config in cases.items():
        found.tried += 1
        if validated(config, inside).status == 0:
            found.escaped.append(name)
        (inside / "sweep.yaml").unlink()
        if left := _tree(folder) - before:
            found.escaped.append(f"{name}: {sorted(left)}")
            before |= left


def _tree(folder: Path) -> set[Path]:
    """Everything there, and beside it and at the root: where `..` and absolute names lead."""
    return {*folder.rglob("*"), *folder.parent.iterdir(), *Path("/").iterdir()}
