"""Snapshots as rows, alike in both databases, and whether one still belongs to its history."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

from saga.adapters.mapper import reading_tail
from saga.core.history import History
from saga.core.piecewise import Piecewise
from saga.errors import CorruptHistory
from saga.ports.store import Snapshot, SnapshotAndTail

SNAPSHOT_COLUMNS: Final = "definition, definition_version, code, turns, version, state"
_KINDS: Final = [str, str, int, str, int, int, bytes]


def from_snapshot(snapshot: Snapshot) -> tuple[Any, ...]:
    """Its saga, and the columns."""
    return (
        snapshot.saga_id,
        snapshot.definition,
        snapshot.definition_version,
        snapshot.code,
        snapshot.turns,
        snapshot.version,
        snapshot.state,
    )


def to_snapshot(row: Sequence[Any]) -> Snapshot | None:
    """The snapshot of such a row; None where it holds something else."""
    saga_id, definition, definition_version, code, turns, version, state = row
    if [*map(type, row)] != _KINDS:
        return None
    return Snapshot(
        saga_id=saga_id,
        definition=definition,
        definition_version=definition_version,
        code=code,
        turns=turns,
        version=version,
        state=state,
    )


def proof_of(turn: object, state: bytes) -> bytes | None:
    """What holds as long as neither the stored *turn* nor the *state* behind it is another.

    None where what is stored is no turn.
    """
    return sha256(turn + state).digest() if isinstance(turn, bytes) else None


def reading_from_snapshot(
    kept: Sequence[Any] | None, rows: Sequence[tuple[int, str, bytes]], *, known: object
) -> Piecewise[SnapshotAndTail | None]:
    """What is *kept* as a snapshot, and its tail; None: it is no use.

    *kept* ends with the proof of then. *rows* are turns, from the last one on that it covers, and
    *known* is how many entries the index knows of.
    """
    snapshot = None if kept is None else to_snapshot(kept[:-1])
    if kept is None or snapshot is None or not rows:
        return None
    proof = proof_of(rows[0][2], snapshot.state)
    if proof is None or kept[-1] != proof:
        return None
    history = yield from reading_tail(snapshot.saga_id, rows, first=snapshot.turns)
    if isinstance(history, CorruptHistory):
        return None  # whoever reads it from its beginning says so
    covered = history.recorded[0]
    is_covered = covered.version + len(covered) - 1 == snapshot.version
    if not is_covered or (isinstance(known, int) and known > history.version):
        return None
    return SnapshotAndTail(snapshot, History(history.recorded[1:], turns=history.turns))
