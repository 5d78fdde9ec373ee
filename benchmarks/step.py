"""One training step against others: `python -m benchmarks.step`, in processor seconds of one thread.

Every round takes each variant once, in turn, so that whatever else the machine does falls on all of them; what counts
is the ratio within a round, and the median of the rounds. `benchmarks.workloads` says what the pairs and models are,
`benchmarks.variants` what is compared, and a test holds the reference step to its operations and gradients.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.engine_overhead import engine_and_bare
from benchmarks.measuring import RESULTS, Ratio, commit, machine, print_ratios, print_table, ratio, write_results
from benchmarks.step_memory import step_memory
from benchmarks.step_profile import profiled
from benchmarks.trl_step import is_installed
from benchmarks.variants import CPU, OURS, PADDING_FREE, REFERENCE, TRL_PRECOMPUTED, VARIANTS, Case, Step
from benchmarks.workloads import H512, QA, SAFETY, SMALL, UNIFORM, V32K, ModelSize, token_counts
from modpo.telemetry import quiet_libraries
from modpo.utilisation import seconds_per_operation

PEAK = "matmul peak"
"""The operations that the step cannot do without, at the speed of a large product in the same round."""
PEAK_REPEATS = 3
# A cost of 5 % over the bare loop, as a ratio of what the bare loop takes.
ENGINE_BAR = round(1 / 1.05, 3)
MEMORY_BAR = 4.0
FEW_PAIRS = 2
PRINTED = ("variant", "ms_per_pair", "percent_of_peak", "times_ours")


@dataclass(frozen=True)
class Measurement:
    """One case, how often, and the least that its ratios should be, by what ours is compared with."""

    name: str
    case: Case
    rounds: int
    bars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """What one run of this benchmark measures; what has bars comes first."""

    measurements: tuple[Measurement, ...]
    further: tuple[Measurement, ...]
    memory: tuple[ModelSize, ...]
    engine: Case
    engine_rounds: int
    has_bars: bool
    memory_of: tuple[str, ...] = VARIANTS


def full_form(rounds: int) -> Form:
    few = max(1, rounds // 2 + 1)
    against = {REFERENCE: 4.2, TRL_PRECOMPUTED: 2.3, PEAK: 0.65}
    long_prompts = {REFERENCE: 6.5, TRL_PRECOMPUTED: 3.5, PADDING_FREE: 1.35, PEAK: 0.65}
    h512, v32k = H512.vocabulary, V32K.vocabulary
    return Form(
        (
            Measurement("h=512, uniform", Case(H512, UNIFORM.pairs(h512)), rounds, against),
            Measurement("h=512, qa", Case(H512, QA.pairs(h512)), rounds, long_prompts),
        ),
        (
            Measurement("h=512, safety", Case(H512, SAFETY.pairs(h512)), few),
            *(
                Measurement(f"V=32000, {w.name}", Case(V32K, w.pairs(v32k)[:FEW_PAIRS]), few)
                for w in (UNIFORM, QA, SAFETY)
            ),
        ),
        memory=(H512, V32K),
        engine=Case(H512, UNIFORM.pairs(h512)[:FEW_PAIRS]),
        engine_rounds=2 * rounds + 1,
        has_bars=True,
    )


def quick_form() -> Form:
    """Small sizes, for a look at whether everything runs: its ratios are no claims."""
    vocabulary = SMALL.vocabulary
    return Form(
        tuple(
            Measurement(f"h=256, {w.name}", Case(SMALL, w.pairs(vocabulary)[:FEW_PAIRS]), rounds=2)
            for w in (UNIFORM, QA)
        ),
        further=(),
        memory=(SMALL,),
        engine=Case(SMALL, UNIFORM.pairs(vocabulary)[:FEW_PAIRS]),
        engine_rounds=3,
        has_bars=False,
        memory_of=(OURS, REFERENCE),
    )


class Findings:
    """What was measured so far, written after every part: a run that is broken off leaves those it had.

    Args:
        keeps: whether the parts that stand in the file already are kept until they are measured again.
    """

    def __init__(self, path: Path, *, keeps: bool) -> None:
        self._path = path
        kept = json.loads(path.read_text(encoding="utf-8")) if keeps and path.is_file() else {"measured": {}}
        self._commit = commit()
        self._results: dict[str, Any] = kept | {"machine": machine(), "commit": self._commit}
        self.ratios = {name: Ratio(**found) for name, found in self._results.pop("ratios", {}).items()}

    def add(self, part: str, ratios: Mapping[str, Ratio], **found: Any) -> None:
        """A part replaces what was found of it before; `rows` are joined with those of other cases."""
        rows = [row for row in self._results.get("rows", []) if row["case"] != part]
        found["rows"] = rows + found.get("rows", [])
        self._results |= found
        self._results["measured"][part] = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": self._commit,
            "load_average": machine()["load_average"],
        }
        self.ratios |= ratios
        write_results(self._path, self._results, self.ratios)


def main() -> None:
    """Prints a table for every part, and how the ratios stand to their bars."""
    arguments = _arguments()
    if not is_installed():
        raise SystemExit(
            "TRL is what steps are compared with: install the extra `modpo[baselines]`, as `make bench` does"
        )
    torch.set_num_threads(1)
    quiet_libraries()
    form = quick_form() if arguments.quick else full_form(arguments.rounds)
    parts = _parts(form)
    if unknown := set(arguments.only) - parts.keys():
        raise SystemExit(f"--only {' '.join(sorted(unknown))}: the parts are {', '.join(parts)}")
    findings = Findings(arguments.results, keeps=bool(arguments.only))
    for name in arguments.only or parts:
        parts[name](findings)
    if findings.ratios:
        print_ratios("what others take / what ours takes", findings.ratios)


def _parts(form: Form) -> dict[str, Callable[[Findings], None]]:
    """Everything that is measured, by name and in order."""
    return {
        **{each.name: partial(_measure_case, each) for each in form.measurements},
        "memory": partial(_measure_memory, form),
        "engine": partial(_measure_engine, form),
        "profile": partial(_measure_profile, form.measurements[0]),
        **{each.name: partial(_measure_case, each) for each in form.further},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, in less than a minute")
    parser.add_argument("--rounds", type=int, default=5, help="of the cases that have bars; the others get about half")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="PART",
        help="measure these anew, keep the rest of the file: cases as their tables name them, memory, engine, profile",
    )
    parser.add_argument(
        "--profile", dest="only", action="store_const", const=["profile"], help="where a step spends its time"
    )
    parser.add_argument("--results", type=Path, default=RESULTS / "step.json", help="where the figures are written")
    return parser.parse_args()


def _measure_case(measurement: Measurement, findings: Findings) -> None:
    seconds = _interleaved(measurement)
    rows = _rows(measurement, seconds)
    findings.add(measurement.name, _step_ratios(measurement, seconds), rows=rows)
    print_table(_title(measurement), [{key: row[key] for key in PRINTED} for row in rows])


def _interleaved(measurement: Measurement) -> dict[str, list[float]]:
    """CPU seconds of every variant in every round; the peak's are those of this step's useful operations."""
    case, useful = measurement.case, measurement.case.useful_flops()
    seconds: dict[str, list[float]] = {name: [] for name in (*VARIANTS, PEAK)}
    with tempfile.TemporaryDirectory(prefix="modpo-benchmark-") as folder:
        # What libraries do once in a process is no variant's: one pair goes through all of them first.
        for name in VARIANTS:
            Case(case.size, case.pairs[:1]).step(name, Path(folder)).run()
        steps = {name: case.step(name, Path(folder)) for name in VARIANTS}
        for _ in range(measurement.rounds):
            products = []
            for name, step in steps.items():
                seconds[name].append(_seconds(step))
                products += [seconds_per_operation(CPU, torch.float32, time.process_time) for _ in range(PEAK_REPEATS)]
            seconds[PEAK].append(useful * min(products))
    return seconds


def _seconds(step: Step) -> float:
    step.clear()
    gc.collect()
    started = time.process_time()
    step.run()
    return time.process_time() - started


def _step_ratios(measurement: Measurement, seconds: Mapping[str, list[float]]) -> dict[str, Ratio]:
    return {
        f"{measurement.name}: {name}": ratio(seconds[OURS], each, bar=measurement.bars.get(name))
        for name, each in seconds.items()
        if name != OURS
    }


def _rows(measurement: Measurement, seconds: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """One row a variant: the batch's tokens, milliseconds a pair, and useful operations as a share of the peak."""
    counts = token_counts(measurement.case.pairs)
    return [
        {
            "case": measurement.name,
            "variant": name,
            "pairs": len(measurement.case.pairs),
            **{key: value for key, value in asdict(counts).items() if key != "longest"},
            "ms_per_pair": round(1000 * median(seconds[name]) / len(measurement.case.pairs)),
            "percent_of_peak": round(100 * ratio(seconds[name], seconds[PEAK]).median),
            "times_ours": ratio(seconds[OURS], seconds[name]).median,
            "cpu_seconds": [round(s, 3) for s in seconds[name]],
        }
        for name in VARIANTS
    ]


def _title(measurement: Measurement) -> str:
    pairs = measurement.case.pairs
    tokens = token_counts(pairs)
    return (
        f"{measurement.name}: {len(pairs)} pairs, {tokens.padded:,} tokens padded, {tokens.flat:,} flat, "
        f"{tokens.unique:,} unique, {tokens.responses:,} of responses; {measurement.rounds} rounds"
    )


def _measure_memory(form: Form, findings: Findings) -> None:
    rows = []
    ratios: dict[str, Ratio] = {}
    for size in form.memory:
        found = {name: step_memory(name, size, FEW_PAIRS) for name in form.memory_of}
        vocabulary = f"V={size.vocabulary}"
        rows.append({"model": f"h={size.hidden}, {vocabulary}", **{name: round(mib) for name, mib in found.items()}})
        bars = {REFERENCE: MEMORY_BAR} if form.has_bars and size is V32K else {}
        ratios |= {
            f"memory, {vocabulary}: {name}": ratio([found[OURS]], [mib], bar=bars.get(name))
            for name, mib in found.items()
            if name != OURS
        }
    findings.add("memory", ratios, memory=rows)
    print_table("peak memory of a step above the model, MiB", rows)


def _measure_engine(form: Form, findings: Findings) -> None:
    engine, bare = engine_and_bare(form.engine, form.engine_rounds)
    found = ratio(engine, bare, bar=ENGINE_BAR if form.has_bars else None)
    seconds = {"engine": round(median(engine), 3), "bare_loop": round(median(bare), 3)}
    findings.add("engine", {"engine: bare loop": found}, engine=seconds)


def _measure_profile(measurement: Measurement, findings: Findings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = profiled(measurement.case.step(OURS, Path(folder)), repeats=3)
    findings.add("profile", {}, profile=rows)
    print_table(f"one of our steps, {measurement.name}", rows)


if __name__ == "__main__":
    main()
