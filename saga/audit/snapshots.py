"""Comparing snapshots with what histories give, which no worker does: they spare it that.

It runs users' code, as a replay does, and restores what it has found alike, as a worker would.
Nothing is written; whoever asks removes those that are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import orjson

from saga.audit.replaying import replayed
from saga.authoring.registry import SagaRegistry
from saga.core.decider import Decider
from saga.core.history import History, continued_in
from saga.core.snapshots import snapshot_of
from saga.core.state import SagaState
from saga.core.texts import described
from saga.core.values import value
from saga.errors import CorruptHistory, ReplayMismatch
from saga.ports import Snapshot
from saga.users_code import is_ours, raised_at


class Found(StrEnum):
    SAME = "same"
    WRONG = "wrong"
    NOT_COMPARED = "not compared"


@value
class Comparison:
    """What was found of one snapshot.

    *problem* is what is wrong with it, or why nothing can be said; *where* is a place in the code.
    """

    found: Found
    problem: str | None = None
    where: str | None = None


def wrong(problem: str, where: str | None = None) -> Comparison:
    return Comparison(Found.WRONG, problem, where)


def compare_snapshot(
    sagas: SagaRegistry, snapshot: Snapshot, history: History | CorruptHistory | None
) -> Comparison:
    """*snapshot* beside the *history* of its saga, as far as the code at hand has written it.

    *history* has been loaded later than *snapshot*, and may be whole.
    """
    registered = sagas.find(snapshot.definition, snapshot.definition_version)
    if registered is None or registered.decider.code != snapshot.code:
        return _not_compared("other code has written it")
    if not isinstance(history, History):
        return _not_compared("its history cannot be read")
    if snapshot.turns > history.turns:
        return wrong(f"it covers {snapshot.turns} turns, and the history has {history.turns}")
    run = _last_run(history)
    begins_in = run.turns - len(run.recorded)
    if snapshot.turns <= begins_in:
        return _not_compared("it is of an earlier run")
    covered = History(run.recorded[: snapshot.turns - begins_in])
    return _compared_with(covered, registered.decider, snapshot)


def _not_compared(why: str) -> Comparison:
    return Comparison(Found.NOT_COMPARED, why)


def _last_run(history: History) -> History:
    for number in reversed(range(len(history.recorded))):
        if continued_in(history.recorded[number]) is not None:
            return History(history.recorded[number:], turns=history.turns)
    return history


def _compared_with(covered: History, decider: Decider, snapshot: Snapshot) -> Comparison:
    try:
        given = _told_of(lambda: replayed(decider, snapshot.saga_id, covered))
    except ReplayMismatch:
        return _not_compared("its history is decided otherwise")
    except BaseException as error:  # users' code: serializers, validators
        if is_ours(error):
            raise
        return _raised("its history gives a state that cannot be told", error)
    try:
        told = orjson.loads(snapshot.state)["saga"]
    except (ValueError, LookupError, TypeError):
        return wrong("it cannot be read")
    if given is None:
        return wrong("its history gives a state that is no data")
    difference = next(_different(given, told), None)
    if difference is not None:
        return wrong(difference)
    try:
        again = _told_of(lambda: decider.restored(snapshot.saga_id, told))
    except BaseException as error:  # users' code, or what is no snapshot
        if is_ours(error):
            raise
        return _raised("it cannot be restored", error)
    if again != given:
        return wrong("what is restored from it is not what its history gives")
    return Comparison(Found.SAME)


def _told_of(state_of: Callable[[], SagaState]) -> Any:
    """What a snapshot of a state would say, as JSON gives it again; None where it is no data."""
    state = state_of()
    try:
        told = snapshot_of(state)
        return None if told is None else orjson.loads(orjson.dumps(told))
    finally:
        if state.program is not None:
            state.program.close()


def _raised(what: str, error: BaseException) -> Comparison:
    return wrong(f"{what}: the code at hand raised {described(error)}", raised_at(error))


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
