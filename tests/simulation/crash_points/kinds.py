"""The kinds of messages: for each, a story in which one is handled, and how to know that turn."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from saga.ports import DueTimer, Inbound, Record
from saga.runtime.unit_of_work import InboundBatch
from saga.testing import cancelled, signalled
from saga.testing.world.driver import Act, Repeat, command_of
from saga.testing.world.evidence import Trigger, headers_of
from tests.simulation.crash_points.stage import Script
from tests.simulation.sample import (
    FlawedOrdered,
    Ordered,
    ParallelOrdered,
    PatientOrdered,
    SequenceOrdered,
    WideOrdered,
)

Matcher = Callable[[Inbound | DueTimer], bool]


class Kind(NamedTuple):
    """A kind of message.

    *publishes* is how many records the turn on it publishes, *dead_letters* how many it makes.
    """

    name: str
    script: Callable[[], Script]
    publishes: int
    dead_letters: int
    is_command: bool
    ends: str


def _kind(
    name: str,
    model: type[Ordered],
    script: dict[str, str],
    *follow_ups: tuple[float, str],
    on: Matcher,
    times: int = 1,
    publishes: int = 0,
    dead_letters: int = 0,
    is_command: bool = False,
    ends: str = "completed",
    **more,
) -> Kind:
    """The case is about the turn *on* such a record or timer, or on the second one of them."""

    def story() -> Script:
        seen: set[Inbound | DueTimer] = set()

        def is_it(batch: InboundBatch) -> bool:
            matching = [each for each in (*batch.records, *batch.due) if on(each)]
            seen.update(getattr(each, "position", each) for each in matching)
            return bool(matching) and len(seen) >= times

        return Script(_acts(model, script, *follow_ups), is_it, **more)

    return Kind(name, story, publishes, dead_letters, is_command, ends)


def _acts(
    model: type[Ordered], script: dict[str, str], *follow_ups: tuple[float, str]
) -> list[Act]:
    name = model.__name__.removesuffix("Ordered").lower()
    event = model(order_id=f"{name}-1", script=script)
    trigger = Trigger(event, "m-1")
    acts = [Act(0.0, trigger)]
    for at_s, what in follow_ups:
        match what:
            case "again":
                deed = Repeat(trigger)
            case "conflict":
                other = event.model_copy(update={"script": {"a": "refuse", "other": "yes"}})
                deed = Trigger(other, "conflict-1")
            case "signal":
                deed = command_of(trigger, signalled("approval", {"by": "boss"}))
            case mode:
                deed = command_of(trigger, cancelled("changed mind", mode=mode))
        acts.append(Act(at_s, deed))
    return acts


def _timer(*parts: str) -> Matcher:
    return lambda each: all(part in getattr(each, "timer_id", "") for part in parts)


def _record(matches: Callable[[Inbound], bool]) -> Matcher:
    return lambda each: isinstance(each, Inbound) and matches(each)


def _reply(step: str) -> Matcher:
    return _record(lambda record: headers_of(record).get("ce_causationid", "").endswith(step))


def _act(act: str) -> Matcher:
    return _record(lambda record: ".ctl." in record.topic and f'"{act}"'.encode() in record.value)


def _message(message_id: str) -> Matcher:
    return _record(lambda record: headers_of(record).get("ce_id") == message_id)


def _answers_a(record: Record) -> bool:
    return any(
        name == "ce_causationid" and (value or b"").endswith(b"/a/do/1")
        for name, value in record.headers
    )


APPROVED = (0.6, "signal")
REFUSED_AT_THE_END = {"c": "refuse"}
UNDONE = "rolled_back"

KINDS: Sequence[Kind] = (
    _kind("trigger", ParallelOrdered, {}, on=_message("m-1"), publishes=3),
    _kind(
        "repeated trigger",
        PatientOrdered,
        {},
        (0.2, "again"),
        APPROVED,
        on=_message("m-1"),
        times=2,
    ),
    _kind(
        "contradicting trigger",
        *(PatientOrdered, {}, (0.2, "conflict"), APPROVED),
        on=_message("conflict-1"),
        dead_letters=1,
    ),
    _kind("trigger whose turn raises", FlawedOrdered, {"flaw": "start"}, on=_message("m-1")),
    _kind("reply done", SequenceOrdered, {}, on=_reply("/a/do/1"), publishes=2),
    _kind(
        "reply refused",
        WideOrdered,
        {"e": "refuse"},
        on=_reply("/e/do/1"),
        publishes=3,
        ends=UNDONE,
    ),
    _kind("reply failed", SequenceOrdered, {"a": "fail:1"}, on=_reply("/a/do/1")),
    _kind(
        "late reply",
        SequenceOrdered,
        {"b": "slow:4"},
        on=_reply("/b/do/1"),
        publishes=1,
        ends=UNDONE,
    ),
    _kind(
        "repeated reply",
        *(PatientOrdered, {}, APPROVED),
        on=_reply("/a/do/1"),
        times=2,
        echoes=_answers_a,
    ),
    _kind("last reply", SequenceOrdered, {}, on=_reply("/c/do/1"), publishes=1),
    _kind("retry timer", SequenceOrdered, {"a": "fail:1"}, on=_timer("/a", "retry"), publishes=1),
    _kind("timeout", PatientOrdered, {}, on=_timer("approval"), publishes=1, ends=UNDONE),
    _kind("signal", PatientOrdered, {}, APPROVED, on=_act("signal"), publishes=1, is_command=True),
    _kind(
        "cancel",
        *(PatientOrdered, {}, (0.6, "graceful")),
        on=_act("cancel"),
        publishes=1,
        is_command=True,
        ends=UNDONE,
    ),
    _kind("operator's act", FlawedOrdered, {"flaw": "middle"}, on=_act("release"), is_command=True),
    _kind(
        "undo reply",
        *(SequenceOrdered, REFUSED_AT_THE_END),
        on=_reply("/b/undo/1"),
        publishes=1,
        ends=UNDONE,
    ),
    _kind(
        "undo failed",
        *(SequenceOrdered, {**REFUSED_AT_THE_END, "b": "undofail:1"}),
        on=_reply("/b/undo/1"),
        ends=UNDONE,
    ),
    _kind(
        "unreadable record",
        *(PatientOrdered, {}, APPROVED),
        on=_record(lambda record: record.key == b"garbage"),
        dead_letters=1,
        garbage=b'{"order_id": 7',
    ),
)
