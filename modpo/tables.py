"""Results on a terminal: what `plan`, `status`, `doctor` and the end of a run print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modpo.config.together import alone_because
from modpo.config.tree import SweepConfig
from modpo.errors import escaped
from modpo.lease import standing
from modpo.ledger import read_point
from modpo.storage import address

if TYPE_CHECKING:
    from modpo.core.memory import RankMemory
    from modpo.doctor import Finding
    from modpo.orchestration.jobs import Job
    from modpo.orchestration.overview import Overview
    from modpo.orchestration.preflight import Preflight
    from modpo.verification.measure import Case


MOST_BESIDE = 2
"""Objectives whose weights stand beside their values in 160 columns; weights of more stand above."""

# Of `PairCounts`, what is known before a token is made.
COUNTED = ("rows", "pairs", "ties", "missing", "duplicates", "conflicting", "implicit_prompts", "unusable")


def print_preflight(console: Console, found: Preflight) -> None:
    """What became of every row, how long the texts are, where labels disagree, one pair as the model sees it."""
    counts = _table("objective", *COUNTED, "characters, half / 95% / all below", "chosen is longer")
    for name, loaded in found.data.objectives.items():
        kinds = loaded.counts.as_dict()
        below = " / ".join(str(length) for length in found.facts.characters[name].values())
        counts.add_row(name, *(str(kinds[kind]) for kind in COUNTED), below, f"{found.facts.longer_chosen[name]:.0%}")
    if found.data.objectives:
        console.print(counts)
    for kind, texts in (("prompts to label", found.data.label_prompts), ("texts to imitate", found.data.sft)):
        if texts:
            console.print(f"{kind}: {len(texts)}")
    for name, scored in found.data.scored.items():
        console.print(f"numbers for the reward model of {name}: {len(scored)}")
    for both in found.facts.agreements:
        console.print(
            f"{both.comparisons} comparisons that {both.first} and {both.second} both label: "
            f"they disagree on {both.conflict:.1%}"
        )
    for line in found.sample:
        # The user's own text, which may look like markup.
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for warning in found.warnings:
        console.print(warning.render("warning"), style="yellow", markup=False, highlight=False)
    console.print("[green]no problems found[/green]")


def print_overview(console: Console, config: SweepConfig, overview: Overview) -> None:
    """Trials with their primary objective and steps, then how they fit."""
    names = config.objective_names
    points = {trial.trial_id for trial in overview.plan.points}
    table = _table("trial", *names, "primary", "beta", "seed", "steps", "as", folded="trial")
    for trial in overview.plan.trials:
        primary = trial.primary_name(names) or "none"
        role = "point" if trial.trial_id in points else "vertex for its margin"
        weights = (f"{weight:.3f}" for weight in trial.weights)
        steps = str(sum(overview.steps[names[source]] for source in trial.sources))
        table.add_row(trial.trial_id, *weights, primary, f"{trial.beta:g}", str(trial.seed), steps, role)
    console.print(table)
    for name, count in overview.pairs.items():
        console.print(f"{name}: {count} pairs")
    _print_resources(console, overview)
    console.print(_together(config))
    if overview.memory:
        console.print(_memory_table(config, overview.memory))
    _print_costs(console, overview)
    for sentence in overview.sentences:
        console.print(sentence)


def _print_resources(console: Console, overview: Overview) -> None:
    resources = overview.resources
    worker = " and ".join(f"{amount:g} {name}" for name, amount in resources.worker.items())
    fewest = f", or as few as {resources.min_workers} after a loss" if resources.is_elastic else ""
    nodes = f", on {resources.nodes_per_trial} nodes" if resources.nodes_per_trial > 1 else ""
    labels = "".join(f", {name}={value}" for name, value in resources.node_labels.items())
    console.print(f"each trial: {resources.num_workers} worker(s) with {worker}{fewest}{nodes}{labels}")
    console.print(
        f"{resources.slots} at once, in at most {overview.rounds} round(s); about {resources.helper_gib} GiB of drivers"
    )


def _print_costs(console: Console, overview: Overview) -> None:
    """Bytes on storage, device hours and their price."""
    if overview.storage:
        parts = ", ".join(f"{what} {_size(size)}" for what, size in overview.storage.items() if size)
        free = "" if overview.free_bytes is None else f"; {_size(overview.free_bytes)} are free"
        console.print(f"storage: about {_size(sum(overview.storage.values()))} ({parts}){free}")
    if overview.time is None:
        console.print("device hours: not known before a point of this run is trained")
        return
    price = "" if overview.price is None else f", which cost {overview.price:.2f}"
    hours, source = overview.time.hours, overview.time.source
    console.print(f"training: {hours:.2g} device hours{price} ({source}); annotation and samples come on top")


def _memory_table(config: SweepConfig, memory: Mapping[int, RankMemory]) -> Table:
    """One row a ZeRO stage; the sweep's own is marked."""
    parts = ("weights", "gradients", "optimizer", "buffers", "activations", "total", "host")
    table = _table("memory of a worker", *parts)
    for stage, of_stage in memory.items():
        mark = " (this sweep)" if stage == config.training.deepspeed.stage else ""
        table.add_row(f"ZeRO {stage}{mark}", *(_size(getattr(of_stage, part)) for part in parts))
    return table


def _size(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def _together(config: SweepConfig) -> str:
    """Whether a slot trains several points at once, as far as it is known before the pairs are tokenised."""
    asked, reason = config.resources.points_together, alone_because(config)
    if asked == 1 or reason is not None:
        return f"points are trained one by one: {reason or 'resources.points_together is 1'}"
    most = "where that is faster, which the lengths of the pairs decide" if asked == "auto" else f"up to {asked}"
    return f"points that exceed the slots are trained together, as adapters on one model: {most}"


def print_status(console: Console, run_dir: Path, manifest: Mapping[str, Any]) -> None:
    """Who works on a run, and one row a point of the present sweep, straight from the ledger."""
    console.print(standing(run_dir), highlight=False, markup=False, soft_wrap=True)
    table = _table("trial", "status", "step", "attempts", "device s", "evaluation s", "MFU", "error")
    for trial_id in manifest["trials"]:
        record = read_point(run_dir, trial_id)
        if record is None:
            table.add_row(_plain(trial_id), "pending", *[""] * 6)
            continue
        step = f"{record.step}/{record.num_steps}"
        seconds = (f"{s:.0f}" for s in (record.device_seconds, record.evaluation_device_seconds))
        mfu = _share(record.training.mfu)
        table.add_row(_plain(trial_id), record.status, step, str(record.attempts), *seconds, mfu, _plain(record.error))
    console.print(table)


def print_jobs(console: Console, jobs: Sequence[Job]) -> None:
    """One row a job, in this machine's time."""
    table = _table("job", "run", "status", "exit", "started", "ended", folded="run")
    for job in jobs:
        moments = (
            moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else "" for moment in (job.started, job.ended)
        )
        table.add_row(
            _plain(job.job_id),
            _plain(job.run_path),
            job.status,
            "" if job.exit_status is None else str(job.exit_status),
            *moments,
        )
    console.print(table)


def print_summary(console: Console, summary: Mapping[str, Any], run_dir: Path) -> None:
    """The front as a table, its hypervolume, and where everything is."""
    console.print(_front_table(summary))
    for point in summary["points"]:
        if point["collapsed"]:
            console.print(
                f"[red]{point['trial_id']} has collapsed, whatever its values say: {point['collapsed']}[/red]"
            )
        if point["overshot"]:
            console.print(f"[red]{point['trial_id']} is worse than the start model: {point['overshot']}[/red]")
    volume = summary["hypervolume"]
    if volume and volume["value"] is not None:
        corner = ", ".join(f"{name} {value:.3g}" for name, value in volume["hv_ref_point"].items())
        console.print(f"hypervolume {_interval(volume)} above {corner}")
    if summary.get("exact"):
        console.print(f"exact front: hypervolume {summary['exact']['hypervolume']:.3f}")
    costs = summary["costs"]
    shares = ", ".join(f"{part} {_share(costs[part]['share'])}" for part in ("training", "annotation", "evaluation"))
    console.print(f"device time {costs['device_seconds']:.0f} s: {shares}")
    console.print(_plain(f"report: {address(run_dir / 'report' / 'index.html')}"))


def _front_table(summary: Mapping[str, Any]) -> Table:
    """One row a point: weights beside the values, or above them where so many columns would be cut."""
    objectives, points = summary["objectives"], summary["points"]
    stacked = len(objectives) > MOST_BESIDE
    has_exact = any(point.get("kl_to_exact") is not None for point in points)
    mark = "\n(self-scored)" if stacked else " (self-scored)"
    titles = [o["name"] + mark * o["self_scored"] for o in objectives]
    weights = [] if stacked else [f"w {o['name']}" for o in objectives]
    table = _table(*weights, *titles, "KL", "J_w", "length", "device s", "MFU", "", *["KL to exact"] * has_exact)
    table.show_lines = stacked
    for point in points:
        table.add_row(*_front_row(point, [o["name"] for o in objectives], stacked=stacked, has_exact=has_exact))
    return table


def _front_row(point: Mapping[str, Any], names: Sequence[str], *, stacked: bool, has_exact: bool) -> list[str]:
    weights = [f"{point['weights'][name]:.2f}" if point["weights"] else "" for name in names]
    if point["dominated"] is None:
        # Not measured: it failed, or was never reached.
        return [*(f"w {weight}" if stacked else weight for weight in weights), f"[red]{point['status']}[/red]"]
    values = [_interval(point["objectives"][name]) for name in names]
    measures = [_interval(point["kl"]), _interval(point["j_w"])]
    if stacked:
        values = [f"w {weight}\n{_in_two(value)}" for weight, value in zip(weights, values, strict=True)]
        measures = [f"\n{_in_two(measure)}" for measure in measures]
    faults = [f"[red]{name}[/red]" for name in ("collapsed", "overshot") if point[name]]
    judgement = " ".join(faults) or ("dominated" if point["dominated"] else "")
    row = [
        *values,
        *measures,
        f"{point['length']:.1f}",
        f"{point['device_seconds']:.0f}",
        _share(point["mfu"]),
        judgement,
    ]
    exact = [f"{point['kl_to_exact']:.4f}" if point.get("kl_to_exact") is not None else ""] * has_exact
    return [*([] if stacked else weights), *row, *exact]


def _in_two(interval: str) -> str:
    """A value above its interval."""
    return interval.replace(" [", "\n[", 1)


def print_cases(console: Console, cases: Sequence[Case]) -> None:
    """How far each trained policy is from the optimum, one table for each number of objectives."""
    for number in sorted({case.num_objectives for case in cases}):
        chosen = [case for case in cases if case.num_objectives == number]
        names = list(chosen[0].weights)
        table = _table(*(f"w {name}" for name in names), "KL to the optimum", "max log error", "mass outside", "")
        for case in chosen:
            weights = (f"{case.weights[name]:.2f}" for name in names)
            verdict = "[green]exact[/green]" if case.passed else "[red]not the optimum[/red]"
            table.add_row(*weights, f"{case.kl:.1e}", f"{case.max_log_error:.4f}", f"{case.outside_mass:.2%}", verdict)
        console.print(table)


def print_findings(console: Console, findings: Iterable[Finding]) -> None:
    colours = {"fine": "green", "note": "yellow", "broken": "red"}
    table = _table("", "what", "found", "do")
    for finding in findings:
        verdict = f"[{colours[finding.verdict]}]{finding.verdict}[/]"
        table.add_row(verdict, finding.what, _plain(finding.found), _plain(finding.remedy))
    console.print(table)


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def _plain(text: str | None) -> Text:
    """Somebody's text as it is: no markup of it is obeyed, and no command to a terminal."""
    return Text(escaped(text or ""))


def _table(*columns: str, folded: str = "") -> Table:
    """A table whose cells stand in one line each, but for a column that may be folded where it grows too wide."""
    table = Table(show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column != folded, overflow="fold" if column == folded else "ellipsis")
    return table
