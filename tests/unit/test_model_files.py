"""Code that a model, a tokenizer or a reward model brings along is not run, whoever loads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modpo.config.rewards import ClassifierSettings
from modpo.config.tree import ModelConfig
from modpo.data.tokenize import load_tokenizer
from modpo.errors import InputError
from modpo.model_configs import check_loadable, layer_size
from modpo.models import load_model
from modpo.rewards.classifier import ClassifierSource, check_classifier, load_classifier

CLASSES = {
    "config.json": {
        "AutoConfig": "canary.Config",
        "AutoModelForCausalLM": "canary.Model",
        "AutoModelForSequenceClassification": "canary.Model",
    },
    "tokenizer_config.json": {"AutoTokenizer": ["canary.Tokenizer", "canary.Tokenizer"]},
}


@pytest.fixture
def folder(demo_world: Path, tmp_path: Path) -> Path:
    """A model of a kind that transformers has not, with the code for it."""
    copy = tmp_path / "model"
    shutil.copytree(demo_world / "model", copy)
    for name, classes in CLASSES.items():
        settings = json.loads((copy / name).read_text(encoding="utf-8")) | {"auto_map": classes}
        settings |= (
            {"model_type": "nightingale"} if name == "config.json" else {"tokenizer_class": "NightingaleTokenizer"}
        )
        (copy / name).write_text(json.dumps(settings), encoding="utf-8")
    canary = f"from pathlib import Path\nPath({str(tmp_path / 'executed')!r}).touch()\n"
    (copy / "canary.py").write_text(canary, encoding="utf-8")
    return copy


def config(folder: Path) -> ModelConfig:
    return ModelConfig(name_or_path=str(folder), dtype="float32")


LOADERS: dict[str, Callable[[Path], Any]] = {
    "model": lambda folder: load_model(config(folder)),
    "check of the model": lambda folder: check_loadable(config(folder), longest=8),
    "tokenizer": lambda folder: load_tokenizer(str(folder)),
    "reward model": lambda folder: load_classifier(ClassifierSource(str(folder)), "cpu"),
    "check of the reward model": lambda folder: check_classifier(ClassifierSource(str(folder)), ClassifierSettings()),
}


@pytest.mark.parametrize("name", LOADERS)
def test_code_of_a_model_is_refused_by_name_and_not_run(name: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        LOADERS[name](folder)
    (problem,) = refused.value.problems
    assert (problem.code, problem.got) == ("MS-139", repr(str(folder)))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"hidden_size": "wide"}),
        ("config.json", {"num_attention_heads": 7}),
        ("config.json", {"vocab_size": None}),
        ("config.json", {"model_type": "unheard-of"}),
        ("tokenizer.json", None),
        ("tokenizer_config.json", {"eos_token": 5}),
    ],
)
def test_files_that_hold_nonsense_are_refused_in_words(
    name: str, changes: dict[str, Any] | None, demo_world: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(demo_world / "model", copy)
    before = json.loads((copy / name).read_text(encoding="utf-8"))
    (copy / name).write_text(json.dumps({} if changes is None else before | changes), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        check_loadable(config(copy), longest=8)
    assert refused.value.problems[0].code == ("MS-161" if name == "config.json" else "MS-211")


def test_the_size_of_a_layer_runs_no_code_either(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        layer_size(config(folder), path=str(folder))
    assert not (tmp_path / "executed").exists()


def test_the_canary_sings_where_code_is_trusted(folder: Path, tmp_path: Path) -> None:
    """Without this the tests above would pass with a canary that is never reached."""
    from transformers import AutoConfig

    with pytest.raises(AttributeError):
        AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (tmp_path / "executed").exists()
