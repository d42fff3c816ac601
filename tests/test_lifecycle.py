"""The life of a process: parts start in order and are closed in reverse, whatever fails on the way.

All parts are real here; what is done with them is noted, and some fail or hang when they are told.
"""

import asyncio
import gc
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import psutil
import pytest

from saga.adapters.http import HttpServer
from saga.adapters.sqlite import LocalBus, SqliteDatabase, SqliteEffectsStore
from saga.effects.service import EffectsRole, EffectsService
from saga.errors import BusUnavailable, SettingsError, StoreForeign
from saga.runtime.orchestrator import Orchestrator
from saga.runtime.outcomes import OutcomePoller
from saga.settings import Settings
from saga.starting import Start
from tests.patience import HANG_S, until
from tests.scenarios import order_app

ROOT = Path(__file__).parents[1]
STARTS = [
    *("http", "store", "bus", "orchestrator", "effects store"),
    *("effects of stock", "effects of wallets", "outcome poller"),
]
ROLES = [name for name in STARTS if name not in ("store", "bus", "effects store")]
CLOSES = [*reversed(ROLES), "effects store", "bus", "store"]
"""What is open before anything starts is closed at last."""
RESOURCES = {"the store": "store", "the bus": "bus", "the effects store": "effects store"}


def name_of(part: object, what: str | None = None) -> str:
    match part:
        case Start():
            return RESOURCES[what]
        case EffectsService():
            return f"effects of {part.subscription.name}"
        case LocalBus():
            return "bus"
        case SqliteDatabase():
            return "store"
        case SqliteEffectsStore():
            return "effects store"
    return part.name


class Life:
    """What is done with the parts of a process, and what is to go wrong; all of it really happens.

    Parts *fail* or *hang* once that is done.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.started: list[str] = []
        self.closed: list[str] = []
        self.fail_to_start: set[str] = set()
        self.fail_to_close: set[str] = set()
        self.hang: set[str] = set()
        self.hanging = asyncio.Event()
        for part in (HttpServer, Orchestrator, EffectsService, OutcomePoller):
            self._watch(monkeypatch, part, "start", self.started, self.fail_to_start)
        self._watch(monkeypatch, Start, "wait_for", self.started, self.fail_to_start)
        resources = (LocalBus, SqliteDatabase, SqliteEffectsStore)
        for part in (HttpServer, Orchestrator, EffectsRole, OutcomePoller, *resources):
            self._watch(monkeypatch, part, "close", self.closed, self.fail_to_close)
        self.folder = folder
        places = {"bus": f"local:///{folder}/all.db", "store": f"sqlite:///{folder}/all.db"}
        places["effects_store"] = places["store"]
        self.settings = Settings.read({}, http="127.0.0.1:0", **places)

    def service(self):
        return order_app.app().build_service(self.settings, has_probes=True)

    def _watch(self, monkeypatch, part: type, method: str, told: list[str], fail: set[str]) -> None:
        real = getattr(part, method)

        async def watched(this, *args):
            await real(this, *args)
            name = name_of(this, *args[:1])
            told.append(name)
            if (method, name) in self.hang:
                self.hanging.set()
                await asyncio.Event().wait()
            if name in fail:
                raise LookupError(f"no {name}")

        monkeypatch.setattr(part, method, watched)

    def assert_nothing_is_left(self) -> None:
        files = [file.path for file in psutil.Process().open_files()]
        assert not [path for path in files if path.startswith(str(self.folder))]
        assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
async def life(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog) -> Life:
    caplog.set_level(logging.DEBUG, "saga.lifecycle")
    return Life(monkeypatch, tmp_path)


def closes_from(name: str) -> list[str]:
    """What is to be closed when the start has come as far as to that part."""
    reached = STARTS[: STARTS.index(name) + 1]
    return [each for each in CLOSES if each in reached or each not in ROLES]


async def test_parts_start_in_order_and_are_closed_in_reverse(life, caplog):
    async with life.service() as service:
        assert life.started == STARTS
        assert life.closed == []
        saga = await service.start(order_app.OrderPlaced(order_id="o-1", amount=1))
        assert (await service.outcome(saga, timeout=HANG_S)).status == "completed"

    assert life.closed == CLOSES
    life.assert_nothing_is_left()
    told = [record.getMessage() for record in caplog.records if record.name == "saga.lifecycle"]
    assert [line for line in told if line.endswith("is up")] == [f"{each} is up" for each in STARTS]
    stopped = [line for line in told if line.endswith("has stopped")]
    assert stopped == [f"{each} has stopped" for each in CLOSES]


@pytest.mark.parametrize("ill", [*CLOSES, "all"])
async def test_a_part_that_fails_to_close_keeps_no_other_open_and_is_told(life, caplog, ill):
    service = life.service()
    await service.open()
    life.fail_to_close |= set(CLOSES) if ill == "all" else {ill}

    with pytest.raises(LookupError) as first:
        await service.stop()

    assert life.closed == CLOSES
    assert str(first.value) == next(f"no {name}" for name in CLOSES if name in life.fail_to_close)
    for name in CLOSES:
        assert (f"LookupError: no {name}" in caplog.text) == (name in life.fail_to_close)
        expected = f"ended: no {name}" if name in life.fail_to_close else "stopped"
        assert service.status()[name] == expected
    life.assert_nothing_is_left()


@pytest.mark.parametrize("do_all_fail_to_close", [False, True])
@pytest.mark.parametrize("ill", STARTS)
async def test_what_was_opened_is_closed_where_a_part_cannot_start(
    life, caplog, ill, do_all_fail_to_close
):
    """Its error is the one that is raised, and the others are told all the same."""
    life.fail_to_start.add(ill)
    if do_all_fail_to_close:
        life.fail_to_close |= set(CLOSES)
    service = life.service()

    with pytest.raises(LookupError, match=f"^no {ill}$"):
        await service.open()

    assert life.closed == closes_from(ill)
    if do_all_fail_to_close:
        for name in life.closed:
            assert f"{name} has failed while it was closed: LookupError: no {name}" in caplog.text
    life.assert_nothing_is_left()


@pytest.mark.parametrize("slow", STARTS)
async def test_what_was_opened_is_closed_where_the_start_is_cancelled(life, slow):
    life.hang.add(("wait_for" if slow in RESOURCES.values() else "start", slow))
    service = life.service()
    starting = asyncio.create_task(service.open())
    await life.hanging.wait()
    assert service.status()[slow] == "starting"

    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert life.closed == closes_from(slow)
    life.assert_nothing_is_left()


@pytest.mark.parametrize("ill", [set(), set(CLOSES)], ids=["all well", "all fail"])
@pytest.mark.parametrize("slow", CLOSES)
async def test_whoever_cancels_a_stop_gives_up_one_part_only(life, caplog, slow, ill):
    service = life.service()
    await service.open()
    life.hang.add(("close", slow))
    life.fail_to_close |= ill
    stopping = asyncio.create_task(service.stop())
    await life.hanging.wait()

    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping

    assert life.closed == CLOSES
    assert {name for name in CLOSES if f"LookupError: no {name}" in caplog.text} == ill - {slow}
    life.assert_nothing_is_left()


async def test_a_start_that_fails_is_told_where_its_clearing_up_is_cancelled(life, caplog):
    life.fail_to_start.add("outcome poller")
    life.hang.add(("close", "orchestrator"))
    starting = asyncio.create_task(life.service().open())
    await life.hanging.wait()

    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert "it could not start: LookupError: no outcome poller" in caplog.text
    assert life.closed == CLOSES
    life.assert_nothing_is_left()


async def test_a_role_that_does_not_end_is_cut_short_by_whoever_cancels_the_stop(
    life, monkeypatch, caplog
):
    async def run(self):
        await asyncio.Event().wait()

    monkeypatch.setattr(Orchestrator, "run", run)
    service = life.service()
    await service.open()
    stopping = asyncio.create_task(service.stop())
    await until(lambda: service.status()["orchestrator"] == "stopping")

    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping

    assert life.closed == CLOSES
    assert "orchestrator stops with work in hand" in caplog.text
    life.assert_nothing_is_left()


async def test_a_role_that_cannot_be_told_to_stop_is_cancelled(life, monkeypatch, caplog):
    def stop(self):
        raise LookupError("no way to stop")

    monkeypatch.setattr(Orchestrator, "stop", stop)
    service = life.service()
    await service.open()

    with pytest.raises(LookupError, match="no way to stop"):
        await service.stop()

    assert life.closed == CLOSES
    assert "orchestrator has failed while it was closed: LookupError: no way" in caplog.text
    life.assert_nothing_is_left()


async def test_a_bus_that_is_away_while_roles_close_is_no_failure(life, monkeypatch, caplog):
    """It is told; what could not be said now is found out by the next worker."""
    real = Orchestrator.close

    async def close(self):
        await real(self)
        raise BusUnavailable("the bus is away")

    monkeypatch.setattr(Orchestrator, "close", close)
    async with life.service():
        pass

    assert life.closed == CLOSES
    assert "orchestrator does not close: BusUnavailable: the bus is away" in caplog.text


async def test_a_status_says_of_each_part_how_far_it_is(life):
    service = life.service()
    assert service.status() == dict.fromkeys(STARTS, "not started")

    life.hang.add(("start", "orchestrator"))
    starting = asyncio.create_task(service.open())
    await life.hanging.wait()
    up, starts, rest = STARTS[:3], STARTS[3], STARTS[4:]
    expected = {**dict.fromkeys(up, "up"), starts: "starting"}
    assert service.status() == expected | dict.fromkeys(rest, "not started")
    starting.cancel()
    await asyncio.wait([starting])
    closed = {**dict.fromkeys(STARTS[:5], "stopped"), **dict.fromkeys(STARTS[5:], "not started")}
    assert service.status() == closed

    life.hang.clear()
    async with life.service() as service:
        assert service.status() == dict.fromkeys(STARTS, "up")
    assert service.status() == dict.fromkeys(STARTS, "stopped")


async def test_a_service_lives_once(life):
    async with life.service() as service:
        with pytest.raises(RuntimeError, match="make another one"):
            await service.open()
        assert set(service.status().values()) == {"up"}

    with pytest.raises(RuntimeError, match="make another one"):
        await service.open()
    life.assert_nothing_is_left()


async def test_a_service_that_was_never_opened_can_be_stopped(life):
    await life.service().stop()

    assert life.closed == ["effects store", "bus", "store"]
    life.assert_nothing_is_left()


async def test_who_stops_while_another_stops_waits_for_it(life):
    service = life.service()
    await service.open()

    await asyncio.gather(service.stop(), service.stop())

    assert life.closed == CLOSES
    life.assert_nothing_is_left()


async def test_a_service_that_cannot_be_put_together_leaves_no_file_open(life, monkeypatch):
    def fail(*args, **kwargs):
        raise SettingsError("SAGA_EFFECTS_STORE", "cannot be read")

    monkeypatch.setattr("saga.wiring.open_effects_store", fail)
    with pytest.raises(SettingsError, match="cannot be read"):
        life.service()

    life.assert_nothing_is_left()


@pytest.mark.parametrize("bus", ["all.db", "bus.db"])
async def test_a_store_of_others_is_not_left_open(life, bus):
    async with life.service():
        pass
    places = {"bus": f"local:///{life.folder}/{bus}", "store": f"sqlite:///{life.folder}/all.db"}
    life.settings = Settings.read({}, namespace="others", **places)

    with pytest.raises(StoreForeign):
        life.service()

    life.assert_nothing_is_left()


def test_the_page_shows_what_a_status_says(tmp_path):
    """Its program, as printed."""
    page = (ROOT / "docs" / "explanation" / "life-of-a-process.md").read_text("utf-8")
    program, printed = re.findall(r"^```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_S,
    )

    assert ran.stdout == printed


def reached_from(start: object) -> set[int]:
    """The ids of all objects that methods of *start* could get at without an import."""
    reached: dict[int, object] = {}
    left = [start]
    while left:
        each = left.pop()
        if id(each) in reached or isinstance(each, type | ModuleType | asyncio.AbstractEventLoop):
            continue
        reached[id(each)] = each  # which keeps it, and so its id
        if isinstance(each, FunctionType):
            left += [each.__closure__, each.__defaults__, each.__kwdefaults__]
        else:
            left += gc.get_referents(each)
    return set(reached)


async def test_no_orchestrator_can_call_another_one(life):
    """Two in one process know of each other by what they publish and store, and by nothing else."""
    async with life.service(), life.service():
        found = [each for each in gc.get_objects() if isinstance(each, Orchestrator)]
        one, two = (each for each in found if each.receiver.consumer is not None)

        assert id(one.receiver.consumer) in reached_from(one)
        assert id(two) not in reached_from(one)
        assert id(one) not in reached_from(two)
        one.statistics.neighbour = two.receiver.receive  # as somebody might do
        assert id(two) in reached_from(one)


@pytest.mark.parametrize("ill", [None, "outcome poller"], ids=["is stopped", "cannot start"])
async def test_on_servers_nothing_is_left_either(ill, life, kafka, postgres, namespace):
    """All effect services are one part there, on one broker."""
    places = {"bus": kafka.url, "store": postgres, "effects_store": postgres}
    life.settings = Settings.read({}, http="127.0.0.1:0", namespace=namespace, **places)
    service = life.service()
    starts = [*STARTS[:5], "effects of stock, wallets", STARTS[-1]]
    assert list(service.status()) == starts
    if ill is None:
        async with service:
            assert service.status() == dict.fromkeys(starts, "up")
    else:
        life.fail_to_start.add(ill)
        with pytest.raises(LookupError):
            await service.open()

    ends = service.status()
    assert ends.pop("outcome poller") == ("stopped" if ill is None else f"ended: no {ill}")
    assert ends == dict.fromkeys(starts[:-1], "stopped")
    life.assert_nothing_is_left()


async def test_on_servers_a_drain_that_is_cut_short_leaves_no_service_of_its_broker(
    life, kafka, postgres, namespace, monkeypatch
):
    real, hangs = EffectsService._drain, [True]  # noqa: SLF001  # to have it hang

    async def drain(self, running):
        if hangs.pop():
            hangs.append(False)
            life.hanging.set()
            await asyncio.Event().wait()
        hangs.append(False)
        await real(self, running)

    monkeypatch.setattr(EffectsService, "_drain", drain)
    places = {"bus": kafka.url, "store": postgres, "effects_store": postgres}
    life.settings = Settings.read({}, http="off", namespace=namespace, **places)
    service = life.service()
    await service.open()
    stopping = asyncio.create_task(service.stop())
    await life.hanging.wait()

    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping

    assert set(service.status().values()) == {"stopped"}
    life.assert_nothing_is_left()
