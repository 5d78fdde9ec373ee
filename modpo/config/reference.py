"""docs/config.md from the config tree: `python -m modpo.config.reference > docs/config.md`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from modpo.config.tree import SweepConfig

Schema = Mapping[str, Any]

HEAD = """\
# The sweep file, key by key

<!-- Written by `python -m modpo.config.reference > docs/config.md`: change the docstrings in modpo/config/tree.py. -->

A sweep file is YAML in UTF-8. Unknown keys, and keys given twice, are refused. `[]` in a path stands for an item of a
list; `as below` is a section with its own defaults. On the command line `--set a.b=VALUE` replaces a key, with VALUE in
YAML; items of a list go by index, objectives also by name: `--set training.beta=0.2 --set objectives.helpful.unit=2`.
[sweep.schema.json](sweep.schema.json) says the same to editors, as does `modpo schema`.
"""
COLUMNS = ("key", "type", "default", "meaning")
PLAIN_TYPES = {"string": "text", "boolean": "true or false", "null": "null", "integer": "integer", "number": "number"}
BOUNDS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}


def config_reference(config: type[BaseModel]) -> str:
    """Every key of a config tree with its type, default and docstring, as Markdown: one heading a section."""
    schema = config.model_json_schema()
    sections = _section("The file", "", schema, schema["$defs"])
    return "\n".join((HEAD, *sections))


def _section(title: str, path: str, node: Schema, definitions: Schema) -> Iterator[str]:
    """Heading, docstring and table of a section, then those of the sections below it."""
    yield f"## {title}\n\n{node['description']}\n"
    yield _row(COLUMNS)
    yield _row(["---"] * len(COLUMNS))
    below: list[str] = []
    for name, key in node["properties"].items():
        place = f"{path}.{name}" if path else name
        default = _default(key, definitions) if "default" in key else "required"
        meaning = " ".join(key.get("description", "").split())
        yield _row((f"`{name}`", _type(key, place, definitions), default, meaning))
        for section, target in _targets(key, place, definitions):
            below += _section(f"`{section}`", place + "[]" * ("items" in key), target, definitions)
    yield ""
    yield from below


def _targets(schema: Schema, path: str, definitions: Schema) -> Iterator[tuple[str, Schema]]:
    """The sections that a key leads to: (title, schema) of each."""
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _targets(choice, path, definitions)
    if isinstance(schema.get("items"), dict):
        yield from _targets(schema["items"], f"{path}[]", definitions)
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        kind = target["properties"].get("type", {}).get("const")
        yield (f"{path}: {kind}" if kind else path), target


def _type(schema: Schema, path: str, definitions: Schema) -> str:
    choices = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if choices:
        return " or ".join(_type(choice, path, definitions) for choice in choices)
    if "$ref" in schema:
        return " or ".join(f"[{title}](#{anchor(title)})" for title, _ in _targets(schema, path, definitions))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return f"list of {_type(schema['items'], f'{path}[]', definitions)}"
    if schema["type"] == "object":
        values = schema.get("additionalProperties")
        return f"mapping of names to {_type(values, path, definitions)}" if isinstance(values, dict) else "mapping"
    bounds = " and ".join(f"{word} {schema[bound]:g}" for bound, word in BOUNDS.items() if bound in schema)
    pattern = f"matching `{schema['pattern']}`" if "pattern" in schema else ""
    return " ".join(part for part in (PLAIN_TYPES[schema["type"]], bounds, pattern) if part)


def _default(schema: Schema, definitions: Schema) -> str:
    """The default as YAML would have it; of a section only the keys that differ from the section's own defaults."""
    value = schema["default"]
    if isinstance(value, dict):
        [(_, target)] = _targets(schema, "", definitions)
        own = {name: key.get("default") for name, key in target["properties"].items()}
        value = {name: entry for name, entry in value.items() if entry != own[name]}
        return f"`{json.dumps(value)}`" if value else "as below"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def anchor(title: str) -> str:
    """The fragment under which GitHub shows a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(config_reference(SweepConfig))
