"""What is said in a world that brings no application of its own."""

from __future__ import annotations

from saga.contracts import Event, Intent


class Ordered(Event):
    """What all triggers have."""

    order_id: str
    script: dict[str, str]


class SequenceOrdered(Ordered, topic="sim.sequence-ordered", version=1, key="order_id"):
    """One step after another."""


class ParallelOrdered(Ordered, topic="sim.parallel-ordered", version=1, key="order_id"):
    """Steps side by side, undone one by one."""


class WideOrdered(Ordered, topic="sim.wide-ordered", version=1, key="order_id"):
    """Steps side by side, undone side by side."""


class ChoiceOrdered(Ordered, topic="sim.choice-ordered", version=1, key="order_id"):
    """Whoever is first, and a second choice."""


class PatientOrdered(Ordered, topic="sim.patient-ordered", version=1, key="order_id"):
    """Sleeps, and waits for an approval."""


class PivotOrdered(Ordered, topic="sim.pivot-ordered", version=1, key="order_id"):
    """Only goes forward after a point."""


class StubbornOrdered(Ordered, topic="sim.stubborn-ordered", version=1, key="order_id"):
    """Has an undo that gives up."""


class FlawedOrdered(Ordered, topic="sim.flawed-ordered", version=1, key="order_id"):
    """Its code raises."""


class Approval(Event, topic="sim.approval", version=1):
    """The payload of the signal `approval`."""

    by: str


class Noticed(Event, topic="sim.noticed", version=1):
    """Said on the way."""

    order_id: str


class WorkDone(Event, topic="sim.work-done", version=1):
    """The outcome of a completed saga."""

    order_id: str
    receipts: list[str]


class WorkUndone(Event, topic="sim.work-undone", version=1):
    """The outcome of a saga that was rolled back."""

    order_id: str
    reason: str
    residue: list[str]


class Taken(Event, topic="stock.taken", version=1):
    """Reply to `Take`."""

    receipt: str


class Seen(Event, topic="stock.seen", version=1):
    """Reply to `Look`."""

    units: int


class Look(Intent[Seen], topic="stock.look", version=1):
    """Only reads."""

    order_id: str
    script: str


class Take(Intent[Taken], topic="stock.take", version=1):
    """Has a reply of its own."""

    order_id: str
    script: str


class GiveBack(Intent[None], topic="stock.give-back", version=1):
    """Undoes `Take`; made of its reply, where there is one."""

    order_id: str
    script: str
    receipt: str | None = None


class Charge(Intent[None], topic="bank.charge", version=1):
    """Has no reply of its own."""

    order_id: str
    script: str


class Refund(Intent[None], topic="bank.refund", version=1):
    """Undoes `Charge`."""

    order_id: str
    script: str
