"""PgBouncer before PostgreSQL: with a session for each client all works, else it is refused."""

import subprocess
import sys

import psycopg
import pytest

from infra import InfraError, PgBouncer
from saga.adapters.postgres import (
    Address,
    PostgresDatabase,
    PostgresEffectsStore,
    PostgresEventStore,
)
from saga.adapters.postgres.outbox import OUTBOX, OutboxSession
from saga.adapters.postgres.schema import migrate
from saga.console.cli.output import ExitCode
from saga.errors import SettingsError
from saga.ports.bus import Source
from saga.testing.samples import append, history, saga
from tests.patience import HANG_S

ADVICE = "pool_mode=session"


@pytest.fixture
def pooler(request, postgres: str, server_folder):
    """The address of an empty database through PgBouncer in the mode asked for."""
    pool_mode, sessions = request.param
    server = PgBouncer(server_folder, postgres, pool_mode=pool_mode, sessions=sessions)
    try:
        server.start()
    except InfraError as error:
        pytest.fail(str(error), pytrace=False)
    yield server.url()
    server.kill()


sharing = pytest.mark.parametrize(
    "pooler",
    [("transaction", 5), ("transaction", 1), ("statement", 5)],
    indirect=True,
    ids=["transaction", "one session", "statement"],
)
faithful = pytest.mark.parametrize("pooler", [("session", 20)], indirect=True, ids=["session"])


@sharing
async def test_a_pooler_that_shares_out_its_sessions_is_refused(pooler: str, postgres: str) -> None:
    """By event store, effects store and outbox, whose lead is a lock of its session."""
    migrate(Address(postgres, setting="SAGA_OUTBOX"), OUTBOX)

    with pytest.raises(SettingsError, match=ADVICE) as refused:
        PostgresEventStore(PostgresDatabase(Address(pooler)))
    assert refused.value.setting == "SAGA_STORE"
    with pytest.raises(SettingsError, match=ADVICE):
        await PostgresEffectsStore(Address(pooler, setting="SAGA_EFFECTS_STORE")).open()
    with pytest.raises(SettingsError, match=ADVICE):
        await OutboxSession.open(Address(pooler, setting="SAGA_OUTBOX"))


@sharing
async def test_others_who_use_the_pooler_do_not_hide_what_it_is(pooler: str, postgres: str) -> None:
    """A session that somebody else has at the moment is none that it gives away."""
    if "one session" not in pooler:
        with psycopg.connect(pooler, autocommit=True) as other:
            other.execute("SELECT 1")
            with pytest.raises(SettingsError, match=ADVICE):
                PostgresEventStore(PostgresDatabase(Address(pooler)))


@faithful
async def test_behind_a_pooler_with_a_session_for_each_client_all_works(
    pooler: str, postgres: str
) -> None:
    database = PostgresDatabase(Address(pooler))
    store = PostgresEventStore(database)
    await append(store, history(saga(1)), positions={Source("t", 0): 4})
    assert await store.positions([Source("t", 0)]) == {Source("t", 0): 4}
    await database.close()

    effects = PostgresEffectsStore(Address(pooler))
    await effects.open()
    await effects.close()
    migrate(Address(pooler), OUTBOX)
    one, two = [await OutboxSession.open(Address(pooler)) for _ in range(2)]
    assert await one.lead()
    assert not await two.lead()
    await one.close()
    await two.close()


@pytest.mark.parametrize("pooler", [("transaction", 5)], indirect=True)
@pytest.mark.parametrize("words", ["run --until-idle", "ls", "store migrate", "doctor"])
def test_the_command_line_says_what_to_name_instead(pooler: str, tmp_path, words: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "saga",
            *words.split(),
            "--store",
            pooler,
            "--bus",
            "local:///bus.db",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )

    told = " ".join((done.stdout + done.stderr).split())
    assert ADVICE in told, told
    assert "Traceback" not in told
    assert done.returncode in (ExitCode.USAGE, ExitCode.NOT_SO, ExitCode.UNREACHABLE)
