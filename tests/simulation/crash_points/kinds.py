"""The kinds of messages: for each, a story in which one is handled, and how to know that turn."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import orjson

from saga.ports import Inbound, Record
from saga.runtime.unit_of_work import InboundBatch
from saga.testing import cancelled, signalled
from saga.testing.world.checks import Trigger, headers_of
from saga.testing.world.driver import Act, Repeat, command_of
from tests.simulation.crash_points.stage import Script
from tests.simulation.sample import (
    FlawedOrdered,
    Ordered,
    ParallelOrdered,
    PatientOrdered,
    SequenceOrdered,
    WideOrdered,
)

Matcher = Callable[[Inbound], bool]


class Kind(NamedTuple):
    """A kind of message.

    *publishes* is how many records the turn on it publishes, *dead_letters* how many it makes.
    """

    name: str
    script: Callable[[], Script]
    publishes: int
    dead_letters: int = 0
    is_command: bool = False
    ends: str = "completed"


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


def _on(matches: Matcher, *, times: int = 1) -> Callable[[InboundBatch], bool]:
    """A batch that has such a record in it; the second one of them where *times* is 2."""
    seen: set[tuple[str, int, int]] = set()

    def is_it(batch: InboundBatch) -> bool:
        matching = [record for record in batch.records if matches(record)]
        seen.update(record.position for record in matching)
        return bool(matching) and len(seen) >= times

    return is_it


def _at(*parts: str) -> Callable[[InboundBatch], bool]:
    """A batch with a timer of such an id."""
    return lambda batch: any(all(part in timer.timer_id for part in parts) for timer in batch.due)


def _topic(part: str) -> Matcher:
    return lambda record: part in record.topic


def _reply(step: str) -> Matcher:
    return lambda record: headers_of(record).get("ce_causationid", "").endswith(step)


def _act(act: str) -> Matcher:
    return lambda record: (
        ".ctl." in record.topic and orjson.loads(record.value or b"{}")["act"] == act
    )


def _message(message_id: str) -> Matcher:
    return lambda record: headers_of(record).get("ce_id") == message_id


def _published(record: Record, step: str) -> bool:
    return any(
        name == "ce_causationid" and (value or b"").endswith(step.encode())
        for name, value in record.headers
    )


def _story(
    model: type[Ordered],
    script: dict[str, str],
    *follow_ups: tuple[float, str],
    focus: Callable[[], Callable[[InboundBatch], bool]],
    **more,
) -> Callable[[], Script]:
    return lambda: Script(_acts(model, script, *follow_ups), focus(), **more)


APPROVED = (0.6, "signal")
REFUSED_AT_THE_END = {"c": "refuse"}

KINDS: Sequence[Kind] = (
    Kind(
        "trigger",
        _story(ParallelOrdered, {}, focus=lambda: _on(_topic("parallel-ordered"))),
        publishes=3,
    ),
    Kind(
        "repeated trigger",
        _story(
            PatientOrdered,
            {},
            (0.2, "again"),
            APPROVED,
            focus=lambda: _on(_message("m-1"), times=2),
        ),
        publishes=0,
    ),
    Kind(
        "contradicting trigger",
        _story(
            PatientOrdered,
            {},
            (0.2, "conflict"),
            APPROVED,
            focus=lambda: _on(_message("conflict-1")),
        ),
        publishes=0,
        dead_letters=1,
    ),
    Kind(
        "trigger whose turn raises",
        _story(FlawedOrdered, {"flaw": "start"}, focus=lambda: _on(_message("m-1"))),
        publishes=0,
    ),
    Kind(
        "reply done",
        _story(SequenceOrdered, {}, focus=lambda: _on(_reply("/a/do/1"))),
        publishes=2,
    ),
    Kind(
        "reply refused",
        _story(WideOrdered, {"e": "refuse"}, focus=lambda: _on(_reply("/e/do/1"))),
        publishes=3,
        ends="rolled_back",
    ),
    Kind(
        "reply failed",
        _story(SequenceOrdered, {"a": "fail:1"}, focus=lambda: _on(_reply("/a/do/1"))),
        publishes=0,
    ),
    Kind(
        "late reply",
        _story(SequenceOrdered, {"b": "slow:4"}, focus=lambda: _on(_reply("/b/do/1"))),
        publishes=1,
        ends="rolled_back",
    ),
    Kind(
        "repeated reply",
        _story(
            PatientOrdered,
            {},
            APPROVED,
            focus=lambda: _on(_reply("/a/do/1"), times=2),
            echoes=lambda record: _published(record, "/a/do/1"),
        ),
        publishes=0,
    ),
    Kind(
        "last reply",
        _story(SequenceOrdered, {}, focus=lambda: _on(_reply("/c/do/1"))),
        publishes=1,
    ),
    Kind(
        "retry timer",
        _story(SequenceOrdered, {"a": "fail:1"}, focus=lambda: _at("/a", "retry")),
        publishes=1,
    ),
    Kind(
        "timeout",
        _story(PatientOrdered, {}, focus=lambda: _at("approval")),
        publishes=1,
        ends="rolled_back",
    ),
    Kind(
        "signal",
        _story(PatientOrdered, {}, APPROVED, focus=lambda: _on(_act("signal"))),
        publishes=1,
        is_command=True,
    ),
    Kind(
        "cancel",
        _story(PatientOrdered, {}, (0.6, "graceful"), focus=lambda: _on(_act("cancel"))),
        publishes=1,
        is_command=True,
        ends="rolled_back",
    ),
    Kind(
        "operator's act",
        _story(FlawedOrdered, {"flaw": "middle"}, focus=lambda: _on(_act("release"))),
        publishes=0,
        is_command=True,
    ),
    Kind(
        "undo reply",
        _story(SequenceOrdered, REFUSED_AT_THE_END, focus=lambda: _on(_reply("/b/undo/1"))),
        publishes=1,
        ends="rolled_back",
    ),
    Kind(
        "undo failed",
        _story(
            SequenceOrdered,
            {**REFUSED_AT_THE_END, "b": "undofail:1"},
            focus=lambda: _on(_reply("/b/undo/1")),
        ),
        publishes=0,
        ends="rolled_back",
    ),
    Kind(
        "unreadable record",
        _story(
            PatientOrdered,
            {},
            APPROVED,
            focus=lambda: _on(lambda record: record.key == b"garbage"),
            garbage=b'{"order_id": 7',
        ),
        publishes=0,
        dead_letters=1,
    ),
)
