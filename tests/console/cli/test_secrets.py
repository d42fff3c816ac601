"""What nobody should read is not shown, and what everybody may read is private to this user."""

import io
import json
import logging
import re
import stat
import sys
from pathlib import Path

import pytest

from saga.console.cli import logs
from tests.console.conftest import call, start
from tests.console.toys import LEAVE

ADDRESSES = [
    "postgresql://u:s3cret@127.0.0.1:1/db",
    "postgresql://u@127.0.0.1:1/db?password=s3cret",
    "postgresql://u@127.0.0.1:1/db?sslpassword=s3cret",
    "postgresql://u@127.0.0.1:1/db?pass%77ord=s3cret",
    "postgresql://u:%733cret@127.0.0.1:1/db",
    "postgresql://u:s3c/ret@127.0.0.1:1/db",
    "postgresql://u:s3c#ret@127.0.0.1:1/db",
    "postgresql://u:s3c?ret@127.0.0.1:1/db",
    "postgresql://u:s3c@ret@127.0.0.1:1/db",
]
COMMANDS = [
    ("doctor",),
    ("config", "show"),
    ("ls",),
    ("show", "leave/ann"),
    ("replay", "--jobs", "0"),
    ("store", "status"),
    ("store", "migrate"),
    ("outbox", "status"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_shows_a_password(looking, monkeypatch, words):
    """However the address hides it, whether it can be used or not."""
    for number, address in enumerate(ADDRESSES):
        monkeypatch.setenv("SAGA_STORE", address)
        called = call(*words, *(["--json"] if number % 2 else []))
        assert not re.search("s3c|3cret", called.out + called.err), address


@pytest.mark.parametrize("address", ADDRESSES)
def test_who_waits_for_a_server_shows_no_password(looking, monkeypatch, address):
    """Where the address can be used; otherwise it has ended."""
    monkeypatch.setenv("SAGA_STORE", address)
    said = []
    with start(looking, "run") as worker:
        for line in worker.stderr:
            said.append(line)
            if "waits for the store" in line:
                break
        worker.kill()
        shown = "".join([*said, *worker.communicate()])

    assert said
    assert not re.search("s3c|3cret", shown)


@pytest.mark.parametrize("setting", ["SAGA_EFFECTS_STORE", "SAGA_OUTBOX"])
@pytest.mark.parametrize("words", [("doctor",), ("config", "show"), ("outbox", "status")])
def test_no_command_shows_another_password(looking, monkeypatch, setting, words):
    for address in ADDRESSES:
        monkeypatch.setenv(setting, address)
        called = call(*words)
        assert not re.search("s3c|3cret", called.out + called.err), address


def test_a_password_given_as_an_option_is_in_no_advice(looking):
    """Other options are: the command could not be pasted without them."""
    called = call("timers", "--store", "postgresql://u:s3cret@127.0.0.1:1/db", "--env", "test")

    assert called.code == 3
    assert "s3cret" not in called.err


def test_what_saga_makes_is_for_this_user_alone(toys):
    """Folders and files, however generous the process is."""
    call("publish", LEAVE, '{"name": "ann"}')
    call("run", "--until-idle")
    call("store", "migrate", "--store", "sqlite:///more/deep/s.db").fails(0)

    made = [Path(".saga"), *Path(".saga").iterdir(), Path("more"), Path("more/deep/s.db")]
    rights = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made}
    assert rights == {path.name: 0o700 if path.is_dir() else 0o600 for path in made}


def test_what_was_there_before_keeps_its_rights(toys):
    """A folder that others share is not taken from them."""
    Path(".saga").mkdir()
    Path(".saga").chmod(0o755)
    call("publish", LEAVE, '{"name": "ann"}')

    assert stat.S_IMODE(Path(".saga").stat().st_mode) == 0o755
    assert stat.S_IMODE(Path(".saga/saga.db").stat().st_mode) == 0o600


def test_a_secret_that_others_may_read_is_warned_of(toys, monkeypatch):
    """By `doctor`, and by whatever uses it."""
    Path("password").write_text("s3cret")
    Path("password").chmod(0o644)
    monkeypatch.setenv("SAGA_STORE_PASSWORD_FILE", "password")
    monkeypatch.setenv("SAGA_STORE", "postgresql://u@127.0.0.1:1/db")

    [finding] = [row for row in call("doctor", "--json").rows if row.get("check") == "settings"]
    assert (finding["severity"], finding["where"]) == ("warning", "password")
    assert finding["advice"] == "chmod 600 password"


FORGED = "ann\n2026-01-01 [error    ] forged\x1b[31m\u202e\x9b"


@pytest.fixture
def logged(monkeypatch):
    """What has been logged, in lines."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure("info")
    return lambda: stream.getvalue().split("\n")[:-1]


def test_no_text_breaks_out_of_its_line_of_a_log(logged):
    log = logging.getLogger("saga.test")
    log.warning("key %s", FORGED, extra={"reason": FORGED + "x", "things": [FORGED]})
    log.warning(FORGED)

    lines = logged()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert "ann\\n2026-01-01" in lines[0]


def _fails():
    try:
        raise ValueError(FORGED)  # noqa: TRY301
    except ValueError as error:
        error.add_note(FORGED)
        raise ExceptionGroup(FORGED, [error, _Dumb(FORGED)]) from error


class _Dumb(Exception):
    def __str__(self):
        raise RuntimeError


def test_no_exception_breaks_out_of_its_traceback(logged):
    """Causes, notes and groups neither; one that cannot say anything is still shown."""
    try:
        _fails()
    except ExceptionGroup:
        logging.getLogger("saga.test").exception("went wrong")

    lines = logged()
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("2026-01-01") for line in lines)
    text = "\n".join(lines)
    assert "ValueError: ann\\n2026-01-01" in text
    assert "raise ValueError(FORGED)" in text
    assert "_Dumb (its text cannot be read: RuntimeError)" in text


def _ring() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__context__ = second, first
    return first


def _chain() -> Exception:
    error = before = ValueError("last")
    for number in range(5_000):
        before.__context__ = before = ValueError(f"{number} before")
    return error


def _nested() -> Exception:
    error: Exception = ValueError("inmost")
    for _ in range(5_000):
        error = ExceptionGroup("around", [error])
    return error


def _noted() -> Exception:
    error = ValueError("noted")
    error.__notes__ = 5
    return error


@pytest.mark.parametrize("make", [_ring, _chain, _nested, _noted])
def test_an_exception_of_any_shape_is_logged_and_ends_nothing(logged, make):
    error = make()

    logging.getLogger("saga.test").error("went wrong", exc_info=error)

    lines = logged()
    assert "went wrong" in lines[0]
    told = [line for line in lines if "ValueError: " in line or "around" in line]
    assert 0 < len(told) <= 100
    assert all(told.count(line) == 1 for line in told if line.startswith("ValueError"))


def test_no_text_breaks_out_of_a_line_of_output(toys):
    """Keys and reasons of sagas, in tables, lines and JSON."""
    call("publish", LEAVE, json.dumps({"name": FORGED})).fails(0)
    call("run", "--until-idle")
    [row] = call("ls", "--json").rows
    call("cancel", row["id"], "--reason", FORGED, "--no-wait").fails(0)
    call("run", "--until-idle")

    assert row["key"] == FORGED
    for words in (
        *(("ls",), ("show", row["id"]), ("history", row["id"]), ("timers",), ("doctor",)),
        *(("ls", "--json"), ("show", row["id"], "--json"), ("history", row["id"], "--json")),
        ("show", f"leave/{FORGED}x"),
    ):
        called = call(*words)
        lines = (called.out + called.err).splitlines()
        assert [line for line in lines if not line.isprintable()] == []
        assert [line for line in lines if line.startswith("2026-01-01")] == []
