"""Who is who: the ids of sagas, steps, intents and timers, each a pure function of its cause.

Nothing here is random: the same trigger gives the same saga id, the same step the same intent id,
so that whatever is done twice can be recognised. Ids are readable, and an intent id tells by itself
which saga, step, direction and attempt it belongs to.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from hashlib import sha1
from typing import Final, NamedTuple, NewType
from uuid import UUID
from zlib import crc32

SagaId = NewType("SagaId", str)
StepId = NewType("StepId", str)
IntentId = NewType("IntentId", str)
TimerId = NewType("TimerId", str)
MessageId = NewType("MessageId", str)
Instant = NewType("Instant", int)
"""A moment in UTC: microseconds since 1970-01-01."""

INSTANT_MAX: Final = Instant(253_402_300_799_999_999)
"""The last moment of the year 9999: no clock of ours shows a later one, nor does `datetime`."""

SAGA_NAMESPACE = UUID("6f4c29a6-6a3c-5d0e-9a55-0d5c6f0b8a11")
"""The namespace of all saga ids; never to be changed."""
_NAMESPACE_OCTETS: Final = SAGA_NAMESPACE.bytes

ID_BYTES_MAX: Final = 1_000
"""Of an id or a key, in UTF-8: what caches hold and indexes take is bounded by it."""
INTENT_NAMES_MAX = 8_192
"""Names remembered: one is asked for several times in a turn."""
SAGA_IDS_MAX = 4_096
"""Ids remembered: who publishes a trigger asks for one, and who receives it in the same process."""

_SAGA_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_INTENT_ID = re.compile(rf"({_SAGA_ID.pattern})/([^/]+)/(do|undo)/([0-9]{{1,9}})")


def instant(us: int) -> Instant:
    """The moment *us* microseconds after 1970, or the nearest one that can be stored and shown.

    For what others say: a clock may be wrong, or count nanoseconds where milliseconds are meant.
    """
    return Instant(us if 0 <= us <= INSTANT_MAX else min(max(us, 0), INSTANT_MAX))


class Direction(StrEnum):
    """Whether an intent does a step or undoes it."""

    DO = "do"
    UNDO = "undo"


DO: Final = Direction.DO
UNDO: Final = Direction.UNDO
"""Both by name: before Python 3.12, to find a member in its enum costs as much as a call."""
_DIRECTIONS = {direction.value: direction for direction in Direction}


class IntentName(NamedTuple):
    saga_id: SagaId
    step: StepId
    direction: Direction
    attempt: int


@lru_cache(maxsize=SAGA_IDS_MAX)
def saga_id(definition: str, key: str) -> SagaId:
    """The id of the one saga of *definition* for the business *key*."""
    named = sha1(_NAMESPACE_OCTETS + f"{definition}\x00{key}".encode(), usedforsecurity=False)
    return SagaId(uuid_text(named.digest(), version=5))


def uuid_text(octets: bytes, *, version: int) -> str:
    """The UUID of this version that has the first 16 of *octets*; a third of what `uuid` takes."""
    digits = octets.hex()
    variant = "89ab"[octets[8] >> 4 & 3]
    return (
        f"{digits[:8]}-{digits[8:12]}-{version}{digits[13:16]}-"
        f"{variant}{digits[17:20]}-{digits[20:32]}"
    )


def flaw_of_id(text: str) -> str | None:
    """Why *text* can be no id and no business key, in words; None where it can."""
    if not text.strip():
        return "is empty"
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return "holds half of a surrogate pair"
    if size > ID_BYTES_MAX:
        return f"has {size:,} bytes of UTF-8, of which it may have {ID_BYTES_MAX:,}"
    return None


def is_saga_id(text: str) -> bool:
    return _SAGA_ID.fullmatch(text) is not None


def saga_named(name: str) -> SagaId | None:
    """The saga that *name* means, an id or `definition/key`; None where it is neither."""
    definition, slash, key = name.partition("/")
    try:
        if slash:
            return saga_id(definition, key)
        return SagaId(name if is_saga_id(name) else str(UUID(name)))
    except ValueError:  # half a character is none, too
        return None


def share_of(saga: SagaId) -> float:
    """The place of a saga among all, from 0 to below 100: the same for ever, for every version.

    A share of so many percent are those below it: a larger one has the same sagas, and more.
    """
    return crc32(saga.encode()) / 2**32 * 100


def intent_id(saga: SagaId, step: StepId, direction: Direction, attempt: int) -> IntentId:
    """`{saga id}/{step id}/{do|undo}/{attempt}`."""
    # Put together with `+`: to format an enum's member takes three times as long.
    return IntentId(f"{saga}/{step}/" + direction + f"/{attempt}")


def idempotency_key(saga: SagaId, step: StepId, direction: Direction) -> str:
    """The intent id without the attempt: the same for every retry."""
    return f"{saga}/{step}/" + direction


@lru_cache(maxsize=INTENT_NAMES_MAX)
def parse_intent_id(text: str) -> IntentName | None:
    """The parts of an intent id, or None where *text* is none."""
    found = _INTENT_ID.fullmatch(text)
    if found is None:
        return None
    saga, step, direction, attempt = found.groups()
    # What `IntentName(…)` does, at a third of what its call costs; a replay parses each id once.
    return tuple.__new__(IntentName, (saga, step, _DIRECTIONS[direction], int(attempt)))
