"""Serve one release until killed; SIGTERM drains it."""

from __future__ import annotations

import asyncio
import signal
import sys
from importlib import import_module


async def serve(release: str, bus: str, store: str, effects_store: str, namespace: str) -> None:
    app = import_module(f"tests.scenarios.rolling.{release}").app
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    places = {"bus": bus, "store": store, "effects_store": effects_store}
    async with app.service(**places, namespace=namespace):
        print("ready", flush=True)
        await ending.wait()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
