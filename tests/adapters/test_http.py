"""`saga run` says over HTTP how it is: on Kafka by default, elsewhere where it was asked to."""

import asyncio
import contextlib
import json
import socket
from pathlib import Path

import pytest

from saga.adapters import http
from saga.adapters.http import (
    CONNECTIONS_MAX,
    HEAD_BYTES_MAX,
    HttpServer,
    application,
    probes,
)
from saga.console.cli.output import NotSo, Printer
from saga.console.cli.serving import health
from saga.console.cli.session import Session
from saga.core.identity import Instant
from saga.errors import SettingsError
from saga.runtime.health import FETCH_AGE_S, LOOK_AGE_S, OrchestratorHealth
from saga.runtime.store_clock import StoreClock
from saga.settings import Settings
from saga.wiring import build_service
from tests.pages import page
from tests.patience import HANG_S
from tests.runtime.fixtures import Scenario
from tests.runtime.test_missing_topics import take_away
from tests.runtime.test_turns import placed
from tests.runtime.toys import Reserve, orders
from tests.scenarios import order_app


async def ask(address: str, path: str, method: str = "GET"):
    status, _, text = await page(address, path, method)
    return status, json.loads(text) if text else None


def serving(folder: Path, **settings):
    given = order_app.addresses(folder) | settings
    return build_service(order_app.app(), Settings.read({}, **given), has_probes=True)


async def test_a_service_on_files_tells_its_health_where_it_is_asked_to(tmp_path: Path) -> None:
    """Not ready before it has begun, then ready; other pages are not there."""
    service = serving(tmp_path, http="127.0.0.1:0")
    first = next(iter(service._roles))  # noqa: SLF001 - where it listens is drawn
    assert isinstance(first, HttpServer)
    async with service:
        address = first.address
        assert (await ask(address, "/health/live")) == (200, {"status": "alive"})
        async with asyncio.timeout(HANG_S):
            while (await ask(address, "/health/ready"))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        status, answer = await ask(address, "/health/ready")
        assert (status, answer["status"]) == (200, "ready")
        assert answer["services"]["orchestrator"]["stopped"] == {}
        assert (await ask(address, "/health/ready", "HEAD")) == (200, None)
        assert (await ask(address, "/admin"))[0] == 404
    with pytest.raises(OSError, match=r"refused|failed"):
        await ask(address, "/health/live")


@pytest.mark.parametrize("given", [{}, {"http": "off"}])
async def test_a_service_on_files_has_no_http_by_default(tmp_path: Path, given: dict) -> None:
    """Many of them run on one machine, and would want the same port."""
    service = serving(tmp_path, **given)
    assert not isinstance(next(iter(service._roles)), HttpServer)  # noqa: SLF001
    async with service:
        pass


async def test_a_port_that_is_taken_is_an_error_only_if_it_was_asked_for(tmp_path: Path) -> None:
    """It names the setting and the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        service = serving(tmp_path, http=address)
        with pytest.raises(SettingsError, match=f"SAGA_HTTP: {address}"):
            await service.open()
        quiet = HttpServer(application(probes([])), address, must_listen=False)
        await quiet.start()
        assert quiet.address is None
        await quiet.close()


@pytest.fixture
async def server():
    """A server of nobody's probes."""
    server = HttpServer(application(probes([])), "127.0.0.1:0", must_listen=True)
    await server.start()
    yield server
    await server.close()


async def connect(server: HttpServer):
    host, _, port = server.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /" + b"x" * HEAD_BYTES_MAX, id="of the path"),
        pytest.param(b"GET / HTTP/1.1\r\nx: " + b"y" * HEAD_BYTES_MAX * 20, id="not whole"),
        pytest.param(
            b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * HEAD_BYTES_MAX * 3 + b"\r\n\r\n",
            id="whole",
        ),
    ],
)
async def test_a_head_of_a_request_has_a_limit(server, sent) -> None:
    """Whoever sends more gets 400 and no more attention; the next one is answered."""
    reader, writer = await connect(server)
    writer.write(sent)
    async with asyncio.timeout(HANG_S):
        with contextlib.suppress(ConnectionResetError):
            assert (await reader.readline()).split()[1] == b"400"
            await reader.read()
    writer.close()
    assert (await ask(server.address, "/health/live"))[0] == 200


async def test_a_large_request_behind_another_ends_the_connection(server, caplog) -> None:
    """Without an error in the log."""
    reader, writer = await connect(server)
    request = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    writer.write(request + b"GET /" + b"x" * HEAD_BYTES_MAX * 4)
    async with asyncio.timeout(HANG_S):
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
    writer.close()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert (await ask(server.address, "/health/live"))[0] == 200


async def test_connections_have_a_limit(server, monkeypatch) -> None:
    """One more is closed at once; once another has gone there is room again."""
    monkeypatch.setattr(http, "FRESH_S", 1_000.0)
    connections = [await connect(server) for _ in range(CONNECTIONS_MAX)]
    assert await ask_over(*connections[-1]) == 200
    refused, writer = await connect(server)
    async with asyncio.timeout(HANG_S):
        with contextlib.suppress(ConnectionResetError):
            assert await refused.read() == b""
    writer.close()
    for _, writer in connections:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(HANG_S):
        while not await _is_answered(server.address):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_client_that_says_nothing_is_left(monkeypatch) -> None:
    """Once it had its time."""
    monkeypatch.setattr(http, "HEAD_S", 0.01)
    server = HttpServer(application(probes([])), "127.0.0.1:0", must_listen=True)
    await server.start()
    reader, writer = await connect(server)
    writer.write(b"GET /health/live")
    async with asyncio.timeout(HANG_S):
        assert await reader.read() == b""
    writer.close()
    await server.close()


HALF = b"GET /health/live HTTP/1.1\r\nhost: x"


async def half_asked(server, count: int):
    """So many connections that have sent half a head, or were refused."""
    opened = []
    for _ in range(count):
        reader, writer = await connect(server)
        with contextlib.suppress(ConnectionError):
            writer.write(HALF)
            await writer.drain()
        opened.append((reader, writer))
    return opened


async def test_hundreds_of_slow_clients_keep_no_probe_from_its_answer(server) -> None:
    """Nor the loop from its work; all but a few are closed."""
    slow = await half_asked(server, 800)
    for _ in range(20):
        async with asyncio.timeout(HANG_S):
            assert (await ask(server.address, "/health/live"))[0] == 200
    async with asyncio.timeout(HANG_S):
        while sum(not reader.at_eof() for reader, _ in slow) > CONNECTIONS_MAX:
            for reader, _ in slow:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    async with asyncio.timeout(0):
                        await reader.read(1)
            await asyncio.sleep(0.01)
    for _, writer in slow:
        writer.close()


async def test_silent_clients_make_room_after_a_moment(server, monkeypatch) -> None:
    """They have said nothing, and may be probes that are about to."""
    silent = [await connect(server) for _ in range(CONNECTIONS_MAX)]
    assert await ask_over(*silent[-1]) == 200
    monkeypatch.setattr(http, "FRESH_S", -1.0)
    for _ in range(20):
        assert (await ask(server.address, "/health/live"))[0] == 200
    for _, writer in silent:
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param([b"GET /health/live HTTP/1.1\r\n"], id="half a head"),
        pytest.param([HALF + b"\r\n\r\n", HALF], id="half a second head"),
        pytest.param([HALF + b"\r\ncontent-length: 9\r\n\r\n", b"x"], id="half a body"),
        pytest.param([b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n"], id="no body"),
    ],
)
async def test_a_client_that_goes_on_for_ever_is_left(monkeypatch, sent) -> None:
    """Whatever it drops into the connection meanwhile, byte by byte."""
    monkeypatch.setattr(http, "HEAD_S", 0.05)
    server = HttpServer(application(probes([])), "127.0.0.1:0", must_listen=True)
    await server.start()
    reader, writer = await connect(server)
    for part in sent:
        writer.write(part)
        await asyncio.sleep(0)
    reading = asyncio.create_task(reader.read())
    async with asyncio.timeout(HANG_S):
        while not reading.done():
            writer.write(b"x")
            await asyncio.sleep(0.01)
    await asyncio.gather(reading, return_exceptions=True)
    assert (await ask(server.address, "/health/live"))[0] == 200
    writer.close()
    await server.close()


async def ask_over(reader, writer) -> int:
    """The status of a probe over a connection that stays open."""
    writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
    return int((await reader.readline()).split()[1])


async def _is_answered(address: str) -> bool:
    try:
        return (await ask(address, "/health/live"))[0] == 200
    except (OSError, IndexError):
        return False


async def asked(address: str | None, capsys, **options):
    """What the command says of who listens there, and its exit code."""
    session = Session(Settings.read({}, http=str(address)), Printer(is_json=False))
    code = await health(session, **options)
    session.printer.flush()
    return int(code), "".join(capsys.readouterr())


async def test_the_command_asks_who_listens(tmp_path: Path, capsys) -> None:
    """Exit code 0: ready; 1: not ready, and why; 3: nobody there, or another program."""
    service = serving(tmp_path, http="127.0.0.1:0")
    async with service:
        http, orchestrator, *_ = service._roles  # noqa: SLF001 - where it listens is drawn
        anywhere = http.address.replace("127.0.0.1", "0.0.0.0")
        async with asyncio.timeout(HANG_S):
            while (await asked(anywhere, capsys))[0] != 0:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await asked(anywhere, capsys, live=True) == (0, "alive\n")
        orchestrator.problems = lambda: ["a topic is missing"]
        code, answer = await asked(anywhere, capsys)
        assert code == 1
        assert "orchestrator: a topic is missing" in answer
    code, answer = await asked(anywhere, capsys)
    assert code == 3
    assert "nobody answers" in answer
    other = HttpServer(application({}), "127.0.0.1:0", must_listen=True)
    await other.start()
    code, answer = await asked(other.address, capsys)
    await other.close()
    assert code == 3
    assert "something else listens there" in answer
    with pytest.raises(NotSo, match="off"):
        await asked("off", capsys)


async def test_an_orchestrator_says_why_it_is_not_ready() -> None:
    """It stays alive all the while, until it does not even ask for records."""
    scenario = Scenario(orders(), shares_file=False)
    its_health = OrchestratorHealth(
        scenario.orchestrator,
        scenario.store,
        StoreClock(scenario.store, scenario.clock),
        statistics=scenario.statistics,
        group="orchestrators",
    )
    assert "not started" in (await its_health.why_not_ready())[0]
    async with scenario.serving():
        await scenario.while_passing(1)
        assert await its_health.why_not_ready() == []

        take_away(scenario, Reserve)
        scenario.bus.append([placed(scenario)])
        await scenario.until(lambda: scenario.relay.blocked_sagas)
        [reason] = await its_health.why_not_ready()
        assert "reserve" in reason
        take_away(scenario)
        await scenario.until(lambda: not scenario.relay.blocked_sagas)
        assert await its_health.why_not_ready() == []

        find, scenario.store.due_timers = scenario.store.inner.due_timers, _never
        health_of_a_silent_store = await its_health.why_not_ready()
        scenario.store.due_timers = find
        assert "did not answer" in health_of_a_silent_store[0]
        assert its_health.why_dead() == []
    assert its_health.facts()["orchestrator"]["in_hand"] == 0

    scenario.clock.advance(FETCH_AGE_S + 1)
    assert any("bus did not answer" in why for why in await its_health.why_not_ready())
    assert its_health.why_dead() == []
    scenario.clock.advance(LOOK_AGE_S)
    assert "has not asked" in its_health.why_dead()[0]


async def _never(*, until: Instant, limit: int):
    await asyncio.get_running_loop().create_future()
