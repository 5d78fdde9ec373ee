"""YAML text to plain values: nothing is executed, guessed, taken twice, or larger than it looks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from modpo.errors import InputError, Problem, shown

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
"""Of the whole tree with every alias written out: nested aliases can name more values than memory holds."""
MAX_DEPTH = 50
MAX_INTEGER = 2**63 - 1


class NotPlainError(yaml.YAMLError):
    """YAML that is refused though a YAML parser would take it.

    Attributes:
        line: where, counted from 1; 0 where it is nowhere in particular.
    """

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.problem, self.line = problem, line


class _PlainLoader(yaml.SafeLoader):
    """Scalars as YAML 1.2 reads them: no `no` for false, no 0123 for 83, no 1:30 for 90, no dates.

    What is left out stays the text that was written, and is then refused where a key takes no text.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012  # PyYAML's own way to configure a loader
    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in {"null", "bool", "int", "float", "seq", "map", "str"}
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """One level of the tree: counted, as PyYAML would go down until Python's own stack is full."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotPlainError(f"more than {MAX_DEPTH} levels", self.line + 1)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_DECIMAL = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    # Whole numbers with a leading zero stay text: YAML 1.1 and 1.2 do not agree on what they mean.
    ("float", rf"(?![-+]?[0-9]+$)(?:{_DECIMAL})", "-+0123456789."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        InputError: the file cannot be read, or is no mapping of plain values.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(
            Problem(
                code="MS-101",
                what="the sweep file cannot be read",
                where=shown(str(path)) if "\0" in str(path) else str(path),
                got=getattr(error, "strerror", None) or str(error),
                wanted="a YAML file",
                remedy="check the path; `ray_jobs/configs/demo.yaml` is a complete example",
            )
        ) from error
    try:
        if len(data) > MAX_BYTES:
            raise NotPlainError(f"{len(data)} bytes; a sweep file has at most {MAX_BYTES}")
        tree = parse_yaml(data.decode("utf-8"))
        if not isinstance(tree, dict):
            raise NotPlainError(f"the top level is {type(tree).__name__}, not a mapping of keys")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(_not_yaml(path, line, f"byte {data[error.start]:#04x}, which is not UTF-8")) from error
    except NotPlainError as error:
        raise InputError(_not_yaml(path, error.line, error.problem)) from error
    return tree


def parse_yaml(text: str) -> Any:
    """The value of one YAML document.

    Raises:
        NotPlainError: it is none, has a key twice, tags, recursion, or more than a sweep file has any use for.
    """
    loader = None
    try:
        loader = _PlainLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except NotPlainError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotPlainError(error.problem or str(error.context), mark.line + 1 if mark else 0) from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise NotPlainError(f"the character U+{ord(text[error.position]):04X}", line) from error
    finally:
        if loader is not None:
            loader.dispose()


def _check_size(root: yaml.Node) -> None:
    """Refuses what is small on paper and huge in memory, before anything of it is built."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        line = node.start_mark.line + 1
        if id(node) in open_nodes:
            raise NotPlainError("an anchor that contains itself", line)
        if id(node) not in sizes:
            open_nodes.add(id(node))
            sizes[id(node)] = 1 + sum(size(child) for child in _children(node))
            open_nodes.remove(id(node))
        if sizes[id(node)] > MAX_NODES:
            raise NotPlainError(f"aliases that stand for more than {MAX_NODES} values", line)
        return sizes[id(node)]

    size(root)


def _children(node: yaml.Node) -> list[yaml.Node]:
    """Of a checked node: each key of a mapping once and plain, each integer of a size that others can hold."""
    if isinstance(node, yaml.MappingNode):
        _refuse_repeated_keys(node)
        return [child for item in node.value for child in item]
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if node.tag.endswith(":int") and _is_huge(node.value):
        raise NotPlainError("an integer of more than 64 bits", node.start_mark.line + 1)
    return []


def _is_huge(digits: str) -> bool:
    # Python itself refuses to convert some thousand digits.
    return len(digits) > 20 or abs(int(digits, 16 if digits.startswith("0x") else 10)) > MAX_INTEGER


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    """Looked at before merged keys (`<<`) are written into a mapping: those may be overridden."""
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise NotPlainError("a key is not plain text", key.start_mark.line + 1)
        if key.value in seen:
            raise NotPlainError(f"key {shown(key.value)} is given twice", key.start_mark.line + 1)
        seen.add(key.value)


def _not_yaml(path: Path, line: int, problem: str) -> Problem:
    return Problem(
        code="MS-102",
        what="the sweep file is not valid YAML",
        where=f"{path}:{line}" if line else str(path),
        got=problem,
        wanted="UTF-8 YAML of plain values, with each key once",
        remedy="mend the line" if line else "give a file as docs/config.md describes it",
    )
