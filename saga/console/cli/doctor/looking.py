"""The command `doctor`, and looking at a deployment for it, each part by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import groupby
from typing import Annotated, Final

import typer

from saga.adapters.clocks import SystemClock
from saga.adapters.opening import (
    OpenedStore,
    check_answers,
    effects_address,
    open_effects_store,
    open_kafka,
    open_postgres,
    open_store,
    outbox_address,
)
from saga.adapters.sqlite import LocalBus, SqliteDatabase
from saga.application import Application
from saga.authoring import SagaRegistry
from saga.console.cli.doctor.judging import (
    Facts,
    Finding,
    Group,
    HeldUp,
    Schema,
    Severity,
    Snapshots,
    judge,
)
from saga.console.cli.output import AppRefused, ExitCode
from saga.console.cli.session import Session, act_on, closing, is_there, must_exist, name_of
from saga.contracts import contract_of
from saga.core.durations import SECOND_US
from saga.core.history import History
from saga.core.identity import Instant
from saga.core.status import SagaStatus
from saga.effects.request import group_of
from saga.errors import BusUnavailable, SettingsError, StoreRefused, StoreUnavailable
from saga.ports import SagaSummary, SnapshotsOf, Source
from saga.ports.store import UnhandledKind
from saga.runtime.router import Router
from saga.runtime.saga_cache import LONG_HISTORY_ENTRIES
from saga.runtime.store_clock import StoreClock
from saga.runtime.trial import possible_acts
from saga.settings import file_of, redacted

LAG_RECORDS: Final = 10_000
SAGAS_MAX: Final = 10_000
CLOCK_TRIES: Final = 3
DEAD_LETTERS_MAX: Final = 1_000

Readers = dict[str, tuple[str, set[str]]]
"""By consumer group the role whose it is, and the topics that it reads."""
GroupStates = Mapping[str, tuple[int, Mapping[Source, int]]]
"""By consumer group how many members it has, and which offsets are next."""


async def doctor(
    session: Session,
    *,
    lag_max: Annotated[
        int, typer.Option("--lag", metavar="RECORDS", min=0, help="How far behind a group may be.")
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
    styles = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: None}
    for finding in findings:
        row = asdict(finding)
        del row["is_unreachable"]
        row |= {name: printer.pasteable(row[name]) for name in ("what", "advice")}
        text = f"{finding.severity.value}: {finding.where}: {row['what']}"
        printer.result(row, text, style=styles[finding.severity])
        if not printer.is_json:
            printer.say(f"    {row['advice']}")
    row = {"ok": not errors, "errors": errors, "warnings": warnings}
    is_well = not errors and not warnings
    printer.result(row, "all is well" if is_well else f"{errors} errors, {warnings} warnings")
    if any(finding.is_unreachable for finding in findings):
        return ExitCode.UNREACHABLE
    return ExitCode.NOT_SO if errors else ExitCode.OK


async def look(session: Session) -> Facts:
    """Everything that can be seen. Changes nothing that was there before."""
    facts, app, settings = Facts(now=SystemClock().now()), Application(), session.settings
    facts.doubts = settings.doubts()
    with _noted(facts, "application", settings.app, "name another one with --app"):
        app = session.app
        facts.known = frozenset((saga.name, saga.version) for saga in app.sagas)
        facts.unhandled = app.unhandled_intents()
        facts.nondeterminism = [
            (f"saga {saga.name} version {saga.version}, {each.where}", each.does, each.instead)
            for saga in app.sagas
            for each in saga.nondeterminism
        ]
    advice = "start it, or name another one with --bus or SAGA_BUS"
    with _noted(facts, "bus", settings.bus, advice):
        await _look_at_bus(facts, session, app)
    advice = "start it, or name another one with --store or SAGA_STORE"
    with _noted(facts, "store", settings.store, advice):
        must_exist(settings.store, "store")
        if await _has_tables(facts, session):
            await _look_at_store(facts, session)
    with _noted(facts, "effects_store", settings.effects_address, "start it, or name another one"):
        if app.effects:
            await _look_at_effects_store(facts, session)
    if settings.outbox is not None:
        advice = "start it; `saga outbox migrate` makes its table"
        with _noted(facts, "outbox", settings.outbox, advice):
            await _look_at_outbox(facts, session)
    return facts


@contextmanager
def _noted(facts: Facts, check: str, where: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (AppRefused, BusUnavailable, SettingsError, StoreRefused, StoreUnavailable) as error:
        is_unreachable = check in ("bus", "store") and not isinstance(error, StoreRefused)
        facts.unreachable.append(
            Finding(check, Severity.ERROR, str(error), redacted(where), advice, is_unreachable)
        )


async def _look_at_bus(facts: Facts, session: Session, app: Application) -> None:
    must_exist(session.settings.bus, "bus")
    readers = _readers(session, app)
    if session.settings.bus.startswith("kafka:"):
        groups = await _look_at_cluster(facts, session, app, readers)
    else:
        groups = await _look_at_file(facts, session, app, readers)
    for name, (role, topics) in readers.items():
        members, following = groups[name]
        sources = frozenset(source for source in facts.bounds if source.topic in topics)
        group = Group(name=name, role=role, members=members, sources=sources, following=following)
        facts.groups.append(group)


def _readers(session: Session, app: Application) -> Readers:
    names = session.settings.topic_names
    readers: Readers = {}
    if app.sagas:
        router = Router(app.registry, app.contracts, names)
        readers[app.group(session.settings)] = ("orchestrator", set(router.topics))
    for service in app.effects:
        topics = {
            names.topic(contract_name)
            for model in (*service.intents, *service.facts)
            for contract_name in app.contracts.names_read_as(contract_of(model).contract_name)
        }
        readers[group_of(service.name, names)] = ("effects", topics)
    return readers


async def _look_at_cluster(
    facts: Facts, session: Session, app: Application, readers: Iterable[str]
) -> GroupStates:
    settings = session.settings
    specs = app.topic_specs(settings)
    async with closing(open_kafka(settings)) as kafka:
        from saga.adapters.kafka import flaws_of

        topics = await kafka.describe_topics([spec.name for spec in specs])
        facts.missing = [spec.name for spec in specs if spec.name not in topics]
        facts.topic_flaws = flaws_of(specs, topics, record_bytes_max=settings.record_bytes_max)
        sources = [
            Source(state.name, number)
            for state in topics.values()
            for number in range(state.partitions)
            if number not in state.leaderless
        ]
        facts.bounds = dict(await kafka.bounds(sources))
        facts.origins = await kafka.origins(topics)
        states = await kafka.describe_groups(list(readers))
    return {name: (state.members, state.committed) for name, state in states.items()}


async def _look_at_file(
    facts: Facts, session: Session, app: Application, readers: Iterable[str]
) -> GroupStates:
    settings = session.settings
    async with (
        closing(SqliteDatabase(file_of(settings.bus))) as database,
        closing(LocalBus(database, clock=SystemClock())) as bus,
    ):
        state = bus.describe(readers)
        ours = {spec.name for spec in app.topic_specs(settings)} & state.partitions.keys()
        sources = [Source(name, n) for name in ours for n in range(state.partitions[name])]
        facts.bounds = dict(await bus.bounds(sources))
        facts.origins = await bus.origins(ours)
    return {name: (state.members[name], state.committed[name]) for name in readers}


async def _has_tables(facts: Facts, session: Session) -> bool:
    """Whether the store's tables are those this code needs; a file migrates when it is opened."""
    settings = session.settings
    if not settings.store.startswith("postgresql:"):
        return True
    async with closing(open_postgres(settings)) as database:
        from saga.adapters.postgres import EVENT_STORE, stored_version

        stored = await asyncio.to_thread(stored_version, database.address, EVENT_STORE)
        schema = Schema(component=EVENT_STORE.name, stored=stored, needed=EVENT_STORE.version)
        facts.schemas.append(schema)
    return all(schema.stored == schema.needed for schema in facts.schemas)


async def _look_at_store(facts: Facts, session: Session) -> None:
    async with closing(open_store(session.settings)) as store:
        clock = StoreClock(store.store, SystemClock())
        for _ in range(CLOCK_TRIES):  # the first answer may have had to wait for a connection
            await clock.keep()
        facts.now, facts.store_ahead_s = clock.now(), clock.ahead_s
        facts.clock_unsure = clock.why_unsure()
        facts.accounted = dict(await store.store.positions(list(facts.bounds)))
        facts.belongs = await store.store.origins(list(facts.accounted))
        following = {source: offset + 1 for source, offset in facts.accounted.items()}
        facts.groups = [
            replace(group, following=following) if group.role == "orchestrator" else group
            for group in facts.groups
        ]
        await _look_at_sagas(facts, store, session.sagas)
        if session.sagas is not None:
            facts.snapshots = _counted(await store.store.count_snapshots(), session.sagas)
        for waiting in await store.store.backlog(limit=1):
            facts.backlog_s = _age_s(facts, waiting.appended_at)
        for timer in await store.catalogue.timers(limit=1):
            facts.timer_late_s = _age_s(facts, timer.due_at)
        dead = await store.catalogue.unhandled(
            kind=UnhandledKind.DEAD, limit=DEAD_LETTERS_MAX, values=False
        )
        facts.dead = dict(Counter(record.reason for record in dead))
        facts.damaged = await store.catalogue.damaged()
        facts.skipped = await store.catalogue.skipped()


async def _look_at_sagas(facts: Facts, store: OpenedStore, known: SagaRegistry | None) -> None:
    for status in (SagaStatus.RUNNING, SagaStatus.ROLLING_BACK):
        sagas = await store.catalogue.sagas(status=status, limit=SAGAS_MAX)
        for name, count in Counter(map(_version_of, sagas)).items():
            facts.active[name] = facts.active.get(name, 0) + count
        long = await _long(store, [each for each in sagas if each.version >= LONG_HISTORY_ENTRIES])
        for name, count in Counter(map(_version_of, long)).items():
            facts.long[name] = facts.long.get(name, 0) + count
    for status in (SagaStatus.STALLED, SagaStatus.PARKED):
        sagas = await store.catalogue.sagas(status=status, limit=SAGAS_MAX)
        for (definition, version), alike in groupby(sorted(sagas, key=_version_of), _version_of):
            first, *others = alike
            facts.held_up.append(
                HeldUp(
                    definition=definition,
                    version=version,
                    status=status,
                    count=1 + len(others),
                    example=name_of(first),
                    reason=first.reason,
                    acts=await _acts(store, first, known, facts.now),
                )
            )


def _counted(
    found: Mapping[SnapshotsOf, int], sagas: SagaRegistry
) -> dict[tuple[str, int], Snapshots]:
    counts: Counter[tuple[str, int]] = Counter()
    usable: Counter[tuple[str, int]] = Counter()
    for (definition, version, code), count in found.items():
        registered = sagas.find(definition, version)
        counts[definition, version] += count
        if registered is not None and registered.decider.code == code:
            usable[definition, version] += count
    return {of: Snapshots(count=count, usable=usable[of]) for of, count in counts.items()}


async def _acts(
    store: OpenedStore, saga: SagaSummary, known: SagaRegistry | None, at: Instant
) -> tuple[str, ...]:
    """The commands that a saga which stands still would take now."""
    history = (await store.store.load([saga.saga_id])).get(saga.saga_id)
    if not isinstance(history, History):
        return ()
    possible = possible_acts(known, saga.saga_id, history, at)
    return tuple(f"{act_on(saga, act)} ({act.does})" for act in possible)


async def _long(store: OpenedStore, sagas: Sequence[SagaSummary]) -> list[SagaSummary]:
    """Those that take long to be brought back: a saga is loaded from its last run on."""
    beginnings = await store.store.beginnings([saga.saga_id for saga in sagas])
    before = {saga_id: turn[0].version - 1 for saga_id, turn in beginnings.items()}
    return [
        saga for saga in sagas if saga.version - before.get(saga.saga_id, 0) >= LONG_HISTORY_ENTRIES
    ]


def _version_of(saga: SagaSummary) -> tuple[str, int]:
    return saga.definition, saga.definition_version


async def _look_at_effects_store(facts: Facts, session: Session) -> None:
    address = session.settings.effects_address
    if address.startswith("sqlite:"):
        check_answers(session.settings)
        if is_there(address):  # otherwise the first service that starts makes it
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

    async with closing(await OutboxSession.open(address)) as outbox:
        status = await outbox.status()
    facts.outbox_waits_s, facts.outbox_refused = status.oldest_s, status.refused


def _age_s(facts: Facts, at: Instant) -> float:
    return (facts.now - at) / SECOND_US
