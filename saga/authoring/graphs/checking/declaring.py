"""What a file declares itself: contracts under `messages`, and the models of its signals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel

from saga.authoring.graphs.checking.compiling import Notes
from saga.authoring.graphs.checking.library import Library
from saga.authoring.graphs.checking.messages import (
    event_of,
    fields_of,
    intent_of,
    is_declared,
    model_of,
)
from saga.authoring.graphs.file import format as form
from saga.authoring.graphs.file.mistakes import MistakeCode
from saga.authoring.graphs.file.shaping import Shaped, found_at
from saga.contracts import Contract, ContractModel, Event, Kind, contract_of
from saga.core.values import value
from saga.errors import DefinitionError

_NAME: Final = re.compile(r"([^.]+)\.([^.]+)(?:\.v([0-9]+))?")


@value
class _Declared:
    name: str
    domain: str
    own_name: str
    version: int
    is_intent: bool
    said: form.MessageFields
    fields: dict[str, tuple[Any, Any]]


def signal_models(shaped: Shaped, notes: Notes) -> dict[str, type[BaseModel]]:
    return {
        name: model_of(name, shaped.at("signals", name), notes.mistakes)
        for name in shaped.head.signals
    }


def declare_messages(shaped: Shaped, file: str, library: Library, notes: Notes) -> None:
    """Add the contracts of a file to the library; events first, as intents name their replies."""
    declared = list(_declared(shaped, notes))
    for each in sorted(declared, key=lambda one: one.is_intent):
        place = found_at(shaped.tree, ("messages", each.name))[1]
        kind = Kind.INTENT if each.is_intent else Kind.EVENT
        contract_name = f"{each.domain}.{kind.value}.{each.own_name}.v{each.version}"
        known = library.own(contract_name)
        try:
            made = _made(each, f"{file}:{place.line}", library, shaped, notes)
        except DefinitionError as error:
            notes.note(place, error.problem, MistakeCode.WRONG_VALUE)
            continue
        if known is None:
            library.add(made)
        elif not _is_same(known, made):
            message = f"`{each.name}` has a class already ({known.where}): leave it out here"
            notes.note(place, message, MistakeCode.WRONG_CONTRACT)


def _declared(shaped: Shaped, notes: Notes) -> Iterator[_Declared]:
    intents = _named_as_intents(shaped)
    for name, said in shaped.head.messages.items():
        found = _NAME.fullmatch(name)
        if found is None:
            continue  # said already
        tree = shaped.at("messages", name)
        fields = fields_of(found[2], found_at(tree, ("fields",))[0], notes.mistakes)
        if not said.fields:
            fields = {}
        is_intent = "reply" in said.model_fields_set or bool(
            {name, f"{found[1]}.{found[2]}"} & intents
        )
        if is_intent and said.key is not None:
            place = found_at(tree, ("key",))[1]
            message = f"`{name}` is an intent, which travels under the key of its saga"
            notes.note(place, message, MistakeCode.KEY_WITHOUT_EFFECT)
            continue
        yield _Declared(name, found[1], found[2], int(found[3] or 1), is_intent, said, fields)


def _named_as_intents(shaped: Shaped) -> set[str]:
    """What the file uses as an intent, whether or not it says what answers it."""
    names: set[str] = set()
    for each in shaped.nodes:
        undo = each.node.undo
        names.add(each.node.intent or "")
        names.add(undo.intent if isinstance(undo, form.Undo) else undo or "")
    names.update(shaped.head.intent_routing_table or ())
    return names | {name.rpartition(".v")[0] or name for name in names}


def _made(
    declared: _Declared, where: str, library: Library, shaped: Shaped, notes: Notes
) -> type[ContractModel]:
    domain, name, version = declared.domain, declared.own_name, declared.version
    if not declared.is_intent:
        key = declared.said.key
        return event_of(domain, name, version, key=key, fields=declared.fields, where=where)
    reply: type[Event] | None = None
    if declared.said.reply is not None:
        found = library.find(declared.said.reply, Kind.EVENT)
        if found is None:
            place = shaped.at("messages", declared.name, "reply").place
            explained = library.explain_unknown(declared.said.reply, Kind.EVENT)
            notes.note(place, explained, MistakeCode.UNKNOWN_CONTRACT)
        else:
            reply = found.model  # type: ignore[assignment]  # a contract of this kind is an Event
    return intent_of(domain, name, version, reply=reply, fields=declared.fields, where=where)


def _is_same(known: Contract, made: type[ContractModel]) -> bool:
    """Whether another file, or this one before, declares the same."""
    other = contract_of(made)
    if not is_declared(known.model):
        return False
    one_reply = None if known.reply is None else contract_of(known.reply).contract_name
    other_reply = None if other.reply is None else contract_of(other.reply).contract_name
    is_alike = (known.key, one_reply) == (other.key, other_reply)
    return is_alike and known.model.model_json_schema() == made.model_json_schema()
