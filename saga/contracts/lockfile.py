"""The lock file: every published contract's JSON Schema, as its readers know it.

It is committed beside the contracts. `check` compares it with the code at hand and says of each
difference whether deployed readers and kept messages can live with it; nothing here writes files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saga.contracts.compatibility import LOCK, NEW_VERSION, Change, ChangeKind, Comparison, Schema
from saga.contracts.contract import Contract, Kind
from saga.contracts.models import reply_contract_names
from saga.contracts.registry import ContractRegistry
from saga.errors import ContractChanged, DefinitionError

LOCK_FORMAT = 1

_PROSE = frozenset(("title", "description", "examples"))
_NAMED = frozenset(("properties", "$defs"))
"""Keywords whose members are names of the author's choice, not keywords."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedContract:
    """What readers of one contract rely on."""

    schema: Schema
    key: str | None = None
    reply: str | None = None


Lock = Mapping[str, LockedContract]
"""Locked contracts by name."""


def lock_of(registry: ContractRegistry) -> Lock:
    """The contracts that *registry* publishes, as a lock."""
    return {contract.contract_name: _locked(contract) for contract in registry.published}


def lock_text(lock: Lock) -> str:
    """*lock* as the text of a lock file: the same contracts always give the same text."""
    contracts = {
        name: {"key": locked.key, "reply": locked.reply, "schema": locked.schema}
        for name, locked in lock.items()
    }
    return (
        json.dumps(
            {"contracts": contracts, "format": LOCK_FORMAT},
            indent=2,
            sort_keys=True,
            ensure_ascii=False,
        )
        + "\n"
    )


def read_lock(text: str, *, where: str | None = None) -> Lock:
    """The lock that `lock_text` wrote; *where* is the file, for the message.

    Raises:
        DefinitionError: it is no lock file, or of a format that this code does not know.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DefinitionError(f"the lock file is no JSON: {error}", where=where) from error
    if not isinstance(document, dict) or document.get("format") != LOCK_FORMAT:
        raise DefinitionError(
            f"this is no lock file of format {LOCK_FORMAT}: make it anew with `saga topics lock`",
            where=where,
        )
    contracts = document.get("contracts")
    lock: dict[str, LockedContract] = {}
    for name, entry in contracts.items() if isinstance(contracts, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("schema"), dict):
            raise DefinitionError(f"the lock file has no schema for {name}", where=where)
        lock[name] = LockedContract(
            schema=entry["schema"], key=entry.get("key"), reply=entry.get("reply")
        )
    return lock


def check(registry: ContractRegistry, lock: Lock) -> list[Change]:
    """Every difference between the contracts of *registry* and *lock*, contract by contract."""
    now = lock_of(registry)
    changes: list[Change] = []
    for name in sorted(lock.keys() | now.keys()):
        if name not in lock:
            changes.append(_added(name))
        elif name not in now:
            changes.append(_removed(name))
        else:
            changes.extend(_changed(name, lock[name], now[name]))
    return changes


def refuse_incompatible(changes: list[Change]) -> None:
    """Do nothing if readers can follow all *changes*.

    Raises:
        ContractChanged: they cannot; the message lists the changes that break them.
    """
    breaking = [str(change) for change in changes if not change.compatible]
    if breaking:
        raise ContractChanged("\n".join(breaking))


def _locked(contract: Contract) -> LockedContract:
    schema = contract.model.model_json_schema(mode="validation", by_alias=True)
    is_intent = contract.kind is Kind.INTENT
    return LockedContract(
        schema=_without_prose(schema),
        key=contract.key,
        reply=reply_contract_names(contract)[0] if is_intent else None,
    )


def _without_prose(schema: Any, *, is_named: bool = False) -> Any:
    """*schema* without what is only for people; a field called `title` stays."""
    match schema:
        case dict():
            return {
                name: value
                if name in ("default", "enum", "const") and not is_named
                else _without_prose(value, is_named=name in _NAMED and not is_named)
                for name, value in schema.items()
                if is_named or name not in _PROSE
            }
        case list():
            return [_without_prose(one) for one in schema]
        case _:
            return schema


def _changed(name: str, before: LockedContract, after: LockedContract) -> list[Change]:
    changes: list[Change] = []
    if before.key != after.key:
        changes.append(_rebound(name, ChangeKind.KEY_CHANGED, before.key, after.key))
    if before.reply != after.reply:
        changes.append(_rebound(name, ChangeKind.REPLY_CHANGED, before.reply, after.reply))
    return changes + Comparison(name).changes(before.schema, after.schema)


def _added(name: str) -> Change:
    return Change(
        contract=name,
        kind=ChangeKind.CONTRACT_ADDED,
        field=None,
        before=None,
        after=name,
        compatible=True,
        advice=LOCK,
    )


def _removed(name: str) -> Change:
    return Change(
        contract=name,
        kind=ChangeKind.CONTRACT_REMOVED,
        field=None,
        before=name,
        after=None,
        compatible=False,
        advice="keep its class: topics and histories still hold its messages",
    )


def _rebound(name: str, kind: ChangeKind, before: str | None, after: str | None) -> Change:
    return Change(
        contract=name,
        kind=kind,
        field=None,
        before=before,
        after=after,
        compatible=False,
        advice=NEW_VERSION,
    )
