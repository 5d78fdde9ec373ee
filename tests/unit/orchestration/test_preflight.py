"""What a sweep's data look like before anything starts: counts, lengths, one pair as the model sees it, warnings."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from transformers import BartConfig, BertConfig, LlamaConfig, PreTrainedConfig, T5Config, XLNetConfig

from modpo.errors import InputError, SetupError
from modpo.orchestration.preflight import Preflight, preflight
from modpo.tables import print_preflight
from tests.sweeps import raw_sweep


def checked(world: Path, tmp_path: Path, **sections: Any) -> Preflight:
    raw = raw_sweep(**{"data": {"template": "{prompt}\n", "eval_fraction": 0.2}, **sections})
    raw["model"]["name_or_path"] = str(world / "model")
    for objective in raw["objectives"]:
        if objective["pairs"] is not None:
            objective["pairs"] = {"path": str(world / f"{objective['name']}.jsonl")}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(raw))
    return preflight(path, overrides=[f"storage_path={tmp_path}"])


def one_sided(world: Path, tmp_path: Path, *vectors: dict[str, float], **training: Any) -> Preflight:
    """Only the first objective has pairs, so that it labels every point."""
    raw = raw_sweep()["objectives"]
    raw[1]["pairs"] = None
    return checked(world, tmp_path, objectives=raw, sweep={"weights": {"list": list(vectors)}}, training=training)


def printed(found: Preflight, tmp_path: Path) -> str:
    with (tmp_path / "printed.txt").open("w") as file:
        console = Console(width=240, record=True, file=file)
        print_preflight(console, found)
    return console.export_text()


def test_one_pair_as_the_model_sees_it(demo_world: Path, tmp_path: Path) -> None:
    """The demo's tokenizer knows words alone: the first row comes back with its end token, without line breaks."""
    title, prompt, chosen, rejected = checked(demo_world, tmp_path).sample
    assert title == f"first pair of vivid ({demo_world / 'vivid.jsonl'}:1), as the model sees it:"
    assert prompt.split(maxsplit=3)[:3] == ["prompt", "8", "tokens"]
    assert chosen.endswith("</s>'")
    assert rejected.endswith("</s>'")


def test_everything_that_was_counted_is_printed(demo_world: Path, tmp_path: Path) -> None:
    found = checked(demo_world, tmp_path, sft={"data": {"path": str(demo_world / "corpus.jsonl")}})
    text = printed(found, tmp_path)
    for name, loaded in found.data.objectives.items():
        (line,) = [line for line in text.splitlines() if line.split("│")[0].strip() == name]
        cells = [cell.strip() for cell in line.split("│")]
        assert cells[1:4] == [str(loaded.counts.rows), str(loaded.counts.pairs), str(loaded.counts.ties)]
        assert cells[-1] == f"{found.facts.longer_chosen[name]:.0%}"
    assert "texts to imitate: 400" in text
    assert text.rstrip().endswith("no problems found")


def test_texts_that_look_like_markup_are_printed_as_they_are(demo_world: Path, tmp_path: Path) -> None:
    found = checked(demo_world, tmp_path)
    marked = Preflight(found.config, found.data, found.facts, (), ("  prompt [red]hello[/red] [/]",))
    assert "  prompt [red]hello[/red] [/]" in printed(marked, tmp_path)


class TestTemplate:
    """Of a chat, whose generation prompt a response may or may not follow."""

    def found(self, world: Path, tmp_path: Path, generation: str, response: str = "{{ m.content }}") -> Preflight:
        copy = tmp_path / "world"
        shutil.copytree(world, copy)
        for name in ("vivid", "brief"):
            rows = [json.loads(line) for line in (world / f"{name}.jsonl").read_text().splitlines()]
            chats = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
            (copy / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
        chat = (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}"
            f" {response}{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{generation}{{% endif %}}"
        )
        (copy / "model" / "chat_template.jinja").write_text(chat)
        return checked(copy, tmp_path, data={"eval_fraction": 0.2})

    def test_a_text_that_no_answer_has_is_told(self, demo_world: Path, tmp_path: Path) -> None:
        """The word is one of the demo's vocabulary."""
        found = self.found(demo_world, tmp_path, " the")
        (warning,) = [warning for warning in found.warnings if warning.code == "MS-720"]
        assert (warning.where, warning.got) == (f"{tmp_path / 'world' / 'vivid.jsonl'}:1", "'the'")

    @pytest.mark.parametrize(("generation", "response"), [("", "{{ m.content }}"), (" the", "the {{ m.content }}")])
    def test_a_text_that_answers_have_is_not(
        self, demo_world: Path, tmp_path: Path, generation: str, response: str
    ) -> None:
        found = self.found(demo_world, tmp_path, generation, response)
        assert [warning for warning in found.warnings if warning.code == "MS-720"] == []


class TestSmallWeights:
    def test_a_point_whose_labels_count_little(self, demo_world: Path, tmp_path: Path) -> None:
        found = one_sided(demo_world, tmp_path, {"vivid": 0.1, "brief": 0.9}, {"vivid": 0.2, "brief": 0.8})
        (warning,) = [warning for warning in found.warnings if warning.code == "MS-719"]
        assert warning.where == "vivid: 0.1, brief: 0.9"
        assert warning.got == "0.1 for vivid: 100 times the curvature of DPO"
        assert "warning[MS-719]: the primary objective of a point has little weight" in printed(found, tmp_path)

    def test_a_regression_divides_by_no_weight(self, demo_world: Path, tmp_path: Path) -> None:
        found = one_sided(demo_world, tmp_path, {"vivid": 0.1, "brief": 0.9}, loss_type="regression")
        assert [warning for warning in found.warnings if warning.code == "MS-719"] == []

    @pytest.mark.parametrize("lattice", [4, 20])
    def test_auto_keeps_the_weight_at_one_half_where_both_have_pairs(
        self, demo_world: Path, tmp_path: Path, lattice: int
    ) -> None:
        found = checked(demo_world, tmp_path, sweep={"weights": {"lattice": lattice}})
        assert [warning for warning in found.warnings if warning.code == "MS-719"] == []


def test_a_model_in_4_bits_on_a_machine_without_gpus(
    demo_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SetupError) as caught:
        checked(demo_world, tmp_path, model={"load_in_4bit": True})
    missing = [] if importlib.util.find_spec("bitsandbytes") else ["MS-404"]
    assert [problem.code for problem in caught.value.problems] == ["MS-403", *missing]
    assert caught.value.exit_status == 4


# Its positions turn by the longest sequence of a batch, from 64 tokens on.
DYNAMIC = LlamaConfig(max_position_embeddings=64, rope_parameters={"rope_type": "dynamic", "factor": 2.0})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (T5Config(), "t5 models have an encoder, which sees the prompt only."),
        (BartConfig(), "bart models have an encoder, which sees the prompt only."),
        (BertConfig(), "bert models let tokens see later ones."),
        (XLNetConfig(), "xlnet models let tokens see later ones."),
        (DYNAMIC, "llama models turn all positions of a row differently once a sequence in it exceeds 64 tokens"),
    ],
    ids=lambda value: value.model_type if isinstance(value, PreTrainedConfig) else "",
)
def test_a_model_that_cannot_be_scored_is_refused_by_name(
    demo_world: Path, tmp_path: Path, config: PreTrainedConfig, reason: str
) -> None:
    """Its config says so, before its weights are looked for."""
    world = tmp_path / "world"
    shutil.copytree(demo_world, world)
    config.save_pretrained(world / "model")
    (world / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError) as caught:
        checked(world, tmp_path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("MS-162", "model.name_or_path")
    assert problem.got.startswith(reason)
