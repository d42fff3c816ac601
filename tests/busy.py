"""Runs a command on a busy machine: `python -m tests.busy COMMAND…`.

Two processes a core do nothing but keep it busy, and the command gives way to them.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

BUSY_A_CORE = 2
BUSY = ("nice", "-n", "5")
GIVES_WAY = ("nice", "-n", "10")
KEEPS_BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    sum(range(1_000_000))
"""


def main(words: Sequence[str]) -> int:
    """The command's exit code."""
    keep_busy = [*BUSY, sys.executable, "-c", KEEPS_BUSY, str(os.getpid())]
    busy = [subprocess.Popen(keep_busy) for _ in range(BUSY_A_CORE * (os.cpu_count() or 1))]
    try:
        return subprocess.call([*GIVES_WAY, *words])
    finally:
        for process in busy:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
