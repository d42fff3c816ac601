"""The contracts that a file may name, found by the names that it has for them.

Those of a lock file give way: they are looked at only where a name means nothing else. So what a
file means does not change with a lock file that has more in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
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
    """Events and intents by name; the *spare* ones where no other has that name.

    What is added later takes the name of a spare one only.
    """

    def __init__(
        self, models: Iterable[type[ContractModel]], spare: Iterable[type[ContractModel]] = ()
    ) -> None:
        self._own: dict[str, Contract] = {}
        self._spare: dict[str, Contract] = {}
        for model in models:
            self.add(model)
        for model in spare:
            _put(self._spare, model)

    def add(self, model: type[ContractModel]) -> None:
        _put(self._own, model)

    def own(self, contract_name: str) -> Contract | None:
        """The contract that `add` would not replace."""
        return self._own.get(contract_name)

    def known(self, contract_name: str) -> Contract | None:
        return self._own.get(contract_name) or self._spare.get(contract_name)

    def other_reply(self, contract: Contract) -> Contract | None:
        """What has the name of a contract's reply here, where that is another class."""
        if contract.reply is None:
            return None
        own = self._own.get(contract_of(contract.reply).contract_name)
        return None if own is None or own.model is contract.reply else own

    def of(self, kind: Kind) -> list[Contract]:
        contracts = (self._spare | self._own).values()
        return [each for each in contracts if each.kind is kind]

    def find(self, name: str, kind: Kind) -> Contract | None:
        """`payments.pay` is its newest version, `payments.pay.v1` that one; None: there is none."""
        found = _VERSION.fullmatch(name)
        bare, version = (found[1], int(found[2])) if found else (name, None)
        versions = self._first(
            lambda each: (
                each.kind is kind and short_name(each) == bare and version in (None, each.version)
            )
        )
        return max(versions, key=lambda each: each.version, default=None)

    def matching(self, glob: str, kind: Kind) -> list[Contract]:
        """The contracts that a glob fits, from any dot of their names on, by name."""
        found = self._first(lambda each: each.kind is kind and fits(each, glob))
        return sorted(found, key=lambda each: each.contract_name)

    def _first(self, is_meant: Callable[[Contract], bool]) -> list[Contract]:
        """Those that are meant; spare ones where no others are."""
        return [*filter(is_meant, self._own.values())] or [*filter(is_meant, self._spare.values())]

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


def _put(contracts: dict[str, Contract], model: type[ContractModel]) -> None:
    contract = contract_of(model)
    if not contract.is_internal:
        contracts.setdefault(contract.contract_name, contract)
    if contract.reply is not None:
        _put(contracts, contract.reply)


def _near(name: str, known: list[str]) -> list[str]:
    """Those of the same domain, where a name has one that is known."""
    domain = name.partition(".")[0]
    return [each for each in known if each.partition(".")[0] == domain][:_SHOWN_MAX]


def fits(contract: Contract, glob: str) -> bool:
    short, pattern = short_name(contract), _pattern(glob)
    ends = (full_name(contract), f"{contract.name}.v{contract.version}", short, contract.name)
    return any(pattern.fullmatch(end) for end in ends)


@lru_cache(maxsize=1024)
def _pattern(glob: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(each, re.escape(each)) for each in glob))
