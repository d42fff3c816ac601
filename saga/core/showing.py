"""What people see of a saga's own state: recorded where it changed, and part of no decision.

A replay never compares it: what is recorded stands, whatever the code at hand would show.
"""

from __future__ import annotations

import json
from typing import Final

from saga.core.events import Json
from saga.core.intents import Shown
from saga.core.program import Show
from saga.core.state import SagaState
from saga.core.turn import Turn

NOTHING: Final = Json("null")


def show(turn: Turn, command: Show) -> None:
    """Record the fields that change; in a replay, what was recorded in this place."""
    if turn.recorded is None:
        shown = turn.state.shown or {}
        changed = tuple(
            (name, command.fields[name])
            for name in sorted(command.fields)
            if shown.get(name, NOTHING) != command.fields[name]
        )
        if changed:
            turn.record(Shown(fields=changed))
        return
    place = sum(isinstance(intent, Shown) for intent in turn.intents)
    recorded = [intent for intent in turn.recorded if isinstance(intent, Shown)]
    if place < len(recorded):
        turn.record(recorded[place])


def shown_json(state: SagaState) -> Json | None:
    """All that is shown as one JSON object; None where nothing ever was."""
    shown = state.shown
    if shown is None:
        return None
    members = (f"{json.dumps(name, ensure_ascii=False)}:{shown[name]}" for name in sorted(shown))
    return Json("{" + ",".join(members) + "}")
