"""One saga as people see it: where it stands, what it shows, its steps, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from saga.contracts.cloudevents import rfc3339
from saga.core.fold import fold
from saga.core.history import Entry
from saga.core.identity import Instant, SagaId, StepId, instant
from saga.core.state import StepRow, step_rows
from saga.core.status import SagaStatus
from saga.core.values import value
from saga.ports import SagaSummary

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@value(kw_only=True)
class SagaView:
    """What the command `show` prints of a saga.

    Attributes:
        shown: the fields that its code shows with `ctx.show`.
        waiting_for: what has to happen next, in words; None where it has ended.
        outcome: `contract` and `payload` of the event that it ended with, if any.
    """

    id: SagaId
    definition: str
    version: int
    key: str
    status: SagaStatus
    paused: bool
    shown: Mapping[str, Any]
    started_at: datetime
    updated_at: datetime
    waiting_for: str | None
    reason: str | None
    steps: Sequence[StepRow]
    residue: Sequence[StepId]
    outcome: Mapping[str, Any] | None

    def __str__(self) -> str:
        """A line for the saga, and one for each of its steps and undos, in order of issue."""
        why = self.reason or (self.waiting_for and f"waits for {self.waiting_for}")
        shown = ", ".join(f"{name}={value}" for name, value in self.shown.items())
        head = f"{self.definition}/{self.key} {self.status}"
        head += (f" ({shown})" if shown else "") + (f": {why}" if why else "")
        width = max((len(row.step) for row in self.steps), default=0)
        rows = [
            f"  {row.direction:<4}  {row.step:<{width}}  {said_of(row)}"
            + (f", {row.attempts} attempts" if row.attempts > 1 else "")
            for row in self.steps
        ]
        return "\n".join([head, *rows])

    def to_json(self) -> dict[str, Any]:
        """The line that `show` prints with `--json`, as plain values."""
        return {part.name: getattr(self, part.name) for part in fields(self)} | {
            "status": self.status.value,
            "started_at": _iso_of(self.started_at),
            "updated_at": _iso_of(self.updated_at),
            "steps": [_step_json(step) for step in self.steps],
            "residue": list(self.residue),
        }


def said_of(row: StepRow) -> str:
    """How far one direction of a step is, in words."""
    return f"{row.status}, dropped" if row.is_dropped else row.status.value


def view_of(summary: SagaSummary, history: Sequence[Entry]) -> SagaView:
    state = fold(summary.saga_id, history)
    outcome = state.outcome
    return SagaView(
        id=summary.saga_id,
        definition=summary.definition,
        version=summary.definition_version,
        key=summary.key,
        status=summary.status,
        paused=summary.paused is not None,
        shown=shown_of(summary),
        started_at=_moment(summary.started_at),
        updated_at=_moment(summary.updated_at),
        waiting_for=summary.waiting_for,
        reason=summary.reason,
        steps=step_rows(state),
        residue=state.residue,
        outcome=None
        if outcome is None
        else {"contract": outcome.contract, "payload": orjson.loads(outcome.payload)},
    )


def row_of(summary: SagaSummary) -> dict[str, Any]:
    """The line that `ls` prints with `--json`."""
    return {
        "id": summary.saga_id,
        "definition": summary.definition,
        "version": summary.definition_version,
        "key": summary.key,
        "status": summary.status.value,
        "paused": summary.paused is not None,
        "shown": shown_of(summary),
        "started_at": iso(summary.started_at),
        "updated_at": iso(summary.updated_at),
        "waiting_for": summary.waiting_for,
        "reason": summary.reason,
    }


def shown_of(summary: SagaSummary) -> dict[str, Any]:
    shown: dict[str, Any] = orjson.loads(summary.shown or "{}")
    return shown


def iso(at: Instant) -> str:
    """A moment in ISO 8601, UTC."""
    return rfc3339(instant(at)).decode()


def _moment(at: Instant) -> datetime:
    return _EPOCH + timedelta(microseconds=instant(at))


def _iso_of(moment: datetime) -> str:
    return iso(Instant((moment - _EPOCH) // timedelta(microseconds=1)))


def _step_json(row: StepRow) -> dict[str, Any]:
    plain = asdict(row)
    is_dropped = plain.pop("is_dropped")
    return plain | ({"dropped": True} if is_dropped else {})
