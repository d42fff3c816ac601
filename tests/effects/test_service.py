"""A service loses nothing and does nothing twice, whatever fails around it and whenever it dies."""

import sqlite3

import pytest

from saga.contracts import cloudevents as ce
from saga.effects import EffectContext, Effects
from saga.errors import DefinitionError, StoreUnavailable
from saga.ports import Source
from tests.effects.lab import (
    Charge,
    Charged,
    Lab,
    Uncharge,
    header,
    intent,
    undo,
    wallet_effects,
)

TOPIC = "test.lab.lab.int.charge.v1"


@pytest.fixture
async def lab():
    """The wallet service at work; `lab.calls` are the calls of its handlers."""
    effects, calls = wallet_effects()
    async with Lab(effects) as lab:
        lab.calls = calls
        yield lab


async def test_an_answer_lost_between_commit_and_publish_comes_again_identical(lab: Lab) -> None:
    """The offset was not committed, so the intent comes again, and the inbox gives the same
    bytes.
    """
    lab.bus.is_stuck = True
    await lab.bus.publish([intent(Charge())])
    await lab.until(lambda: lab.bus.asked)
    (lost,) = lab.bus.asked

    await lab.crash()
    await lab.until(lab.replies)
    (reply,) = lab.replies()

    assert (reply.key, reply.value, reply.headers) == (lost.key, lost.value, lost.headers)
    assert len(lab.calls) == 1
    assert lab.ledger() == [("alice", 10)]


async def test_a_crash_before_the_commit_leaves_no_trace() -> None:
    """The next process handles the intent as if it came for the first time."""
    effects = Effects("wallets")
    effects.on_start(wallet_effects()[0].starters[0].function)
    calls: list[int] = []

    @effects.on(Charge)
    async def charge(intent: Charge, ctx: EffectContext) -> Charged:
        await ctx.db.execute("INSERT INTO ledger VALUES ('x', :call)", call=len(calls))
        calls.append(1)
        if len(calls) == 1:
            await lab.clock.sleep(1_000)
        return Charged(receipt=f"r-{len(calls)}")

    async with Lab(effects) as lab:
        await lab.bus.publish([intent(Charge())])
        await lab.until(lambda: calls)
        await lab.crash()
        await lab.until(lab.replies)

        assert lab.ledger() == [("x", 1)]
        assert lab.answers() == [("lab.evt.charged.v1", '{"receipt":"r-2"}')]


async def test_offsets_are_committed_late_and_when_the_service_stops(lab: Lab) -> None:
    """Not for each record: a redelivery costs no more than an answer."""
    await lab.send(*[intent(Charge(), step=f"s{n}") for n in range(5)])
    assert lab.committed(TOPIC) == 0

    await lab.stop()

    assert lab.committed(TOPIC) == 5


async def test_offsets_are_committed_now_and_then(lab: Lab) -> None:
    """So that a crash brings back a fraction of a second's work, not more."""
    await lab.send(intent(Charge()))
    await lab.until(lambda: lab.committed(TOPIC) == 1)


async def test_a_stopped_service_goes_on_where_it_was(lab: Lab) -> None:
    """The next process gets only what is new."""
    await lab.send(intent(Charge(), step="a"))
    await lab.stop()
    lab.store, lab.service = lab._make()
    await lab.service.start()
    await lab.send(intent(Charge(), step="b"))

    assert len(lab.calls) == len(lab.bus.asked) == 2


async def test_answers_wait_for_a_bus_that_is_away(lab: Lab) -> None:
    """They are repeated, not parked; handlers are not called again."""
    lab.bus.failures_left = 5
    await lab.send(intent(Charge(), step="a"), intent(Charge(), step="b"))

    assert len(lab.replies()) == len(lab.calls) == 2
    assert lab.dead_letters == []


@pytest.mark.parametrize("failures", [1, 2, 3, 4, 5, 6, 20])
async def test_intents_wait_for_a_store_that_is_locked(lab: Lab, failures: int) -> None:
    """Handlers are called again once it can be written; nothing is answered before."""
    lab.disk.failing, lab.disk.failures_left = "BEGIN", failures
    await lab.send(intent(Charge(), step="a"), intent(Charge(), step="b"))

    assert lab.ledger() == [("alice", 10), ("alice", 10)]
    assert len(lab.replies()) == 2
    assert lab.dead_letters == []


async def test_a_commit_that_fails_is_repeated_whole(lab: Lab) -> None:
    """The handlers run again, since what they wrote is gone."""
    lab.disk.failing, lab.disk.failures_left = "COMMIT", 3
    await lab.send(intent(Charge(), step="a"), intent(Charge(amount=501), step="b"))

    assert lab.ledger() == [("alice", 10)]
    assert len(lab.replies()) == 2


async def test_a_handler_that_hides_the_stores_failure_is_called_again() -> None:
    """Swallowing it does not make an answer out of lost writes."""
    effects, _ = wallet_effects()
    sloppy = Effects("sloppy")
    sloppy.on_start(effects.starters[0].function)
    seen: list[str] = []

    @sloppy.on(Charge)
    async def charge(intent: Charge, ctx: EffectContext) -> Charged:
        try:
            await ctx.db.execute("INSERT INTO ledger VALUES ('x', 1)")
        except StoreUnavailable:
            seen.append("failure")
        return Charged(receipt="r")

    async with Lab(sloppy) as lab:
        lab.disk.failing, lab.disk.failures_left = "INSERT INTO ledger", 1
        await lab.send(intent(Charge()))

        assert seen == ["failure"]
        assert lab.ledger() == [("x", 1)]
        assert len(lab.replies()) == 1


async def test_a_reply_the_bus_finds_too_large_is_parked_alone(lab: Lab) -> None:
    """Its neighbours' answers are published."""
    lab.bus.reply_bytes_max = 500
    await lab.send(
        intent(Charge(owner="a"), step="a"),
        intent(Charge(owner="x" * 700), step="b"),
        intent(Charge(owner="c"), step="c"),
    )

    assert [reason for _, reason, _ in lab.dead_letters] == ["reply_too_large"]
    assert len(lab.replies()) == 2


async def test_stopping_finishes_what_is_in_hand(lab: Lab) -> None:
    """Every record that was fetched is answered and committed."""
    await lab.bus.publish([intent(Charge(), step=f"s{n}") for n in range(100)])
    await lab.until(lambda: lab.calls)
    await lab.stop()

    assert len(lab.replies()) == lab.committed(TOPIC) == len(lab.calls)
    assert lab.service.in_hand == 0


async def test_stopping_does_not_wait_for_ever() -> None:
    """A handler that hangs is left; its intent comes again."""
    effects = Effects("hanging")
    entered: list[str] = []

    @effects.on(Charge)
    async def charge(intent: Charge, ctx: EffectContext) -> Charged:
        entered.append(ctx.intent_id)
        await lab.clock.sleep(1_000)
        raise AssertionError("not reached")

    async with Lab(effects, drain_s=2.0) as lab:
        await lab.bus.publish([intent(Charge())])
        await lab.until(lambda: entered)
        await lab.stop()

        assert lab.committed(TOPIC) == 0
        assert lab.replies() == []
    assert 2 <= lab.clock.monotonic_s() < 3


async def test_what_is_in_hand_is_bounded() -> None:
    """While handlers hang nothing more is fetched."""
    effects = Effects("hanging")

    @effects.on(Charge)
    async def charge(intent: Charge, ctx: EffectContext) -> Charged:
        await lab.clock.sleep(1)
        return Charged(receipt="r")

    async with Lab(effects, records_in_hand_max=20, fetch_records_max=8, concurrency=4) as lab:
        await lab.bus.publish([intent(Charge(), step=f"s{n}") for n in range(60)])
        most = 0
        while len(lab.replies()) < 60:
            await lab.until(lambda: True)
            lab.clock.advance(0.01)
            most = max(most, lab.service.in_hand)

    assert most == 20


async def test_a_failing_on_start_ends_the_start() -> None:
    """With the place of the function, and what it said."""
    effects = Effects("broken")

    @effects.on_start
    async def tables(db):
        await db.execute("CREATE TABL x")

    with pytest.raises(DefinitionError, match=r"test_service\.py:\d+: on_start function .*tables"):
        async with Lab(effects):
            pass


async def test_what_is_written_and_read_is_known_beforehand(lab: Lab) -> None:
    """So that the topics can be made."""
    assert lab.service.subscription.topics_read == (TOPIC, "test.lab.lab.int.uncharge.v1")
    assert lab.service.subscription.topics_written == (
        "test.lab.lab.evt.charged.v1",
        "test.lab.lab.evt.intent-done.v1",
        "test.lab.lab.evt.intent-failed.v1",
    )
    assert lab.service.subscription.group == "test.lab.effects.wallets"


async def test_two_processes_handle_one_intent_once(lab: Lab) -> None:
    """A zombie that had looked at the inbox before the other committed is told at its own
    commit.
    """
    original = lab.store.kept
    is_first = True

    async def stale(service, keys):
        nonlocal is_first
        if is_first:
            is_first = False
            found = await original(service, keys)
            assert found == {}
            await _handle_elsewhere(lab.disk, keys[0])
            return found
        return await original(service, keys)

    lab.store.kept = stale
    await lab.send(intent(Charge()))

    assert lab.answers() == [("lab.evt.charged.v1", '{"receipt":"elsewhere"}')]
    assert lab.ledger() == []


async def test_counts_say_what_was_done(lab: Lab) -> None:
    """For metrics, and for telling that nothing goes on."""
    await lab.send(
        intent(Charge(), step="a"),
        intent(Charge(), step="a"),
        intent(Charge(amount=501), step="b"),
        intent(Charge(amount=-1), step="c"),
        undo(Uncharge(), step="d"),
    )

    assert lab.service.counts == {
        "effects_done": 2,
        "effects_refused": 1,
        "effects_failed": 1,
        "effects_repeated": 1,
    }


async def test_the_order_of_a_step_survives_a_rebalance(lab: Lab) -> None:
    """Records fetched twice are finished twice, and the offset is right afterwards."""
    lab.bus.is_stuck = True
    await lab.bus.publish([intent(Charge()), undo(Uncharge())])
    await lab.until(lambda: lab.bus.asked)
    await lab.seek({Source(TOPIC, 0): 0})
    await lab.until(lambda: lab.service.in_hand == 3)
    await lab.crash()
    await lab.until(lambda: len(lab.replies()) == 2)
    await lab.stop()

    assert [header(one, ce.CAUSATION_ID).split("/")[2] for one in lab.replies()] == ["do", "undo"]
    assert lab.committed(TOPIC) == 1


async def _handle_elsewhere(disk: sqlite3.Connection, key: str) -> None:
    disk.execute(
        "INSERT INTO saga_inbox VALUES ('wallets', ?, 1, 'done', 'lab.evt.charged.v1',"
        """ '{"receipt":"elsewhere"}', NULL, NULL, NULL, 1, 0)""",
        (key,),
    )
