"""The rerun of an ended saga: in one unit of work it notes it, and another saga begins.

One command leads to two deliveries. The second one begins the new saga if the ended one took the
first; a key that is taken, or a trigger that is none, is refused there and recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from saga.authoring.registry import Registered, SagaRegistry
from saga.contracts import Command, ContractRegistry, Decoded, Unreadable, canonical, decode
from saga.contracts.registry import Entered
from saga.core.events import Act, Event, Message, OperatorActed, SagaStarted
from saga.core.identity import SagaId, saga_id
from saga.core.intents import Noted, Verdict
from saga.core.state import SagaState
from saga.runtime.saga_cache import LoadedSaga, UnloadableSaga

_SAME = Message("", canonical(None))
"""Stands for the trigger of the ended saga."""


def id_of(command: Command) -> SagaId | None:
    """The id of the saga that a rerun starts; None of another command."""
    if command.definition is None or command.key is None:
        return None
    return saga_id(command.definition, command.key)


def start_of(
    command: Command, sagas: SagaRegistry, contracts: ContractRegistry
) -> tuple[Registered, SagaStarted] | None:
    """How the new saga begins, by the newest version here; None where there is none."""
    registered = sagas.newest(command.definition or "")
    if registered is None or command.key is None:
        return None
    decider, trigger = registered.decider, _SAME
    if command.trigger is not None:
        decoded = _read(command.trigger, contracts)
        if isinstance(decoded, Decoded):
            trigger = Message(decoded.contract_name, decoded.payload)
    fact = SagaStarted(
        decider.name,
        decider.version,
        decider.fingerprint,
        command.key,
        trigger,
        rerun_of=SagaId(command.saga_id or ""),
    )
    return registered, fact


def why_not_to_start(
    command: Command, sagas: SagaRegistry, contracts: ContractRegistry
) -> str | None:
    """Why the trigger that was given is none; None also where none was given."""
    if command.trigger is None:
        return None
    name, decoded = command.trigger.contract, _read(command.trigger, contracts)
    if isinstance(decoded, Unreadable):
        return f"its trigger: {decoded.message}"
    started = sagas.started_by(decoded.contract_name)
    if all(each.saga.name != command.definition for each in started):
        return f"its trigger: {name} starts no saga {command.definition!r}"
    return None


def _read(entered: Entered, contracts: ContractRegistry) -> Decoded | Unreadable:
    return decode(contracts, entered.contract, canonical(entered.payload).encode())


def refused(
    fact: OperatorActed, why: str | None, sagas: Mapping[SagaId, LoadedSaga | UnloadableSaga]
) -> list[Noted] | None:
    """What is recorded where a rerun cannot be, whatever the ended saga says."""
    if fact.act is not Act.RERUN:
        return None
    if why is None:
        new = sagas.get(fact.saga_id) if fact.saga_id is not None else None
        if new is None or (isinstance(new, LoadedSaga) and not new.version):
            return None
        why = f"there is a saga of key {fact.key!r} already"
    return [Noted(verdict=Verdict.REFUSED, subject=f"rerun {fact.key}", detail=why)]


def with_trigger(event: Event, ended: SagaState) -> Event:
    """The beginning of the new saga, with the trigger of the ended one where none was given."""
    fact = event.fact
    assert isinstance(fact, SagaStarted), event
    assert ended.trigger is not None, event
    if fact.trigger != _SAME:
        return event
    return replace(event, fact=replace(fact, trigger=ended.trigger))
