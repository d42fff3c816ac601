"""SEMANTICS of events of others: kept in order, taken once, chosen in the live turn only."""

from typing import Annotated, assert_type

import pytest
from pydantic import Field

from saga.authoring import Context, TimedOut, on
from saga.contracts import Event, upcast
from saga.core import waiting
from saga.core.arrivals import kept_for
from saga.core.events import EventReceived
from saga.core.fold import fold
from saga.core.intents import EventAwaited, IntentIssued, Noted, Verdict, WaitEnded
from saga.errors import ReplayMismatch
from saga.testing import (
    after,
    armed,
    cancelled,
    completed,
    given,
    issued,
    noted,
    operator,
    redelivered,
    refused,
    replied,
    rolled_back,
    signalled,
    timed_out,
)
from tests.toys import (
    Notify,
    OrderConfirmed,
    OrderPlaced,
    Paid,
    Pay,
    Reserve,
    Reserved,
    Settled,
    Ship,
    Shipped,
    Unreserve,
    as_saga,
)

LISTENS = (Shipped, on(Settled, key="order_ref"))


def listening(function, **options):
    return as_saga(function, listens=LISTENS, **options)


def bodies(scenario, kind):
    return [entry.body for entry in scenario.history if isinstance(entry.body, kind)]


def paid(scenario):
    """What the saga did with what it took, in order."""
    return [body.payload for body in bodies(scenario, IntentIssued)]


async def pays_each(ctx, placed):
    """Pays, for each of three parcels, its number."""
    for _ in range(3):
        parcel = await ctx.next(Shipped)
        await ctx.do(Pay(amount=parcel.parcel))


def test_an_event_reaches_a_saga_that_waits_for_it():
    async def order(ctx, placed):
        shipped = await ctx.next(Shipped)
        await ctx.do(Pay(amount=shipped.parcel))

    waits = given(listening(order), OrderPlaced())
    waits.then_waits_for("event carrier.evt.shipped")
    assert bodies(waits, EventAwaited) == [
        EventAwaited(wait="next-shipped-1", contracts=("carrier.evt.shipped.v1",))
    ]

    scenario = waits.when(Shipped(parcel=7)).then(issued(Pay(amount=7)))

    payload = '{"order_id":"o-1","parcel":7}'
    assert bodies(scenario, EventReceived) == [
        EventReceived(contract="carrier.evt.shipped.v1", payload=payload)
    ]
    assert not bodies(scenario, WaitEnded)


def test_events_before_the_wait_are_kept_in_order_and_each_is_taken_once():
    scenario = given(listening(pays_each), OrderPlaced(), *(Shipped(parcel=n) for n in (1, 2, 3)))
    scenario.when(replied(Pay, Paid()), replied(Pay, Paid())).then(
        issued(Pay(amount=2), step="pay-2"), issued(Pay(amount=3), step="pay-3")
    )
    assert not fold("x", scenario.history).kept


def test_of_several_classes_the_one_that_came_first_is_taken():
    async def order(ctx, placed):
        await ctx.do(Reserve())
        for _ in range(2):
            match await ctx.next(Settled, Shipped):
                case Shipped(parcel=parcel):
                    await ctx.do(Notify(order_id=str(parcel)))
                case Settled(amount=amount):
                    await ctx.do(Pay(amount=amount))

    scenario = given(listening(order), OrderPlaced(), Shipped(parcel=4), Settled(amount=5))
    scenario.when(replied(Reserve, Reserved())).then(issued(Notify(order_id="4")))
    assert bodies(scenario, EventAwaited)[0].contracts == (
        "bank.evt.settled.v1",
        "carrier.evt.shipped.v1",
    )
    scenario.when(replied(Notify)).then(issued(Pay(amount=5)))


def test_where_takes_the_oldest_that_it_accepts_and_leaves_the_others():
    async def order(ctx, placed):
        await ctx.do(Reserve())
        big = await ctx.next(Shipped, where=lambda shipped: shipped.parcel > 5)
        await ctx.do(Pay(amount=big.parcel))
        small = await ctx.next(Shipped)
        await ctx.do(Notify(order_id=str(small.parcel)))

    parcels = [Shipped(parcel=n) for n in (1, 8, 9)]
    scenario = given(listening(order), OrderPlaced(), *parcels)
    scenario.when(replied(Reserve, Reserved())).then(issued(Pay(amount=8)))

    second = [e.version for e in scenario.history if isinstance(e.body, EventReceived)][1]
    assert bodies(scenario, WaitEnded) == [WaitEnded(wait="next-shipped-1", took=second)]
    scenario.when(replied(Pay, Paid())).then(issued(Notify(order_id="1")))


def test_an_event_that_where_does_not_accept_is_kept_and_the_wait_goes_on():
    async def order(ctx, placed):
        big = await ctx.next(Shipped, where=lambda shipped: shipped.parcel > 5)
        await ctx.do(Pay(amount=big.parcel))
        small = await ctx.next(Shipped)
        await ctx.do(Notify(order_id=str(small.parcel)))

    scenario = given(listening(order), OrderPlaced()).when(Shipped(parcel=1)).then()
    scenario.then_waits_for("event carrier.evt.shipped")
    scenario.when(Shipped(parcel=6)).then(issued(Pay(amount=6)))
    scenario.when(replied(Pay, Paid())).then(issued(Notify(order_id="1")))


def test_an_event_that_the_oldest_wait_leaves_goes_to_the_next_one_that_takes_it():
    async def order(ctx, placed):
        await ctx.all(
            ctx.next(Shipped, where=lambda shipped: shipped.parcel > 5),
            ctx.next(Shipped, where=lambda shipped: shipped.parcel > 3),
            ctx.next(Shipped),
        )

    scenario = given(listening(order), OrderPlaced(), Shipped(parcel=4), Shipped(parcel=4))
    assert [ended.wait for ended in bodies(scenario, WaitEnded)] == [
        "next-shipped-2",
        "next-shipped-3",
    ]
    scenario.when(Shipped(parcel=6)).then(completed())


def test_where_is_not_asked_in_a_replay():
    asked = []

    def first(shipped):
        asked.append(1)
        return shipped.parcel > 1

    async def order(ctx, placed):
        await ctx.do(Reserve())
        await ctx.next(Shipped, where=first)
        await ctx.next(Shipped, where=lambda shipped: asked.append(2) is None)

    scenario = given(listening(order), OrderPlaced(), Shipped(parcel=1), Shipped(parcel=2))
    scenario.when(replied(Reserve, Reserved())).then(completed())

    assert asked == [1, 1, 2]  # although every turn was replayed
    given(listening(order), history=scenario.history)
    assert asked == [1, 1, 2]


def test_a_recorded_choice_stands_whatever_the_predicate_says_today():
    def code(least):
        async def order(ctx, placed):
            await ctx.do(Reserve())
            shipped = await ctx.next(Shipped, where=lambda shipped: shipped.parcel > least)
            await ctx.do(Pay(amount=shipped.parcel))

        return listening(order)

    parcels = Shipped(parcel=1), Shipped(parcel=2)
    history = given(code(1), OrderPlaced(), *parcels).when(replied(Reserve, Reserved())).history

    given(code(0), history=history).when(replied(Pay, Paid())).then(completed())


def test_a_predicate_may_be_added_to_a_wait_and_taken_away():
    def code(**where):
        async def order(ctx, placed):
            await ctx.do(Reserve())
            shipped = await ctx.next(Shipped, **where)
            await ctx.do(Pay(amount=shipped.parcel))

        return listening(order)

    selecting, plain = code(where=lambda shipped: shipped.parcel > 1), code()
    for before, now in ((selecting, plain), (plain, selecting)):
        begun = given(before, OrderPlaced()).when(replied(Reserve, Reserved()))
        through = given(before, OrderPlaced(), Shipped(parcel=2))
        through.when(replied(Reserve, Reserved()))

        given(now, history=through.history).when(replied(Pay, Paid())).then(completed())
        again = given(now, history=begun.history)
        assert fold("x", begun.history).waited == again.state.waited
        again.when(Shipped(parcel=2)).then(issued(Pay(amount=2)))


def test_another_wait_is_a_difference():
    async def waits_for_shipped(ctx, placed):
        await ctx.next(Shipped)

    async def waits_for_settled(ctx, placed):
        await ctx.next(Settled)

    history = given(listening(waits_for_shipped), OrderPlaced()).history
    with pytest.raises(ReplayMismatch, match="event-awaited"):
        given(listening(waits_for_settled), history=history)


def test_a_wait_without_an_event_times_out():
    async def order(ctx, placed):
        try:
            await ctx.next(Shipped, timeout="1h")
        except TimedOut as late:
            await ctx.do(Notify(order_id=str(late)))

    scenario = given(listening(order)).when(OrderPlaced())
    scenario.then(armed("wait", "next-shipped-1", "1h"))
    scenario.when(timed_out(Shipped)).then(
        issued(Notify(order_id="no event 'shipped' came in time"))
    )
    # It is late for this wait, and nobody else's.
    scenario.when(Shipped()).then()
    scenario.when(replied(Notify)).then(completed(), noted("unread", "1 in all"))


def test_an_uncaught_timeout_rolls_back():
    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.next(Shipped, Settled, timeout="1h")

    scenario = given(listening(order, rolled_back=None), OrderPlaced())
    scenario.when(replied(Reserve, Reserved()), after("1h"), replied(Unreserve))
    scenario.then_status("rolled_back")
    assert scenario.state.code == "timed_out"
    assert scenario.state.reason == "no event 'settled or shipped' came in time"


def test_the_timer_of_a_wait_that_an_event_won_is_cancelled():
    async def order(ctx, placed):
        await ctx.next(Shipped, where=lambda _: True, timeout="1h")
        await ctx.next(Shipped, timeout="2h")

    scenario = given(listening(order), OrderPlaced(), Shipped())
    assert [timer.target for timer in scenario.state.timers.values()] == ["next-shipped-2"]
    scenario.when(after("1h")).then_nothing()


def test_a_race_that_a_reply_wins_leaves_the_event_to_the_next_wait():
    async def order(ctx, placed):
        await ctx.any(ctx.next(Shipped), ctx.do(Reserve()))
        shipped = await ctx.next(Shipped)
        await ctx.do(Pay(amount=shipped.parcel))

    scenario = given(listening(order), OrderPlaced()).when(replied(Reserve, Reserved()))
    scenario.when(Shipped(parcel=9)).then(issued(Pay(amount=9)))


def test_signals_and_events_do_not_take_each_others():
    async def order(ctx, placed):
        await ctx.all(ctx.wait("shipped"), ctx.next(Shipped))

    scenario = given(listening(order), OrderPlaced(), signalled("shipped", 1))
    scenario.then_waits_for("event carrier.evt.shipped")
    scenario.when(Shipped()).then(completed())


def test_the_same_event_again_is_a_duplicate():
    scenario = given(listening(pays_each), OrderPlaced(), Shipped(parcel=1))
    scenario.when(redelivered()).then_was("duplicate").then_nothing()


def test_events_that_nobody_took_are_noted_at_the_end():
    async def order(ctx, placed):
        await ctx.do(Reserve())
        return OrderConfirmed()

    events = Shipped(parcel=1), Shipped(parcel=2), Settled()
    scenario = given(listening(order), OrderPlaced(), *events)
    scenario.when(replied(Reserve, Reserved())).then(completed(OrderConfirmed()))

    notes = [(note.subject, note.detail) for note in bodies(scenario, Noted)]
    assert notes == [
        ("event carrier.evt.shipped", "nobody had read it at the end (2 in all)"),
        ("event bank.evt.settled", "nobody had read it at the end (1 in all)"),
    ]
    assert all(note.verdict is Verdict.UNREAD for note in bodies(scenario, Noted))


def test_one_for_an_ended_saga_leaves_no_entry():
    async def order(ctx, placed):
        pass

    scenario = given(listening(order), OrderPlaced()).when(Shipped())
    scenario.then_was("after_end").then_nothing()


def test_while_a_saga_rolls_back_events_are_recorded_and_change_nothing():
    async def order(ctx, placed):
        await ctx.do(Reserve(), undo=Unreserve)
        await ctx.next(Shipped)

    scenario = given(listening(order, rolled_back=None), OrderPlaced())
    scenario.when(replied(Reserve, Reserved()), cancelled("enough"))
    scenario.when(Shipped()).then()
    scenario.when(replied(Unreserve)).then(rolled_back(reason="enough"), noted("unread"))


def test_an_event_for_a_parked_saga_is_taken():
    """It parked on a step; what its other branch waits for goes on meanwhile."""

    async def order(ctx, placed):
        async def second():
            shipped = await ctx.next(Shipped)
            await ctx.do(Notify(order_id=str(shipped.parcel)))

        await ctx.do(Pay(), kind="pivot")
        await ctx.all(ctx.do(Ship()), second(), fail="fast")

    scenario = given(listening(order), OrderPlaced()).when(replied(Pay, Paid()))
    scenario.when(refused(Ship, "no van")).then_status("parked")
    scenario.when(Shipped(parcel=2)).then(issued(Notify(order_id="2")))


def test_a_predicate_that_raises_parks_its_saga_and_the_event_waits_behind_it():
    is_broken = [True]

    def broken(shipped):
        if is_broken:
            raise ValueError("a bug")
        return True

    async def order(ctx, placed):
        await ctx.next(Shipped, where=broken)
        await ctx.do(Pay())

    scenario = given(listening(order), OrderPlaced()).when(Shipped()).then_parked("a bug")
    is_broken.clear()
    scenario.when(operator("release")).then(issued(Pay))


def test_a_predicate_says_true_or_false():
    async def order(ctx, placed):
        await ctx.next(Shipped, where=lambda shipped: shipped.parcel)

    given(listening(order), OrderPlaced()).when(Shipped()).then_parked("expected True or False")


def test_what_was_kept_under_an_older_version_is_taken_as_the_current_one():
    class Sent(Event, topic="carrier.sent", version=1, key="order_id"):
        order_id: str = "o-1"
        weight: int = 2

    async def old(ctx, placed):
        await ctx.do(Reserve())
        await ctx.next(Sent)
        await ctx.next(Sent, where=lambda sent: True)

    history = given(as_saga(old, listens=Sent), OrderPlaced(), Sent(weight=4), Sent()).history

    class SentNow(Event, topic="carrier.sent", version=2, key="order_id"):
        order_id: str = "o-1"
        grams: int

    @upcast
    def in_grams(old: Sent) -> SentNow:
        return SentNow(order_id=old.order_id, grams=1000 * old.weight)

    async def new(ctx, placed):
        await ctx.do(Reserve())
        sent = await ctx.next(SentNow)
        await ctx.do(Pay(amount=sent.grams))
        sent = await ctx.next(SentNow, where=lambda sent: sent.grams > 2000)
        await ctx.do(Pay(amount=sent.grams))

    scenario = given(as_saga(new, listens=SentNow), history=history)
    scenario.when(replied(Reserve, Reserved())).then(issued(Pay(amount=4000)))
    scenario.when(replied(Pay, Paid())).then()
    scenario.when(SentNow(grams=2500)).then(issued(Pay(amount=2500)))


def test_a_wait_begun_for_an_older_version_is_no_difference_and_takes_the_new_one():
    class Told(Event, topic="carrier.told", version=1, key="order_id"):
        order_id: str = "o-1"

    async def old(ctx, placed):
        await ctx.next(Told)

    history = given(as_saga(old, listens=Told), OrderPlaced()).history

    class ToldNow(Event, topic="carrier.told", version=2, key="order_id"):
        order_id: str = "o-1"
        number: int = 5

    @upcast
    def with_number(old: Told) -> ToldNow:
        return ToldNow(order_id=old.order_id)

    async def new(ctx, placed):
        told = await ctx.next(ToldNow)
        await ctx.do(Pay(amount=told.number))

    given(as_saga(new, listens=ToldNow), history=history).when(ToldNow(number=6)).then(
        issued(Pay(amount=6))
    )


def test_two_versions_that_no_upcast_joins_are_two_events():
    class Weighed(Event, topic="carrier.weighed", version=1, key="order_id"):
        order_id: str = "o-1"

    class WeighedAnew(Event, topic="carrier.weighed", version=2, key="order_id"):
        order_id: str = "o-1"

    async def order(ctx, placed):
        await ctx.do(Reserve())
        await ctx.next(Weighed)
        await ctx.do(Pay())
        await ctx.next(WeighedAnew)

    scenario = given(as_saga(order, listens=(Weighed, WeighedAnew)), OrderPlaced(), WeighedAnew())
    scenario.when(replied(Reserve, Reserved())).then()
    scenario.when(Weighed()).then(issued(Pay)).when(replied(Pay, Paid())).then(completed())


def test_what_was_accepted_is_read_whatever_its_contract_refuses_today():
    def code(least):
        class Rated(Event, topic="carrier.rated", version=1, key="order_id"):
            order_id: str = "o-1"
            stars: Annotated[int, Field(ge=least)] = 1

        async def order(ctx, placed):
            await ctx.do(Reserve())
            rated = await ctx.next(Rated, where=lambda rated: rated.stars == 1)
            await ctx.do(Pay(amount=rated.stars))

        return as_saga(order, listens=Rated), Rated()

    loose, rated = code(0)
    history = given(loose, OrderPlaced(), rated).history
    strict, _ = code(3)
    given(strict, history=history).when(replied(Reserve, Reserved())).then(issued(Pay(amount=1)))


def test_an_event_may_start_a_saga_and_reach_it_while_it_runs():
    async def order(ctx, placed):
        again = await ctx.next(OrderPlaced)
        await ctx.do(Pay(amount=again.amount))

    scenario = given(as_saga(order, listens=OrderPlaced), OrderPlaced(amount=1))
    scenario.when(OrderPlaced(amount=2)).then(issued(Pay(amount=2)))


def test_kept_events_are_not_walked_over(monkeypatch):
    """Whatever is kept, a wait looks at the oldest one, and a replay at what was chosen."""
    looked_at = []

    def counted(*asked):
        for each in kept_for(*asked):
            looked_at.append(each)
            yield each

    async def order(ctx, placed):
        await ctx.do(Reserve())
        await ctx.next(Shipped, where=lambda shipped: shipped.parcel == 50)
        for _ in range(49):
            await ctx.next(Shipped, Settled)

    monkeypatch.setattr(waiting, "kept_for", counted)
    parcels = [Shipped(parcel=number) for number in range(1, 51)]
    history = given(listening(order), OrderPlaced(), *parcels).history
    scenario = given(listening(order), history=history)
    looked_at.clear()
    scenario.when(replied(Reserve, Reserved())).then(completed())

    live, replayed = 50 + 49, 49
    assert len(looked_at) == live + replayed


def test_the_types_are_known_to_checkers():
    async def order(ctx: Context, placed: OrderPlaced) -> None:
        one = await ctx.next(Shipped, where=lambda shipped: shipped.parcel > 0)
        assert_type(one, Shipped)
        either = await ctx.next(Shipped, Settled, timeout="1h")
        assert_type(either, Shipped | Settled)

    given(listening(order), OrderPlaced(), Shipped(), Settled()).then_status("completed")
