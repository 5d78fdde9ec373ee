"""The source of a reward function with what it imports of the user's own code, digested without running any of it.

Followed are imports of modules that lie beside it: in the same package and, unless it is installed, in the folder that
the package or module lies in. Not followed are installed packages, modpo itself, and whatever code reads or imports by
a name that it makes up.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from modpo.artifacts import digest_of, file_sha256
from modpo.config.disk import module_file

LIBRARY = "modpo"
INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib"))


def code_digest(dotted: str) -> str:
    """Digest of the source of `module:function`; empty where there is no such module."""
    module = dotted.partition(":")[0]
    origin = module_file(module)
    if origin is None:
        return ""
    root = _root(module, origin)
    found, waiting = {module: origin}, [module]
    while waiting:
        for name, path in _imported(waiting.pop(), found, root):
            found[name] = path
            waiting.append(name)
    return digest_of([[name, file_sha256(found[name])] for name in sorted(found)])


def _root(module: str, origin: Path) -> Path:
    """The folder that imports by full names start from."""
    depth = module.count(".") + (origin.name == "__init__.py")
    return origin.parents[depth]


def _imported(module: str, found: dict[str, Path], root: Path) -> Iterator[tuple[str, Path]]:
    """Modules of the user's that a found one imports, and that are new."""
    path, first = found[module], module.partition(".")[0]
    is_installed = root in INSTALLED
    for name in dict.fromkeys(_named(module, path)):
        top = name.partition(".")[0]
        if name in found or top == LIBRARY or (is_installed and top != first):
            continue
        file = _file_below(root, name)
        if file is not None:
            yield name, file


def _named(module: str, path: Path) -> Iterator[str]:
    """Full names that may be modules: of everything that a source imports, and of the packages above it."""
    yield from _with_parents(module)
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (above, node.module)))
            names = [source, *(f"{source}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from _with_parents(name)


def _with_parents(name: str) -> Iterator[str]:
    """`a.b.c` runs the code of `a` and `a.b` too."""
    parts = name.split(".")
    yield from (".".join(parts[: count + 1]) for count in range(len(parts)))


def _file_below(root: Path, module: str) -> Path | None:
    place = root.joinpath(*module.split("."))
    return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)
