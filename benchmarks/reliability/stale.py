"""Numbers that were computed once: none may be used again after anything that they depend on has changed."""

from __future__ import annotations

from benchmarks.reliability.base import write_base_world
from benchmarks.reliability.figures import Figure, Measured, Options
from benchmarks.reliability.keys import outcomes


def measure(options: Options) -> Measured:
    """Each of the eleven parts of the keys changed by itself, on real files."""
    world = options.folder / "world"
    write_base_world(world)
    found = outcomes(world, options.folder)
    options.say(f"{len(found)} parts of keys changed, one by one")
    return Measured(
        {
            "stale caches accepted over the parts of the keys": Figure(sum(bool(o.stale) for o in found), 0, "at most"),
            "parts of the keys that were changed": Figure(len(found), 11, "at least"),
            "caches lost though nothing of theirs changed": Figure(sum(bool(o.lost) for o in found), 0, "at most"),
        },
        [{"part": o.part, "stale": list(o.stale), "lost": list(o.lost), "reasons": list(o.reasons)} for o in found],
    )
