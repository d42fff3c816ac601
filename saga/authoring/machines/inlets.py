"""What may come to a machine from outside: which names, and for which states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel

from saga.authoring.listening import Listening
from saga.authoring.machines.states import State
from saga.authoring.machines.table import Table
from saga.core.events import event_channel
from saga.core.values import value

Models = Mapping[str, type[BaseModel]]


@value(kw_only=True)
class Inlet:
    """What a state waits for, by name. *selects*: other versions of such an event may come, too."""

    signals: tuple[str, ...]
    contracts: tuple[str, ...]
    updates: tuple[str, ...]
    selects: bool
    late: tuple[str, Literal["signal", "event", "update", "state"]]
    """What has not come when the state times out, and what kind of thing that is."""
    outlook: frozenset[type]
    """What may come from outside that the state, or one ahead of it, takes."""

    @property
    def is_open(self) -> bool:
        return bool(self.signals or self.contracts or self.updates)


def inlets_of(
    table: Table, listens: Iterable[Listening], signals: Models, updates: Models
) -> dict[type[State], Inlet]:
    """The inlet of each state that has a row."""
    heard = list(listens)
    outside = {each.event for each in heard} | {*signals.values()} | {*updates.values()}
    versions = Counter(event_channel(each.contract.contract_name) for each in heard)

    def inlet(state: type[State]) -> Inlet:
        row = table.takes(state)
        events = sorted(
            (each.contract for each in heard if each.event in row),
            key=lambda contract: contract.contract_name,
        )
        names = tuple(contract.contract_name for contract in events)
        asked = tuple(name for name, model in signals.items() if model in row)
        answered = tuple(name for name, model in updates.items() if model in row)
        told = " or ".join(dict.fromkeys(contract.name for contract in events))
        return Inlet(
            signals=asked,
            contracts=names,
            updates=answered,
            selects=any(versions[event_channel(name)] > 1 for name in names),
            late=_late(state, told, asked, answered),
            outlook=frozenset(outside.intersection({*row, *table.ahead[state]})),
        )

    return {state: inlet(state) for state in table.rows}


def _late(
    state: type[State], told: str, asked: tuple[str, ...], answered: tuple[str, ...]
) -> tuple[str, Literal["signal", "event", "update", "state"]]:
    match bool(told), bool(asked), bool(answered):
        case (True, False, False):
            return told, "event"
        case (False, True, False):
            return " or ".join(asked), "signal"
        case (False, False, True):
            return " or ".join(answered), "update"
        case _:
            return state.__name__, "state"
