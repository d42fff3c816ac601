"""Whatever a saga's code raises, wherever it is called: its saga parks, and all else goes on.

`tests/FAULTS.md`, number 1; whose exceptions are is in `tests/test_users_code.py`.
"""

import asyncio
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
from pydantic import field_validator

from saga import Context, Event, upcast
from saga.audit.replaying import replay_all
from saga.authoring import RollBack, saga
from saga.contracts import CommandAct, IntentFailed
from saga.core.events import TurnFailed
from saga.core.identity import saga_id
from saga.core.intents import SagaAbandoned
from saga.errors import StoreUnavailable
from tests.runtime.fixtures import Scenario, order_id
from tests.runtime.toys import (
    Booked,
    OrderDone,
    OrderFailed,
    OrderPlaced,
    Reserve,
    Reserved,
    Ship,
    Unreserve,
    orders,
)

BAD, GOOD = order_id("bad"), order_id("good")


class Unreadable(Exception):
    """Not even its text can be had."""

    def __str__(self) -> str:
        raise SystemExit(3)


class Unrenderable(Exception):
    """It ends whoever writes its traceback."""

    @property
    def __notes__(self) -> list[str]:
        raise SystemExit(4)


class Untouchable(BaseException):
    """It ends whoever asks it for anything."""

    def __getattribute__(self, name: str) -> object:
        raise SystemExit(5)


class Unheard(BaseException):
    """Somebody's own way to leave."""


def deep() -> None:
    deep()


RAISED = {
    "SystemExit": lambda: SystemExit(3),
    "CancelledError": lambda: asyncio.CancelledError("gone"),
    "GeneratorExit": GeneratorExit,
    "BaseException": lambda: Unheard("x"),
    "group": lambda: BaseExceptionGroup("several", [SystemExit(3), asyncio.CancelledError()]),
    "unreadable": Unreadable,
    "unrenderable": Unrenderable,
    "untouchable": Untouchable,
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "RecursionError": deep,
}


def fail(made) -> None:
    raise made()


@pytest.fixture(params=RAISED)
def error(request):
    """Each kind of what may be raised."""
    return RAISED[request.param]


@pytest.fixture(params=["SystemExit", "CancelledError", "unreadable"])
def usual(request):
    """Those that were seen to do harm."""
    return RAISED[request.param]


def placed(scenario, *keys):
    return [scenario.event(OrderPlaced(order_id=key, amount=1), key, id=f"p-{key}") for key in keys]


def ordering(place: str, error):
    """Orders whose code raises at *place* where the key says so."""

    def at(here: str, key: str) -> None:
        if here == place and key == "bad":
            fail(error)

    def undo(intent, reply):
        at("undo", intent.order_id)
        return Unreserve(order_id=intent.order_id)

    def rolled_back(trigger, report):
        at("outcome", trigger.order_id)
        return OrderFailed(order_id=trigger.order_id, reason=report.reason)

    @saga("order", version=1, starts_on=OrderPlaced, rolled_back=rolled_back)
    async def order(ctx: Context, trigger: OrderPlaced) -> OrderDone:
        async def branch():
            at("branch", trigger.order_id)
            return await ctx.do(Reserve(order_id=trigger.order_id), undo=undo)

        at("start", trigger.order_id)
        [reserved] = await ctx.all(branch())
        at("reply", trigger.order_id)
        await ctx.do(Ship(order_id=trigger.order_id))
        return OrderDone(order_id=trigger.order_id, shelf=reserved.shelf)

    return order


async def walk(scenario) -> None:
    """Two orders, side by side in each batch; nobody ships, so both are to be undone."""
    await scenario.take(*placed(scenario, "bad", "good"))
    await answer(scenario, Reserve, Reserved(shelf="s"))
    await answer(scenario, Ship, IntentFailed(outcome="refused", message="no van"))
    await answer(scenario, Unreserve, None)


async def answer(scenario, contract, reply) -> None:
    answered = {
        entry.body.intent_id
        for id_ in (BAD, GOOD)
        for entry in scenario.history(id_)
        if type(entry.body).__name__ == "ReplyReceived"
    }
    records = [scenario.reply(intent, reply) for intent in scenario.on(contract)]
    await scenario.take(
        *[each for each in records if dict(each.headers)["ce_causationid"].decode() not in answered]
    )


@pytest.mark.parametrize("place", ["start", "branch", "reply", "undo", "outcome"])
async def test_its_saga_parks_and_a_neighbour_of_the_same_batch_ends(place, error):
    scenario = Scenario(ordering(place, error))
    await walk(scenario)

    assert scenario.status(GOOD) == "rolled_back"
    assert scenario.status(BAD) == "parked"
    assert isinstance(scenario.history(BAD)[-1].body, TurnFailed)
    kind = "RecursionError" if error is deep else type(error()).__name__
    if kind == "StopIteration" and place in {"start", "branch", "reply"}:
        kind = "RuntimeError"  # as Python has it
    assert scenario.reason(BAD).startswith(kind)
    scenario.check()


@pytest.mark.parametrize("place", ["start", "reply", "undo", "outcome"])
async def test_a_restart_does_not_repeat_it_and_mended_code_goes_on(place, usual):
    scenario = Scenario(ordering(place, usual))
    await walk(scenario)
    failures = scenario.bodies(BAD).count("TurnFailed")

    scenario.restart()
    async with scenario.serving():
        await scenario.while_passing(60)
        assert scenario.orchestrator.problems() == []
    assert scenario.bodies(BAD).count("TurnFailed") == failures
    assert scenario.status(BAD) == "parked"

    scenario.restart(ordering("nowhere", None))
    unit = await scenario.take(scenario.release(BAD))
    await scenario.take(revisits=unit.revisits)
    for contract, reply in (
        (Reserve, Reserved(shelf="s")),
        (Ship, IntentFailed(outcome="refused", message="no van")),
        (Unreserve, None),
    ):
        await answer(scenario, contract, reply)
    assert scenario.status(BAD) == "rolled_back"


async def test_a_saga_whose_replay_raises_waits_for_its_code_and_others_go_on(error):
    """Each load says so anew; nothing is written, and a repaired release heals it."""
    scenario = Scenario(orders())
    await scenario.take(*placed(scenario, "bad", "good"))

    scenario.restart(ordering("start", error))
    replies = [scenario.reply(each, Reserved(shelf="s")) for each in scenario.on(Reserve)]
    unit = await scenario.take(*replies)

    assert len(scenario.on(Ship)) == 1
    assert scenario.status(BAD) == "parked"
    assert scenario.reason(BAD).startswith("the code at hand raised ")
    assert [each.reason for each in scenario.deferred()] == ["replay_failed"]
    assert unit.counts["recorded"] == 1

    found = {
        str(each.summary.saga_id): each
        async for each in replay_all(scenario.store, scenario.catalogue, scenario.app.registry)
    }
    assert "the code at hand raised" in str(found[BAD].difference)
    assert found[GOOD].is_ok

    scenario.restart(orders())
    await scenario.take(revisits=[BAD])
    assert len(scenario.on(Ship)) == 2


class TestAbandoning:
    """It always works: it does not need the saga's code."""

    @staticmethod
    def abandon(scenario, id="a-1"):
        return scenario.command(BAD, CommandAct.ABANDON, id=id, key="bad", reason="given up")

    @pytest.mark.parametrize("place", ["start", "reply", "undo", "outcome"])
    async def test_a_saga_that_has_parked(self, place, usual):
        scenario = Scenario(ordering(place, usual))
        await walk(scenario)
        await scenario.take(self.abandon(scenario))

        assert scenario.status(BAD) == "abandoned"
        await self._stays_abandoned(scenario)
        scenario.check()

    async def test_whose_outcome_cannot_be_made_has_none(self, usual):
        """And one whose outcome can be made has it."""
        scenario = Scenario(ordering("outcome", usual))
        await scenario.take(*placed(scenario, "bad", "good"))
        await scenario.take(self.abandon(scenario))
        await scenario.take(
            scenario.command(GOOD, CommandAct.ABANDON, id="a-2", key="good", reason="given up")
        )

        assert scenario.bodies(BAD).count("TurnFailed") == 0
        outcomes = {each.key.decode() for each in scenario.on(OrderFailed)}
        assert outcomes == {"good"}
        await self._stays_abandoned(scenario)

    async def test_whose_replay_raises(self, usual):
        scenario = Scenario(orders())
        await scenario.take(*placed(scenario, "bad"))
        scenario.restart(ordering("start", usual))
        await scenario.take(self.abandon(scenario))

        assert scenario.status(BAD) == "abandoned"
        assert scenario.history(BAD)[-2].body == SagaAbandoned(
            reason="given up", residue=("reserve",), outcome=None
        )
        await self._stays_abandoned(scenario)

    async def test_whose_code_decides_otherwise(self):
        scenario = Scenario(orders())
        await scenario.take(*placed(scenario, "bad"))
        scenario.restart(orders(note="changed"))
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s")))
        assert scenario.status(BAD) == "parked"
        unit = await scenario.take(self.abandon(scenario))
        await scenario.take(revisits=unit.revisits)

        assert scenario.status(BAD) == "abandoned"
        assert scenario.deferred() == []
        await self._stays_abandoned(scenario)

    async def test_whose_version_nobody_has(self):
        scenario = Scenario(orders())
        await scenario.take(*placed(scenario, "bad"))
        scenario.restart(orders(version=2))
        await scenario.take(self.abandon(scenario))

        assert scenario.status(BAD) == "abandoned"
        await self._stays_abandoned(scenario)

    async def test_one_that_has_ended_stays_as_it_is(self):
        """That somebody asked is noted, without its code."""
        scenario = Scenario(orders())
        await scenario.take(*placed(scenario, "bad"))
        await scenario.take(scenario.reply(scenario.on(Reserve)[0], Reserved(shelf="s")))
        await scenario.take(scenario.reply(scenario.on(Ship)[0]))
        scenario.restart(orders(note="changed"))
        await scenario.take(self.abandon(scenario))

        assert scenario.bodies(BAD)[-2:] == ["CancelRequested", "Noted"]
        assert scenario.status(BAD) == "completed"
        assert scenario.deferred() == []

    @staticmethod
    async def _stays_abandoned(scenario):
        """Late replies, signals and timers are noted, by whatever code, and change nothing."""
        scenario.restart()
        late = [
            scenario.reply(each, Reserved(shelf="s"))
            for each in scenario.on(Reserve)
            if each.key == b"bad"
        ]
        signal = scenario.command(BAD, CommandAct.SIGNAL, id="s-1", key="bad", name="x", payload=1)
        again = TestAbandoning.abandon(scenario, id="a-9")
        unit = await scenario.take(*late, signal, again)
        assert unit.counts["deferred"] == 0
        assert unit.counts["failed_turns"] == 0
        assert scenario.status(BAD) == "abandoned"
        scenario.restart()
        await scenario.take(revisits=[BAD])
        assert scenario.status(BAD) == "abandoned"


def closing(at_end):
    """Orders that do *at_end* when they are let go of."""

    async def waiting(ctx):
        await ctx.wait("go")

    @saga("order", version=1, starts_on=OrderPlaced, rolled_back=OrderFailed)
    async def order(ctx: Context, trigger: OrderPlaced) -> OrderDone:
        reserved = await ctx.do(Reserve(order_id=trigger.order_id), undo=Unreserve)
        try:
            await waiting(ctx)
        finally:
            await at_end(ctx, trigger)
        return OrderDone(order_id=trigger.order_id, shelf=reserved.shelf)

    return order


class TestBeingLetGo:
    """Code that runs when a saga leaves memory, in the turn of another one, harms nobody."""

    @staticmethod
    async def _reserved(scenario, *keys):
        await scenario.take(*placed(scenario, *keys))
        for key in keys:
            [intent] = [each for each in scenario.on(Reserve) if each.key == key.encode()]
            await scenario.take(scenario.reply(intent, Reserved(shelf=f"s-{key}")))

    @pytest.fixture(
        params=[*RAISED, "awaits", "awaits again and again", "calls and raises", "asks asyncio"]
    )
    def scenario(self, request):
        async def at_end(ctx, trigger):
            if sys.exc_info()[0] is not GeneratorExit:
                return  # not let go of: the signal came
            match request.param:
                case "awaits":
                    await ctx.do(Ship(order_id=trigger.order_id))
                case "awaits again and again":
                    for _ in range(5):
                        with suppress(BaseException):
                            await ctx.sleep("1s")
                case "calls and raises":
                    ctx.publish(Booked(order_id=trigger.order_id))
                    ask = ctx.do
                    ask(Ship(order_id=trigger.order_id))
                    raise SystemExit(3)
                case "asks asyncio":
                    asyncio.get_event_loop().call_soon(print)
                case kind:
                    fail(RAISED[kind])

        scenario = Scenario(closing(at_end))
        scenario.cache._sagas_max = 1  # noqa: SLF001
        yield scenario
        assert scenario.on(Booked) == []
        assert scenario.on(Ship) == []
        scenario.check()
        scenario.cache.clear()

    async def test_by_eviction(self, scenario):
        await self._reserved(scenario, "bad", "good")
        assert (scenario.status(BAD), scenario.status(GOOD)) == ("running", "running")
        for key, saga_id_ in (("bad", BAD), ("good", GOOD)):
            await scenario.take(
                scenario.command(saga_id_, CommandAct.SIGNAL, id=f"go-{key}", key=key, name="go")
            )
        assert (scenario.status(BAD), scenario.status(GOOD)) == ("completed", "completed")

    @pytest.mark.parametrize(
        ("act", "said", "ends"),
        [
            (CommandAct.CANCEL, {}, "rolled_back"),
            (CommandAct.CANCEL, {"mode": "immediate"}, "rolled_back"),
            (CommandAct.COMPENSATE, {}, "rolled_back"),
            (CommandAct.ABANDON, {}, "abandoned"),
        ],
    )
    async def test_by_being_ended(self, scenario, act, said, ends):
        await self._reserved(scenario, "bad", "good")
        command = scenario.command(BAD, act, id="c-1", key="bad", reason="enough", **said)
        await scenario.take(command)
        await scenario.take(*[scenario.reply(each) for each in scenario.on(Unreserve)])

        assert scenario.status(BAD) == ends
        assert scenario.status(GOOD) == "running"

    async def test_by_a_batch_that_is_not_stored(self, scenario):
        """The states are thrown away, and the next one begins from the store."""
        scenario.cache._sagas_max = 10  # noqa: SLF001
        await self._reserved(scenario, "bad", "good")
        scenario.store.before.append(StoreUnavailable("away"))
        signals = [
            scenario.command(saga_id_, CommandAct.SIGNAL, id=f"note-{key}", key=key, name="note")
            for key, saga_id_ in (("bad", BAD), ("good", GOOD))
        ]
        with pytest.raises(StoreUnavailable):
            await scenario.take(*signals)
        scenario._read.clear()  # noqa: SLF001  # the records come again
        assert len(scenario.cache) == 0

    async def test_by_a_replay(self, scenario):
        await self._reserved(scenario, "bad", "good")
        found = [
            each.is_ok
            async for each in replay_all(scenario.store, scenario.catalogue, scenario.app.registry)
        ]
        assert found == [True, True]


class TestRecords:
    """Code that reads a record makes it a dead letter, whatever it raises."""

    @staticmethod
    def tagged(error):
        class Tagged(Event, topic="toys.tagged", version=1, key="tag"):
            tag: str

            @field_validator("tag")
            @classmethod
            def look(cls, tag: str) -> str:
                if tag == "bad":
                    fail(error)
                return tag

        return Tagged

    async def test_a_validator_of_a_contract(self, error):
        model = self.tagged(error)

        @saga("tags", version=1, starts_on=model)
        async def tags(ctx, trigger):
            return None

        scenario = Scenario(tags)
        bad = scenario.record("test.toys.toys.evt.tagged.v1", b"bad", b'{"tag":"bad"}')
        good = scenario.record("test.toys.toys.evt.tagged.v1", b"good", b'{"tag":"good"}')
        await scenario.take(bad, good)

        assert scenario.status(saga_id("tags", "good")) == "completed"
        [letter] = scenario.dead_letters()
        assert letter.reason == "schema"
        assert "Tagged raised" in letter.message

    async def test_a_key_function(self, error):
        def key_of(trigger: OrderPlaced) -> str:
            if trigger.order_id == "bad":
                fail(error)
            return trigger.order_id

        @saga("keyed", version=1, starts_on=OrderPlaced, key=key_of)
        async def keyed(ctx, trigger):
            return None

        scenario = Scenario(keyed)
        await scenario.take(*placed(scenario, "bad", "good"))

        assert scenario.status(saga_id("keyed", "good")) == "completed"
        assert [each.reason for each in scenario.dead_letters()] == ["wrong_key"]

    @pytest.mark.parametrize("text", ["no \ud800", "x" * 1_000_000, ""])
    async def test_a_key_that_cannot_be_stored(self, text):
        def key_of(trigger: OrderPlaced) -> str:
            return text if trigger.order_id == "bad" else trigger.order_id

        @saga("keyed", version=1, starts_on=OrderPlaced, key=key_of)
        async def keyed(ctx, trigger):
            return None

        scenario = Scenario(keyed)
        await scenario.take(*placed(scenario, "bad", "good"))

        assert scenario.status(saga_id("keyed", "good")) == "completed"
        [letter] = scenario.dead_letters()
        assert len(letter.message) < 1_000

    async def test_an_upcaster(self, error):
        class OldV1(Event, topic="toys.old", version=1, key="name"):
            name: str

        class Old(Event, topic="toys.old", version=2, key="name"):
            name: str

        @upcast
        def newer(old: OldV1) -> Old:
            if old.name == "bad":
                fail(error)
            return Old(name=old.name)

        @saga("olds", version=1, starts_on=Old)
        async def olds(ctx, trigger):
            return None

        scenario = Scenario(olds)
        await scenario.take(
            scenario.event(OldV1(name="bad"), "bad"), scenario.event(OldV1(name="good"), "good")
        )

        assert scenario.status(saga_id("olds", "good")) == "completed"
        [letter] = scenario.dead_letters()
        assert letter.reason == "upcast_failed"
        assert "newer" in letter.message

    async def test_a_validator_of_a_signal_parks_its_saga(self, error):
        """What raises anything but ValueError is a bug: nobody knows what the signal was worth."""

        class Stamp(Event, topic="toys.stamp", version=1):
            text: str

            @field_validator("text")
            @classmethod
            def look(cls, text: str) -> str:
                fail(error)
                return text

        @saga("stamps", version=1, starts_on=OrderPlaced)
        async def stamps(ctx, trigger):
            await ctx.wait("stamp", Stamp)

        scenario = Scenario(stamps)
        bad = saga_id("stamps", "bad")
        await scenario.take(*placed(scenario, "bad"))
        await scenario.take(scenario.signal(bad, "stamp", {"text": "x"}, id="s-1"))

        assert scenario.status(bad) == "parked"


class TestOurs:
    """What is meant for this process drops the turn; whoever comes next takes it again."""

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
    async def test_is_raised_and_nothing_is_recorded(self, error):
        faulty = SimpleNamespace(error=error)

        @saga("order", version=1, starts_on=OrderPlaced)
        async def order(ctx, trigger):
            if faulty.error is not None:
                raise faulty.error

        scenario = Scenario(order)
        records = placed(scenario, "bad")
        with pytest.raises(type(error)):
            await scenario.take(*records)
        assert BAD not in scenario.store.inner.summaries

        faulty.error = None
        scenario._read.clear()  # noqa: SLF001  # the records come again
        await scenario.take()
        assert scenario.status(BAD) == "completed"

    async def test_a_cancelled_error_while_our_task_is_being_cancelled(self):
        @saga("order", version=1, starts_on=OrderPlaced)
        async def order(ctx, trigger):
            task.cancel()
            raise asyncio.CancelledError

        scenario = Scenario(order)
        task = asyncio.ensure_future(scenario.take(*placed(scenario, "bad")))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert BAD not in scenario.store.inner.summaries


async def test_a_rollback_of_ones_own_beside_all_that_is_still_a_rollback():
    @saga("order", version=1, starts_on=OrderPlaced, rolled_back=OrderFailed)
    async def order(ctx, trigger):
        raise RollBack("why not")

    scenario = Scenario(order)
    await scenario.take(*placed(scenario, "bad"))
    assert scenario.status(BAD) == "rolled_back"
