"""Processes of this machine: an id may come again, but not with the same start."""

from __future__ import annotations

from pathlib import Path


def state_and_start(pid: int) -> tuple[str, int]:
    """A process's state, one letter, and its start in clock ticks since the machine's, as proc(5) has them.

    Raises:
        OSError: there is no such process, or it is hidden from this user.
    """
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    # Behind the name in brackets, which may hold anything: state is the third field, the start the 22nd.
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def start_of(pid: int) -> int:
    """The same start, 0 where there is no such process."""
    try:
        return state_and_start(pid)[1]
    except OSError:
        return 0
