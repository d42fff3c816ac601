"""Operators of a world, who move running sagas to the versions that releases bring.

They do so as the command `migrate` does: each history is replayed first, and what the new code
would decide otherwise is not sent. Some send it all the same, for all sagas or in a story for one;
then its turn has to refuse it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from saga.app import SagaApp
from saga.core.events import Migrated, SagaStarted
from saga.core.history import Entry, RecordedTurn, turns
from saga.core.intents import Continued
from saga.errors import DefinitionError
from saga.ports import SagaSummary
from saga.runtime.bulk_migration import Migration
from saga.testing.happenings import MigratedTo
from saga.testing.world.acting import is_refused


def check_named(migrations: Iterable[MigratedTo], releases: Sequence[SagaApp]) -> None:
    """Refuse to migrate to a version that no release has; raises DefinitionError."""
    for migration in migrations:
        name, version = migration.saga.name, migration.saga.version
        if not any(release.registry.find(name, version) for release in releases):
            raise DefinitionError(
                f"migrated_to: no release of this world has {name}@{version}: put one that has it "
                f"into World(…, deploys=[…])"
            )


def version_before(saga: SagaSummary | None, migration: MigratedTo) -> int:
    """The version that an operator sees, who migrates one saga; one that is wrong is refused."""
    version = migration.saga.version
    if saga is None or saga.definition_version == version:
        return version + 1
    return saga.definition_version


def migrations_to(
    migration: MigratedTo, sagas: Iterable[SagaSummary], *, id: str
) -> list[Migration]:
    """What an operator asks for who sees *sagas*: one migration for each version that is open."""
    name, version = migration.saga.name, migration.saga.version
    versions = {
        saga.definition_version
        for saga in sagas
        if saga.definition == name and not saga.status.is_ended
    }
    return [
        Migration(
            id=f"{id}-from-{before}",
            definition=name,
            from_version=before,
            to_version=version,
            reason=migration.reason,
            actor=migration.actor,
            steps=dict(migration.steps),
        )
        for before in sorted(versions - {version})
    ]


def back(migration: Migration) -> Migration:
    """The way back: names and versions the other way round."""
    return replace(
        migration,
        id=f"{migration.id}-back",
        from_version=migration.to_version,
        to_version=migration.from_version,
        steps={new: old for old, new in migration.steps.items()},
    )


def check_migrations(history: Sequence[Entry], version_in_index: int) -> Iterator[str]:
    """Yields what is wrong with what moves one saga from version to version."""
    if not any(type(entry.body) is Migrated for entry in history):
        return
    version: int | None = None
    for turn in turns(history):
        fact = turn.event.fact
        if isinstance(fact, Migrated) and not is_refused(turn):
            if fact.from_version != version:
                yield f"entry {turn.version} moves it from {fact.from_version}: it was {version}"
            if turn.decided:
                yield f"entry {turn.version} moves it, and does more: {turn.decided}"
        version = version_behind(turn, version)
    if version not in (None, version_in_index):
        yield f"the index says version {version_in_index}, the history {version}"


def version_behind(turn: RecordedTurn, version: int | None) -> int | None:
    """The version that decides what comes behind *turn*, where it was *version* before."""
    fact = turn.event.fact
    if isinstance(fact, SagaStarted) or (isinstance(fact, Migrated) and not is_refused(turn)):
        version = fact.definition_version
    for body in turn.decided:
        if isinstance(body, Continued):
            version = body.definition_version
    return version
