"""Longer campaigns: `python -m tests.simulation --seeds 100000 --first 1000000 --jobs 2`.

`python -m tests.simulation --trace 7` repeats one world and prints everything that happened in it.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.campaign import CHUNK_WORLDS, WORLDS, Campaign, run_worlds


def _trace(of: str, seed: int) -> int:
    verdict = WORLDS[of](seed).run()
    print("\n".join((*verdict.lines, verdict.report())))
    return 0 if verdict.ok else 1


def main() -> int:
    """Run the worlds asked for; 1 where one fails, or where nothing happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--failures", type=int, default=5, help="stop a chunk after so many")
    parser.add_argument("--of", choices=list(WORLDS), default="sample", help="which application")
    parser.add_argument("--trace", type=int, metavar="SEED", help="repeat this world alone")
    given = parser.parse_args()
    if given.trace is not None:
        return _trace(given.of, given.trace)
    chunks = [
        range(first, min(first + CHUNK_WORLDS, given.first + given.seeds))
        for first in range(given.first, given.first + given.seeds, CHUNK_WORLDS)
    ]
    total, began_s = Campaign(), time.monotonic()
    with ProcessPoolExecutor(given.jobs) as pool:
        for campaign in pool.map(
            partial(run_worlds, failures_max=given.failures, of=given.of), chunks
        ):
            total.worlds += campaign.worlds
            total.failed += campaign.failed
            total.seen += campaign.seen
            if campaign.failed:
                print(campaign.report(), flush=True)
    lasted_s = time.monotonic() - began_s
    print(f"{total.worlds} worlds in {lasted_s:.0f} s, {len(total.failed)} failed")
    unseen = total.unseen if given.of == "sample" else []
    print(f"never seen: {', '.join(unseen) or 'nothing'}")
    return 1 if total.failed or unseen else 0


if __name__ == "__main__":
    sys.exit(main())
