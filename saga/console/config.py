"""`config show`: the settings as a command would have them, without secrets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from saga.console.session import Session
from saga.settings import HIDDEN, PREFIX, Settings, redacted


def config_show(session: Session) -> None:
    """Print every setting: its value and where that comes from."""
    settings = session.settings
    values: dict[str, Any] = {name: _shown(value) for name, value in settings.model_dump().items()}
    values["effects_store"] = redacted(settings.effects_address)
    if session.printer.is_json:
        session.printer.json(values)
        return
    session.printer.table(
        ("setting", "value", "from", "meaning"),
        [
            (
                PREFIX + name.upper(),
                str(values[name]),
                _origin(name, settings),
                field.description,
            )
            for name, field in Settings.model_fields.items()
        ],
    )


def _shown(value: object) -> object:
    match value:
        case SecretStr():
            return HIDDEN
        case Path():
            return str(value)
        case str():
            return redacted(value)
        case _:
            return value


def _origin(name: str, settings: Settings) -> str:
    variable = os.environ.get(PREFIX + name.upper())
    if name not in settings.model_fields_set:
        return "default"
    is_variable = variable is not None and str(getattr(settings, name)) == variable
    return "environment" if is_variable else "option"
