"""The command `doctor`, and looking at a deployment for it.

Each part is looked at by itself, so that a part that is away does not hide the others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from saga.adapters.clocks import SystemClock
from saga.adapters.opening import (
    OpenedStore,
    effects_address,
    open_effects_store,
    open_kafka,
    open_postgres,
    open_store,
    outbox_address,
)
from saga.adapters.sqlite import LocalBus, SqliteDatabase
from saga.adapters.sqlite.bus import describe_local_bus
from saga.application import Application
from saga.console.cli.doctor.facts import (
    Facts,
    Finding,
    Group,
    HeldUp,
    Schema,
    Severity,
    TopicProblem,
)
from saga.console.cli.doctor.judging import judge
from saga.console.cli.output import AppRefused, ExitCode
from saga.console.cli.session import Session, must_exist
from saga.contracts import contract_of
from saga.core.durations import SECOND_US
from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.effects.request import group_of
from saga.errors import BusUnavailable, SettingsError, StoreTooNew, StoreUnavailable
from saga.ports import Source
from saga.ports.store import UnhandledKind
from saga.runtime.router import Router
from saga.settings import file_of

LAG_RECORDS: Final = 10_000
SAGAS_MAX: Final = 10_000
DEAD_LETTERS_MAX: Final = 1_000

_UNFINISHED: Final = (SagaStatus.RUNNING, SagaStatus.ROLLING_BACK)
_HELD_UP: Final = (SagaStatus.STALLED, SagaStatus.PARKED)


async def doctor(
    session: Session,
    *,
    lag_max: Annotated[
        int,
        typer.Option("--lag", metavar="RECORDS", min=0, help="How far behind a group may be."),
    ] = LAG_RECORDS,
) -> int:
    """Say what is wrong with this deployment, where, and what to do. Changes nothing.

    Exit code 0: healthy, perhaps with warnings; 1: something is wrong; 3: bus or store unreachable.
    """
    facts = await look(session)
    findings = judge(facts, lag_max=lag_max)
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    warnings = sum(finding.severity is Severity.WARNING for finding in findings)
    printer = session.printer
    if printer.is_json:
        for finding in findings:
            row = asdict(finding)
            del row["is_unreachable"]
            printer.json(row)
        printer.json({"ok": not errors, "errors": errors, "warnings": warnings})
    else:
        styles = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: None}
        for finding in findings:
            text = f"{finding.severity.value}: {finding.where}: {finding.what}"
            printer.say(text, style=styles[finding.severity])
            printer.say(f"    {finding.advice}")
        printer.say(
            f"{errors} errors, {warnings} warnings" if errors or warnings else "all is well"
        )
    if any(finding.is_unreachable for finding in findings):
        return ExitCode.UNREACHABLE
    return ExitCode.NOT_SO if errors else ExitCode.OK


async def look(session: Session) -> Facts:
    """Everything that can be seen. Changes nothing that was there before."""
    facts = Facts(now=SystemClock().now())
    app = Application()
    with _noted(facts, "application", session.settings.app, "name another one with --app"):
        app = session.app
        facts.known = frozenset((saga.name, saga.version) for saga in app.sagas)
        facts.unhandled = app.unhandled_intents()
    where = session.settings.bus
    with _noted(facts, "bus", where, "start it, or name another one with --bus or SAGA_BUS"):
        must_exist(where, "bus")
        if where.startswith("kafka:"):
            await _look_at_cluster(facts, session, app)
        else:
            await _look_at_file(facts, session, app)
    where = session.settings.store.rpartition("@")[2]
    with _noted(facts, "store", where, "start it, or name another one with --store or SAGA_STORE"):
        must_exist(session.settings.store, "store")
        if await _has_tables(facts, session):
            await _look_at_store(facts, session)
    where = session.settings.effects_address.rpartition("@")[2]
    with _noted(facts, "effects_store", where, "start it, or name another one"):
        await _look_at_effects_store(facts, session, app)
    if session.settings.outbox is not None:
        where = session.settings.outbox.rpartition("@")[2]
        with _noted(facts, "outbox", where, "start it; `saga outbox migrate` makes its table"):
            await _look_at_outbox(facts, session)
    return facts


@contextmanager
def _noted(facts: Facts, check: str, where: str, advice: str) -> Iterator[None]:
    """Makes a finding of a place that cannot be looked at."""
    try:
        yield
    except (AppRefused, BusUnavailable, SettingsError, StoreTooNew, StoreUnavailable) as error:
        facts.unreachable.append(
            Finding(
                check=check,
                severity=Severity.ERROR,
                what=str(error),
                where=where,
                advice=advice,
                is_unreachable=check in ("bus", "store"),
            )
        )


async def _look_at_cluster(facts: Facts, session: Session, app: Application) -> None:
    settings = session.settings
    specs = app.topic_specs(settings)
    kafka = open_kafka(settings)
    try:
        from saga.adapters.kafka import flaws_of

        topics = await kafka.describe_topics([spec.name for spec in specs])
        facts.missing = [spec.name for spec in specs if spec.name not in topics]
        flaws = flaws_of(specs, topics, record_bytes_max=settings.record_bytes_max)
        facts.topic_problems = [
            TopicProblem(topic=flaw.topic, problem=flaw.problem, is_warning=flaw.is_warning)
            for flaw in flaws
        ]
        sources = [
            Source(state.name, number)
            for state in topics.values()
            for number in range(state.partitions)
            if number not in state.leaderless
        ]
        facts.bounds = dict(await kafka.bounds(sources))
        readers = _readers(session, app)
        states = await kafka.describe_groups(list(readers))
    finally:
        await kafka.close()
    for name, reader in readers.items():
        state = states[name]
        _add_group(facts, name, reader, members=state.members, following=state.committed)


async def _look_at_file(facts: Facts, session: Session, app: Application) -> None:
    settings = session.settings
    database = SqliteDatabase(file_of(settings.bus))
    bus = LocalBus(database, clock=SystemClock())
    try:
        readers = _readers(session, app)
        state = await describe_local_bus(database, list(readers), now=facts.now)
        ours = {spec.name for spec in app.topic_specs(settings)} & state.partitions.keys()
        sources = [Source(name, n) for name in ours for n in range(state.partitions[name])]
        facts.bounds = dict(await bus.bounds(sources))
    finally:
        await bus.close()
        await database.close()
    for name, reader in readers.items():
        members, committed = state.members[name], state.committed[name]
        _add_group(facts, name, reader, members=members, following=committed)


class _Reader(NamedTuple):
    """Who reads *topics* as one consumer group."""

    role: str
    topics: frozenset[str]


def _readers(session: Session, app: Application) -> dict[str, _Reader]:
    """The consumer groups of the application."""
    names = session.settings.topic_names
    readers: dict[str, _Reader] = {}
    if app.sagas:
        router = Router(app.registry, app.contracts, names)
        group = names.topic(session.settings.group)
        readers[group] = _Reader("orchestrator", frozenset(router.topics))
    for service in app.effects:
        topics = [
            names.topic(contract_name)
            for model in (*service.intents, *service.facts)
            for contract_name in app.contracts.names_read_as(contract_of(model).contract_name)
        ]
        readers[group_of(service.name, names)] = _Reader("effects", frozenset(topics))
    return readers


def _add_group(
    facts: Facts,
    name: str,
    reader: _Reader,
    *,
    members: int,
    following: Mapping[Source, int],
) -> None:
    sources = frozenset(source for source in facts.bounds if source.topic in reader.topics)
    facts.groups.append(
        Group(name=name, role=reader.role, members=members, sources=sources, following=following)
    )


async def _has_tables(facts: Facts, session: Session) -> bool:
    """Whether the store's tables are those this code needs; a file migrates when it is opened."""
    settings = session.settings
    if not settings.store.startswith("postgresql:"):
        return True
    database = open_postgres(settings.store, "SAGA_STORE", settings.store_password)
    try:
        from saga.adapters.postgres import EVENT_STORE, stored_version

        stored = await asyncio.to_thread(stored_version, database.address, EVENT_STORE)
        facts.schemas.append(
            Schema(component=EVENT_STORE.name, stored=stored, needed=EVENT_STORE.version)
        )
        clock = SystemClock()
        before = clock.now()
        [[server_time]] = await database.fetch(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        )
        between = (before + clock.now()) / 2
        facts.store_ahead_s = (server_time - between) / SECOND_US
    finally:
        await database.close()
    return all(schema.stored == schema.needed for schema in facts.schemas)


async def _look_at_store(facts: Facts, session: Session) -> None:
    store = open_store(session.settings)
    try:
        accounted = await store.store.positions(list(facts.bounds))
        facts.accounted = dict(accounted)
        following = {source: offset + 1 for source, offset in accounted.items()}
        facts.groups = [
            Group(
                name=group.name,
                role=group.role,
                members=group.members,
                sources=group.sources,
                following=following if group.role == "orchestrator" else group.following,
            )
            for group in facts.groups
        ]
        await _look_at_sagas(facts, store)
        waiting = await store.store.backlog(limit=1)
        if waiting:
            facts.backlog_s = _age_s(facts, waiting[0].appended_at)
        timers = await store.catalogue.timers(limit=1)
        if timers:
            facts.timer_late_s = _age_s(facts, timers[0].due_at)
        dead = await store.catalogue.unhandled(kind=UnhandledKind.DEAD, limit=DEAD_LETTERS_MAX)
        facts.dead = dict(Counter(record.reason for record in dead))
    finally:
        await store.close()


async def _look_at_sagas(facts: Facts, store: OpenedStore) -> None:
    for status in _UNFINISHED:
        for saga in await store.catalogue.sagas(status=status, limit=SAGAS_MAX):
            name = (saga.definition, saga.definition_version)
            facts.active[name] = facts.active.get(name, 0) + 1
    for status in _HELD_UP:
        sagas = await store.catalogue.sagas(status=status, limit=SAGAS_MAX)
        counts = Counter((saga.definition, saga.definition_version) for saga in sagas)
        examples = {(saga.definition, saga.definition_version): saga for saga in reversed(sagas)}
        for (definition, version), count in sorted(counts.items()):
            example = examples[definition, version]
            facts.held_up.append(
                HeldUp(
                    definition=definition,
                    version=version,
                    status=status,
                    count=count,
                    example=f"{definition}/{example.key}",
                    reason=example.reason,
                )
            )


async def _look_at_effects_store(facts: Facts, session: Session, app: Application) -> None:
    address = session.settings.effects_address
    if not app.effects:
        return
    if address.startswith("sqlite:"):
        if not _exists(file_of(address)):
            return  # the first service that starts makes it
        store = open_effects_store(session.settings)
        await store.open()
        await store.close()
        return
    server = effects_address(session.settings)
    from saga.adapters.postgres import INBOX, stored_version

    stored = await asyncio.to_thread(stored_version, server, INBOX)
    if stored:  # otherwise the first service that starts makes it
        facts.schemas.append(Schema(component=INBOX.name, stored=stored, needed=INBOX.version))


async def _look_at_outbox(facts: Facts, session: Session) -> None:
    address = outbox_address(session.settings)
    from saga.adapters.postgres.outbox import OutboxSession

    outbox = await OutboxSession.open(address)
    try:
        status = await outbox.status()
    finally:
        await outbox.close()
    facts.outbox_waits_s = status.oldest_s
    facts.outbox_refused = status.refused


def _exists(path: str) -> bool:
    return Path(path).exists()


def _age_s(facts: Facts, at: Instant) -> float:
    return (facts.now - at) / SECOND_US
