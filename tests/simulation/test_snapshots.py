"""In simulated worlds each turn has its snapshot, and whatever left memory comes back from one."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from typing import Any

import pytest

from examples.graphs.coordination import app as coordination
from examples.graphs.order import app as graph_order
from saga.runtime import saga_cache
from saga.testing import World
from tests.authoring.graphs.test_worlds import ORDERS, OTHERS
from tests.examples.test_machines import STORIES

APPS: dict[str, tuple[Any, Any]] = {
    "graph order": (graph_order.app, ORDERS),
    "graph coordination": (coordination.app, OTHERS),
    **{
        f"machine {name}": (import_module(f"examples.machines.{name}.app").app, stories)
        for name, stories in STORIES.items()
    },
}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How sagas came back."""
    counts: Counter[str] = Counter()
    resuming, reviving = saga_cache._resuming, saga_cache._reviving  # noqa: SLF001  # to count

    def resume(registry: Any, found: Any) -> Any:
        saga = yield from resuming(registry, found)
        counts["useless" if saga is None else "resumed"] += 1
        return saga

    def revive(registry: Any, saga_id: Any, history: Any) -> Any:
        counts["whole"] += 1
        return (yield from reviving(registry, saga_id, history))

    monkeypatch.setattr(saga_cache, "_resuming", resume)
    monkeypatch.setattr(saga_cache, "_reviving", revive)
    return counts


@pytest.mark.parametrize("name", APPS)
def test_sagas_come_back_from_snapshots_and_everything_holds(name: str, loads: Counter[str]):
    app, triggers = APPS[name]
    for seed in range(100, 104):
        verdict = World(app, seed, triggers=triggers).run()
        assert verdict.ok, verdict.report()

    assert loads["resumed"] > 0, loads


@pytest.mark.parametrize("part", ["causes", "steps", "waited"])
def test_a_snapshot_that_forgets_something_is_noticed(monkeypatch: pytest.MonkeyPatch, part: str):
    """So it would be seen if one did."""
    app, triggers = APPS["machine order"]
    resuming = saga_cache._resuming  # noqa: SLF001  # to be wrong

    def resume(registry: Any, found: Any) -> Any:
        saga = yield from resuming(registry, found)
        if saga is not None:
            getattr(saga.state, part).clear()
        return saga

    monkeypatch.setattr(saga_cache, "_resuming", resume)
    verdicts = (World(app, seed, triggers=triggers).run() for seed in range(100, 110))

    assert not all(verdict.ok for verdict in verdicts)
