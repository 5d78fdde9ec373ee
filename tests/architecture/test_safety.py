"""Nothing in the library can be talked into running what it reads: looked for in the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.sources import read_modules

# Modules that run what they read, and calls that do.
EXECUTING_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "tarfile", "telnetlib"}
EXECUTING_CALLS = {
    *("eval", "exec", "compile", "os.system", "os.popen", "torch.load", "yaml.unsafe_load", "yaml.full_load"),
    *("pandas.read_pickle", "pd.read_pickle", "runpy.run_path", "runpy.run_module", "shutil.unpack_archive"),
}
LOADERS = ("from_pretrained",)
# Adapters have weights and no code; modules of ours that load nothing from a hub.
WITHOUT_CODE = {"PeftModel"}
SAFE_YAML = {"yaml.safe_load", "yaml.safe_load_all", "yaml.safe_dump"}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute or name, with `?` for what is neither."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def findings(tree: ast.Module) -> Iterator[str]:
    """What a file does that it must not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"{node.lineno}: imports {a.name}" for a in node.names if _executes(a.name))
        elif isinstance(node, ast.ImportFrom) and _executes(node.module or ""):
            yield f"{node.lineno}: imports {node.module}"
        elif isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {fault}" for fault in _faults_of_call(node))


def _executes(module: str) -> bool:
    return module.partition(".")[0] in EXECUTING_MODULES


def _faults_of_call(node: ast.Call) -> Iterator[str]:
    name = dotted(node.func)
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in EXECUTING_CALLS or name.endswith((".extractall", ".extract")):
        yield f"calls {name}"
    for argument, unsafe in (("weights_only", False), ("allow_pickle", True), ("shell", True)):
        if argument in keywords and not _is(keywords[argument], not unsafe):
            yield f"{name} with {argument}={unsafe}"
    if "trust_remote_code" in keywords and not _is(keywords["trust_remote_code"], False):
        yield f"{name} trusts remote code"
    loader, _, method = name.rpartition(".")
    if method in LOADERS and loader not in WITHOUT_CODE and "trust_remote_code" not in keywords:
        yield f"{name} does not say that it trusts no remote code"
    if name.startswith("yaml.") and "load" in name and name not in SAFE_YAML:
        yield f"calls {name}"
    if name == "jinja2.Environment" and not _is(keywords.get("autoescape"), True):
        yield "a template environment that does not escape"


def _is(node: ast.AST | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_module_runs_what_it_reads(repository: Path) -> None:
    modules = read_modules(repository)
    assert len(modules) > 100
    found = [f"{name}:{finding}" for name, module in modules.items() for finding in findings(module.tree)]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "torch.load(path)",
        "load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "archive.extractall(folder)",
        "AutoModel.from_pretrained(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=config.trust)",
        "jinja2.Environment()",
        "jinja2.Environment(autoescape=False)",
    ],
)
def test_the_search_finds_each_of_them(line: str) -> None:
    assert list(findings(ast.parse(line)))
