"""`make reliability`: measures every part of the scoreboard, prints it and writes it."""

from benchmarks.reliability.scoreboard import main

if __name__ == "__main__":  # a process of its own measures each part, and imports this
    raise SystemExit(main())
