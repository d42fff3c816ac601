"""Waiting out what is away: growing waits that differ between workers, and few lines about it."""

import logging

import pytest

from saga.core.retry import Retry
from saga.errors import BusUnavailable, CorruptHistory
from saga.retrying import AWAY, Backoff, retried

STEADY = Retry(attempts=None, initial="1s", factor=2.0, cap="5s", jitter=0.0)


class Server:
    """Is away for some calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def ask(self) -> str:
        """Answer, or fail."""
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "here"


class SleepingClock:
    """Has slept before one can ask it to."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Take note."""
        self.slept.append(seconds)


@pytest.fixture
def clock():
    """Nothing waits for real time."""
    return SleepingClock()


async def test_an_action_is_repeated_until_it_succeeds(clock) -> None:
    """The waits grow up to the cap; the next action's begin small again."""
    for _ in range(2):
        server, waits = Server(*[BusUnavailable("away")] * 5), lambda: Backoff("w", clock, STEADY)
        assert await retried("bus unavailable", waits, server.ask) == "here"
        assert server.calls == 6

    assert clock.slept == [1, 2, 4, 5, 5] * 2


async def test_a_success_makes_the_waits_begin_small_again(clock) -> None:
    backoff = Backoff("w", clock, STEADY)
    for _ in range(3):
        await backoff.pause("bus unavailable", BusUnavailable("away"))
    backoff.reset()
    assert (backoff.failures, backoff.last_error) == (0, None)

    await backoff.pause("bus unavailable", BusUnavailable("away"))

    assert clock.slept == [1, 2, 4, 1]


async def test_an_error_that_does_not_pass_is_raised_at_once(clock) -> None:
    """Waiting would not help: not for a saga error that is final, and not for a bug."""
    for error in (CorruptHistory("s", 1, "broken"), RuntimeError("bug")):
        server = Server(error)
        with pytest.raises(type(error)):
            await retried("store unavailable", lambda: Backoff("w", clock, STEADY), server.ask)
        assert server.calls == 1


async def test_the_first_second_fourth_failure_has_a_line(clock, caplog) -> None:
    """An outage of an hour does not fill the log."""
    backoff = Backoff("w", clock, STEADY)
    with caplog.at_level(logging.WARNING, "saga.retrying"):
        for _ in range(9):
            await backoff.pause("bus unavailable", BusUnavailable("away"))

    assert [record.failures for record in caplog.records] == [1, 2, 4, 8]
    assert {record.reason for record in caplog.records} == {"away"}
    assert all("w: bus unavailable" in record.getMessage() for record in caplog.records)
    assert str(backoff.last_error) == "away"


async def test_where_failing_is_usual_it_is_no_warning(clock, caplog) -> None:
    with caplog.at_level(logging.INFO, "saga.retrying"):
        backoff = Backoff("w", clock, STEADY, log_level=logging.DEBUG)
        await backoff.pause("no leader", BusUnavailable("electing"))

    assert caplog.records == []
    assert clock.slept == [1]


async def test_two_workers_do_not_return_together() -> None:
    """The jitter comes from the name: different for each, the same each time."""

    async def slept(name: str, failures: int = 20) -> list[float]:
        clock = SleepingClock()
        backoff = Backoff(name, clock, AWAY)
        for _ in range(failures):
            await backoff.pause("away", BusUnavailable("away"))
        return clock.slept

    pauses = await slept("one")

    assert pauses != await slept("two")
    assert pauses == await slept("one")
    assert 0.02 < pauses[0] < 0.1
    assert max(pauses) <= 5.0
    assert min(pauses[10:]) > 1.0
