"""Entries: a closed registry of stable names, a plain form that gives back what it was given."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from saga.adapters.mapper import TURN, to_entries, to_state
from saga.core import events, intents
from saga.core.events import (
    Act,
    CancelMode,
    ChildStatus,
    Event,
    Json,
    Message,
    Parent,
    ReplyOutcome,
)
from saga.core.history import (
    NAME_OF,
    NAMES,
    Entry,
    RecordedTurn,
    from_plain,
    to_plain,
    turn_of,
)
from saga.core.identity import (
    Direction,
    Instant,
    IntentId,
    MessageId,
    StepId,
    TimerId,
    parse_intent_id,
    saga_id,
)
from saga.core.intents import PlannedUndo, RollbackGoal, TimerPurpose, Verdict
from saga.core.status import TRANSITIONS, SagaStatus, StepKind, StepStatus
from saga.errors import CorruptHistory, UnknownEntry

SAGA = saga_id("order", "o-1")
MESSAGE = Message("shop.evt.paid.v1", Json('{"a":[1,2.5,null,"é"]}'))

BODIES = [
    events.SagaStarted(
        definition="order",
        definition_version=2,
        fingerprint="f",
        key="o-1",
        trigger=MESSAGE,
        traceparent="00-1",
    ),
    events.SagaStarted(
        definition="order", definition_version=2, fingerprint="f", key="", trigger=MESSAGE
    ),
    events.SagaStarted(
        definition="order",
        definition_version=2,
        fingerprint="f",
        key="",
        trigger=MESSAGE,
        parent=Parent(IntentId("i"), "k"),
    ),
    events.ReplyReceived(intent_id=IntentId("i"), outcome=ReplyOutcome.DONE, reply=MESSAGE),
    events.ReplyReceived(
        intent_id=IntentId("i"), outcome=ReplyOutcome.REFUSED, code="c", message=""
    ),
    events.ProgressReceived(intent_id=IntentId("i")),
    events.ProgressReceived(intent_id=IntentId("i"), note="half"),
    events.TimerFired(timer_id=TimerId("t")),
    *(
        events.SignalReceived(name="s", payload=Json(text))
        for text in ("null", "0", '""', "[]", "{}", "false", '{"x":{"y":null}}')
    ),
    events.SignalReceived(name="s", payload=Json("1"), actor="ann"),
    events.EventReceived(contract="d.evt.e.v1", payload=Json("1")),
    events.CancelRequested(mode=CancelMode.ABANDON, reason="r", actor="a"),
    events.OperatorActed(act=Act.RETRY, reason="r", step="pay"),
    events.CancelRequested(mode=CancelMode.GRACEFUL, reason="r", undo=IntentId("i")),
    events.ChildStarted(intent_id=IntentId("i"), saga_id=SAGA, definition="order", key="o-1"),
    events.ChildEnded(
        intent_id=IntentId("i"),
        status=ChildStatus.COMPLETED,
        saga_id=SAGA,
        definition="order",
        key="o-1",
        outcome=MESSAGE,
    ),
    events.ChildEnded(
        intent_id=IntentId("i"),
        status=ChildStatus.ABANDONED,
        reason="r",
        code="c",
        failed_step="pay",
        residue=("pay",),
    ),
    events.OperatorActed(
        act=Act.MARK,
        reason="r",
        step="pay",
        state=events.MarkedAs.DONE,
        evidence="seen",
        reply=MESSAGE,
    ),
    events.OperatorActed(act=Act.MOVE_TIMER, reason="r", timer_id=TimerId("t"), due_at=Instant(7)),
    events.OperatorActed(act=Act.RERUN, reason="r", key="k", saga_id=SAGA),
    events.SagaStarted(
        definition="order",
        definition_version=2,
        fingerprint="f",
        key="k",
        trigger=MESSAGE,
        rerun_of=SAGA,
        paused=True,
    ),
    events.Paused(reason="r", scope=events.PauseScope.DEFINITION),
    events.Resumed(reason="r", actor="a"),
    events.Migrated(from_version=1, definition_version=2, reason="r"),
    events.Migrated(
        from_version=1,
        definition_version=2,
        reason="r",
        actor="a",
        steps=(("pay", "charge"), ("é", "-")),
        from_fingerprint="f",
        fingerprint="g",
    ),
    events.TimersAdded(),
    events.TurnFailed(error="e"),
    events.TurnFailed(
        error="e", position="t/0/1", definition="order", definition_version=1, key="o-1"
    ),
    intents.IntentIssued(
        step=StepId("pay"),
        direction=Direction.UNDO,
        attempt=3,
        contract="c",
        payload=Json("{}"),
        kind=StepKind.RETRIABLE,
        undoes="d",
        child=True,
    ),
    *(
        intents.IntentIssued(
            step=StepId("pay"),
            direction=Direction.DO,
            attempt=1,
            contract="c",
            payload=Json("null"),
            kind=StepKind.PLAIN,
            after=after,
        )
        for after in (None, (), (StepId("a"), StepId("b")))
    ),
    intents.StepSettled(step=StepId("a"), status=StepStatus.IN_DOUBT, code="c", message="m"),
    intents.StepSettled(
        step=StepId("a"), status=StepStatus.UNDO_STUCK, direction=Direction.UNDO, message="m"
    ),
    intents.IntentTold(step=StepId("a"), contract="c", payload=Json("{}")),
    intents.BranchDropped(steps=(StepId("a"),)),
    intents.BranchDropped(sleeps=("sleep-1",), waits=("wait-a-1", "wait-a-2")),
    intents.EventPublished(publication="p-1", contract="c", payload=Json('{"a":1}')),
    intents.CommandSent(
        command=MessageId("m"),
        act=intents.SentAct.CANCEL,
        saga_id=SAGA,
        definition="order",
        key="o-1",
        mode=CancelMode.IMMEDIATE,
        reason="r",
    ),
    *(
        intents.CommandSent(
            command=MessageId("m"),
            act=intents.SentAct.SIGNAL,
            saga_id=SAGA,
            definition="order",
            key="o-1",
            name="s",
            payload=payload,
        )
        for payload in (None, Json("null"), Json('{"a":[1,null]}'))
    ),
    events.UpdateReceived(update="u", name="n", payload=Json('{"a":1}')),
    events.UpdateReceived(update="u", name="n", payload=Json("null"), actor="ann"),
    intents.UpdateAnswered(update="u", answer=Json("null")),
    intents.UpdateAnswered(update="u", answer=Json('{"a":[null]}')),
    intents.UpdateAnswered(update="u", code="c", message="m"),
    intents.UpdateAnswered(update="u", code="c"),
    intents.EventAwaited(wait="w", updates=("n",)),
    intents.Shown(fields=()),
    intents.Shown(fields=(("a", Json('"x"')), ("z", Json("null")), ("ü", Json('{"b":[1,null]}')))),
    intents.TimerArmed(
        timer_id=TimerId("t"), due_at=Instant(5), purpose=TimerPurpose.SLEEP, target="sleep-1"
    ),
    intents.TimerMoved(timer_id=TimerId("t"), due_at=Instant(9)),
    intents.TimerCancelled(timer_id=TimerId("t")),
    intents.TimerMoved(timer_id=TimerId("t"), due_at=Instant(5)),
    intents.ArrivalRefused(arrived=3, detail="no state ahead takes it"),
    intents.SignalAwaited(wait="wait-a-1", name="a"),
    intents.SignalAwaited(wait="wait-a-1", name="a", refused=2),
    intents.EventAwaited(wait="next-e-1", contracts=("d.evt.e.v1",)),
    intents.EventAwaited(wait="next-e-1", contracts=("d.evt.e.v1",), signals=("a",), selects=True),
    intents.WaitEnded(wait="next-e-1", took=7),
    intents.Noted(verdict=Verdict.CONFLICTING, subject="s", detail="d"),
    intents.RollbackDue(reason="r", code="c", failed_step="pay"),
    intents.RollbackDue(reason="r", scope="trip/hotel"),
    intents.RollbackPlanned(goal=RollbackGoal.SCOPE_LEFT, steps=(), reason="r", scope="trip"),
    intents.ScopeUndone(scope="trip/hotel"),
    intents.ScopeUndone(scope="trip/hotel", residue=("pay",)),
    intents.RollbackPlanned(
        goal=RollbackGoal.ROLLED_BACK,
        steps=(
            PlannedUndo(step=StepId("a")),
            PlannedUndo(step=StepId("b"), after=()),
            PlannedUndo(step=StepId("c"), after=(StepId("a"), StepId("b"))),
        ),
        reason="r",
        code="c",
        failed_step=StepId("a"),
    ),
    intents.RollbackPlanned(goal=RollbackGoal.CLEANED_UP, steps=(), reason="r", one_by_one=True),
    intents.Patched(patch="p"),
    intents.UndoAppended(step=StepId("a")),
    intents.SagaParked(reason="r"),
    intents.SagaParked(reason="r", step=StepId("a")),
    intents.SagaResumed(),
    intents.SagaFinishing(outcome=None),
    intents.SagaFinishing(outcome=MESSAGE),
    intents.SagaFinishing(outcome=MESSAGE, continues=True),
    intents.Continued(
        run=2,
        trigger=MESSAGE,
        definition="order",
        definition_version=3,
        fingerprint="f",
        key="o-1",
        started_at=Instant(3),
        began_with="d",
    ),
    intents.Continued(
        run=3,
        trigger=MESSAGE,
        definition="order",
        definition_version=3,
        fingerprint="f",
        key="o-1",
        started_at=Instant(3),
        began_with="d",
        traceparent="00-1",
        causes=(
            intents.KnownCause(cause=MessageId("a")),
            intents.KnownCause(cause=MessageId("b"), source="s", said="d"),
        ),
        unread=(
            intents.Unread(
                version=3,
                arrival=events.SignalReceived(name="s", payload=Json('{"x":[null]}')),
            ),
            intents.Unread(
                version=7,
                arrival=events.EventReceived(contract="c", payload=Json("null")),
            ),
        ),
        shown=(("a", Json('{"x":1}')), ("b", Json("null"))),
        parent=events.Parent(IntentId("i"), "k"),
    ),
    intents.SagaCompleted(outcome=None),
    intents.SagaCompleted(outcome=MESSAGE),
    intents.SagaRolledBack(
        reason="r", code=None, failed_step=None, residue=(StepId("a"),), outcome=MESSAGE
    ),
    intents.SagaRolledBack(reason="r", residue=(), undo=IntentId("i")),
    intents.SagaCleanedUp(residue=()),
    intents.SagaAbandoned(reason="r", residue=(StepId("a"),), outcome=None),
    intents.SagaAbandoned(reason="r", residue=(), undo=IntentId("i")),
]


def test_every_entry_type_is_tested_here():
    """A new one must be added to the list above."""
    assert {type(body) for body in BODIES} == set(NAMES.values())


@pytest.mark.parametrize("body", BODIES, ids=lambda body: NAME_OF[type(body)])
def test_entry_is_what_was_stored_of_it(body):
    """Through the JSON that a store writes, and through any other JSON library."""
    entry = Entry(SAGA, 7, Instant(11), MessageId("m"), body)
    state = to_state(turn_of([entry]))
    turn = json.loads(state)
    (plain,) = turn["entries"]
    name = plain.pop("type")
    plain |= {"at": turn["at"], "cause": turn["cause"]}

    assert json.loads(json.dumps(to_plain(entry, json.loads))) == plain
    assert to_entries(SAGA, TURN, state) == [entry]
    assert from_plain(SAGA, 7, name, plain, dumped) == entry


def dumped(value):
    """Canonical JSON by the standard library."""
    return Json(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@hypothesis_given(payload=json_values, cause=st.text(), name=st.text())
def test_no_payload_keeps_an_entry_from_being_read(payload, cause, name):
    """Whatever a user put into it comes back as it was."""
    body = events.SignalReceived(name=name, payload=dumped(payload))
    entry = Entry(SAGA, 1, Instant(1), MessageId(cause), body)
    (read,) = to_entries(SAGA, TURN, to_state(turn_of([entry])))

    assert json.loads(read.body.payload) == payload


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("saga-began", b'{"at":1,"cause":"m"}'),
        ("os.system", b'{"at":1,"cause":"m"}'),
        ("saga.core.events:TimerFired", b'{"at":1,"cause":"m","timer_id":"t"}'),
        ("timer-fired", b'{"at":1,"cause":"m"}'),
        ("timer-fired", b'{"at":1,"cause":"m","timer_id":null}'),
        ("signal-received", b'{"at":1,"cause":"m","name":"s"}'),
        ("timer-fired", b"[]"),
        ("timer-fired", b"{"),
        ("operator-acted", b'{"at":1,"cause":"m","act":"dance","reason":"r"}'),
        ("reply-received", b'{"at":1,"cause":"m","intent_id":"i","outcome":"maybe"}'),
        ("saga-completed", b'{"at":1,"cause":"m","outcome":{"contract":"c"}}'),
        ("rollback-planned", b'{"at":1,"cause":"m","goal":"x","groups":[],"reason":"r"}'),
        ("rollback-planned", b'{"at":1,"cause":"m","goal":"completed","groups":7,"reason":"r"}'),
    ],
)
def test_what_cannot_be_read_is_refused_with_saga_and_version(name, text):
    """A stored name never imports code, and a broken entry is never guessed at."""
    entry = text.replace(b'{"at":1,"cause":"m"', b'{"type":"%s"' % name.encode())
    state = b'{"at":1,"cause":"m","entries":[%s],"first":4}' % entry
    with pytest.raises(CorruptHistory) as found:
        to_entries(SAGA, TURN, state, version=4)

    assert (found.value.saga_id, found.value.version) == (SAGA, 4)


@pytest.mark.parametrize(
    "state",
    [
        b'{"cause":"m","entries":[{"type":"timer-fired","timer_id":"t"}],"first":4}',
        b'{"at":1,"entries":[{"type":"timer-fired","timer_id":"t"}],"first":4}',
        b'{"at":1,"cause":"m","entries":[{"type":"timer-fired","timer_id":"t"}]}',
        b'{"at":1,"cause":"m","first":4}',
        b'{"at":1,"cause":"m","entries":[{"timer_id":"t"}],"first":4}',
        b'{"at":1,"cause":"m","entries":7,"first":4}',
        b'{"at":1,"cause":"m","entries":[7],"first":"four"}',
        b"[]",
        b"null",
    ],
)
def test_a_turn_that_cannot_be_read_is_refused_with_saga_and_version(state):
    """What its entries share is missing, or its form is another one."""
    with pytest.raises(CorruptHistory) as found:
        to_entries(SAGA, TURN, state, version=4)

    assert (found.value.saga_id, found.value.version) == (SAGA, 4)


@pytest.mark.parametrize(
    "plain",
    [
        b'{"type":"saga-dreamt"}',
        b'{"type":"timer-fired","timer_id":"t","later":[1]}',
        b'{"type":"operator-acted","act":"mend","reason":"r"}',
        b'{"type":"rollback-planned","goal":"completed","reason":"r","steps":[{"step":"a","x":1}]}',
        (
            b'{"type":"saga-started","definition":"d","definition_version":1,"fingerprint":"f",'
            b'"key":"k","trigger":{"contract":"c","payload":{}},'
            b'"parent":{"intent_id":"i","key":"k","x":1}}'
        ),
    ],
    ids=["name", "field", "value", "field inside", "field of its parent"],
)
def test_what_a_newer_release_wrote_is_told_apart_from_what_is_corrupt(plain):
    """An unknown name, field or value is not ignored: the saga waits for that release."""
    state = b'{"at":1,"cause":"m","entries":[%s],"version":1}' % plain

    with pytest.raises(UnknownEntry) as raised:
        to_entries(SAGA, TURN, state)

    assert (raised.value.saga_id, raised.value.version) == (SAGA, 1)
    assert "not known" in raised.value.problem or "no entry" in raised.value.problem


def test_optional_fields_may_be_missing():
    body = intents.SagaCompleted(outcome=None)
    entry = Entry(SAGA, 1, Instant(1), MessageId("m"), body)

    assert to_plain(entry, json.loads) == {"at": 1, "cause": "m"}


def test_a_turn_is_one_batch_of_one_cause():
    """The fact first, then what was decided, numbered without gaps."""
    event = Event(events.TurnFailed(error="e"), Instant(3), MessageId("m"))
    entries = RecordedTurn(SAGA, 5, event, [intents.SagaParked(reason="r")] * 2).entries

    assert [entry.version for entry in entries] == [5, 6, 7]
    assert {(entry.at, entry.cause, entry.saga_id) for entry in entries} == {(3, "m", SAGA)}
    assert entries[0].body == event.fact


def test_saga_id_is_a_function_of_definition_and_key():
    """A duplicate trigger finds the same saga, for ever."""
    assert saga_id("order", "o-1") == "2b938483-c1b7-51b4-a948-a30f62bc983e"
    assert saga_id("order", "o-1") != saga_id("order", "o-2") != saga_id("orde", "ro-2")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        f"{SAGA}/pay/do",
        f"{SAGA}/pay/do/x",
        f"{SAGA}/pay/go/1",
        f"{SAGA}//do/1",
        f"{SAGA}/pay/do/-1",
        f"{SAGA}/pay/do/1/2",
        f"{SAGA}/pay/do/{10**10}",
        "short/pay/do/1",
    ],
)
def test_what_is_no_intent_id_is_not_taken_for_one(text):
    """Anybody may send anything as a causation id."""
    assert parse_intent_id(text) is None


def test_intent_id_says_what_it_is_about():
    assert parse_intent_id(f"{SAGA}/pay-2/undo/13") == (SAGA, "pay-2", Direction.UNDO, 13)


def test_ended_sagas_move_for_cleanup_only():
    for status in SagaStatus:
        if status.is_ended:
            assert SagaStatus.RUNNING not in TRANSITIONS[status]
    assert SagaStatus.ROLLING_BACK not in TRANSITIONS[SagaStatus.ABANDONED]


def test_the_reference_names_every_entry_and_every_field():
    """A reader in another language has nothing else."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "history.md").read_text()
    shared = {"reason", "step", "name", "payload", "outcome"}

    for name, kind in NAMES.items():
        assert f"`{name}`" in page, name
        missing = [one.name for one in fields(kind) if f"`{one.name}`" not in page]
        assert set(missing) <= shared, (name, missing)
