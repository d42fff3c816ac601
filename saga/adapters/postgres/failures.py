"""What PostgreSQL and the way to it say, translated into what the caller can do about it.

The one place where driver errors become ours. What was violated on purpose (a history that moved
on, a position that is covered) is not translated here: the statement that was refused knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from eventsourcing.persistence import PersistenceError

from saga.errors import StoreUnavailable

_ADVICE: Final = {
    "08": "it cannot be reached: see that it runs and the address is right, work then goes on",
    "25006": "it takes no writes: name the primary, not a standby "
    "(target_session_attrs=read-write finds it)",
    "28": "it does not let us in: check the user in its address, the password there or in "
    "SAGA_STORE_PASSWORD, and pg_hba.conf",
    "3D000": "there is no such database: make it with `createdb`, or name another one",
    "3F000": "there is no such schema: make it, or name another one",
    "42501": "this user may not do that: grant it the rights on the schema, or make it the owner",
    "42P01": "the tables are not there: run `saga store migrate`",
    "53100": "its disk is full: make room, work goes on by itself",
    "53300": "it has no connection left: raise max_connections, or run fewer processes",
    "53": "it is out of resources: work goes on by itself once there are some",
    "55P03": "another session holds a lock: wait for it, or end that session",
    "57014": "it took too long",
    "57P01": "it is being shut down: work goes on by itself once it is back",
    "57P02": "it has crashed: work goes on by itself once it is back",
    "57P03": "it is starting or stopping: work goes on by itself once it is back",
    "58": "its disk reports an error: check it, and the server's log",
    "XX": "it reports damage: look into the server's log, restore from a backup where needed",
    "40": "it could not order what several wrote at once: try again",
    "25P03": "it ended a transaction that stood still: try again",
}
_ON_THE_WAY: Final = {
    "password authentication failed": "28",
    "no password supplied": "28",
    "no pg_hba.conf entry": "28",
    "does not exist": "3D000",
    "too many clients": "53300",
    "connection slots": "53300",
    "the database system is starting up": "57P03",
    "the database system is shutting down": "57P03",
}
_TLS: Final = ("certificate", "SSL", "sslmode")
_TLS_ADVICE: Final = (
    "it cannot be spoken to as sslmode and sslrootcert in the address ask for: see that the "
    "certificate is signed by that authority, names this host and is valid, and that the server "
    "has ssl=on"
)
_CONFLICTS_OF_ORDER: Final = frozenset({"40001", "40P01"})


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Raise StoreUnavailable, naming the database and what to do, where it cannot be read or
    written.
    """
    try:
        yield
    except psycopg.Error as error:
        if not is_of_the_server(error):
            raise
        raise unavailable(name, error) from error
    except PersistenceError as error:
        cause = error.__cause__
        if isinstance(cause, psycopg.Error) and not is_of_the_server(cause):
            raise
        raise unavailable(name, cause if isinstance(cause, psycopg.Error) else error) from error
    except OSError as error:
        raise StoreUnavailable(f"{name}: {error.strerror or error}") from error


def is_of_the_server(error: BaseException) -> bool:
    """Whether *error* says that the database cannot be read or written now, and not that we are
    wrong.
    """
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is not None:
        return _advice(error.sqlstate) is not None
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def is_conflict_of_order(error: psycopg.Error) -> bool:
    """Whether the same transaction may well succeed when it is tried again: deadlock,
    serialization.
    """
    return error.sqlstate in _CONFLICTS_OF_ORDER


def unavailable(name: str, error: Exception) -> StoreUnavailable:
    """The error that says of the database *name* what *error* means and what to do."""
    said = " ".join(str(error).split())
    state = getattr(error, "sqlstate", None)
    # Without a state it was libpq that spoke, or quoted the server: of the way there.
    advice = _advice(state) if state else _advice_on_the_way(said)
    return StoreUnavailable(f"{name}: {advice} ({said})" if advice else f"{name}: {said}")


def _advice(sqlstate: str) -> str | None:
    return _ADVICE.get(sqlstate) or _ADVICE.get(sqlstate[:2])


def _advice_on_the_way(said: str) -> str | None:
    """Libpq gives what failed while connecting no state, only text: that of the server in English
    or in its own language, which is then advised on as if nobody had answered.
    """
    for text, state in _ON_THE_WAY.items():
        if text in said and not ("certificate" in said and state == "3D000"):
            return _advice(state)
    if any(word in said for word in _TLS):
        return _TLS_ADVICE
    return _advice("08")
