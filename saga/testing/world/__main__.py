"""Repeats one world: `python -m saga.testing.world SEED`; `--trace` shows everything
that happened.
"""

from __future__ import annotations

import argparse
import sys

from saga.testing.world.world import World


def main(arguments: list[str] | None = None) -> int:
    """Run the worlds of the seeds given; 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m saga.testing.world", description=__doc__)
    parser.add_argument("seeds", metavar="SEED", type=int, nargs="+", help="which world")
    parser.add_argument("--trace", action="store_true", help="print everything that happened")
    given = parser.parse_args(arguments)
    failed = 0
    for seed in given.seeds:
        verdict = World(seed).run()
        if given.trace:
            sys.stdout.write("\n".join(verdict.lines) + "\n")
        sys.stdout.write(verdict.report() + "\n")
        failed += bool(verdict.violations)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
