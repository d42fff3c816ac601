"""Moving running sagas to another version of their definition: which, and what comes of it.

Page by page, so that memory does not grow with the store. Each saga is tried first, by a replay of
its history with the code at hand; what would be refused is not sent. Whether it is moved is decided
in its own turn, by another replay: others may have changed it meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from enum import StrEnum
from itertools import chain
from typing import Final

from saga.audit.differences import Finding, finding_of_unreadable
from saga.audit.replaying import looking_at
from saga.authoring.registry import SagaRegistry
from saga.contracts import Command, CommandAct
from saga.core.events import Event
from saga.core.identity import Instant, MessageId, SagaId, share_of
from saga.core.migrations import names_in, new_name
from saga.core.piecewise import Piecewise
from saga.core.values import value
from saga.errors import CorruptHistory, ReplayMismatch
from saga.ports import Catalogue, EventStore, History, SagaSummary
from saga.runtime.migration_turn import migration_ahead, trying
from saga.runtime.receipts import NOT_WAITED, WAIT_S, Receipt, Result, wait_for_receipt
from saga.runtime.router import command_fact
from saga.runtime.saga_cache import TURNS_AT_ONCE, LoadedSaga
from saga.tasks import Interleaved

PAGE_SAGAS: Final = 100
ALL: Final = 100.0
"""Per cent."""
_TRIAL: Final = MessageId("trial")


@value(kw_only=True)
class Migration:
    """Which sagas are to go on with another version; *steps* are the names that changed there.

    *id* is that of the request: sent again under the same one, nothing is done twice.
    """

    id: str
    definition: str
    from_version: int
    to_version: int
    reason: str
    actor: str | None = None
    steps: Mapping[str, str] = field(default_factory=dict)
    percent: float = ALL

    def command(self, saga: SagaId) -> Command:
        """The command for one saga; raises ValueError where it does not say enough."""
        return Command(
            command_id=f"{self.id}/{saga}",
            act=CommandAct.MIGRATE,
            saga_id=saga,
            definition=self.definition,
            from_version=self.from_version,
            to_version=self.to_version,
            steps=dict(self.steps) or None,
            reason=self.reason,
            actor=self.actor,
        )

    def takes(self, saga: SagaSummary) -> bool:
        """Whether it is about this saga: open, of the version, and in the share."""
        if saga.status.is_ended or saga.definition_version != self.from_version:
            return False
        return share_of(saga.saga_id) < self.percent


class MigrationResult(StrEnum):
    POSSIBLE = "possible"
    """It would go on: a dry run sends nothing."""
    APPLIED = "applied"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """No worker has taken its turn yet: the command stays in line."""


@value(kw_only=True)
class SagaMigration:
    """What came of one saga; *finding* is the first entry that the new code decides otherwise.

    *entries* are those that were replayed.
    """

    saga: SagaSummary
    entries: int
    result: MigrationResult
    detail: str | None = None
    finding: Finding | None = None

    @property
    def is_ok(self) -> bool:
        return self.result not in {MigrationResult.REFUSED, MigrationResult.UNKNOWN}

    @property
    def difference(self) -> ReplayMismatch | None:
        """The finding as an error."""
        return None if self.finding is None else self.finding.as_error()


Send = Callable[[Sequence[tuple[Command, str]]], Awaitable[None]]
"""Puts commands on the bus, each under the key of its saga."""


def why_not(sagas: SagaRegistry, migration: Migration) -> str | None:
    """Why a move can come to nothing, whatever the sagas are; None where it can."""
    if sagas.find(migration.definition, migration.to_version) is not None:
        migration.command(SagaId("any"))
        return None
    name = f"{migration.definition}@{migration.to_version}"
    versions = sorted(version for each, version in sagas.all() if each == migration.definition)
    has = ", ".join(f"{migration.definition}@{version}" for version in versions) or "none of it"
    return f"this application has no {name} to replay histories with: it has {has}"


async def migrate(
    store: EventStore,
    catalogue: Catalogue,
    sagas: SagaRegistry,
    migration: Migration,
    *,
    send: Send | None,
    wait_s: float | None = WAIT_S,
) -> AsyncIterator[SagaMigration]:
    """Move the sagas that *migration* is about, or, without *send*, say what would come of it.

    *wait_s* None: what comes of the commands is not waited for.

    Raises:
        StoreUnavailable: the store cannot be read.
        BusUnavailable: commands cannot be sent; those before were.
    """
    async for page in _pages(catalogue, migration):
        tried = await _tried(store, sagas, migration, page)
        possible = [each.saga for each in tried if each.result is MigrationResult.POSSIBLE]
        if send is not None and possible:
            commands = [(migration.command(saga.saga_id), saga.key) for saga in possible]
            await send(commands)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + (wait_s or 0)
        for each in tried:
            if send is None or each.result is not MigrationResult.POSSIBLE:
                yield each
            elif wait_s is None:
                yield replace(each, result=MigrationResult.UNKNOWN, detail=NOT_WAITED)
            else:
                left_s = max(0.0, until_s - loop.time())
                receipt = await _receipt(store, catalogue, migration, each.saga, left_s)
                result = MigrationResult(receipt.result.value)
                yield replace(each, result=result, detail=receipt.detail)


async def unknown_names(store: EventStore, catalogue: Catalogue, migration: Migration) -> set[str]:
    """The old names of *migration* that no open saga of its version has.

    Where no saga is open, none is missed.
    """
    unknown, has_sagas = set(migration.steps), False
    if not unknown:
        return unknown
    async for page in _pages(catalogue, replace(migration, percent=ALL)):
        has_sagas = True
        for history in (await store.load([saga.saga_id for saga in page])).values():
            if isinstance(history, History):
                unknown -= _changed_in(history, unknown)
        if not unknown:
            break
    return unknown if has_sagas else set()


async def _pages(catalogue: Catalogue, migration: Migration) -> AsyncIterator[list[SagaSummary]]:
    after: SagaId | None = None
    while page := await catalogue.sagas(
        definition=migration.definition, after=after, limit=PAGE_SAGAS
    ):
        after = page[-1].saga_id
        if chosen := [saga for saga in page if migration.takes(saga)]:
            yield chosen


async def _tried(
    store: EventStore, sagas: SagaRegistry, migration: Migration, page: Sequence[SagaSummary]
) -> list[SagaMigration]:
    histories = await store.load([saga.saga_id for saga in page])
    interleaved = Interleaved(TURNS_AT_ONCE)
    return [
        await interleaved.finish(_trying(sagas, migration, saga, histories.get(saga.saga_id)))
        for saga in page
    ]


def _trying(
    sagas: SagaRegistry,
    migration: Migration,
    saga: SagaSummary,
    history: History | CorruptHistory | None,
) -> Piecewise[SagaMigration]:
    if history is None:
        return _refused(saga, 0, "it is gone")
    if isinstance(history, CorruptHistory):
        return _refused(saga, 0, str(history), finding_of_unreadable(history))
    saga_id, length = saga.saga_id, len(history)
    event = Event(command_fact(migration.command(saga_id)), _last_at(history), _TRIAL)
    tried = yield from trying(sagas, saga_id, history, event)
    if isinstance(tried.found, LoadedSaga):
        tried.found.let_go()
        return SagaMigration(saga=saga, entries=length, result=MigrationResult.POSSIBLE)
    if isinstance(tried.found, str):
        return _refused(saga, length, tried.found)
    registered = sagas.find(migration.definition, migration.to_version)
    assert registered is not None, migration
    ahead = migration_ahead(saga_id, history, tried.event)
    decider = registered.decider
    found = yield from looking_at(tried.found, decider, saga_id, history, ahead=ahead)
    return _refused(saga, length, str(found.as_error()), found)


def _refused(
    saga: SagaSummary, entries: int, why: str, finding: Finding | None = None
) -> SagaMigration:
    refused = MigrationResult.REFUSED
    return SagaMigration(saga=saga, entries=entries, result=refused, detail=why, finding=finding)


async def _receipt(
    store: EventStore,
    catalogue: Catalogue,
    migration: Migration,
    saga: SagaSummary,
    timeout_s: float,
) -> Receipt:
    command = migration.command(saga.saga_id)
    id_, fact = command.command_id, command_fact(command)
    try:
        return await wait_for_receipt(
            store, catalogue, saga.saga_id, id_, fact, timeout_s=timeout_s
        )
    except CorruptHistory as error:
        return Receipt(id_, Result.UNKNOWN, str(error))


def _last_at(history: History) -> Instant:
    return history.recorded[-1].event.at


def _changed_in(history: History, names: Iterable[str]) -> set[str]:
    """Those of *names* that something in *history* has, by itself or with a number."""
    bodies = chain.from_iterable(turn.decided for turn in history.recorded)
    recorded = {name for body in bodies for _, name in names_in(body)}
    return {name for name in names if any(new_name(each, {name: ""}) != each for each in recorded)}
