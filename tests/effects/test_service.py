"""A service loses nothing and does nothing twice, through every failure and crash."""

import json
import sqlite3
from dataclasses import replace
from typing import Annotated

import pytest
from pydantic import AfterValidator

from saga.contracts import Intent
from saga.contracts import cloudevents as ce
from saga.core.identity import saga_id
from saga.effects import EffectContext, Effects
from saga.errors import DefinitionError, StoreUnavailable
from saga.ports import Source
from tests.effects.fixtures import NAMES, Scenario, intent, undo, wallet_effects
from tests.records import header
from tests.toys import Paid, Pay, Refund

TOPIC = "test.toys.shop.int.pay.v1"


@pytest.fixture
async def scenario():
    """The wallet service at work; `scenario.calls` are the calls of its handlers."""
    effects, calls = wallet_effects()
    async with Scenario(effects) as scenario:
        scenario.calls = calls
        yield scenario


async def test_an_answer_lost_between_commit_and_publish_comes_again_identical(scenario):
    """The intent comes again, as its offset was not committed; the inbox gives the same bytes."""
    scenario.bus.is_stuck = True
    await scenario.bus.publish([intent(Pay())])
    await scenario.until(lambda: scenario.bus.attempted)
    (lost,) = scenario.bus.attempted

    await scenario.crash()
    await scenario.until(scenario.replies)
    (reply,) = scenario.replies()

    assert (reply.key, reply.value, reply.headers) == (lost.key, lost.value, lost.headers)
    assert len(scenario.calls) == 1
    assert scenario.ledger() == [("o-1", 3)]


async def test_a_crash_before_the_commit_leaves_no_trace():
    """The next process handles the intent as if it came for the first time."""
    effects = Effects("wallets")
    effects.on_start(wallet_effects()[0].starters[0].function)
    calls: list[int] = []

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        await ctx.db.execute("INSERT INTO ledger VALUES ('x', :call)", call=len(calls))
        calls.append(1)
        if len(calls) == 1:
            await scenario.clock.sleep(1_000)
        return Paid(receipt=f"r-{len(calls)}")

    async with Scenario(effects) as scenario:
        await scenario.bus.publish([intent(Pay())])
        await scenario.until(lambda: calls)
        await scenario.crash()
        await scenario.until(scenario.replies)

        assert scenario.ledger() == [("x", 1)]
        assert scenario.answers() == [("shop.evt.paid.v1", '{"receipt":"r-2"}')]


async def test_offsets_are_committed_late_and_when_the_service_stops(scenario):
    """Not for each record: a redelivery costs no more than an answer."""
    await scenario.send(*[intent(Pay(), step=f"s{n}") for n in range(5)])
    assert scenario.committed(TOPIC) == 0

    await scenario.stop()

    assert scenario.committed(TOPIC) == 5


async def test_offsets_are_committed_now_and_then(scenario):
    """So that a crash brings back a fraction of a second's work, not more."""
    await scenario.send(intent(Pay()))
    await scenario.until(lambda: scenario.committed(TOPIC) == 1)


async def test_a_stopped_service_goes_on_where_it_was(scenario):
    """The next process gets only what is new."""
    await scenario.send(intent(Pay(), step="a"))
    await scenario.stop()
    scenario.store, scenario.service = scenario._make()
    await scenario.service.start()
    await scenario.send(intent(Pay(), step="b"))

    assert len(scenario.calls) == len(scenario.bus.attempted) == 2


async def test_answers_wait_for_a_bus_that_is_away(scenario):
    """They are repeated, and nothing is set aside; handlers are not called again."""
    scenario.bus.failures_left = 5
    await scenario.send(intent(Pay(), step="a"), intent(Pay(), step="b"))

    assert len(scenario.replies()) == len(scenario.calls) == 2
    assert scenario.dead_letters == []


@pytest.mark.parametrize("failures", [1, 2, 3, 4, 5, 6, 20])
async def test_intents_wait_for_a_store_that_is_locked(scenario, failures):
    """Handlers are called again once it can be written; nothing is answered before."""
    scenario.disk.failing, scenario.disk.failures_left = "BEGIN", failures
    await scenario.send(intent(Pay(), step="a"), intent(Pay(), step="b"))

    assert scenario.ledger() == [("o-1", 3), ("o-1", 3)]
    assert len(scenario.replies()) == 2
    assert scenario.dead_letters == []


async def test_a_commit_that_fails_is_repeated_whole(scenario):
    """The handlers run again, since their writes are gone."""
    scenario.disk.failing, scenario.disk.failures_left = "COMMIT", 3
    await scenario.send(intent(Pay(), step="a"), intent(Pay(amount=501), step="b"))

    assert scenario.ledger() == [("o-1", 3)]
    assert len(scenario.replies()) == 2


async def test_a_handler_that_hides_the_stores_failure_is_called_again():
    """Swallowing it does not make an answer out of lost writes."""
    effects, _ = wallet_effects()
    sloppy = Effects("sloppy")
    sloppy.on_start(effects.starters[0].function)
    seen: list[str] = []

    @sloppy.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        try:
            await ctx.db.execute("INSERT INTO ledger VALUES ('x', 1)")
        except StoreUnavailable:
            seen.append("failure")
        return Paid(receipt="r")

    async with Scenario(sloppy) as scenario:
        scenario.disk.failing, scenario.disk.failures_left = "INSERT INTO ledger", 1
        await scenario.send(intent(Pay()))

        assert seen == ["failure"]
        assert scenario.ledger() == [("x", 1)]
        assert len(scenario.replies()) == 1


REPLIES = NAMES.topic("shop.evt.paid.v1")


def of_sizes(*sizes: int, attempt: int = 1):
    """Payments whose receipts are so long."""
    return [
        intent(Pay(order_id="x" * size), step=f"s{number}", attempt=attempt)
        for number, size in enumerate(sizes)
    ]


async def test_a_reply_too_large_for_its_topic_is_a_failed_attempt_alone():
    """It says contract, size and limit; what the handler wrote is undone, its neighbours go on."""
    scenario = Scenario(wallet_effects()[0])
    scenario.bus.topic_limits = {REPLIES: 1_500}
    async with scenario:
        await scenario.send(*of_sizes(1, 1_400, 1))

        ((_, value),) = [each for each in scenario.answers() if "failed" in each[0]]
        said = json.loads(value)
        assert (said["outcome"], said["code"]) == ("failed", "reply_too_large")
        assert "shop.evt.paid.v1: a record of 19" in said["message"]
        assert f"of which its topic {REPLIES} takes 1500" in said["message"]
        assert len(scenario.replies()) == 3
        assert scenario.ledger() == [("x", 3), ("x", 3)]
        assert scenario.dead_letters == []

        scenario.bus.topic_limits = {REPLIES: 5_000}
        await scenario.send(*of_sizes(1, 1_400, attempt=2)[1:])
        assert scenario.answers()[-1][0] == "shop.evt.paid.v1"


async def test_a_reply_refused_after_its_effect_is_a_failed_attempt_that_says_so(scenario):
    """The topic takes less than it did: the effect stays, and is undone by its saga."""
    scenario.bus.tells_limits = False
    scenario.bus.topic_limits = {REPLIES: 1_500}
    await scenario.send(*of_sizes(1, 1_400, 1))

    failed = [json.loads(value) for name, value in scenario.answers() if "failed" in name]
    assert [each["code"] for each in failed] == ["reply_too_large"]
    assert "too large for" in failed[0]["message"]
    assert len(scenario.replies()) == 3
    assert len(scenario.ledger()) == 3
    assert scenario.dead_letters == []


async def test_an_intent_whose_failure_cannot_be_said_either_is_a_dead_letter(scenario):
    scenario.bus.tells_limits = False
    failed = NAMES.topic("shop.evt.intent-failed.v1")
    scenario.bus.topic_limits = {REPLIES: 1_500, failed: 10}
    await scenario.send(*of_sizes(1, 1_400))

    assert [reason for _, reason, _ in scenario.dead_letters] == ["reply_too_large"]
    assert len(scenario.replies()) == 1


async def test_stopping_finishes_what_is_in_hand(scenario):
    """Every record that was fetched is answered and committed."""
    await scenario.bus.publish([intent(Pay(), step=f"s{n}") for n in range(100)])
    await scenario.until(lambda: scenario.calls)
    await scenario.stop()

    assert len(scenario.replies()) == scenario.committed(TOPIC) == len(scenario.calls)
    assert scenario.service.in_hand == 0


async def test_stopping_does_not_wait_for_ever():
    """A handler that hangs is left; its intent comes again."""
    effects = Effects("hanging")
    entered: list[str] = []

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        entered.append(ctx.intent_id)
        await scenario.clock.sleep(1_000)
        raise AssertionError("not reached")

    async with Scenario(effects, drain_s=2.0) as scenario:
        await scenario.bus.publish([intent(Pay())])
        await scenario.until(lambda: entered)
        await scenario.stop()

        assert scenario.committed(TOPIC) == 0
        assert scenario.replies() == []
    assert 2 <= scenario.clock.monotonic_s() < 3


async def test_what_is_in_hand_is_bounded():
    """While handlers hang nothing more is fetched."""
    effects = Effects("hanging")

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        await scenario.clock.sleep(1)
        return Paid(receipt="r")

    async with Scenario(
        effects, records_in_hand_max=20, fetch_records_max=8, concurrency=4
    ) as scenario:
        await scenario.bus.publish([intent(Pay(), step=f"s{n}") for n in range(60)])
        most = 0
        while len(scenario.replies()) < 60:
            await scenario.until(lambda: True)
            scenario.clock.advance(0.01)
            most = max(most, scenario.service.in_hand)

    assert most == 20


async def test_a_failing_on_start_ends_the_start():
    """With the place of the function, and its error."""
    effects = Effects("broken")

    @effects.on_start
    async def tables(db):
        await db.execute("CREATE TABL x")

    with pytest.raises(DefinitionError, match=r"test_service\.py:\d+: on_start function .*tables"):
        async with Scenario(effects):
            pass


async def test_what_is_written_and_read_is_known_beforehand(scenario):
    """So that the topics can be made."""
    assert scenario.service.subscription.topics_read == (
        "test.toys.shop.ctl.intent-cancelled.v1",
        TOPIC,
        "test.toys.shop.int.refund.v1",
    )
    assert scenario.service.subscription.topics_written == (
        "test.toys.shop.evt.intent-done.v1",
        "test.toys.shop.evt.intent-failed.v1",
        "test.toys.shop.evt.intent-progress.v1",
        "test.toys.shop.evt.paid.v1",
    )
    assert scenario.service.subscription.group == "test.toys.effects.wallets"


async def test_an_error_that_cannot_be_waited_out_ends_the_service():
    """Whoever waits for the service gets it; handlers are cancelled, and no offset is committed."""
    effects = Effects("hanging")
    ends: list[str] = []

    @effects.on(Pay)
    async def pay(intent: Pay, ctx: EffectContext) -> Paid:
        try:
            await scenario.clock.sleep(1_000)
        finally:
            ends.append(ctx.intent_id)
        raise AssertionError("not reached")

    async with Scenario(effects) as scenario:
        scenario.dead_letter_error = PermissionError("no dead letters today")
        await scenario.bus.publish([intent(Pay())])
        await scenario.until(lambda: scenario.service.in_hand == 1)
        await scenario.bus.publish([replace(intent(Pay()), value=b"{")])
        await scenario.until(lambda: ends)

        with pytest.raises(PermissionError, match="no dead letters today"):
            await scenario.service.wait()
        await scenario.stop()
        assert scenario.committed(TOPIC) == 0
        assert scenario.replies() == []


async def test_two_processes_handle_one_intent_once(scenario):
    """A zombie that read the inbox before the other committed is told at its own commit."""
    original = scenario.store.kept
    is_first = True

    async def stale(service, keys):
        nonlocal is_first
        if is_first:
            is_first = False
            rows = await original(service, keys)
            assert rows == {}
            await _handle_elsewhere(scenario.disk, keys[0])
            return rows
        return await original(service, keys)

    scenario.store.kept = stale
    await scenario.send(intent(Pay()))

    assert scenario.answers() == [("shop.evt.paid.v1", '{"receipt":"elsewhere"}')]
    assert scenario.ledger() == []


async def test_counts_say_what_was_done(scenario):
    """For metrics, and for telling that nothing goes on."""
    await scenario.send(
        intent(Pay(), step="a"),
        intent(Pay(), step="a"),
        intent(Pay(amount=501), step="b"),
        intent(Pay(amount=-1), step="c"),
        undo(Refund(), step="d"),
    )

    assert scenario.service.counts == {
        "effects_done": 2,
        "effects_refused": 1,
        "effects_failed": 1,
        "effects_repeated": 1,
    }


async def test_the_order_of_a_step_survives_a_rebalance(scenario):
    """Records fetched twice are finished twice, and the offset is right afterwards."""
    scenario.bus.is_stuck = True
    await scenario.bus.publish([intent(Pay()), undo(Refund())])
    await scenario.until(lambda: scenario.bus.attempted)
    await scenario.seek({Source(TOPIC, 0): 0})
    await scenario.until(lambda: scenario.service.in_hand == 3)
    await scenario.crash()
    await scenario.until(lambda: len(scenario.replies()) == 2)
    await scenario.stop()

    causes = [header(reply, ce.CAUSATION_ID) for reply in scenario.replies()]
    assert [call.split("/")[2] for call in scenario.calls] == ["do", "undo"]
    assert sorted(cause.split("/")[2] for cause in causes) == ["do", "undo"]
    assert scenario.committed(TOPIC) == 1


async def _handle_elsewhere(disk: sqlite3.Connection, key: str) -> None:
    saga, _, step = key.partition("/")
    disk.execute("INSERT INTO saga_inbox_sagas (saga_id) VALUES (?)", (saga,))
    disk.execute(
        "INSERT INTO saga_inbox VALUES (last_insert_rowid(), ?, 'wallets', 1, 'done',"
        """ 'shop.evt.paid.v1', '{"receipt":"elsewhere"}', NULL, NULL, NULL, 1, 0)""",
        (step,),
    )


async def test_intent_that_was_accepted_is_answered_again_however_strict_its_contract_is_now():
    """From the inbox; one that comes for the first time is refused by the new rules."""
    is_strict = False

    def rule(amount: int) -> int:
        if is_strict and amount < 1:
            raise ValueError("expected an amount above zero")
        return amount

    class Lend(Intent[None], topic="stricter.lend", version=1):
        order_id: str
        amount: Annotated[int, AfterValidator(rule)]

    effects, calls = Effects("lenders"), []

    @effects.on(Lend)
    async def lend(intent: Lend, ctx: EffectContext) -> None:
        calls.append(intent.amount)

    async with Scenario(effects) as scenario:
        accepted = intent(Lend(order_id="o-1", amount=-3))
        refused = intent(Lend(order_id="o-2", amount=-4), key="o-2", saga=saga_id("order", "o-2"))
        await scenario.bus.publish([accepted])
        await scenario.until(lambda: len(scenario.replies()) == 1)
        is_strict = True
        await scenario.crash()

        await scenario.bus.publish([refused, accepted])
        await scenario.until(lambda: len(scenario.replies()) > 1 and scenario.dead_letters)

        first, *again = [(reply.value, reply.headers) for reply in scenario.replies()]
        assert set(map(str, again)) == {str(first)}
        assert calls == [-3]
        ((inbound, reason, _),) = scenario.dead_letters
        assert (inbound.key, reason) == (b"o-2", "schema")
