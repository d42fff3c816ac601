import psycopg
import pytest

from infra import Postgres, StopMode


def test_database_is_ones_own_and_empty(postgres: str) -> None:
    """Each test gets a database without tables, may make some, and has durable commits."""
    with psycopg.connect(postgres) as connection:
        connection.execute("CREATE TABLE things (name text)")
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        fsync = connection.execute("SHOW fsync").fetchone()

    assert tables == [("things",)]
    assert fsync == ("on",)


def test_databases_of_two_tests_are_two(postgres: str, postgres_server: str) -> None:
    """The database of a test is not the one that everybody connects to first."""
    assert postgres != postgres_server
    assert postgres.rpartition("/")[0] == postgres_server.rpartition("/")[0]


@pytest.mark.parametrize("end", ["kill", StopMode.IMMEDIATE, StopMode.FAST])
def test_what_was_committed_survives_every_end(own_postgres: Postgres, end: str) -> None:
    """Kill -9, `stop -m immediate` and an orderly stop; nothing else survives them."""
    address = own_postgres.url()
    connection = psycopg.connect(address)
    connection.execute("CREATE TABLE things (name text)")
    connection.execute("INSERT INTO things VALUES ('kept')")
    connection.commit()
    connection.execute("INSERT INTO things VALUES ('gone')")

    if end == "kill":
        own_postgres.kill()
    else:
        own_postgres.stop(StopMode(end))
    assert not own_postgres.is_running
    with pytest.raises(psycopg.OperationalError):
        connection.commit()
    connection.close()
    own_postgres.start()

    assert address == own_postgres.url()
    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT name FROM things").fetchall() == [("kept",)]


def test_wrong_password_is_refused(own_postgres: Postgres) -> None:
    """Other users of the machine cannot enter without the password."""
    user, _, place = own_postgres.url().rpartition("@")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"{user[: user.rindex(':')]}:guessed@{place}")
