"""Who may import whom: vendors stay in their box, arrows point downwards, nothing goes in circles."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from tests.architecture.sources import Module, cycles, read_modules

LANGUAGE_MODELS = (
    "modpo.scoring",
    "modpo.stacking",
    "modpo.models",
    "modpo.utilisation",
    "modpo.data.tokenize",
    "modpo.data.demo.model",
    "modpo.rewards",
    "modpo.evaluation",
    "modpo.training.sft",
    "modpo.baselines",
)
# Vendor -> modules and packages that may import it.
BOXES = {
    "ray": ("modpo.orchestration", "modpo.serving.app", "ray_jobs"),
    "deepspeed": ("modpo.training.engine",),
    "pydantic": ("modpo.config",),
    "pydantic_core": ("modpo.config",),
    "yaml": ("modpo.config", "modpo.orchestration.job_environment", "ray_jobs.clusters.check"),
    "moocore": ("modpo.core.pareto",),
    "plotly": ("modpo.analysis.report",),
    # Chat templates are Jinja's, and so are the errors of a template that refuses a conversation.
    "jinja2": ("modpo.analysis.report", "modpo.data.tokenize"),
    "tokenizers": ("modpo.data.demo.model",),
    # telemetry only tells it to be quiet.
    "transformers": (
        *(*LANGUAGE_MODELS, "modpo.model_configs"),
        *("modpo.kernels.tree_attention", "modpo.kernels.families", "modpo.telemetry"),
    ),
    "peft": LANGUAGE_MODELS,
}
# Plans and arithmetic about resources are decided without Ray, so that they can be tested and printed without it.
RAY_FREE = ("modpo.orchestration.plan", "modpo.orchestration.resources")

# Rows from the top; a module may import its own row and every row below. A package or top-level module is one entry.
ROWS = (
    ("ray_jobs",),
    ("modpo", "modpo.__main__", "modpo.cli", "modpo.api", "modpo.tables", "modpo.doctor"),
    ("modpo.orchestration", "modpo.serving"),
    (
        *("modpo.training", "modpo.annotate", "modpo.label", "modpo.evaluation"),
        *("modpo.baselines", "modpo.analysis", "modpo.export", "modpo.verification"),
    ),
    ("modpo.rewards",),
    (
        *("modpo.scoring", "modpo.stacking", "modpo.utilisation", "modpo.models", "modpo.model_configs"),
        *("modpo.data", "modpo.kernels"),
    ),
    (
        *("modpo.config", "modpo.guards", "modpo.ledger", "modpo.lease", "modpo.telemetry", "modpo.watch"),
        *("modpo.artifacts", "modpo.manifests", "modpo.transfer", "modpo.storage", "modpo.disk_space"),
        *("modpo.build_locks", "modpo.model_files", "modpo.processes"),
    ),
    ("modpo.core", "modpo.errors", "modpo.masking"),
)
ROW_OF = {entry: number for number, row in enumerate(ROWS) for entry in row}


@pytest.fixture(scope="module")
def modules(repository: Path) -> dict[str, Module]:
    return read_modules(repository)


def entry(name: str) -> str:
    """The package or top-level module that a dotted name of ours belongs to."""
    parts = name.split(".")
    return "ray_jobs" if parts[0] == "ray_jobs" else ".".join(parts[:2])


def is_ours(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] in {"modpo", "ray_jobs"}


def is_inside(name: str, homes: tuple[str, ...]) -> bool:
    return any(name == home or name.startswith(f"{home}.") for home in homes)


def test_there_is_something_to_look_at(modules: dict[str, Module]) -> None:
    assert {"modpo.core.losses", "modpo.config.tree", "modpo.training.engine", "modpo.errors"} <= modules.keys()


@pytest.mark.parametrize("vendor", BOXES)
def test_vendors_stay_in_their_box(modules: dict[str, Module], vendor: str) -> None:
    strays = [
        f"{module.path.name}:{found.line} imports {found.target}"
        for module in modules.values()
        for found in module.imports
        if found.target.split(".")[0] == vendor and not is_inside(module.name, BOXES[vendor])
    ]
    assert strays == []


def test_deciding_modules_are_free_of_ray_all_the_way_down(modules: dict[str, Module]) -> None:
    """Neither they nor anything of ours that they import takes Ray."""
    graph = {name: {found.target for found in module.imports} for name, module in modules.items()}
    for start in RAY_FREE:
        seen, waiting = set(), [start] if start in graph else []
        while waiting:
            name = waiting.pop()
            assert name.split(".")[0] != "ray", f"{start} reaches Ray"
            seen.add(name)
            waiting += graph.get(name, set()) - seen


def test_core_is_pure(modules: dict[str, Module]) -> None:
    """Mathematics: torch, numpy and moocore, the errors, and nothing that reads, writes, logs or waits."""
    allowed = {
        "__future__",
        "collections",
        "dataclasses",
        "functools",
        "heapq",
        "itertools",
        "math",
        "typing",
        "torch",
        "numpy",
        "moocore",
    }
    strays = [
        f"{module.name}:{found.line} imports {found.target}"
        for module in modules.values()
        if is_inside(module.name, ("modpo.core",))
        for found in module.imports
        if found.target.split(".")[0] not in allowed and not is_inside(found.target, ("modpo.core", "modpo.errors"))
    ]
    assert strays == []


def test_every_package_has_its_row(modules: dict[str, Module]) -> None:
    """A new package or top-level module is placed in ROWS when it is made."""
    assert sorted({entry(name) for name in modules} - ROW_OF.keys()) == []


def test_arrows_point_downwards(modules: dict[str, Module]) -> None:
    upwards = [
        f"{module.name}:{found.line} imports {found.target}"
        for module in modules.values()
        for found in module.imports
        if is_ours(found.target)
        and ROW_OF.get(entry(found.target), len(ROWS)) < ROW_OF.get(entry(module.name), len(ROWS))
    ]
    assert upwards == []


def test_no_file_imports_itself_in_a_circle(modules: dict[str, Module]) -> None:
    graph = {
        name: {found.target for found in module.imports if found.target in modules} for name, module in modules.items()
    }
    assert cycles(graph) == []


def test_no_two_packages_import_each_other(modules: dict[str, Module]) -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for module in modules.values():
        graph[entry(module.name)] |= {entry(found.target) for found in module.imports if is_ours(found.target)} - {
            entry(module.name)
        }
    assert cycles(graph) == []


class TestTheReaderItself:
    """The rules above are worth nothing if an import can hide from them."""

    def written(self, root: Path, **files: str) -> dict[str, Module]:
        for name, text in files.items():
            path = root / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return read_modules(root, ("modpo",))

    def test_every_form_of_import_is_seen(self, tmp_path: Path) -> None:
        modules = self.written(
            tmp_path,
            modpo__a=(
                "import ray.train as t, yaml\n"
                "from modpo import b\n"
                "from modpo.b import something\n"
                "from . import c\n"
                "from .c import other\n"
                "def f():\n    import deepspeed\n    from peft import PeftModel\n"
                "if TYPE_CHECKING:\n    import moocore\n"
                "importlib.import_module('plotly')\n"
            ),
            modpo__b="",
            modpo__c="",
        )
        assert sorted(found.target for found in modules["modpo.a"].imports) == sorted(
            ["ray.train", "yaml", "modpo.b", "modpo.b", "modpo.c", "modpo.c", "deepspeed", "peft", "moocore", "plotly"]
        )

    def test_circles_of_any_length_are_found(self) -> None:
        graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"d"}, "e": {"a"}}
        assert cycles(graph) == [["a", "b", "c"]]
        assert cycles({"a": {"b"}, "b": set()}) == []
