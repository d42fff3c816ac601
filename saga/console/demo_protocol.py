"""What an application offers so that `saga demo` can show it.

The package that `SAGA_APP` names has a module `demo`, and that a value `demo`: a `Demo`. Only the
application knows what there is to publish, and what its books are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol, cast

from saga.console.application import import_own
from saga.console.problems import AppRefused
from saga.contracts import Event
from saga.core.history import Entry
from saga.effects import Database


class DemoBooks(Protocol):
    """What the effect services hold, against what the histories say; each worked out by itself."""

    @property
    def lines(self) -> Sequence[tuple[str, int, int]]:
        """What is counted, the services' count, the histories' count."""
        ...

    @property
    def problems(self) -> Sequence[str]:
        """Whatever does not agree, in sentences."""
        ...

    @property
    def balanced(self) -> bool:
        """Whether everything agrees."""
        ...


class Demo(Protocol):
    """What an application shows of itself."""

    def events(self, limit: int | None) -> Iterable[tuple[str, Event]]:
        """The first *limit* events to publish (None: all), each with its message id, always the
        same.
        """
        ...

    async def books(self, db: Database, log: AsyncIterator[tuple[int, Entry]]) -> DemoBooks:
        """The books once every saga has ended: *db* holds the services' tables, *log* all
        entries.
        """
        ...


def load_demo(app: str) -> Demo:
    """The demo of the application *app*, `module:attribute`.

    Raises:
        AppRefused: it offers none.
    """
    module_name = app.partition(":")[0]
    demo = getattr(import_own(f"{module_name}.demo", app), "demo", None)
    if not all(callable(getattr(demo, name, None)) for name in ("events", "books")):
        raise AppRefused(f"app {app}: {module_name}.demo has no `demo` with `events` and `books`")
    return cast("Demo", demo)
