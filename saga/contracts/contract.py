"""What a contract is: a versioned message schema and the name it has everywhere.

A contract's name, `orders.evt.order-placed.v1`, is its topic without environment and namespace,
its `ce_type`, and what histories store. Names are made and taken apart here and nowhere else. The
limits leave room for environment and namespace, so that a legal contract always has a legal topic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from saga.contracts.models import ContractModel, Event

CONTRACT_NAME_CHARS_MAX = 160
"""With environment and namespace it stays below the 249 characters that Kafka allows a topic."""

NAME_PART = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
"""One part of a name: small letters, digits and inner hyphens."""

INTENT_DONE = "intent-done"
INTENT_FAILED = "intent-failed"
COMMAND_CONTRACT = "saga.ctl.command.v1"

_MAJOR_DIGITS_MAX = 6


class Kind(StrEnum):
    """What the messages of a topic are."""

    EVENT = "evt"
    INTENT = "int"
    CONTROL = "ctl"
    DEAD_LETTER = "dlq"


class ContractName(NamedTuple):
    """The parts of a contract's name."""

    domain: str
    kind: Kind
    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.domain}.{self.kind.value}.{self.name}.v{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """One version of one message: its name, its model, and where that was written (`file:line`).

    *reply* is the event that answers an intent, None for `Intent[None]` and for everything else.
    *key* is the field that holds the business key of events that start a saga.
    """

    domain: str
    name: str
    kind: Kind
    version: int
    model: type[ContractModel]
    reply: type[Event] | None = None
    key: str | None = None
    where: str | None = None
    contract_name: str = field(init=False)

    def __post_init__(self) -> None:
        full = ContractName(self.domain, self.kind, self.name, self.version)
        object.__setattr__(self, "contract_name", str(full))

    @property
    def is_internal(self) -> bool:
        """Whether the engine itself defines this contract: commands, and the two common replies."""
        return self.kind is Kind.CONTROL or self.name in (INTENT_DONE, INTENT_FAILED)


def parse_contract_name(text: str) -> ContractName | None:
    """The parts of a contract's name, or None where *text* is none."""
    parts = text.split(".")
    if len(parts) != len(ContractName._fields) or len(text) > CONTRACT_NAME_CHARS_MAX:
        return None
    domain, kind, name, version = parts
    digits = version[1:]
    is_version = version[:1] == "v" and digits.isascii() and digits.isdecimal()
    if not is_version or digits[0] == "0" or len(digits) > _MAJOR_DIGITS_MAX:
        return None
    if kind not in _KINDS or not NAME_PART.fullmatch(domain) or not NAME_PART.fullmatch(name):
        return None
    return ContractName(domain, Kind(kind), name, int(digits))


def intent_done_name(domain: str) -> str:
    """The contract that says an `Intent[None]` of *domain* is done."""
    return f"{domain}.evt.{INTENT_DONE}.v1"


def intent_failed_name(domain: str) -> str:
    """The contract that says an intent of *domain* was refused or failed."""
    return f"{domain}.evt.{INTENT_FAILED}.v1"


def dlq_name(contract_name: str) -> str:
    """The contract name of the topic on which parked records of *contract_name* are published.

    Raises:
        ValueError: *contract_name* is no contract's name.
    """
    name = parse_contract_name(contract_name)
    if name is None:
        raise ValueError(f"{contract_name!r} is no contract name like 'orders.evt.order-placed.v1'")
    return str(name._replace(kind=Kind.DEAD_LETTER))


_KINDS = frozenset(kind.value for kind in Kind)
