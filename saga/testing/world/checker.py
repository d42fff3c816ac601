"""Judges a world by what went in and what is left. It shares no code with the engine's own fold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from saga.core.history import Entry
from saga.core.identity import SagaId
from saga.core.intents import Noted, RollbackPlanned
from saga.runtime.router import Router
from saga.testing.world.driver import Log
from saga.testing.world.effect_checks import check_effects
from saga.testing.world.evidence import Evidence, Line
from saga.testing.world.history_checks import check_histories
from saga.testing.world.record_checks import check_records
from saga.testing.world.trace import Surroundings

if TYPE_CHECKING:
    from saga.testing.world.assembly import Durable


def gather(durable: Durable, log: Log) -> Evidence:
    """Everything that is left of a world."""
    histories: dict[SagaId, list[Entry]] = {}
    for _, entry in durable.store.log:
        histories.setdefault(entry.saga_id, []).append(entry)
    rows = durable.database.rows(
        "SELECT number, saga_id, step, direction, intent_id FROM ledger ORDER BY number"
    )
    router = Router(durable.app.registry, durable.app.contracts, durable.names)
    return Evidence(
        log=log,
        histories=histories,
        stored_at=durable.store.stored_at,
        published=durable.bus.published,
        unhandled=list(durable.store.unhandled.values()),
        summaries=durable.store.summaries,
        timers=frozenset(timer.timer_id for timer in durable.store.timers(1_000_000)),
        ledger=[Line(*row) for row in rows],
        heard=frozenset(router.topics),
        names=durable.names,
    )


def check(durable: Durable, log: Log, surroundings: Surroundings) -> list[str]:
    """Everything that is wrong with a world."""
    evidence = gather(durable, log)
    for what in _remarkable(evidence):
        surroundings.faults.seen[what] += 1
    for saga_id, history in sorted(evidence.histories.items()):
        for entry in history:
            surroundings.note(saga_id, f"{entry.version} {entry.at} {entry.cause} {entry.body}")
    return [
        *durable.shadows.replay_all(evidence.histories),
        *check_histories(evidence),
        *check_records(evidence),
        *check_effects(evidence),
    ]


def _remarkable(evidence: Evidence) -> Iterator[str]:
    """What is worth counting, to prove that the faults have had consequences."""
    for history in evidence.histories.values():
        yield f"saga {evidence.summaries[history[0].saga_id].status.value}"
        for entry in history:
            body = entry.body
            if isinstance(body, Noted):
                yield f"noted {body.verdict.value}"
            elif isinstance(body, RollbackPlanned):
                yield f"plan {body.goal.value}"
            yield type(body).__name__
    for record in evidence.unhandled:
        yield f"parked {record.reason}"
