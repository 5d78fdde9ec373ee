"""Which packages a run was made with, and what it means when they are others the next time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec

from modpo.errors import Problem

RECORDED = ("modpo", "ray", "torch", "deepspeed", "transformers", "peft", "datasets", "moocore")
RECORDED_WHERE_INSTALLED = ("bitsandbytes",)
# What computes: with another of these, the same seed and data need not give the same bits.
COMPUTING = ("torch", "deepspeed", "transformers", "peft")

Versions = Mapping[str, str]


def installed_versions() -> dict[str, str]:
    extras = (name for name in RECORDED_WHERE_INSTALLED if find_spec(name) is not None)
    return {name: version(name) for name in (*RECORDED, *extras)}


def earlier_versions(stored: Mapping[str, object]) -> list[dict[str, str]]:
    """Every set of versions that a run's manifest knows, the latest last."""
    earlier, last = stored.get("earlier_versions", []), stored.get("versions")
    assert isinstance(earlier, list), "run.json holds a list of earlier versions"
    known = [*earlier, *([last] if last else [])]
    now = installed_versions()
    return [versions for versions in known if versions != now]


def warn_of_versions(earlier: list[dict[str, str]]) -> Iterator[Problem]:
    """Whether parts of a run were computed by another minor version of what computes."""
    now = installed_versions()
    changed = {
        name: before[name]
        for before in earlier
        for name in COMPUTING
        if name in before and _minor(before[name]) != _minor(now[name])
    }
    if changed:
        yield Problem(
            code="MS-721",
            what="the run goes on with other versions than it began with: its results are no longer equal to the bit",
            where="run.json",
            got=", ".join(f"{name} {now[name]}" for name in changed),
            wanted=", ".join(f"{name} {before}" for name, before in changed.items()),
            remedy="install those versions, or take another name for a run of one kind; both versions stay in run.json",
        )


def _minor(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")[:2])
