"""Bytes to models and back: the border between what was received and what is believed.

`decode` never raises: it answers with a model, or with the reason why there is none. A value equal
to its own canonical form hides no flaw (`json_text`); only others are inspected closer.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from typing import Final, Literal

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from saga.contracts.accepted import Accepting, read_accepted
from saga.contracts.cloudevents import (
    SIGNATURE,
    TRACEPARENT,
    Attributes,
    Headers,
    Said,
    read_record,
)
from saga.contracts.json_text import (
    LARGE_BYTES,
    VALUE_BYTES_MAX,
    Unreadable,
    UnreadableCode,
    canonical_dump,
    flaw_in_form,
    flaw_of,
    schema_problem,
    shortened,
)
from saga.contracts.models import (
    ContractModel,
    business_key,
    contract_of,
    flat_size,
    has_plain_values,
    may_hold_sets,
)
from saga.contracts.registry import ContractRegistry, ReadPath
from saga.contracts.sets import refuse_sets
from saga.core.events import Json, Message
from saga.core.identity import ID_BYTES_MAX
from saga.core.texts import described
from saga.core.values import value
from saga.errors import MalformedMessage, MessageError
from saga.users_code import is_a, is_ours

_SORTED: Final = orjson.OPT_SORT_KEYS
_dumps: Final = orjson.dumps


@value
class Decoded:
    """A message in the current version; *payload* is its canonical JSON, without unknown fields."""

    contract_name: str
    model: ContractModel
    payload: Json


def encode(model: ContractModel) -> Json:
    """The canonical JSON of a contract's model.

    Raises:
        MalformedMessage: it holds what JSON or its readers do not know, or its fields do not allow.
    """
    return Json(_encoded(model, warnings="error").decode())


def encode_for_readers(
    registry: ContractRegistry, model: ContractModel, *, bytes_max: int = VALUE_BYTES_MAX
) -> tuple[bytes, Decoded]:
    """The canonical JSON of *model*, and what its readers will make of it.

    Raises:
        DefinitionError: its class declares no contract.
        MessageError: readers could not read it.
    """
    name = contract_of(model).contract_name
    path = registry.paths.get(name)
    if path is None:
        raise _unknown(registry, name).error()
    text = _encoded(model, warnings="error")
    is_own = type(model) is path.contract.model
    if not is_own or len(text) > bytes_max or not has_plain_values(model):
        decoded = decode(registry, name, text, bytes_max=bytes_max)
    elif path.upcasts:
        decoded = _upcast(path, model)
    else:
        decoded = Decoded(name, model, Json(text.decode()))
    if isinstance(decoded, Unreadable):
        raise decoded.error()
    return text, decoded


def message_of(model: ContractModel) -> Message:
    """*model* as a message; raises as `contract_of` and `encode`, and where it has no key."""
    contract = contract_of(model)
    if contract.key is not None:
        try:
            business_key(model)
        except ValueError as error:
            raise MalformedMessage("no_key", f"{contract.contract_name}: {error}") from None
    return Message(contract.contract_name, encode(model))


def decode(
    registry: ContractRegistry,
    contract_name: str,
    value: bytes | None,
    *,
    bytes_max: int = VALUE_BYTES_MAX,
) -> Decoded | Unreadable:
    """Read *value*, as the current version, or say why not."""
    path = registry.paths.get(contract_name)
    return _unknown(registry, contract_name) if path is None else _decoded(path, value, bytes_max)


def decode_record(
    path: ReadPath, headers: Headers, value: bytes | None, keep_in: ContractRegistry | None = None
) -> tuple[Attributes | Said, bytes | None, Decoded | Unreadable]:
    """What a record's headers say, its payload, in either mode, and what `decode` makes of it.

    A model that is kept in the registry saves `read` the work.
    """
    if type(headers) is Said and headers.contract_name == path.name:
        # Said in this process, where no header is damaged and no value an envelope.
        return headers, value, _decoded(path, value, VALUE_BYTES_MAX, keep_in)
    said, payload = read_record(headers, value)
    wrong = wrong_headers(path.name, said)
    return said, payload, wrong or _decoded(path, payload, VALUE_BYTES_MAX, keep_in)


def wrong_headers(contract_name: str, attributes: Attributes | Said) -> Unreadable | None:
    """Why a record cannot be taken for what its headers say; None where it can.

    A damaged header is not read as absent: then the same message would have another id.
    """
    for name in attributes.damaged:
        if name not in (TRACEPARENT, SIGNATURE):
            problem = (
                f"the header {name} is null, no UTF-8 text, or longer than {ID_BYTES_MAX:,}"
                " bytes: write such a text, or leave it out"
            )
            return Unreadable(UnreadableCode.BAD_HEADER, problem)
    claimed = attributes.contract_name
    if claimed is None or claimed == contract_name:
        return None
    return _another_version(contract_name, claimed)


def _decoded(
    path: ReadPath, value: bytes | None, bytes_max: int, keep_in: ContractRegistry | None = None
) -> Decoded | Unreadable:
    if value is None:
        return Unreadable(UnreadableCode.NULL_VALUE, "the record has no value")
    size = len(value)
    if size > bytes_max:
        return Unreadable(
            UnreadableCode.TOO_LARGE, f"{size} bytes, of which at most {bytes_max} are read"
        )
    if size > LARGE_BYTES and (flaw := flaw_in_form(value)) is not None:
        return flaw  # before pydantic, which tells each problem with all the names around it
    try:
        model = path.validate(value, strict=path.is_strict)
        # Just validated: pydantic need not look for values of a wrong type again (1 µs a message).
        payload = _encoded(model, warnings=False)
    except BaseException as error:  # users' code: the record becomes a dead letter
        if is_ours(error):
            raise
        return flaw_of(value) or _refusal(path, value, error)
    is_canonical = payload == value
    if not is_canonical and (flaw := flaw_of(value)) is not None:
        return flaw
    if path.upcasts:
        return _upcast(path, model)
    text = Json(payload.decode())
    if keep_in is not None and is_canonical:
        # Only then is the model exactly what a replay makes of the stored text.
        keep_in.keep(path.name, text, model)
    return Decoded(path.name, model, text)


def _another_version(contract_name: str, claimed: str) -> Unreadable | None:
    """What is wrong where `ce_type` claims another version; other names for types mean nothing."""
    ours, theirs = contract_name.rpartition(".v"), claimed.rpartition(".v")
    if ours[0] != theirs[0] or not theirs[2].isdecimal():
        return None
    return Unreadable(
        UnreadableCode.UNSUPPORTED_VERSION,
        shortened(f"its ce_type says version {theirs[2]}, and this topic is for {ours[2]}"),
    )


def read(registry: ContractRegistry, message: Message) -> ContractModel:
    """The model of a stored message, in its current version; MessageError if none can be made.

    It was accepted when it was stored: a contract that has become stricter since reads it too.
    """
    kept = registry.take(message.contract, message.payload)
    if kept is not None:
        return kept
    path = registry.paths.get(message.contract)
    if path is None:
        raise _unknown(registry, message.contract).error()
    model = _read_stored(path, message.payload)
    if not path.upcasts:
        return model
    decoded = _upcast(path, model)
    if isinstance(decoded, Unreadable):
        raise decoded.error()
    return decoded.model


def decode_accepted(
    registry: ContractRegistry, contract_name: str, value: bytes | None, refusal: Unreadable
) -> Decoded | Unreadable:
    """What only the rules of its contract refuse, read as what was accepted; else the *refusal*."""
    path = registry.paths.get(contract_name)
    if refusal.code is not UnreadableCode.SCHEMA or value is None or path is None:
        return refusal
    if path.contract.is_internal:
        return refusal  # the rules of the engine's own contracts do not grow
    try:
        model = read(registry, Message(contract_name, Json(value.decode())))
        message = message_of(model)
    except MessageError:
        return refusal
    return Decoded(message.contract, model, message.payload)


def reads_as(registry: ContractRegistry, recorded: Message, message: Message) -> bool:
    """Whether *recorded*, read by today's contract of *message*, is that very message."""
    path = registry.paths.get(recorded.contract)
    if path is None or message.contract not in (recorded.contract, path.current.contract_name):
        return False
    try:
        if message.contract == recorded.contract:
            return encode(_read_stored(path, recorded.payload)) == message.payload
        return encode(read(registry, recorded)) == message.payload
    except MessageError:
        return False


def as_read(registry: ContractRegistry, recorded: Message) -> Message:
    """*recorded* as today's contract of that version writes it; itself where it cannot be read."""
    path = registry.paths.get(recorded.contract)
    if path is None:
        return recorded
    try:
        return Message(recorded.contract, encode(_read_stored(path, recorded.payload)))
    except MessageError:
        return recorded


def accepting(
    registry: ContractRegistry, recorded: Iterable[Message]
) -> AbstractContextManager[None]:
    """While it is open, recorded messages may be made again that their contracts refuse today."""
    accepted: set[Message] = set()
    unread = iter(recorded)

    def is_accepted(made: BaseModel) -> bool:
        # Asked seldom if ever: only then is the history read again.
        for message in unread:
            path = registry.paths.get(message.contract)
            with suppress(MessageError):
                if path is not None:
                    accepted.add(message_of(_read_stored(path, message.payload)))
        return isinstance(made, ContractModel) and message_of(made) in accepted

    return Accepting(is_accepted)


def _read_stored(path: ReadPath, payload: Json) -> ContractModel:
    """The model of a payload that was inspected when it was stored, in the version it has."""
    try:
        return path.validate(payload, strict=path.is_strict)
    except BaseException as error:  # users' code: what it accepted once is read without it
        if is_ours(error):
            raise
        try:
            return read_accepted(path.contract.model, payload)
        except ValidationError:
            raise _refusal(path, payload.encode(), error).error() from error


def _encoded(model: ContractModel, *, warnings: Literal[False, "error"]) -> bytes:
    values = model.__dict__
    if len(values) == model.__saga_flat_size__:
        try:
            return _dumps(values, None, _SORTED)
        except TypeError:
            pass  # something that JSON cannot say: below is said what
    elif model.__saga_flat_size__ is None and flat_size(model) == len(values):
        return _encoded(model, warnings=warnings)
    try:
        serializer = type(model).__pydantic_serializer__
        if may_hold_sets(model):
            refuse_sets(model, serializer.to_python(model, by_alias=True, warnings=False))
        text = serializer.to_json(model, by_alias=True, warnings=warnings)
    except PydanticSerializationError as error:
        message = str(error)
        is_text = "surrogate" in message
        code = UnreadableCode.LONE_SURROGATE if is_text else UnreadableCode.SCHEMA
        raise MalformedMessage(code.value, shortened(message)) from error
    return canonical_dump(text)


def _unknown(registry: ContractRegistry, contract_name: str) -> Unreadable:
    is_version = registry.knows_other_versions(contract_name)
    code = UnreadableCode.UNSUPPORTED_VERSION if is_version else UnreadableCode.UNKNOWN_CONTRACT
    return Unreadable(code, shortened(registry.explain_unknown(contract_name)))


def _refusal(path: ReadPath, value: bytes, error: BaseException) -> Unreadable:
    """Why well-formed JSON is no message of its contract."""
    if value.lstrip()[:1] != b"{":
        return Unreadable(UnreadableCode.NOT_AN_OBJECT, "expected a JSON object")
    if is_a(error, ValidationError):
        return schema_problem(error)
    if is_a(error, MalformedMessage):
        return Unreadable(UnreadableCode(error.code), error.message)
    problem = f"{path.contract.model.__qualname__} raised {described(error)}"
    return Unreadable(UnreadableCode.SCHEMA, shortened(problem))


def _upcast(path: ReadPath, model: ContractModel) -> Decoded | Unreadable:
    for step in path.upcasts:
        try:
            model = step.function(model)
        except BaseException as error:  # users' code: what it raised goes with the record
            if is_ours(error):
                raise
            problem = f"{step.function.__qualname__} ({step.where}) raised {described(error)}"
            return Unreadable(UnreadableCode.UPCAST_FAILED, shortened(problem))
        if type(model) is not step.new:
            problem = f"{step.function.__qualname__} ({step.where}) returned {type(model).__name__}"
            return Unreadable(UnreadableCode.UPCAST_FAILED, shortened(problem))
    try:
        payload = encode(model)
    except BaseException as error:  # its serializers are users' code
        if is_ours(error):
            raise
        text = str(error) if is_a(error, MalformedMessage) else described(error)
        return Unreadable(UnreadableCode.UPCAST_FAILED, shortened(text))
    return Decoded(path.current.contract_name, model, payload)
