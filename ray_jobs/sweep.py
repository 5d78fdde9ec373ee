"""Run a sweep as a Ray job: `python -m ray_jobs.sweep CONFIG [--set a.b=c ...]` is `modpo run` with the same arguments.

The exit status is that of `modpo run`; the Jobs API keeps it, while `ray job submit` itself returns 1 for all failures.
"""

from __future__ import annotations

import sys

from modpo.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
