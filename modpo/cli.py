"""The command line. Every subcommand imports what it needs when it runs: `modpo --help` loads neither Ray nor torch."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from modpo.errors import InputError, InternalError, ModpoError, Problem, SetupError
from modpo.storage import address, working_copy
from modpo.telemetry import quiet_environment, secrets_masked

app = typer.Typer(
    name="modpo",
    help="Train a whole Pareto set of language models by Multi-Objective DPO on a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# A log file or pipe has no width of its own: wide enough there for a table of points.
console = Console() if sys.stdout.isatty() else Console(width=160)


def _folder_or_url(location: str | Path) -> Path:
    """What is given, as text, or the default of an option."""
    return working_copy(str(location))


ConfigPath = Annotated[Path, typer.Argument(metavar="SWEEP.YAML", help="The sweep file.")]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", parser=_folder_or_url, help="Folder or URL of a run: storage_path/name.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Override a key of the sweep file; may be given several times."),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="The cluster's Jobs API; else RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265."
    ),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Accept a cluster elsewhere that asks for no token.")]
JobOrRun = Annotated[str, typer.Argument(metavar="JOB|RUN", help="A job's id, or a run's name: its newest job.")]


@app.command()
def validate(config: ConfigPath, overrides: Overrides = None) -> None:
    """Show every mistake in config and data at once; starts nothing."""
    from modpo.orchestration.preflight import preflight
    from modpo.tables import print_preflight

    print_preflight(console, preflight(config, overrides=overrides or ()))


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every figure there too.")
    ] = None,
) -> None:
    """Show trials, memory, storage, hours and what does not fit; starts nothing."""
    from modpo.artifacts import write_json
    from modpo.orchestration.overview import overview
    from modpo.orchestration.preflight import preflight
    from modpo.tables import print_overview

    checked = preflight(config, overrides=overrides or ())
    found = overview(checked.config, checked.data)
    print_overview(console, checked.config, found)
    if json_file is not None:
        write_json(json_file, found.as_json())
    if found.problems:
        raise SetupError(found.problems)


@app.command()
def run(config: ConfigPath, overrides: Overrides = None) -> None:
    """Run the whole sweep here, or on the cluster that RAY_ADDRESS names; the same command resumes."""
    from modpo.orchestration.live import ConsoleWatcher
    from modpo.orchestration.pipeline import run_path, run_pipeline
    from modpo.orchestration.preflight import preflight
    from modpo.tables import print_summary

    found = preflight(config, overrides=overrides or ())
    watcher = ConsoleWatcher(console, found.config.objective_names)
    watcher.warn(found.warnings)
    summary = run_pipeline(found.config, watcher, found.data)
    print_summary(console, summary, run_path(found.config))


@app.command()
def label(config: ConfigPath, overrides: Overrides = None) -> None:
    """Make preference pairs from prompts: sample, score and compare; `run` goes on from there."""
    from modpo.artifacts import read_json, verified
    from modpo.orchestration.live import ConsoleWatcher
    from modpo.orchestration.pipeline import label_prompts
    from modpo.orchestration.preflight import preflight

    found = preflight(config, overrides=overrides or ())
    if found.config.label is None:
        raise InputError(
            Problem(
                code="MS-180",
                what="the sweep file has no `label` section",
                where=str(config),
                wanted="`label: {prompts: {path: ...}}`",
                remedy="add it; docs/extending.md has an example",
            )
        )
    folder = label_prompts(found.config, ConsoleWatcher(console, found.config.objective_names), found.data)
    for kind, count in read_json(verified(folder) / "label.json")["counts"].items():
        console.print(f"{kind}: {count}")
    console.print(f"pairs: {address(folder)}", soft_wrap=True)


@app.command()
def status(run: RunPath) -> None:
    """Show the points of a run, from its ledger."""
    from modpo.analysis.front import read_manifest
    from modpo.tables import print_status

    print_status(console, run, read_manifest(run))


@app.command()
def report(run: RunPath) -> None:
    """Write the report again: tables, hypervolume and one HTML page in RUN/report."""
    from modpo.analysis.report import write_report
    from modpo.tables import print_summary

    print_summary(console, write_report(run), run)


@app.command()
def evaluate(run: RunPath, overrides: Overrides = None) -> None:
    """Measure every trained point that lacks an evaluation; `--set evaluation.…` measures under other settings."""
    from modpo.analysis.front import read_manifest
    from modpo.config.load import override_config, parse_config
    from modpo.orchestration.live import ConsoleWatcher
    from modpo.orchestration.pipeline import evaluate_points
    from modpo.tables import print_summary

    config = override_config(parse_config(read_manifest(run)["config"]), overrides or (), run_dir=run)
    summary = evaluate_points(config, ConsoleWatcher(console, config.objective_names))
    print_summary(console, summary, run)


@app.command()
def verify(
    storage_path: Annotated[
        Path,
        typer.Option(
            parser=_folder_or_url,
            metavar="FOLDER",
            help="Folder or URL for the two runs; what is there already is kept.",
        ),
    ] = Path("runs"),
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the cases there too.")] = None,
) -> None:
    """Prove the optimum end to end: train sweeps whose exact solution is known, and compare every model with it."""
    from modpo.artifacts import write_json
    from modpo.orchestration.live import ConsoleWatcher
    from modpo.orchestration.verify import check_cases, verify
    from modpo.tables import print_cases

    cases = verify(storage_path, lambda config: ConsoleWatcher(console, config.objective_names))
    print_cases(console, cases)
    if json_file is not None:
        write_json(json_file, {"cases": [case.as_json() for case in cases]})
    check_cases(cases)


@app.command()
def submit(  # noqa: PLR0913, PLR0917  # each is an option of its own
    config: ConfigPath,
    overrides: Overrides = None,
    address: Address = None,
    variables: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="A variable of this shell that the job gets too; never a secret."),
    ] = None,
    working_dir: Annotated[
        Path, typer.Option(help="What travels: reward code, and where relative paths start.")
    ] = Path(),
    files_on_nodes: Annotated[
        bool,
        typer.Option("--files-on-nodes", help="Absolute paths of the sweep file are not here: the job checks them."),
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's id, and do not follow it.")] = False,
    insecure: Insecure = False,
) -> None:
    """Check a sweep here and run it as a Ray job, with its log and exit status; the same command resumes."""
    from modpo.orchestration import job_environment, jobs

    named = job_environment.named_variables(variables or (), os.environ)
    with job_environment.packed_job(
        config,
        overrides=overrides or (),
        working_dir=working_dir,
        variables=named,
        files_on_nodes=files_on_nodes,
    ) as request:
        for warning in request.warnings:
            _show(warning.render("warning"))
        client = _jobs_api(address, insecure=insecure)
        job_id = jobs.submit(client, request)
    if no_wait:
        print(job_id)
        return
    _show(f"submitted {job_id}")
    _follow(client, job_id)


@app.command(name="jobs")
def list_jobs(address: Address = None, insecure: Insecure = False) -> None:
    """List the jobs that `modpo submit` made on a cluster, the newest first."""
    from modpo.orchestration.jobs import list_jobs
    from modpo.tables import print_jobs

    print_jobs(console, list_jobs(_jobs_api(address, insecure=insecure)))


@app.command()
def logs(
    job: JobOrRun,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job is over; exits with its status.")] = False,
    address: Address = None,
    insecure: Insecure = False,
) -> None:
    """Print what a job has printed."""
    from modpo.orchestration.jobs import find_job, read_logs

    client = _jobs_api(address, insecure=insecure)
    found = find_job(client, job)
    if follow:
        _follow(client, found.job_id)
    sys.stdout.write(read_logs(client, found))


@app.command()
def stop(job: JobOrRun, address: Address = None, insecure: Insecure = False) -> None:
    """Stop a job and wait until it has stopped; what its run has finished is kept."""
    from modpo.orchestration.jobs import find_job, stop

    client = _jobs_api(address, insecure=insecure)
    ended = stop(client, find_job(client, job))
    print(f"{ended.job_id} {ended.status}")


def _jobs_api(address: str | None, *, insecure: bool) -> Any:
    from modpo.orchestration.jobs_api import choose_address, connect

    return connect(choose_address(address, os.environ), insecure=insecure)


def _follow(client: Any, job_id: str) -> NoReturn:
    """Shows a job's log and exits with the job's status; an interrupt leaves the job running."""
    from modpo.orchestration.jobs import exit_status_of, follow

    def write(text: str) -> None:
        print(text, end="", flush=True)

    try:
        job = follow(client, job_id, write)
    except KeyboardInterrupt:
        _show(
            f"detached: {job_id} goes on. `modpo logs {job_id} --follow` looks at it again, "
            f"`modpo stop {job_id}` stops it; both at --address {client.get_address()}"
        )
        raise typer.Exit(130) from None
    _show(f"{job_id} {job.status}")
    raise typer.Exit(exit_status_of(job))


@app.command()
def doctor() -> None:
    """Say what this machine can and cannot do."""
    from modpo.doctor import examine
    from modpo.tables import print_findings

    findings = examine()
    print_findings(console, findings)
    if any(finding.verdict == "broken" for finding in findings):
        raise typer.Exit(4)


@app.command()
def schema() -> None:
    """Print the JSON schema of the sweep file, for editors."""
    from modpo.config import config_schema

    print(json.dumps(config_schema(), indent=2))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with 0, or with the status that errors.py documents."""
    quiet_environment()
    with secrets_masked():
        _run(arguments)


def _run(arguments: Sequence[str] | None) -> NoReturn:
    # Reward functions live in the user's working directory; a console script does not look there by itself.
    sys.path.insert(0, str(Path.cwd()))
    try:
        status = app(args=arguments, standalone_mode=False)
    except ModpoError as error:
        _show(error.render())
        sys.exit(error.exit_status)
    except typer.TyperException as error:
        _show(f"error[MS-104]: {error.format_message()}\n  help: see `modpo --help`")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _show("interrupted: the same command goes on from the last checkpoints")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001  # a user sees one line; MODPO_DEBUG=1 shows all
        if os.environ.get("MODPO_DEBUG"):
            traceback.print_exc()
        internal = InternalError(
            Problem(
                code="MS-600",
                what="an unexpected error",
                got=f"{type(error).__name__}: {error}",
                remedy="run again with MODPO_DEBUG=1 for the traceback, and report it",
            )
        )
        _show(internal.render())
        sys.exit(internal.exit_status)
    sys.exit(status or 0)


def _show(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
