"""What sagas say to each other: the texts of commands, as pure functions of what is recorded."""

from __future__ import annotations

from typing import Any

import orjson

from saga.core.events import Json
from saga.core.intents import CommandSent


def command_text(sent: CommandSent, *, actor: str) -> Json:
    """The JSON of a `saga.ctl.command.v1` that a saga sends; *actor* says which saga."""
    said: dict[str, Any] = {
        "command_id": sent.command,
        "act": sent.act.value,
        "saga_id": sent.saga_id,
        "definition": sent.definition,
        "actor": actor,
        "name": sent.name,
        "payload": None if sent.payload is None else orjson.Fragment(sent.payload),
        "mode": None if sent.mode is None else sent.mode.value,
        "reason": sent.reason,
    }
    told = {name: text for name, text in said.items() if text is not None}
    return Json(orjson.dumps(told, option=orjson.OPT_SORT_KEYS).decode())
