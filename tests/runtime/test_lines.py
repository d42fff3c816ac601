"""What sagas say to a log is written once its turn is stored, under the place of the function."""

import logging

from saga import Context, Event, SagaApp, saga
from saga.errors import StoreUnavailable
from saga.runtime.lines import LOGGER
from tests.patience import HANG_S


class TripAsked(Event, topic="lines.trip-asked", version=1, key="name"):
    name: str


class TripDone(Event, topic="lines.trip-done", version=1):
    name: str


@saga("trip", version=1, starts_on=TripAsked)
async def trip(ctx: Context, asked: TripAsked) -> TripDone:
    ctx.log.info("%s begins", asked.name, seats=2)
    await ctx.wait("go")
    ctx.log.warning("and ends")
    return TripDone(name=asked.name)


APP = SagaApp(sagas=[trip])


def said(caplog):
    return [record for record in caplog.records if record.name == f"{LOGGER}.trip"]


async def test_lines_have_the_fields_of_their_saga_and_the_place_of_its_function(tmp_path, caplog):
    """And a service that takes the saga over writes none of them again."""
    caplog.set_level(logging.INFO)
    files = {"bus": f"local:///{tmp_path}/saga.db", "store": f"sqlite:///{tmp_path}/saga.db"}
    async with APP.service(**files) as service:
        saga_id = await service.publish(TripAsked(name="n-1"))
        await service.idle(timeout=HANG_S)
    async with APP.service(**files) as service:
        await service.signal("trip/n-1", "go")
        await service.outcome("trip/n-1", timeout=HANG_S)

    first, last = said(caplog)
    assert (first.levelname, first.getMessage(), first.seats) == ("INFO", "n-1 begins", 2)
    assert (last.levelname, last.getMessage()) == ("WARNING", "and ends")
    for record in (first, last):
        assert (record.saga_id, record.definition, record.key) == (saga_id, "trip", "n-1")
        assert (record.pathname, record.funcName) == (__file__, "trip")
    assert last.lineno == first.lineno + 2


async def test_what_is_not_stored_is_not_said(tmp_path, caplog, monkeypatch):
    """A batch that the store could not take is taken again, and then it is said once."""
    caplog.set_level(logging.INFO)
    failures = [StoreUnavailable("away"), StoreUnavailable("away")]

    async with APP.service(
        bus=f"local:///{tmp_path}/bus.db", store=f"sqlite:///{tmp_path}/store.db"
    ) as service:
        store = service._store  # noqa: SLF001  # it is to be away
        append = store.append

        async def away(batch, *, at):
            if batch.histories and failures:
                assert said(caplog) == []
                raise failures.pop()
            return await append(batch, at=at)

        monkeypatch.setattr(store, "append", away)
        await service.publish(TripAsked(name="n-1"))
        await service.idle(timeout=HANG_S)

    assert failures == []
    assert [record.getMessage() for record in said(caplog)] == ["n-1 begins"]


async def test_levels_are_those_of_the_logger_of_the_definition(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.WARNING, logger=f"{LOGGER}.trip")
    files = {"bus": f"local:///{tmp_path}/saga.db", "store": f"sqlite:///{tmp_path}/saga.db"}
    async with APP.service(**files) as service:
        await service.publish(TripAsked(name="n-1"))
        await service.signal("trip/n-1", "go")
        await service.outcome("trip/n-1", timeout=HANG_S)

    assert [record.getMessage() for record in said(caplog)] == ["and ends"]


class Broken(logging.Handler):
    def handle(self, record):
        raise ZeroDivisionError


async def test_a_handler_that_raises_costs_the_line(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    logger, broken = logging.getLogger(f"{LOGGER}.trip"), Broken()
    logger.addHandler(broken)
    files = {"bus": f"local:///{tmp_path}/saga.db", "store": f"sqlite:///{tmp_path}/saga.db"}
    try:
        async with APP.service(**files) as service:
            await service.publish(TripAsked(name="n-1"))
            await service.signal("trip/n-1", "go")
            outcome = await service.outcome("trip/n-1", timeout=HANG_S)
    finally:
        logger.removeHandler(broken)

    assert outcome.status.value == "completed"
    assert sum("is lost" in record.getMessage() for record in caplog.records) == 2
