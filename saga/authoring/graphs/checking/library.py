"""The contracts that a file may name, found by the names that it has for them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from saga.authoring.graphs.file.mistakes import shown
from saga.contracts import Contract, ContractModel, Kind, contract_of

_SHOWN_MAX: Final = 8
_VERSION: Final = re.compile(r"(.+)\.v([1-9][0-9]{0,5})")


def short_name(contract: Contract) -> str:
    """A contract's name without kind and version: `orders.order-placed`."""
    return f"{contract.domain}.{contract.name}"


def full_name(contract: Contract) -> str:
    return f"{short_name(contract)}.v{contract.version}"


class Library:
    """Events and intents by name. What is added later takes no known name."""

    def __init__(self, models: Iterable[type[ContractModel]]) -> None:
        self._contracts: dict[str, Contract] = {}
        for model in models:
            self.add(model)

    def add(self, model: type[ContractModel]) -> None:
        contract = contract_of(model)
        if not contract.is_internal:
            self._contracts.setdefault(contract.contract_name, contract)
        if contract.reply is not None:
            self.add(contract.reply)

    def known(self, contract_name: str) -> Contract | None:
        return self._contracts.get(contract_name)

    def of(self, kind: Kind) -> list[Contract]:
        return [each for each in self._contracts.values() if each.kind is kind]

    def find(self, name: str, kind: Kind) -> Contract | None:
        """`payments.pay` is its newest version, `payments.pay.v1` that one; None: there is none."""
        found = _VERSION.fullmatch(name)
        bare, version = (found[1], int(found[2])) if found else (name, None)
        versions = [each for each in self.of(kind) if short_name(each) == bare]
        if version is not None:
            versions = [each for each in versions if each.version == version]
        return max(versions, key=lambda each: each.version, default=None)

    def matching(self, globs: Iterable[str], kind: Kind) -> list[Contract]:
        """The contracts that a glob fits, from any dot of their names on, by name."""
        wanted = [_pattern(glob) for glob in globs]
        found = [each for each in self.of(kind) if _fits(each, wanted)]
        return sorted(found, key=lambda each: each.contract_name)

    def explain_unknown(self, name: str, kind: Kind) -> str:
        """A sentence on why a name is not known, with those that come near, or all."""
        what = "event" if kind is Kind.EVENT else "intent"
        known = sorted({short_name(each) for each in self.of(kind)})
        near = _near(name, known)
        listed = near or known[:_SHOWN_MAX]
        more = ", …" if not near and len(known) > _SHOWN_MAX else ""
        hint = f": known are {', '.join(listed)}{more}" if listed else f": no {what} is known"
        return (
            f"no contract `{shown(name)}`{hint}. Declare it under `messages`, or give the app its "
            f"class"
        )


def _near(name: str, known: list[str]) -> list[str]:
    """Those of the same domain, where a name has one that is known."""
    domain = name.partition(".")[0]
    return [each for each in known if each.partition(".")[0] == domain][:_SHOWN_MAX]


def fits(contract: Contract, glob: str) -> bool:
    return _fits(contract, [_pattern(glob)])


def _fits(contract: Contract, patterns: Iterable[re.Pattern[str]]) -> bool:
    short = short_name(contract)
    ends = (full_name(contract), f"{contract.name}.v{contract.version}", short, contract.name)
    return any(pattern.fullmatch(end) for pattern in patterns for end in ends)


@lru_cache(maxsize=1024)
def _pattern(glob: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(each, re.escape(each)) for each in glob))
