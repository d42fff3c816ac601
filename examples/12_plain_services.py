"""Services without the SDK, as they would be in any language: they read and write JSON on Kafka.

    python -m infra with -- python examples/12_plain_services.py

`infra with` lends a Kafka and a PostgreSQL, or name your own: `SAGA_BUS=kafka://localhost:9092`.
`plain_aiokafka.py` pays and `plain_faststream.py` ships, as processes of their own. All they know
of sagas is that an answer carries the key of its intent, and its id. It prints

    order/fine completed
      do    pay   done
      do    ship  done
    order/dear rolled_back: over the limit
      do    pay  refused
    order/far rolled_back: there is no such place
      do    pay   undone
      do    ship  refused
      undo  pay   undone
"""

import asyncio
import os
import sys
from asyncio.subprocess import create_subprocess_exec
from contextlib import ExitStack
from pathlib import Path

from orders import OrderPlaced, app

SERVICES = ("plain_aiokafka.py", "plain_faststream.py")


async def main() -> None:
    kind, _, servers = os.environ.get("SAGA_BUS", "").partition("://")
    if kind != "kafka":
        sys.exit("SAGA_BUS names no Kafka: start me as my first lines say")
    prefix = f"{os.environ.get('SAGA_ENV', 'dev')}.{os.environ.get('SAGA_NAMESPACE', 'saga')}"
    placed = [
        OrderPlaced(order_id="fine", amount=40),
        OrderPlaced(order_id="dear", amount=4_000),
        OrderPlaced(order_id="far", amount=40, place="Nowhere"),
    ]
    async with app.service() as service:  # which makes the topics
        with ExitStack() as programs:
            for name in SERVICES:
                file = str(Path(__file__).with_name(name))
                program = (sys.executable, file, servers, prefix)
                started = await create_subprocess_exec(*program, stdout=sys.stderr)
                programs.callback(started.terminate)
            for order in placed:
                saga_id = await service.start(order)
                await service.outcome(saga_id)
                print(await service.find(saga_id))


if __name__ == "__main__":
    asyncio.run(main())
