"""Where the library's log lines go in a program that embeds it."""

import logging

import pytest
import structlog.testing

from saga import Event, SagaApp, saga
from saga.logs import get_logger


@pytest.fixture(autouse=True)
def unconfigured():
    """As in a program that has never heard of structlog."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def test_a_program_that_configures_nothing_has_its_standard_output_for_itself(caplog, capsys):
    """Lines go to `logging`, with their fields, and below its level they cost nothing."""
    caplog.set_level(logging.INFO, "saga.part")
    log = get_logger("saga.part")
    log.info("took 100% of a backlog", batches=2, of="saga-1")
    log.debug("not asked for")
    (record,) = caplog.records
    assert record.getMessage() == "took 100% of a backlog: batches=2 of='saga-1'"
    assert (record.name, record.levelname, record.exc_info) == ("saga.part", "INFO", None)
    assert capsys.readouterr().out == ""


def test_an_exception_is_logged_without_the_values_of_variables(caplog, capsys):
    """They may be anything, also secret."""
    log = get_logger("saga.part")
    try:
        secret = "hunter2"
        int(secret[:0])
    except ValueError:
        log.exception("turn failed", saga_id="saga-1")
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "ValueError: invalid literal" in caplog.text
    assert "hunter2" not in caplog.text
    assert capsys.readouterr().out == ""


def test_a_program_that_configures_structlog_gets_events_with_fields(caplog):
    """Also when it does so after the logger was made, and as fields rather than text."""
    log = get_logger("saga.part")
    with structlog.testing.capture_logs() as entries:
        log.warning("waits", retry_in_s=0.5)
    assert entries == [{"event": "waits", "retry_in_s": 0.5, "log_level": "warning"}]
    assert not caplog.records


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
    """A service in a program that configures no logs: one error, and the bug's traceback."""
    where = tmp_path / "saga.db"
    app = SagaApp(sagas=[logged])
    async with app.service(bus=f"local:///{where}", store=f"sqlite:///{where}") as service:
        saga_id = await service.publish(Begun(id="b-1"))
        assert saga_id is not None
        outcome = await service.outcome(saga_id, timeout=10)
    assert (outcome.status, outcome.reason) == ("parked", "LookupError: a bug")
    (record,) = (one for one in caplog.records if one.levelno >= logging.ERROR)
    assert record.getMessage().startswith("turn failed: ")
    assert saga_id in record.getMessage()
    assert "LookupError: a bug" in caplog.text
    assert "hunter2" not in caplog.text
    assert capsys.readouterr().out == ""
