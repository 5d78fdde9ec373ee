"""Sweep files that nobody can mean, one mistake each, and odd ones that are valid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.pipeline.conftest import small_sweep
from tests.pipeline.data_cases import SECRET

# No key of anybody: of the forms in which real ones come.
WANDB_KEY = "0123456789abcdef" * 2 + "01234567"
HF_TOKEN = "hf_" + "AbCdEfGhIjKlMnOp" * 2
AWS_KEY = "AKIA" + "ABCDEFGH12345678"


@dataclass(frozen=True)
class ConfigCase:
    """One sweep file.

    Attributes:
        write: its text, from the folder of the demo world.
        codes: of the errors that must be there; of a valid file, none.
        where: a key that an error must name, or a part of its place.
        status: how `validate` exits.
        overrides: `--set` arguments.
        hidden: texts that must not be repeated.
    """

    write: Callable[[Path], bytes]
    codes: tuple[str, ...] = ()
    where: str = ""
    status: int = 2
    overrides: tuple[str, ...] = ()
    hidden: tuple[str, ...] = (SECRET, WANDB_KEY, HF_TOKEN, AWS_KEY)


def dumped(raw: dict[str, Any]) -> str:
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def section(key: str, text: str) -> Callable[[Path], bytes]:
    """The small sweep with one section as somebody typed it; {world} stands for the demo world."""

    def write(world: Path) -> bytes:
        raw = small_sweep(world, "bad")
        raw.pop(key, None)
        return f"{dumped(raw)}{key}: {text.replace('{world}', str(world))}\n".encode()

    return write


def appended(text: str | bytes) -> Callable[[Path], bytes]:
    tail = text.encode() if isinstance(text, str) else text
    return lambda world: dumped(small_sweep(world, "bad")).encode() + tail


def changed(path: Sequence[str | int], value: Any) -> Callable[[Path], bytes]:
    """The small sweep with one value replaced."""

    def write(world: Path) -> bytes:
        raw: Any = small_sweep(world, "bad")
        node = raw
        for part in path[:-1]:
            node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
        node[path[-1]] = value
        return dumped(raw).encode()

    return write


def whole(content: str | bytes) -> Callable[[Path], bytes]:
    return lambda world: content.encode() if isinstance(content, str) else content


def alias_bomb(indent: str) -> str:
    """Nine values, named nine times, nine levels up: 9**9 values in half a kilobyte."""
    lines = [f"{indent}a: &a [x, x, x, x, x, x, x, x, x]"]
    for below, letter in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{indent}{letter}: &{letter} [{', '.join([f'*{below}'] * 9)}]")
    return "\n".join(lines) + "\n"


# Of runs and objectives: they lead elsewhere, or pose as something else.
HOSTILE_NAMES = (
    "", ".", "..", "../../escape", "/abs/path", "a/b", "a\\b", "a b", "-rf", ".hidden", "~", "$HOME", "%2e%2e",
    "<script>alert(1)</script>", "a\nb", "a\x00b", "a\x1b[31mb", "x" * 64, "x" * 300, "\u0430bc", "a\u202eb",
    "a\u2024\u2024b", "größe", "a:b", "a*b", "a;b", "a|b", "`id`", "$(id)", "'",
)  # fmt: skip
FUNCTION = ("objectives", 0, "reward", "function")
ENUMERATE = ("evaluation", "enumerate")

BAD_CONFIGS: dict[str, ConfigCase] = {
    # D23: what YAML makes of what people write
    "a file that is empty": ConfigCase(whole(""), ("MS-102",)),
    "a list at the top": ConfigCase(whole("- name: small\n"), ("MS-102",)),
    "a bracket that is never closed": ConfigCase(appended("trackers: {wandb: {\n"), ("MS-102",)),
    "a tab for spaces": ConfigCase(appended("trackers:\n\twandb: {}\n"), ("MS-102",), "sweep.yaml:"),
    "two documents": ConfigCase(appended("---\nname: other\n"), ("MS-102",)),
    "a key that is given twice": ConfigCase(appended("name: other\n"), ("MS-102",), "sweep.yaml:"),
    "an object that YAML would build": ConfigCase(
        section("name", '!!python/object/apply:os.system ["touch executed"]'), ("MS-102",)
    ),
    "a module that YAML would import": ConfigCase(section("name", "!!python/module:antigravity"), ("MS-102",)),
    "bytes": ConfigCase(section("name", "!!binary aGVsbG8="), ("MS-102",)),
    "a set": ConfigCase(section("name", "!!set {a}"), ("MS-102",)),
    "an alias bomb": ConfigCase(appended(alias_bomb("")), ("MS-102",)),
    "an alias bomb where anything may stand": ConfigCase(
        appended("trackers:\n  mlflow:\n" + alias_bomb("    ")), ("MS-102",)
    ),
    "an anchor in itself": ConfigCase(appended("trackers: {mlflow: &x {a: *x}}\n"), ("MS-102",)),
    "three thousand brackets": ConfigCase(whole("[" * 3000 + "]" * 3000), ("MS-102",)),
    "keys two thousand deep": ConfigCase(appended(f"x: {'{a: ' * 2000}1{'}' * 2000}\n"), ("MS-102",)),
    "more than a megabyte": ConfigCase(appended("#" * 1_000_001), ("MS-102",)),
    "UTF-16": ConfigCase(lambda world: dumped(small_sweep(world, "bad")).encode("utf-16"), ("MS-102",)),
    "latin-1": ConfigCase(whole("name: größe\n".encode("latin-1")), ("MS-102",), "sweep.yaml:1"),
    "a NUL character": ConfigCase(appended('x: "\0"\n'), ("MS-102",)),
    "an integer of four hundred digits": ConfigCase(section("seed", "9" * 400), ("MS-102",)),
    "an integer of five thousand digits": ConfigCase(section("seed", "9" * 5000), ("MS-102",)),
    "yes for a number": ConfigCase(section("seed", "yes"), ("MS-113",), "seed"),
    "true for a number": ConfigCase(section("training", "{max_steps: true}"), ("MS-113",), "training.max_steps"),
    "true for an item of a list": ConfigCase(section("sweep", "{seeds: [0, true]}"), ("MS-113",), "sweep.seeds.1"),
    "a date for a number": ConfigCase(section("training", "{beta: 2026-11-30}"), ("MS-113",), "training.beta"),
    "a time for a number": ConfigCase(section("training", "{max_steps: 1:30}"), ("MS-113",), "training.max_steps"),
    "a number for text": ConfigCase(section("data", "{template: 5}"), ("MS-113",), "data.template"),
    "a name that reads as a number": ConfigCase(section("name", "1e3"), ("MS-113",), "name"),
    "no for a section": ConfigCase(section("model", "{name_or_path: '{world}/model', lora: no}"), ("MS-113",)),
    # D24: keys
    "a section that is misspelt": ConfigCase(appended("trainig: {}\n"), ("MS-111",), "trainig"),
    "a key that is misspelt": ConfigCase(section("training", "{lerning_rate: 1}"), ("MS-111",), "training.lerning"),
    "a key of another trainer": ConfigCase(section("training", "{max_prompt_length: 1}"), ("MS-111",)),
    "a key with a terminal's commands": ConfigCase(appended('"tr\\e[31maining\\n": {}\n'), ("MS-111",)),
    "a key of a thousand characters": ConfigCase(appended("k" * 1000 + ": 1\n"), ("MS-111",)),
    "a key that is a number": ConfigCase(appended("5: x\n"), ("MS-113",)),
    "a section that is missing": ConfigCase(
        lambda world: dumped({k: v for k, v in small_sweep(world, "bad").items() if k != "objectives"}).encode(),
        ("MS-112",), "objectives",
    ),
    "an override of nothing": ConfigCase(appended(""), ("MS-103",), overrides=("training.beta",)),
    "an override with a key twice": ConfigCase(
        appended(""), ("MS-103",), overrides=("sweep={weights: 1, weights: 2}",)
    ),
    "an override of a thousand characters": ConfigCase(appended(""), ("MS-103",), overrides=("x" * 1000,)),
    # Types and bounds
    "text for a number": ConfigCase(
        section("training", "{learning_rate: fast}"), ("MS-113",), "training.learning_rate"
    ),
    "half a step": ConfigCase(section("training", "{max_steps: 2.5}"), ("MS-113",), "training.max_steps"),
    "a beta of zero": ConfigCase(section("training", "{beta: 0}"), ("MS-113",), "training.beta"),
    "an infinite beta": ConfigCase(section("training", "{beta: .inf}"), ("MS-113",), "training.beta"),
    "a learning rate that is no number": ConfigCase(section("training", "{learning_rate: .nan}"), ("MS-113",)),
    "a stage that does not exist": ConfigCase(section("training", "{deepspeed: {stage: 4}}"), ("MS-113",)),
    "no section for a section": ConfigCase(section("model", "[a]"), ("MS-113",), "model"),
    "no list for a list": ConfigCase(section("objectives", "{}"), ("MS-113",), "objectives"),
    "objectives that are nothing": ConfigCase(section("objectives", "[~, ~]"), ("MS-113",), "objectives.1"),
    "a kind of reward that does not exist": ConfigCase(
        changed(("objectives", 0, "reward"), {"type": "judge"}), ("MS-113",), "objectives.0.reward"
    ),
    # N3, N4: weights
    "weights that sum to 1.1": ConfigCase(
        section("sweep", "{weights: {list: [{vivid: 0.5, brief: 0.6}]}}"), ("MS-133",)
    ),
    "thirds with three digits": ConfigCase(
        section("sweep", "{weights: {list: [{vivid: 0.333, brief: 0.666}]}}"), ("MS-133",), "sweep.weights.list.0"
    ),
    "a weight of an objective that is not there": ConfigCase(
        section("sweep", "{weights: {list: [{vivid: 0.3, brief: 0.3, third: 0.4}]}}"), ("MS-132", "MS-133")
    ),
    "a negative weight": ConfigCase(section("sweep", "{weights: {list: [{vivid: -0.1, brief: 1.1}]}}"), ("MS-113",)),
    "a weight that is no number": ConfigCase(section("sweep", "{weights: {list: [{vivid: .nan}]}}"), ("MS-113",)),
    "an infinite weight": ConfigCase(section("sweep", "{weights: {list: [{vivid: .inf}]}}"), ("MS-113",)),
    "weights without names": ConfigCase(section("sweep", "{weights: {list: [[0.5, 0.5]]}}"), ("MS-113",)),
    "a weight of a millionth to divide by": ConfigCase(
        section("sweep", "{primary: vivid, weights: {list: [{vivid: 0.000001, brief: 0.999999}]}}"), ("MS-130",)
    ),
    "no weight on the primary objective": ConfigCase(
        changed(("objectives",), [{"name": "a", "pairs": {"path": "x.jsonl"}}, {"name": "b", "reward": {
            "type": "function", "function": "modpo.data.demo.rewards:brief"}}]), ("MS-134",), "sweep.weights.lattice",
    ),
    "a lattice of a thousand million": ConfigCase(section("sweep", "{weights: {lattice: 1000000000}}"), ("MS-135",)),
    "both lattice and list": ConfigCase(section("sweep", "{weights: {lattice: 2, list: [{vivid: 1}]}}"), ("MS-131",)),
    "an empty list of seeds": ConfigCase(section("sweep", "{seeds: []}"), ("MS-136",), "sweep.seeds"),
    # Names and paths
    **{
        f"the name {name[:20]!r}": ConfigCase(changed(("name",), name), ("MS-113",), "name")
        for name in HOSTILE_NAMES
    },
    "a storage path with a NUL": ConfigCase(section("storage_path", '"a\\0b"'), ("MS-113",), "storage_path"),
    "a storage path that is empty": ConfigCase(section("storage_path", '" "'), ("MS-113",), "storage_path"),
    "a storage path of five thousand characters": ConfigCase(section("storage_path", "x" * 5000), ("MS-113",)),
    "a data path of three thousand characters": ConfigCase(
        changed(("sft", "data", "path"), "a" * 3000 + ".jsonl"), ("MS-113",), "sft.data.path"
    ),
    "a data path with a terminal's commands": ConfigCase(
        changed(("sft", "data", "path"), "\x1b[31m.jsonl"), ("MS-113",)
    ),
    "a data file that is not there": ConfigCase(changed(("sft", "data", "path"), "no.jsonl"), ("MS-142",), "sft.data"),
    "a data file of another kind": ConfigCase(changed(("sft", "data", "path"), __file__), ("MS-143",)),
    "a device for a data file": ConfigCase(changed(("sft", "data", "path"), "/dev/zero"), ("MS-206",)),
    "a model that is not there": ConfigCase(changed(("model", "name_or_path"), "no/such/model"), ("MS-141",)),
    "an adapter that is not there": ConfigCase(
        changed(("objectives", 0, "reward"), {"type": "implicit", "adapter": "no", "adapter_beta": 1}), ("MS-128",)
    ),
    "a reward model that is not there": ConfigCase(
        changed(("objectives", 0, "reward"), {"type": "model", "name_or_path": "./no"}), ("MS-147",)
    ),
    "a DeepSpeed file that is not there": ConfigCase(
        section("training", "{deepspeed: {config_file: no.json}}"), ("MS-153",)
    ),
    # Code
    **{
        f"the function {function}": ConfigCase(changed(path, function), (code,), ".".join(map(str, path)))
        for path, function, code in (
            (FUNCTION, "os:system", "MS-137"), (FUNCTION, "builtins:eval", "MS-137"),
            (FUNCTION, "subprocess:call", "MS-137"), (ENUMERATE, "pickle:loads", "MS-137"),
            (FUNCTION, "os.path:join", "MS-137"), (FUNCTION, "..x:f", "MS-113"), (FUNCTION, "../x:f", "MS-113"),
            (FUNCTION, "a:b.c", "MS-113"), (FUNCTION, "a:__import__('os')", "MS-113"), (FUNCTION, "a", "MS-113"),
            (FUNCTION, "no_such_module:f", "MS-144"), (ENUMERATE, "modpo.data.demo.rewards:nothing", "MS-145"),
        )
    },
    # Secrets
    "a key of W&B": ConfigCase(
        section("trackers", f"{{wandb: {{project: p, api_key: {WANDB_KEY}}}}}"), ("MS-138",), "trackers.wandb.api_key"
    ),
    "a token in a tracker's address": ConfigCase(
        section("trackers", f"{{mlflow: {{tracking_uri: 'https://me:{SECRET}@example.org'}}}}"), ("MS-138",)
    ),
    "a token of the hub for a path": ConfigCase(section("storage_path", HF_TOKEN), ("MS-138",), "storage_path"),
    "a token where nothing takes one": ConfigCase(
        section("model", f"{{name_or_path: '{{world}}/model', token: {HF_TOKEN}}}"), ("MS-111", "MS-138"), "model.token"
    ),
    "a key of AWS as an override": ConfigCase(
        appended(""), ("MS-138",), overrides=(f"trackers.mlflow.aws_secret={AWS_KEY}",)
    ),
    # What contradicts itself
    "one objective": ConfigCase(
        changed(("objectives",), [{"name": "vivid", "pairs": {"path": "x.jsonl"}}]), ("MS-121",), "objectives"
    ),
    "a primary objective that is not there": ConfigCase(section("sweep", "{primary: none}"), ("MS-125",)),
    "a unit that is given and fitted": ConfigCase(
        changed(("objectives", 0), {"name": "vivid", "pairs": {"path": "x.jsonl"}, "unit": 2, "normalize": "std"}),
        ("MS-173",), "objectives.0.normalize",
    ),
    "smoothing of labels that are not used": ConfigCase(
        section("training", "{loss_type: regression, label_smoothing: 0.1}"), ("MS-155",)
    ),
    "early stopping under ZeRO 3": ConfigCase(
        section("training", "{early_stopping: {}, deepspeed: {stage: 3}}"), ("MS-151",), "training.early_stopping"
    ),
    "an offload of parameters under ZeRO 1": ConfigCase(
        section("training", "{deepspeed: {stage: 1, offload: {parameters: true}}}"), ("MS-152",)
    ),
    "a template without the prompt": ConfigCase(section("data", "{template: 'Answer:'}"), ("MS-154",)),
    "a name of a column": ConfigCase(changed(("objectives", 0, "name"), "kl"), ("MS-129",), "objectives.0.name"),
    # The machine
    "more GPUs than there are": ConfigCase(section("resources", "{gpus_per_worker: 64}"), ("MS-401",), status=4),
}  # fmt: skip

GOOD_CONFIGS: dict[str, ConfigCase] = {
    name: ConfigCase(write, status=0)
    for name, write in {
        "numbers with exponents": section("training", "{learning_rate: 5e-7, beta: 1E-1, max_steps: 1e1}"),
        "numbers as text": section("training", "{learning_rate: '1e-4', max_steps: '12'}"),
        "a whole number for a fraction": section("training", "{beta: 1, warmup_ratio: 0}"),
        "hexadecimal": section("seed", "0x10"),
        "underscores in a number": section("training", "{max_steps: 1_000}"),
        "a name that YAML 1.1 reads as false": section("name", "no"),
        "a name that YAML 1.1 reads as an octal number": section("name", "0123"),
        "a date for a name": section("name", "2026-11-30"),
        "a name of 63 characters": section("name", "x" * 63),
        "a name with dots": section("name", "a..b.-_"),
        "off for a flag": section("training", "{gradient_checkpointing: off}"),
        "a key that is empty": section("label", ""),
        "a byte order mark": lambda world: b"\xef\xbb\xbf" + dumped(small_sweep(world, "bad")).encode(),
        "CRLF and comments": lambda world: dumped(small_sweep(world, "bad")).replace("\n", "\r\n").encode() + b"# end",
        "merged keys": appended("resources: {<<: &base {max_failures: 1}, max_failures: 2}\n"),
        "JSON": lambda world: yaml.safe_dump(small_sweep(world, "bad"), default_flow_style=True, width=10**6).encode(),
        "both corners of the simplex": section("sweep", "{weights: {list: [{vivid: 1}, {brief: 1.0}]}}"),
        "thirds with seven digits": section("sweep", "{weights: {list: [{vivid: 0.3333333, brief: 0.6666667}]}}"),
        "a small weight": section("sweep", "{primary: vivid, weights: {list: [{vivid: 0.01, brief: 0.99}]}}"),
        "weights that are given twice": section("sweep", "{weights: {list: [{vivid: 1}, {vivid: 1}]}, seeds: [1, 1]}"),
        "a path with spaces and other letters": section("storage_path", "'läufe von heute/実験'"),
        "a Windows line in a template": section("data", '{template: "{prompt}\\r\\n"}'),
    }.items()
}
