"""What a user can be told went wrong, each with one stable code and exit status.

ModpoError
├── InputError        exit 2   the config, the data or a command-line argument
├── ConflictError     exit 3   the run directory holds something else
├── SetupError        exit 4   this machine or cluster cannot do what was asked
├── TrialError        exit 5   one or more trials failed; the others finished
└── InternalError     exit 6   a broken promise of modpo itself: please report it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from modpo.masking import masked

MAX_SHOWN_PROBLEMS = 20
MAX_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake, or reason for doubt: where it is, what we got, what we wanted and what to do about it.

    Attributes:
        code: stable identifier, `MS-nnn`, documented in docs/errors.md.
        what: one line, without the offending text itself.
        where: `file:row (field)` or the path of a config key.
        got: the offending value as `shown` prints it, or an empty string.
        wanted: what would have been accepted.
        remedy: what to do now.
    """

    code: str
    what: str
    where: str = ""
    got: str = ""
    wanted: str = ""
    remedy: str = ""

    def render(self, level: Literal["error", "warning"] = "error") -> str:
        lines = [f"{level}[{self.code}]: {self.what}"]
        for label, text in (("-->", self.where), ("got:", self.got), ("wanted:", self.wanted), ("help:", self.remedy)):
            if text:
                lines.append(f"  {label} {text}")
        # No text of a user can pose as another line, or move a terminal's cursor.
        return masked("\n".join(map(escaped, lines)))


class ModpoError(Exception):
    """Base of everything modpo tells a user; holds all problems found, not only the first."""

    exit_status = 6

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__(self.render())

    def __reduce__(self) -> tuple[type[ModpoError], tuple[tuple[Problem, ...]]]:
        """Errors cross process borders under Ray: rebuild from the problems, not from the message."""
        return type(self), (self.problems,)

    def render(self) -> str:
        shown = [problem.render() for problem in self.problems[:MAX_SHOWN_PROBLEMS]]
        hidden = len(self.problems) - len(shown)
        if hidden > 0:
            shown.append(f"... and {hidden} more of {len(self.problems)} problems")
        return "\n".join(shown)


class InputError(ModpoError):
    """The config, the data or an argument is wrong; nothing was started."""

    exit_status = 2


class ConflictError(ModpoError):
    """The run directory belongs to another config or another process."""

    exit_status = 3


class SetupError(ModpoError):
    """The machine or cluster lacks what the config asks for."""

    exit_status = 4


class TrialError(ModpoError):
    """At least one trial failed; the message has a one-line root cause for each."""

    exit_status = 5


class InternalError(ModpoError):
    """A promise of modpo itself was broken."""

    exit_status = 6


def shown(value: object) -> str:
    """`value` as an error message prints it: control characters escaped, at most 80 characters."""
    return cut(escaped(repr(value)))


def escaped(text: str) -> str:
    """`text` with every character that is not printed as one by its number."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _numbered(c) for c in text)


def _numbered(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def cut(text: str) -> str:
    """`text` as far as an error message shows it."""
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"


def closest(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` for a likely typing error, else an empty string."""
    # Imported here because difflib costs start-up time that a correct config never needs.
    from difflib import get_close_matches  # noqa: PLC0415

    matches = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def root_cause(error: BaseException) -> str:
    """One line: the first problem of our own errors, or type and message of any other."""
    if isinstance(error, ModpoError) and error.problems:
        problem = error.problems[0]
        details = "; ".join(text for text in (problem.where, problem.got, problem.remedy) if text)
        return masked(f"{problem.what} ({problem.code}; {details})")
    return masked(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
