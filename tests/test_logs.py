"""Where log lines go: in a program that embeds the library, and in a command."""

import logging

import pytest
import structlog

from saga import Event, SagaApp, saga
from saga.console.cli import logs
from saga.core.retry import Retry
from saga.errors import BusUnavailable
from saga.retrying import Backoff
from tests.console.conftest import kept
from tests.patience import HANG_S

log = logging.getLogger("saga.part")


@pytest.fixture(autouse=True)
def unconfigured():
    """As in a program that has never heard of structlog."""
    structlog.reset_defaults()
    with kept():
        yield
    structlog.reset_defaults()


class Begun(Event, topic="logging.begun", version=1, key="id"):
    id: str


@saga("logged", version=1, starts_on=Begun)
async def logged(ctx, begun):
    """Has a bug, and a secret in a variable."""
    secret = "hunter2"  # noqa: F841  # must not be shown
    raise LookupError("a bug")


async def test_a_saga_with_a_bug_writes_nothing_to_the_standard_output_of_its_host(
    tmp_path, caplog, capsys
):
    where = tmp_path / "saga.db"
    app = SagaApp(sagas=[logged])
    async with app.service(bus=f"local:///{where}", store=f"sqlite:///{where}") as service:
        saga_id = await service.publish(Begun(id="b-1"))
        assert saga_id is not None
        outcome = await service.outcome(saga_id, timeout=HANG_S)
    assert outcome.status == "parked"
    assert outcome.reason.startswith(f"LookupError: a bug ({__file__}:")
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert record.name == "saga.runtime.turns"
    assert record.getMessage().startswith("turn failed: ")
    assert saga_id in record.getMessage()
    assert record.saga_id == saga_id
    assert "LookupError: a bug" in caplog.text
    assert "hunter2" not in caplog.text
    assert capsys.readouterr().out == ""


class Sleepless:
    """A clock that does not wait."""

    async def sleep(self, seconds):
        pass


async def test_a_plain_handler_shows_the_reason_and_structured_ones_find_it_by_its_key(caplog):
    error = BusUnavailable("nobody answers")
    await Backoff("relay", Sleepless(), Retry(attempts=None)).pause("bus unavailable", error)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("saga.retrying", "WARNING")
    assert record.getMessage().startswith("relay: bus unavailable; failure 1, again in ")
    assert record.getMessage().endswith("nobody answers")
    assert record.reason == "nobody answers"


def test_a_command_shows_keys_that_the_text_has_not(capsys):
    logs.configure("info")
    log.warning("topic %s is missing", "orders", extra={"topic": "orders", "hint": "make it"})
    log.debug("not asked for")
    out, err = capsys.readouterr()
    assert out == ""
    assert "topic orders is missing" in err
    assert "hint=make it" in err or "hint='make it'" in err
    assert "topic=" not in err
    assert len(err.splitlines()) == 1


def test_an_application_with_structlog_logs_where_the_command_does(capsys):
    logs.configure("warning")
    structlog.get_logger("app").warning("waits", retry_in_s=0.5)
    structlog.get_logger("app").info("not asked for")
    out, err = capsys.readouterr()
    assert out == ""
    assert "waits" in err
    assert "retry_in_s=0.5" in err
    assert "not asked for" not in err


def test_an_exception_is_logged_without_the_values_of_variables(capsys):
    """They may be anything, also secret."""
    logs.configure("warning")
    try:
        secret = "hunter2"
        int(secret[:0])
    except ValueError:
        log.exception("turn failed", extra={"saga_id": "saga-1"})
    err = capsys.readouterr().err
    assert "ValueError: invalid literal" in err
    assert "saga_id=saga-1" in err
    assert "hunter2" not in err
