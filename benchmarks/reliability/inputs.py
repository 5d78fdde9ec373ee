"""The catalogue of bad sweep files and bad rows: refused clearly, all of them, and nothing that is well is refused."""

from __future__ import annotations

from benchmarks.reliability.base import write_base_world
from benchmarks.reliability.figures import Figure, Measured, Options
from tests.pipeline.grading import grade

CLEAR_SHARE = 0.98


def measure(options: Options) -> Measured:
    """Every case through `modpo validate`, under the judge that the tests have."""
    world = options.folder / "world"
    write_base_world(world)
    grades = grade(world, options.folder)
    options.say(f"{grades.bad} bad inputs, {grades.valid} valid ones")
    return Measured(
        {
            "bad inputs with a clear error, share": Figure(
                round(grades.clear / grades.bad, 4), CLEAR_SHARE, "at least"
            ),
            "bad inputs accepted silently": Figure(len(grades.silent), 0, "at most"),
            "valid inputs refused": Figure(len(grades.false_refusals), 0, "at most"),
        },
        [
            *({"case": name, "faults": faults} for name, faults in grades.unclear.items()),
            *({"case": name, "faults": ["accepted"]} for name in grades.silent),
            *({"case": name, "faults": ["refused, though valid"]} for name in grades.false_refusals),
        ],
    )
