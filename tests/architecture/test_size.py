"""Files and functions stay small. A limit is changed here, in a change of its own, or not at all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.sources import Module, read_modules

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 80
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "misc", "common"}


@pytest.fixture(scope="module")
def modules(repository: Path) -> list[Module]:
    found = list(read_modules(repository).values())
    assert len(found) > 30
    return found


def test_no_file_is_too_long(modules: list[Module]) -> None:
    assert [f"{m.name}: {m.lines} lines" for m in modules if m.lines > MAX_FILE_LINES] == []


def test_no_function_is_too_long(modules: list[Module]) -> None:
    functions = [
        (f"{module.name}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(functions) > 100
    assert [f"{name}: {lines} lines" for name, lines in functions if lines > MAX_FUNCTION_LINES] == []


def test_no_module_has_a_name_that_says_nothing(modules: list[Module]) -> None:
    """Every project that has a utils.py has its largest file there."""
    assert [m.name for m in modules if EMPTY_NAMES & set(m.name.split(".")[-1].split("_"))] == []


def test_every_module_says_what_it_is_for(modules: list[Module]) -> None:
    assert [m.name for m in modules if m.tree.body and not ast.get_docstring(m.tree)] == []
