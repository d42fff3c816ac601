"""Whose store it is: the environment and namespace it serves, which it remembers.

Ids of sagas are the same in every environment. Two that shared a store would take each other's
positions and answers for their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from saga.errors import StoreForeign
from saga.settings import Settings

ENVIRONMENT: Final = "environment"
NAMESPACE: Final = "namespace"
_ADVICE: Final = (
    "name another store, or correct SAGA_ENV and SAGA_NAMESPACE; only if it is to serve you from "
    "now on, run `saga store migrate --adopt`"
)


class Serves(NamedTuple):
    environment: str
    namespace: str

    @classmethod
    def of(cls, settings: Settings) -> Serves:
        return cls(settings.env, settings.namespace)

    def __str__(self) -> str:
        return f"{self.environment}/{self.namespace}"

    def facts(self) -> list[tuple[str, str]]:
        """As rows of names and values."""
        return [(ENVIRONMENT, self.environment), (NAMESPACE, self.namespace)]


def stored_in(facts: Mapping[str, object]) -> Serves | None:
    """Whom *facts* name; None where they name nobody."""
    environment, namespace = facts.get(ENVIRONMENT), facts.get(NAMESPACE)
    if environment is None and namespace is None:
        return None
    return Serves(str(environment), str(namespace))


def served_by(trackings: Iterable[object]) -> set[Serves]:
    """Whose topics a store of an earlier release has handled, by the names of its positions."""
    served: set[Serves] = set()
    for name in trackings:
        prefix, _, topic = str(name).partition(":")
        environment, _, rest = topic.partition(".")
        namespace, dot, _ = rest.partition(".")
        if prefix == "bus" and dot:
            served.add(Serves(environment, namespace))
    return served


def refuse_others(
    name: str, serves: Serves, stored: Serves | None, earlier: Iterable[Serves] = ()
) -> None:
    """Raise StoreForeign where the store *name* is not that of *serves*.

    Where it does not say whose it is, those count whom it has served *earlier*.
    """
    known = set(earlier) if stored is None else {stored}
    if known and serves not in known:
        others = " and ".join(map(str, sorted(known)))
        raise StoreForeign(f"{name}: it serves {others}, not {serves}: {_ADVICE}")
