"""`make chaos SECONDS=60 SEED=1`: a real deployment under load, and everything that can go wrong.

The same seed draws the same faults; what they meet depends on the machine. Ends with a report, and
with 1 where anything was violated.
"""

import argparse
import asyncio
import logging
import sys
import time
from pathlib import Path
from random import randrange

from infra import Kafka, Postgres
from infra.scratch import scratch_folder
from tests.chaos.client import Client
from tests.chaos.deployment import Deployment
from tests.chaos.load import start
from tests.chaos.nemesis import Nemesis
from tests.chaos.outside import Outside
from tests.proxy import Proxy

EVERYBODY = ("orchestrator-1", "orchestrator-2", "effects-1", "effects-2")
REST_S_MAX = 180.0
VIOLATIONS_SHOWN_MAX = 20


async def _chaos(folder: Path, *, seconds: float, seed: int, brokers: int) -> list[str]:
    with (
        Kafka(folder / "kafka", brokers=brokers) as kafka,
        Postgres(folder / "postgres") as postgres,
        Proxy(postgres.url()) as proxy,
    ):
        deployment = Deployment(f"kafka://{kafka.bootstrap}", proxy.url, "chaos", folder)
        try:
            return await _struck(deployment, kafka, postgres, proxy, seconds=seconds, seed=seed)
        finally:
            deployment.end()


async def _struck(
    deployment: Deployment,
    kafka: Kafka,
    postgres: Postgres,
    proxy: Proxy,
    *,
    seconds: float,
    seed: int,
) -> list[str]:
    began_s = time.monotonic()

    def say(what: str) -> None:
        placed = len(client.log.triggers)
        print(f"{time.monotonic() - began_s:6.1f} s  {placed:6} orders  {what}", flush=True)

    async with Client(deployment, seed) as client:
        await start(deployment, EVERYBODY)
        nemesis = Nemesis(deployment, client, kafka, postgres, proxy, seed=seed, say=say)
        is_over = asyncio.Event()
        ordering = asyncio.create_task(client.place_orders(is_over.is_set))
        try:
            await nemesis.strike(seconds)
        finally:
            is_over.set()
        await nemesis.heal()
        say("healed")
        await ordering
        violations = await _judged(deployment, client, say)
    acknowledged = sum(order.is_acknowledged for order in client.log.triggers)
    print(f"\n{acknowledged} orders acknowledged, {len(client.log.commands)} cancelled")
    print("what was done to it: " + ", ".join(f"{n} x {what}" for what, n in nemesis.done.items()))
    print(f"connections cut off at a COMMIT: {proxy.cuts}")
    print(f"starts: {', '.join(f'{one.name} {one.starts}' for one in deployment.members.values())}")
    if not nemesis.done or not acknowledged:
        violations.append("nothing has happened")
    return violations


async def _judged(deployment: Deployment, client: Client, say) -> list[str]:
    outside = Outside(deployment, client.log)
    try:
        await outside.rest(timeout_s=REST_S_MAX)
    except AssertionError as error:
        return [str(error), *await outside.check()]
    say("at rest")
    return await outside.check()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long things go wrong")
    parser.add_argument("--seed", type=int, default=None, help="which things; drawn by default")
    parser.add_argument("--brokers", type=int, default=1, help="how many brokers")
    given = parser.parse_args()
    seed = randrange(1_000_000) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # of the client: all of it is expected
    with scratch_folder() as folder:
        violations = asyncio.run(
            _chaos(folder, seconds=given.seconds, seed=seed, brokers=given.brokers)
        )
    for violation in violations[:VIOLATIONS_SHOWN_MAX]:
        print(f"VIOLATED  {violation}")
    print(f"{len(violations)} violations" if violations else "everything holds")
    print(f"repeat it with: make chaos SECONDS={given.seconds:g} SEED={seed}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
