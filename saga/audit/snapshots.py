"""Comparing snapshots with what histories give, which no worker does: they spare it that.

Nothing is written; whoever asks removes those that are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import orjson

from saga.audit.replaying import replayed
from saga.authoring.registry import SagaRegistry
from saga.core.history import History
from saga.core.identity import SagaId
from saga.core.snapshots import snapshot_of
from saga.errors import CorruptHistory, ReplayMismatch
from saga.ports import Snapshot, Store


async def compare_snapshots(
    store: Store, sagas: SagaRegistry, saga_ids: Sequence[SagaId]
) -> Mapping[SagaId, str]:
    """Those of these sagas whose snapshots say something else than their histories, and what.

    As far as the code at hand is that which wrote them.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    ours = [each for each in (await store.snapshots(saga_ids)).values() if _is_ours(sagas, each)]
    histories = await store.load([each.saga_id for each in ours]) if ours else {}
    found = {each.saga_id: _problem(sagas, each, histories.get(each.saga_id)) for each in ours}
    return {saga_id: problem for saga_id, problem in found.items() if problem is not None}


def _is_ours(sagas: SagaRegistry, snapshot: Snapshot) -> bool:
    registered = sagas.find(snapshot.definition, snapshot.definition_version)
    return registered is not None and registered.decider.code == snapshot.code


def _problem(
    sagas: SagaRegistry, snapshot: Snapshot, history: History | CorruptHistory | None
) -> str | None:
    """What is wrong with *snapshot*; None also where nothing can be said, as of an earlier run."""
    registered = sagas.find(snapshot.definition, snapshot.definition_version)
    assert registered is not None, snapshot
    if not isinstance(history, History):
        return None
    begins_in = history.turns - len(history.recorded)
    if snapshot.turns > history.turns:
        return f"it covers {snapshot.turns} turns, and the history has {history.turns}"
    if snapshot.turns <= begins_in:
        return None
    covered = History(history.recorded[: snapshot.turns - begins_in])
    try:
        state = replayed(registered.decider, snapshot.saga_id, covered)
    except ReplayMismatch:
        return None  # said of the history
    given = snapshot_of(state)
    if state.program is not None:
        state.program.close()
    try:
        told = orjson.loads(snapshot.state)["saga"]
    except (ValueError, LookupError, TypeError):
        return "it cannot be read"
    if given is None:
        return "its history gives a state that is no data"
    return next(_different(orjson.loads(orjson.dumps(given)), told), None)


def _different(given: object, told: object) -> Iterator[str]:
    """Where they differ, in words."""
    if given == told:
        return
    if not isinstance(given, dict) or not isinstance(told, dict):
        yield "it is no snapshot"
        return
    for part in ("state", "program"):
        if given.get(part) != told.get(part):
            yield f"its {part} is not what its history gives"
    yield "it says more than its history gives"
