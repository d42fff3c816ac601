"""`store rebase`: a person accepts that a topic is another one by now, or that records are gone.

Only positions that do not fit are set. Workers look again every few seconds, and then go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from saga.adapters.clocks import SystemClock
from saga.adapters.opening import OpenedBus, open_bus, open_store
from saga.adapters.sqlite import LocalBus
from saga.console.cli.output import Misused, NotSo
from saga.console.cli.session import Session, closing, must_exist
from saga.core.texts import storable
from saga.core.values import value
from saga.ports import EventStore, Source
from saga.ports.bus import UNKNOWN_ORIGIN, Origin, why_misplaced
from saga.ports.store import Place, Rebase

BEGIN, END = "begin", "end"


@value
class Misplaced:
    """A position that says nothing about its source, the source's bounds, and *why*."""

    source: Source
    stored: int
    begin: int
    end: int
    origin: Origin
    why: str


async def store_rebase(
    session: Session,
    topics: Annotated[
        list[str],
        typer.Argument(metavar="TOPIC…", help="Whole names, or those of their contracts."),
    ],
    *,
    start: Annotated[
        str,
        typer.Option("--from", metavar="begin|end|OFFSET", help="Where reading is to go on."),
    ],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; recorded.")],
    partition: Annotated[
        int | None,
        typer.Option("--partition", metavar="N", min=0, help="Only this one of its partitions."),
    ] = None,
) -> None:
    """Accept that a topic was made anew, is on another cluster, or has lost records.

    Only partitions whose stored position does not fit are set; what is read twice is recognised.
    """
    if start not in (BEGIN, END) and not start.isdecimal():
        raise Misused(f"--from: {start!r} is none of begin, end and an offset")
    if not reason.strip():
        raise Misused("--reason is empty: say what happened")
    must_exist(session.settings.bus, "bus")
    must_exist(session.settings.store, "store")
    async with (
        closing(open_bus(session.settings)) as bus,
        closing(open_store(session.settings)) as store,
    ):
        sources = [each for topic in topics for each in await _sources(session, bus, topic)]
        if partition is not None:
            sources = [source for source in sources if source.partition == partition]
        misplaced = await _misplaced(bus, store.store, sources)
        if not misplaced:
            named = ", ".join(topics)
            raise NotSo(f"{named}: every stored position fits: there is nothing to accept")
        places = {each.source: _place(each, start) for each in misplaced}
        now = SystemClock().now()
        await store.store.rebase(places, reason=storable(reason.strip()), at=now)
    for each in misplaced:
        _print(session, each, places[each.source])


async def store_rebases(session: Session) -> None:
    """List what operators have accepted by `store rebase`, and why."""
    async with session.reading() as store:
        rebases = await store.catalogue.rebases()
    session.printer.listing(
        [_row(rebase, source) for rebase in rebases for source in rebase.after],
        ("at", "topic", "partition", "from", "to", "reason"),
        lambda row: tuple(row.values()),
        nothing="nobody has set a position",
    )


async def _sources(session: Session, bus: OpenedBus, topic: str) -> list[Source]:
    """The partitions of *topic*; NotSo where there is no such topic."""
    for name in (topic, session.settings.topic_names.topic(topic)):
        if count := await _partitions(bus, name):
            return [Source(name, number) for number in range(count)]
    raise NotSo(f"there is no topic {topic} on this bus (`saga topics ls` lists yours)")


async def _partitions(bus: OpenedBus, topic: str) -> int:
    if isinstance(bus.bus, LocalBus):
        return bus.bus.describe(()).partitions.get(topic, 0)
    from saga.adapters.kafka import KafkaBus

    assert isinstance(bus.bus, KafkaBus), bus.bus
    found = (await bus.bus.describe_topics([topic])).get(topic)
    return 0 if found is None else found.partitions


async def _misplaced(
    bus: OpenedBus, store: EventStore, sources: Iterable[Source]
) -> list[Misplaced]:
    stored = await store.positions(list(sources))
    belongs = await store.origins(list(stored))
    found = await bus.bus.origins({source.topic for source in stored})
    bounds = await bus.bus.bounds(list(stored))
    misplaced = []
    for source, offset in sorted(stored.items()):
        origin, (begin, end) = found.get(source.topic, UNKNOWN_ORIGIN), bounds[source]
        place = Place(offset, belongs.get(source, UNKNOWN_ORIGIN))
        if why := why_misplaced(source, place.offset, place.origin, bounds[source], origin):
            misplaced.append(Misplaced(source, offset, begin, end, origin, why))
    return misplaced


def _place(misplaced: Misplaced, start: str) -> Place:
    begin, end = misplaced.begin, misplaced.end
    following = {BEGIN: begin, END: end}.get(start)
    following = int(start) if following is None else following
    if not begin <= following <= end:
        source = misplaced.source
        raise NotSo(f"{source.topic}[{source.partition}] has {begin} to {end}, and no {following}")
    return Place(following - 1, misplaced.origin)


def _print(session: Session, misplaced: Misplaced, place: Place) -> None:
    topic, partition = misplaced.source
    before, following = misplaced.stored + 1, place.offset + 1
    row = {"topic": topic, "partition": partition, "from": before, "to": following}
    text = f"{topic}[{partition}] goes on at {following}, it stood at {before}"
    session.printer.result(row | {"was": misplaced.why}, f"{text}: {misplaced.why}")


def _row(rebase: Rebase, source: Source) -> dict[str, Any]:
    return {
        "at": datetime.fromtimestamp(rebase.at / 1_000_000, UTC).isoformat(timespec="seconds"),
        "topic": source.topic,
        "partition": source.partition,
        "from": rebase.before.get(source, -1) + 1,
        "to": rebase.after[source] + 1,
        "reason": rebase.reason,
    }
