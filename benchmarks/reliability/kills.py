"""Seeded kills: every one must be survived without a manual step, and leave the weights as if it had not been."""

from __future__ import annotations

import math
import time
from typing import Any

from benchmarks.reliability.base import Run, new_run, undisturbed
from benchmarks.reliability.disturbed import PATIENCE_S, Disturbed, Hit, disturb
from benchmarks.reliability.figures import Figure, Measured, Options
from benchmarks.reliability.kill_plan import Kill, plan_kills

KILLS_A_SWEEP = 10
STAGES = (0, 1)
MOST_LOST_STEPS = 5
EXTRA_SWEEPS = 3
"""For kills whose moment passed too quickly: so often another sweep is begun for them."""


def measure(options: Options) -> Measured:
    """Base runs under both ZeRO stages in turn, ten kills in each."""
    plan = plan_kills(options.kills, seed=options.seed, sweeps=math.ceil(options.kills / KILLS_A_SWEEP))
    whole: dict[int, Run] = {}
    sweeps: list[tuple[int, Disturbed]] = []
    waiting: list[Kill] = []
    for number in range(len(plan) + EXTRA_SWEEPS):
        kills = plan[number] if number < len(plan) else waiting
        if not kills:
            continue
        stage = STAGES[number % len(STAGES)]
        if stage not in whole:
            options.say(f"ZeRO {stage}, undisturbed")
            whole[stage] = undisturbed(options.shared, stage=stage, patience_s=PATIENCE_S)
        done = _one_sweep(options, number, stage, kills)
        sweeps.append((stage, done))
        waiting = [*(waiting if number < len(plan) else []), *done.slipped]
    return Measured(_figures(options.kills, sweeps, whole), [_row(*each, whole) for each in _hits(sweeps)])


def _one_sweep(options: Options, number: int, stage: int, kills: list[Kill]) -> Disturbed:
    started = time.monotonic()
    options.say(f"sweep {number}, ZeRO {stage}, {len(kills)} kills")
    run = new_run(options.folder / f"sweep-{number}", options.shared / "world", stage=stage)
    done = disturb(run, kills, options.say)
    options.say(f"  {done.failed or 'ended well'} after {time.monotonic() - started:.0f} s, {done.commands} commands")
    for kill in done.slipped:
        options.say(f"  not killed yet: {kill}")
    return done


def _hits(sweeps: list[tuple[int, Disturbed]]) -> list[tuple[int, Disturbed, Hit]]:
    return [(stage, done, hit) for stage, done in sweeps for hit in done.hits]


def _figures(wanted: int, sweeps: list[tuple[int, Disturbed]], whole: dict[int, Run]) -> dict[str, Figure]:
    hits = _hits(sweeps)
    survived = sum(done.survived(hit) for _, done, hit in hits)
    identical = sum(not done.failed and not done.differing_weights(whole[stage]) for stage, done, _ in hits)
    ended = [(stage, done) for stage, done in sweeps if not done.failed]
    return {
        "seeded kills survived without a manual step": Figure(survived, wanted, "at least"),
        "seeded kills after which all final weights are bit-identical": Figure(identical, wanted, "at least"),
        "lost steps without notice, the most of a kill": Figure(
            max((done.lost_steps() for _, done in sweeps), default=math.nan), MOST_LOST_STEPS, "at most"
        ),
        "finished points trained again": Figure(sum(done.trained_again() for _, done in ended), 0, "at most"),
        "steps with another loss than undisturbed": Figure(
            sum(done.differing_steps(whole[stage]) for stage, done in ended), 0, "at most"
        ),
        "measurements that are not those of the undisturbed run": Figure(
            sum(len(done.differing_measurements(whole[stage])) for stage, done in ended), 0, "at most"
        ),
    }


def _row(stage: int, done: Disturbed, hit: Hit, whole: dict[int, Run]) -> dict[str, Any]:
    return {
        "kill": hit.kill.number,
        "zero_stage": stage,
        "victim": str(hit.kill.victim),
        "signal": hit.kill.signal,
        "phase": str(hit.kill.phase),
        "survived": done.survived(hit),
        "identical": not done.failed and not done.differing_weights(whole[stage]),
    }
