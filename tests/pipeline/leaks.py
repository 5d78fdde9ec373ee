"""A small real run with canaries in every secret and every prompt, and what is found of them afterwards.

`leaks` is also called where the figures of reliability are made.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.pipeline.conftest import BUSY_TIMEOUT_S, Shell, small_sweep

# What holds texts because it is the data: prepared and labelled pairs, samples of evaluations, and the report of them.
# Beginnings of paths.
DATA = ("artifacts/prepared", "artifacts/labelled", "artifacts/start_evaluation", "points/*/evaluation", "report/")
SECRET_VARIABLES = (
    *("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_PASSWORD"),
    *("OPENAI_API_KEY", "GITHUB_TOKEN", "MY_SERVICE_PASSPHRASE", "RAY_AUTH_TOKEN"),
)
SENTENCE = "zanzibarian quokkas hum"

# Prints and raises what it must not: the values of all secrets. Notes down which process imported it.
SCORER = """
import os, sys
from pathlib import Path

with Path({imports!r}).open("a") as file:
    file.write(f"{{sys.argv}}\\n")
SECRETS = [os.environ[name] for name in {variables!r} if name in os.environ]

def score(prompts, responses):
    print("secrets:", *SECRETS, flush=True)
    print("secrets:", *SECRETS, flush=True, file=sys.stderr)
    import logging
    logging.getLogger("scorer").warning("secrets: %s", SECRETS)
    {body}
"""
FAILS = "raise RuntimeError(' '.join(SECRETS))"
WORKS = "return [float(len(response.split())) for response in responses]"

# A private cluster's folder, with all its logs, goes when the run is over: here it stays, to be looked through.
KEEPING_LOGS = """
import sys, types
import modpo.orchestration.cluster as cluster
cluster.shutil = types.SimpleNamespace(rmtree=lambda *paths, **options: None)
from modpo.cli import main
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class CanaryRun:
    """A run that failed once and then came to its end.

    Attributes:
        folder: everything that was written: the run, Ray's logs, and what the commands printed.
        imports: the processes that imported the reward function after each command, by its name.
    """

    folder: Path
    run: Path
    canaries: Mapping[str, str]
    statuses: Mapping[str, int]
    imports: Mapping[str, list[str]]


@dataclass(frozen=True)
class Leaks:
    """Files with a secret, and files with a prompt's text that are none of the data."""

    searched: int
    secrets: tuple[str, ...]
    prompts: tuple[str, ...]


def canary_run(world: Path, folder: Path) -> CanaryRun:
    """Validates, plans, runs, fails, mends, runs again and reports.

    Args:
        folder: an empty one with a short path, as Ray's sockets lie below it.
    """
    canaries = {name: f"c4n4ry-{secrets.token_hex(12)}" for name in SECRET_VARIABLES}
    canaries |= {"HF_TOKEN": f"hf_{secrets.token_hex(17)}", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    shell = Shell(folder / "w", timeout_s=BUSY_TIMEOUT_S)
    shell.folder.mkdir(parents=True)
    (folder / "t").mkdir()
    raw = _sweep(world, shell.folder)
    config, run = shell.sweep_file(raw), shell.folder / "runs" / raw["name"]
    statuses, imports = {}, {}
    for number, (name, body, arguments) in enumerate(
        (
            ("validate", FAILS, ["validate", str(config)]),
            ("plan", FAILS, ["plan", str(config)]),
            ("failing run", FAILS, ["run", str(config)]),
            ("run", WORKS, ["run", str(config)]),
            ("status", WORKS, ["status", str(run)]),
            ("report", WORKS, ["report", str(run)]),
        )
    ):
        noted = folder / "t" / "imports"
        noted.unlink(missing_ok=True)
        _write_scorer(shell.folder / "scorer.py", noted, body)
        done = subprocess.run(
            [sys.executable, "-c", KEEPING_LOGS, *arguments],
            cwd=shell.folder,
            env={**os.environ, **canaries, "OMP_NUM_THREADS": "1", "MODPO_DEBUG": "1", "TMPDIR": str(folder / "t")},
            capture_output=True,
            text=True,
            timeout=BUSY_TIMEOUT_S,
            check=False,
        )
        (folder / f"{number}.out").write_text(done.stdout, encoding="utf-8")
        (folder / f"{number}.err").write_text(done.stderr, encoding="utf-8")
        statuses[name] = done.returncode
        imports[name] = noted.read_text(encoding="utf-8").splitlines() if noted.exists() else []
    return CanaryRun(folder, run, canaries, statuses, imports)


def leaks(made: CanaryRun) -> Leaks:
    """Looks for the canaries in the bytes of every file that the commands left."""
    # The command's own sockets and the checked data itself are no output.
    files = [path for path in sorted(made.folder.rglob("*")) if path.is_file()]
    own = {made.folder / "w" / name for name in ("vivid.jsonl", "brief.jsonl", "corpus.jsonl")}
    found_secrets, found_prompts = [], []
    data = {path for pattern in DATA for path in made.run.glob(pattern.rstrip("/") + "*")}
    for path in files:
        content, name = path.read_bytes(), str(path.relative_to(made.folder))
        found_secrets += [f"{name}: {kind}" for kind, value in made.canaries.items() if value.encode() in content]
        is_data = path in own or any(folder == path or folder in path.parents for folder in data)
        # The second output is that of `validate`, which shows one pair.
        shown = name == "0.out"
        if SENTENCE.encode() in content and not is_data and not shown:
            found_prompts.append(name)
    return Leaks(len(files), tuple(found_secrets), tuple(found_prompts))


def _sweep(world: Path, folder: Path) -> dict[str, object]:
    """The small sweep on rows that all have the sentence, and a reward function in the working directory."""
    raw = small_sweep(world, "leaky", resources={"max_failures": 0})
    for name in ("vivid", "brief", "corpus"):
        rows = [json.loads(line) for line in (world / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        marked = [{**row, "prompt": f"{SENTENCE} {row['prompt']}"} for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in marked), encoding="utf-8")
    for objective in raw["objectives"]:
        objective["pairs"] = {"path": f"{objective['name']}.jsonl"}
    raw["objectives"][0]["reward"] = {"type": "function", "function": "scorer:score"}
    raw["sft"] |= {"data": {"path": "corpus.jsonl"}, "max_steps": 2}
    raw["training"] |= {"max_steps": 4}
    raw["sweep"] = {"weights": {"lattice": 1}}
    del raw["evaluation"]["enumerate"]
    return raw


def _write_scorer(path: Path, imports: Path, body: str) -> None:
    path.write_text(SCORER.format(imports=str(imports), variables=SECRET_VARIABLES, body=body), encoding="utf-8")


def unexpected_imports(made: CanaryRun) -> Iterator[str]:
    """Commands that imported the reward function though they score nothing, and processes that are no workers."""
    for name, processes in made.imports.items():
        scores = name in {"failing run", "run"}
        yield from (f"{name}: {process}" for process in processes if not scores or "default_worker.py" not in process)
        if scores and not processes:
            yield f"{name}: nobody"
