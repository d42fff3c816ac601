"""Messages mapped by field name: undo intents from what is undone, outcomes from a report.

The classes alone decide whether every required field can be filled, before a saga runs: an undo
that needs a field of the reply could never be built when no reply came.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from saga.core.program import Report
from saga.errors import DefinitionError

Filled = TypeVar("Filled", bound=BaseModel)

REPORT_FIELDS = ("reason", "code", "failed_step", "residue")


@lru_cache(maxsize=4096)
def check_undo(intent: type[BaseModel], undo: type[BaseModel]) -> None:
    """Refuse an undo class that cannot always be filled from the intent it undoes."""
    for name, field in undo.model_fields.items():
        if field.is_required() and name not in intent.model_fields:
            raise DefinitionError(
                f"undo {undo.__name__} needs the field {name!r}, which {intent.__name__} does not "
                f"have; a reply may never come, so give {undo.__name__}.{name} a default, or pass "
                f"a function (intent, reply) as undo"
            )


@lru_cache(maxsize=4096)
def check_rolled_back(trigger: type[BaseModel], outcome: type[BaseModel]) -> None:
    """Refuse a `rolled_back` class that cannot always be filled from trigger and report."""
    for name, field in outcome.model_fields.items():
        if not field.is_required():
            continue
        if name not in REPORT_FIELDS and name not in trigger.model_fields:
            raise DefinitionError(
                f"rolled_back={outcome.__name__} needs the field {name!r}, which neither "
                f"{trigger.__name__} nor the report ({', '.join(REPORT_FIELDS)}) has; give it a "
                f"default, or pass a function (trigger, report)"
            )
        if name == "failed_step" and not _takes_none(field.annotation):
            raise DefinitionError(
                f"{outcome.__name__}.failed_step must be `str | None`: a saga that rolls back of "
                f"its own accord has no failed step"
            )


def fill(model: type[Filled], *sources: BaseModel | None) -> Filled:
    """*model* from the fields of the sources that it knows; a later source wins."""
    values: dict[str, object] = {}
    for source in sources:
        if source is not None:
            for name in _shared(model, type(source)):
                values[name] = getattr(source, name)
    return model(**values)


def fill_report(model: type[Filled], trigger: BaseModel, report: Report) -> Filled:
    """*model* from a trigger and the report of its saga's rollback; the report wins."""
    reported: Mapping[str, object] = {
        "reason": report.reason,
        "code": report.code,
        "failed_step": report.failed_step,
        "residue": list(report.residue),
    }
    values = {name: getattr(trigger, name) for name in _shared(model, type(trigger))}
    values |= {name: value for name, value in reported.items() if name in model.__pydantic_fields__}
    return model(**values)


@lru_cache(maxsize=4096)
def _shared(model: type[BaseModel], source: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for name in model.model_fields if name in source.model_fields)


def _takes_none(annotation: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_python(None)
    except ValidationError:
        return False
    return True
