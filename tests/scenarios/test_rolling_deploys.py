"""Deploys over Kafka and PostgreSQL, worker by worker, forwards and back, while sagas run.

Old and new workers are side by side at each stage. A saga stands still at most until a worker that
has its version takes it; nothing is lost, done twice, or decided otherwise.
"""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from benchmarks.revisions import laid_out
from saga.core.identity import saga_id
from saga.settings import Settings
from tests.adapters.processes import ROOT, kill, line
from tests.patience import HANG_S, until
from tests.runtime import invariants
from tests.scenarios.rolling import moved, new, old

SAGAS = 8
"""Of each way to write them, at each stage."""
ERRANDS = 120
"""More than one page of a migration."""
TRICKLE_S = 0.2
"""Between two sagas of a trickle: it is to be a little load."""
RELEASE_BEFORE = "8785ce9"
"""The engine before this release; its store has the same tables."""
NAMES = {"ErrandAsked": "errand", "TaskAsked": "task", "DrawingAsked": "drawing"}

pytestmark = [pytest.mark.connected, pytest.mark.slow, pytest.mark.timeout(8 * HANG_S)]


class Release(NamedTuple):
    """An application, and the folder whose engine runs it."""

    app: str
    folder: Path = ROOT


class Deployment:
    """Two workers, and somebody beside them who asks, signals and reads the store."""

    def __init__(self, kafka: str, postgres: str, namespace: str) -> None:
        self.addresses = {
            "bus": kafka,
            "store": postgres,
            "effects_store": postgres,
            "namespace": namespace,
        }
        self.workers = []
        self.asked = []

    async def begin(self, release: Release) -> None:
        command = ("tests.scenarios.rolling", release.app, *self.addresses.values())
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command),
            cwd=release.folder,
            env=os.environ | {"PYTHONPATH": str(release.folder)},
            stdout=PIPE,
        )
        self.workers.append(process)
        assert await line(process) == "ready"

    async def replace(self, release: Release, *, is_killed: bool) -> None:
        """Put one of *release* in the place of the worker that has run longest."""
        await self.begin(release)
        replaced = self.workers.pop(0)
        if is_killed:
            await kill(replaced)
            return
        replaced.send_signal(signal.SIGTERM)
        async with asyncio.timeout(HANG_S):
            assert await replaced.wait() == 0

    async def ask(self, service) -> list[str]:
        """Start sagas of each kind; gives what to call them by."""
        stage = len(self.asked)
        names = [f"s-{stage + number}" for number in range(SAGAS)]
        triggers = [event(name=name) for event in old.ASKED for name in names]
        await asyncio.gather(*(service.publish(trigger) for trigger in triggers))
        self.asked += names
        return [f"{NAMES[type(each).__name__]}/{each.name}" for each in triggers]

    async def saga(self, *words: str) -> tuple[int, list[dict]]:
        """The command line, with the application that sagas are moved to: exit code and rows."""
        names = ("bus", "store", "effects_store", "namespace")
        given = {f"SAGA_{name.upper()}": self.addresses[name] for name in names}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "saga", *words, "--app", "tests.scenarios.rolling.moved:app"),
            cwd=ROOT,
            env=os.environ | given | {"PYTHONPATH": str(ROOT)},
            stdout=PIPE,
        )
        async with asyncio.timeout(2 * HANG_S):
            said, _ = await process.communicate()
        return process.returncode, [json.loads(each) for each in said.splitlines()]

    async def end(self) -> None:
        for worker in self.workers:
            await kill(worker)


async def go(service, sagas):
    await asyncio.gather(*(service.signal(each, "go", old.Go()) for each in sagas))


async def are_there(service, sagas):
    """Until each has begun, whatever worker has taken it."""

    async def begun():
        found = [await service.find(each) for each in sagas]
        return all(found)

    await until(begun)


async def have_completed(service, sagas):
    open_ones = {}

    async def completed():
        found = {each: await service.find(each) for each in sagas}
        open_ones.clear()
        open_ones.update(item for item in found.items() if item[1] is None or not item[1].outcome)
        return not open_ones

    try:
        await until(completed)
    except TimeoutError:
        pytest.fail(f"not completed: {open_ones}")


async def roll(deployment, before, after, *, app):
    """Forwards and back and forwards again; everything that was asked is completed in the end."""
    await deployment.begin(before)  # makes tables and topics
    await deployment.begin(before)
    settings = Settings.read({}, **deployment.addresses)
    async with app.build_service(settings, roles=()) as service:
        first = await deployment.ask(service)
        await are_there(service, first)

        await deployment.replace(after, is_killed=True)
        mixed = await deployment.ask(service)
        await go(service, first[::2])
        await have_completed(service, first[::2])

        await deployment.replace(after, is_killed=False)
        newest = await deployment.ask(service)
        await are_there(service, [*mixed, *newest])
        await go(service, mixed)
        await have_completed(service, mixed)

        await deployment.replace(before, is_killed=True)
        await go(service, newest[::2])
        back = await deployment.ask(service)

        await deployment.replace(before, is_killed=False)
        await are_there(service, back)
        await go(service, first)
        await have_completed(service, first)

        await deployment.replace(after, is_killed=True)
        await deployment.replace(after, is_killed=False)
        await go(service, [*newest, *back])
        sagas = [*first, *mixed, *newest, *back]
        await have_completed(service, sagas)
        await invariants_hold(service, app, sagas)
    return sagas


async def invariants_hold(service, app, sagas):
    """One saga for each trigger; today's code decides what they did; nothing is left over."""
    histories = defaultdict(list)
    async for _, entry in service.catalogue.log():
        histories[entry.saga_id].append(entry)
    assert histories.keys() == {saga_id(*each.split("/")) for each in sagas}
    invariants.check_histories(app, histories)
    assert list(await service.catalogue.unhandled(values=False)) == []


def done_in(postgres):
    """How often each step was done for each name."""
    with psycopg.connect(postgres) as connection:
        rows = connection.execute("SELECT name, step FROM done").fetchall()
    return Counter(rows)


@pytest.fixture
async def deployment(kafka, postgres, namespace):
    async with AsyncExitStack() as stack:
        made = Deployment(kafka.url, postgres, namespace)
        stack.push_async_callback(made.end)
        yield made


async def test_changed_definitions_and_contracts_are_deployed_forwards_and_back(
    deployment, postgres
):
    sagas = await roll(deployment, Release("old"), Release("new"), app=new.app)

    done = done_in(postgres)
    for name in deployment.asked:
        assert done[name, "fetch"] == done[name, "bring"] == len(NAMES), name
        assert done[name, "put back"] == 0
    async with new.app.build_service(
        Settings.read({}, **deployment.addresses), roles=()
    ) as service:
        views = [await service.find(each) for each in sagas]
        versions = Counter((view.definition, view.version) for view in views)
        assert all(versions[name, version] for name in NAMES.values() for version in (1, 2))
        for view in views:
            outcome = await service.outcome(view.id)
            assert outcome.event.wrapped is (True if view.version == 2 else None)


async def test_an_engine_is_deployed_forwards_and_back(deployment, postgres):
    """Of the release before this one, with the same application."""
    with laid_out(RELEASE_BEFORE, beside="tests") as folder:
        await roll(deployment, Release("old", folder), Release("old"), app=old.app)

    assert set(done_in(postgres).values()) == {len(NAMES)}


class Trickle:
    """Somebody who asks and lets go on, one saga after another, whatever is done meanwhile."""

    def __init__(self, service):
        self.sagas = []
        self._service = service
        self._is_ending = False

    async def run(self) -> None:
        while not self._is_ending:
            name = f"t-{len(self.sagas)}"
            await self._service.publish(old.ErrandAsked(name=name))
            self.sagas.append(f"errand/{name}")
            await are_there(self._service, self.sagas[-1:])
            await go(self._service, self.sagas[-1:])
            await asyncio.sleep(TRICKLE_S)

    def end(self) -> None:
        self._is_ending = True


async def test_running_sagas_are_migrated_under_load_while_a_worker_is_killed(
    deployment, postgres, tmp_path
):
    before, after = Release("old"), Release("moved")
    await deployment.begin(before)  # makes tables and topics
    await deployment.begin(before)
    settings = Settings.read({}, **deployment.addresses)
    steps = tmp_path / "moves.yaml"
    steps.write_text("steps:\n  fetch: get\n")
    async with moved.app.build_service(settings, roles=()) as service:
        sagas = await deployment.ask(service)
        errands = [f"e-{number}" for number in range(ERRANDS)]
        await asyncio.gather(*(service.publish(old.ErrandAsked(name=name)) for name in errands))
        sagas += [f"errand/{name}" for name in errands]
        await until(lambda: sum(done_in(postgres).values()) == len(sagas))
        for _ in range(2):
            await deployment.replace(after, is_killed=False)

        trickle = Trickle(service)
        load = asyncio.create_task(trickle.run())
        await migrated_in_the_middle_of_a_death(deployment, service, steps)
        for name in ("task", "drawing"):
            code, rows = await deployment.saga(*migrate(name, 2), "--reason", "wrapped", "--json")
            assert (code, rows[-1]["applied"]) == (0, SAGAS), rows[-1]
        trickle.end()
        await load

        await go(service, sagas)
        await have_completed(service, [*sagas, *trickle.sagas])
        for each in [*sagas, *trickle.sagas]:
            view = await service.find(each)
            assert view.version == (3 if view.definition == "errand" else 2), each
            assert (await service.outcome(view.id)).event.wrapped is True, each
        await invariants_hold(service, moved.app, [*sagas, *trickle.sagas])

    done = done_in(postgres)
    assert {done[name, step] for name in errands for step in ("fetch", "wrap", "bring")} == {1}
    assert {done[name, "bring"] for name in deployment.asked} == {len(NAMES)}
    assert not any(done[name, "put back"] for name, _ in done)
    code, rows = await deployment.saga("replay", "--json")
    assert (code, rows[-1]["different"]) == (0, 0)


def migrate(name, to_version):
    words = ("--from", f"{name}@1", "--to", f"{name}@{to_version}", "--wait", str(int(HANG_S)))
    return ("migrate", *words)


async def migrated_in_the_middle_of_a_death(deployment, service, steps):
    """Tried first, then done; as soon as the first saga has moved, a worker dies."""
    words = (*migrate("errand", 3), "--map", str(steps), "--json")
    expected = ERRANDS + SAGAS
    code, rows = await deployment.saga(*words, "--dry-run")
    assert (code, rows[-1]["possible"]) == (0, expected), rows[-1]
    assert await moved_errands(service) == 0

    moving = asyncio.create_task(deployment.saga(*words, "--reason", "get it wrapped"))
    await until(lambda: moved_errands(service))
    assert not moving.done()
    await kill(deployment.workers.pop(0))
    code, rows = await moving
    assert (code, rows[-1]["applied"]) == (0, expected), rows[-1]
    await deployment.begin(Release("moved"))


async def moved_errands(service):
    """How many of those that began with version 1 have another one now."""
    page = await service.catalogue.sagas(definition="errand", limit=2 * ERRANDS)
    return sum(row.definition_version == 3 and row.key[0] in "es" for row in page)
