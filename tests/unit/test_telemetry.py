"""Nothing is told to anybody: every library that could sees that it must not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

LIBRARIES = """
import json
from modpo.telemetry import quiet_environment
quiet_environment()
import datasets, huggingface_hub.constants
from ray._common.usage import usage_lib
print(json.dumps({
    "ray": usage_lib.usage_stats_enabled(),
    "hub": not huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY,
}))
"""


def test_telemetry_is_off_in_the_libraries_own_eyes(repository: Path) -> None:
    asked = {name for name in os.environ if "TELEMETRY" in name or "USAGE_STATS" in name}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIBRARIES],
        capture_output=True,
        text=True,
        cwd=repository,
        env={name: value for name, value in os.environ.items() if name not in asked},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["ray"], found["hub"]) == (False, False)


def test_a_user_who_wants_it_may_have_it(repository: Path) -> None:
    code = (
        "import os\nfrom modpo.telemetry import quiet_environment\n"
        "quiet_environment()\nprint(os.environ['RAY_USAGE_STATS_ENABLED'])"
    )
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, env=environment, check=True
    )
    assert done.stdout.strip() == "1"
