"""`make test-long` runs its tests on a machine that is busy."""

import json
import os
import subprocess
import sys

import psutil

from tests.busy import BUSY_A_CORE
from tests.patience import HANG_S

LOOKS = """
import json, os, psutil, sys
others = psutil.Process().parent().children()
others.remove(psutil.Process())
print(json.dumps([os.nice(0), [other.pid for other in others]]))
sys.exit(7)
"""


def test_a_command_gives_way_to_two_busy_processes_a_core() -> None:
    """Its exit code is handed on; nobody is busy afterwards."""
    command = [sys.executable, "-m", "tests.busy", sys.executable, "-c", LOOKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    niceness, others = json.loads(done.stdout)

    assert (done.returncode, done.stderr) == (7, "")
    assert niceness == os.nice(0) + 10
    assert len(others) == BUSY_A_CORE * (os.cpu_count() or 1)
    assert [pid for pid in others if psutil.pid_exists(pid)] == []
