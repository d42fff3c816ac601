"""`topics create`, and what `topics check` says of the cluster: the topics behind the contracts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from saga.adapters.opening import open_bus_and_store, open_kafka
from saga.console.session import Session
from saga.errors import TopicMissing
from saga.ports import Bus, Source, TopicSpec

if TYPE_CHECKING:
    from saga.adapters.kafka import TopicFlaw


async def topics_create(session: Session) -> None:
    """Make the topics of the application that are not there; those that are stay as they are."""
    specs = session.app.topic_specs(session.settings)
    async with _opened(session) as bus:
        missing = await _missing(bus, specs)
        await bus.create_topics(specs)
    printer = session.printer
    rows = [
        {
            "topic": spec.name,
            "partitions": spec.partitions,
            "retention_s": spec.retention_s,
            "created": spec.name in missing,
        }
        for spec in specs
        if printer.is_json or spec.name in missing
    ]
    if printer.is_json:
        for row in rows:
            printer.json(row)
        return
    for row in rows:
        printer.say(f"created {row['topic']} with {row['partitions']} partitions")
    printer.say(f"{len(specs)} topics, {len(missing)} of them created now")


async def flaws_in_cluster(session: Session) -> list[TopicFlaw]:
    """What is wrong with the application's topics in the cluster; nothing where the bus is a file.

    Raises:
        BusUnavailable: nobody answers.
    """
    settings = session.settings
    if not settings.bus.startswith("kafka:"):
        return []
    bus = open_kafka(settings)
    from saga.adapters.kafka import flaws_of

    specs = session.app.topic_specs(settings)
    try:
        found = await bus.describe_topics([spec.name for spec in specs])
    finally:
        await bus.close()
    return flaws_of(specs, found, record_bytes_max=settings.record_bytes_max)


@asynccontextmanager
async def _opened(session: Session) -> AsyncIterator[Bus]:
    if session.settings.bus.startswith("kafka:"):
        kafka = open_kafka(session.settings)
        try:
            yield kafka
        finally:
            await kafka.close()
        return
    parts = open_bus_and_store(session.settings)
    try:
        yield parts.bus
    finally:
        await parts.close()


async def _missing(bus: Bus, specs: Sequence[TopicSpec]) -> set[str]:
    missing: set[str] = set()
    for spec in specs:
        try:
            await bus.bounds([Source(spec.name, 0)])
        except TopicMissing:
            missing.add(spec.name)
    return missing
