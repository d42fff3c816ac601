"""`ctx.child`: what it may be given, and what a function is told of a child that has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saga.authoring.functions.calls import ChildCall
from saga.contracts import Contract, ContractRegistry, Event, Kind, contract_of, read
from saga.contracts.between_sagas import CHILD_ENDED
from saga.core.events import ChildEnded, Message
from saga.core.identity import StepId
from saga.errors import ChildRolledBack, DefinitionError


def not_known(contract: Contract) -> DefinitionError:
    """What nobody has told the application of can be neither published nor read."""
    return DefinitionError(
        f"{contract.model.__name__} ({contract.contract_name}) is not known to the application: "
        f"add it to SagaApp(contracts=[…])"
    )


def checked_child(trigger: object, outcome: object, is_known: Callable[[str], bool]) -> Contract:
    """The contract of a child's trigger; DefinitionError where the call makes no sense."""
    if isinstance(trigger, type):
        example = f"{trigger.__name__}(…)"
        raise DefinitionError(f"ctx.child takes an event and was given a class: pass {example}")
    if not isinstance(trigger, Event) or contract_of(trigger).kind is not Kind.EVENT:
        raise DefinitionError(
            f"ctx.child takes the event that starts the child, not {type(trigger).__name__}"
        )
    if outcome is not None and not (isinstance(outcome, type) and issubclass(outcome, Event)):
        raise DefinitionError(f"outcome={outcome!r}: expected an Event class, or None")
    contract = contract_of(trigger)
    for each in (contract, *(() if outcome is None else (contract_of(outcome),))):
        if not is_known(each.contract_name):
            raise not_known(each)
    if not is_known(CHILD_ENDED):
        raise DefinitionError(
            "this application does not read what children say, as no source shows a call of "
            "ctx.child: write it in the saga's function, or in a helper of the same package"
        )
    return contract


def outcome_of(
    call: ChildCall[Any], outcome: Message | None, registry: ContractRegistry
) -> Event | None:
    """The event with which a child ended; DefinitionError where it is not what was asked for."""
    if call.outcome is None:
        return None
    expected = contract_of(call.outcome).contract_name
    if outcome is None:
        raise DefinitionError(
            f"the child of step {call.step!r} ended without an outcome, not with {expected}: "
            f"{_ADVICE}"
        )
    event = read(registry, outcome) if outcome.contract in registry else None
    if not isinstance(event, call.outcome):
        raise DefinitionError(
            f"the child of step {call.step!r} ended with {outcome.contract}, not with {expected}: "
            f"{_ADVICE}"
        )
    return event


def rolled_back(step: StepId, ended: ChildEnded) -> ChildRolledBack:
    return ChildRolledBack(
        step,
        status=ended.status.value,
        reason=ended.reason or ended.status.value.replace("_", " "),
        code=ended.code,
        failed_step=ended.failed_step,
        residue=ended.residue,
    )


_ADVICE = "give ctx.child the outcome that it has (outcome=…), deploy that and release the saga"
