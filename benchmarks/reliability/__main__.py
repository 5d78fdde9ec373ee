"""`make reliability`: measures every part of the scoreboard, prints it and writes it."""

from benchmarks.reliability.scoreboard import main

raise SystemExit(main())
