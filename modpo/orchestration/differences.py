"""What changed since a run's folder was last worked on, in words: parts of a key, settings of a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modpo.errors import shown
from modpo.orchestration.digests import Key, changed_parts

MOST_NAMED = 5


def why_again(before: Mapping[str, str], now: Key) -> str:
    """What changed of a stage's key since it was last done, in one line; empty where nothing did, or it never was."""
    parts = changed_parts(before, now) if before else []
    return f"{enumerated([f'the {part}' for part in parts])} changed; done again" if parts else ""


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Keys of two configs with another value, each with both values."""
    changes = [f"{place} {_worded(new)}, was {_worded(old)}" for place, old, new in _changes("", before, now)]
    named = changes[:MOST_NAMED]
    return "; ".join([*named, *_rest(len(changes) - len(named))])


def enumerated(names: Sequence[str]) -> str:
    """`a, b and c`, however many there are."""
    named = [*names[:MOST_NAMED], *_rest(len(names) - MOST_NAMED)]
    return " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))


def _worded(value: Any) -> str:
    """A scalar as it is; of sections and lists no more than that they are there."""
    if value is None:
        return "not given"
    if isinstance(value, Mapping):
        return "given"
    return f"{len(value)} entries" if isinstance(value, list) else shown(value)


def _rest(count: int) -> list[str]:
    return [f"{count} more"] if count > 0 else []


def _changes(place: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """(key, old, new) of every leaf; whole branches where only one side has them."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys((*before, *now)):
            yield from _changes(f"{place}.{name}".lstrip("."), before.get(name), now.get(name))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _changes(f"{place}[{index}]", old, new)
    elif before != now:
        yield place, before, now
