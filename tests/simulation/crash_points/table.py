"""The crash points: between every two steps of a message's way, a process is killed, or told
something untrue, or told to stop.

A point that this design does not have stands in `ABSENT`, with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tests.simulation.crash_points.aim import How, Strike
from tests.simulation.crash_points.kinds import Kind


def _all(kind: Kind) -> bool:
    return True


def _publishing(kind: Kind) -> bool:
    return kind.publishes > 0


def _publishing_many(kind: Kind) -> bool:
    return kind.publishes > 1


def _dead_lettering(kind: Kind) -> bool:
    return kind.dead_letters > 0


def _command(kind: Kind) -> bool:
    return kind.is_command


def _timer(kind: Kind) -> bool:
    return kind.name in {"retry timer", "timeout"}


class CrashPoint(NamedTuple):
    """Where it happens, and to which kinds of messages it can."""

    name: str
    between: str
    strikes: tuple[Strike, ...]
    concerns: Callable[[Kind], bool] = _all


def _point(name: str, between: str, *strikes: Strike, concerns=_all) -> CrashPoint:
    return CrashPoint(name, between, strikes, concerns)


_FETCHED = Strike("turn.fetched")
_DECODED = Strike("turn.decoded")
_DECIDING = Strike("turn.decide")
_NOT_COMMITTED = Strike("commit", How.DIES_BEFORE)
_COMMITTED = Strike("commit")
_STORED = Strike("turn.stored")
_TORN = Strike("torn publish")
_PUBLISHED = Strike("turn.published")
_NOT_TOLD = Strike("consumer.commit", How.DIES_BEFORE)


def _starting(point: str, how: How = How.DIES) -> Strike:
    """A crash of whoever takes over, on its way to work."""
    return Strike(point, how, in_turn=False)


CRASH_POINTS: Sequence[CrashPoint] = (
    _point("CP-1", "fetched, not decoded", _FETCHED),
    _point("CP-2", "decoded, not loaded", _DECODED),
    _point("CP-3", "loaded and decided, in memory only", _DECIDING),
    _point("CP-4", "in the transaction, before COMMIT", _NOT_COMMITTED),
    _point("CP-4b", "COMMIT never arrived", Strike("commit", How.FAILS)),
    _point("CP-5", "COMMIT done, the answer lost with the process", _COMMITTED),
    _point("CP-5b", "COMMIT done, only the answer lost", Strike("commit", How.ANSWER_LOST)),
    _point("CP-6", "COMMIT acknowledged, nothing published", _STORED),
    _point("CP-7", "some of the intents published", _TORN, concerns=_publishing_many),
    _point(
        "CP-7b",
        "some of the intents published, the process lives",
        Strike("torn publish", How.ANSWER_LOST),
        concerns=_publishing_many,
    ),
    _point(
        "CP-8",
        "published, the acknowledgement lost",
        Strike("bus.publish", How.ANSWER_LOST),
        concerns=_publishing,
    ),
    _point("CP-9", "acknowledged, the backlog not cleared", _PUBLISHED),
    _point("CP-10", "backlog cleared, offset not committed", _NOT_TOLD),
    _point(
        "CP-11",
        "offset committed, the answer lost",
        Strike("consumer.commit", How.ANSWER_LOST),
    ),
    _point("CP-12", "offset committed, everything done", Strike("consumer.commit")),
    _point("CP-13", "timer found due, its firing not stored", _FETCHED, concerns=_timer),
    _point(
        "CP-14", "dlq copy published, not stored", Strike("bus.publish"), concerns=_dead_lettering
    ),
    _point(
        "CP-14b",
        "dlq copy published, the acknowledgement lost",
        Strike("bus.publish", How.ANSWER_LOST),
        concerns=_dead_lettering,
    ),
    _point(
        "CP-15",
        "before the dlq copy: neither stored nor accounted for",
        Strike("bus.publish", How.DIES_BEFORE),
        concerns=_dead_lettering,
    ),
    _point(
        "CP-18",
        "command accepted, its sender does not know and sends it again",
        Strike("bus.publish", How.ANSWER_LOST, in_turn=False, who="driver", skip=1),
        concerns=_command,
    ),
    _point("CP-19 fetched", "told to stop with records in hand", Strike("turn.fetched", How.STOPS)),
    _point("CP-19 decided", "told to stop, decided", Strike("commit", How.STOPS)),
    _point("CP-19 stored", "told to stop, nothing published", Strike("turn.stored", How.STOPS)),
    _point(
        "CP-19 killed",
        "told to stop, then killed before it has",
        Strike("turn.fetched", How.STOPS),
        Strike("turn.stored", in_turn=False),
    ),
    _point("CP-20 of CP-1", "the next one too", _FETCHED, _FETCHED),
    _point("CP-20 of CP-2", "the next one too", _DECODED, _DECODED),
    _point("CP-20 of CP-3", "the next one too", _DECIDING, _DECIDING),
    _point("CP-20 of CP-4", "the next one too", _NOT_COMMITTED, _NOT_COMMITTED),
    _point("CP-20 of CP-5", "again on joining", _COMMITTED, _starting("bus.subscribe")),
    _point("CP-20 of CP-6", "again with the backlog", _STORED, _starting("store.backlog")),
    _point(
        "CP-20 of CP-7",
        "again while it publishes the rest",
        _TORN,
        _starting("bus.publish"),
        concerns=_publishing_many,
    ),
    _point(
        "CP-20 of CP-9",
        "again after it published everything anew",
        _PUBLISHED,
        _starting("bus.publish"),
        concerns=_publishing,
    ),
    _point("CP-20 of CP-10", "again on reading positions", _NOT_TOLD, _starting("store.positions")),
)

ABSENT: Mapping[str, str] = {
    "CP-16": "there are no snapshots: a state that left memory is rebuilt from its whole history",
    "CP-17": "the saga index and the due-index are written in the transaction of the entries, so "
    "this is CP-4 and CP-5; after every case both are compared with the histories",
}
