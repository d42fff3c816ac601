"""How laws are looked at: for each way of writing a saga, with examples drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.laws import searches
from tests.laws.course import HAPPENS, Drawn
from tests.laws.functions import FUNCTIONS
from tests.laws.graphs import GRAPHS
from tests.laws.machines import MACHINES

WAYS: Final = {"functions": FUNCTIONS, "machines": MACHINES, "graphs": GRAPHS}
DRAWN: Final = {
    **{way: (sagas, HAPPENS) for way, sagas in WAYS.items()},
    "before": (searches.BEFORE, searches.BEFORE_PLOTTED),
    "past": (searches.PAST, searches.PAST_PLOTTED),
}
"""Sagas and what happens to them; functions also before and past their pivot, where it matters."""
EXAMPLES: Final = 8
"""Of each law and way in a run of all tests; `python -m tests.laws` looks at more."""
_SEARCH: Final = settings(
    database=None,
    deadline=None,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def courses(way: str) -> st.SearchStrategy[Any]:
    """Sagas of a way, and what happens to them."""
    return st.builds(Drawn, *DRAWN[way], st.sampled_from([False, False, True]))


@dataclass(frozen=True)
class Law:
    """What holds of everything that is drawn."""

    name: str
    says: str
    check: Callable[[Any], None]
    drawn: Callable[[str], st.SearchStrategy[Any]]
    examples: int
    ways: tuple[str, ...]
    """Those that are looked at where none is named."""


LAWS: Final[dict[str, Law]] = {}


def law(
    drawn: Callable[[str], st.SearchStrategy[Any]] = courses,
    *,
    examples: int = EXAMPLES,
    ways: Sequence[str] = tuple(WAYS),
) -> Callable[[Callable[[Any], None]], Callable[[str], None]]:
    """Make a check into a test of each way, and have it found by its name."""

    def register(check: Callable[[Any], None]) -> Callable[[str], None]:
        name, says = check.__name__, check.__doc__ or ""
        found = LAWS[name] = Law(name, says, check, drawn, examples, tuple(ways))

        @pytest.mark.parametrize("way", ways)
        def test(way: str) -> None:
            search([found], way, found.examples)

        test.__name__, test.__doc__, test.__module__ = name, says, check.__module__
        return test

    return register


def search(
    laws: Sequence[Law], way: str, examples: int, *, number: int | None = None, shrinks: bool = True
) -> None:
    """Look for an example against one of *laws*, which draw alike; raise what speaks against it."""
    phases = [Phase.generate, Phase.shrink] if shrinks else [Phase.generate]

    @settings(_SEARCH, max_examples=examples, phases=phases)
    @given(laws[0].drawn(way))
    def find(drawn: Any) -> None:
        for each in laws:
            each.check(drawn)

    (find if number is None else seed(number)(find))()
