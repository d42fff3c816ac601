"""How the checks read a history: what it says of its steps, in the words of its entries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

from saga.core.events import ReplyOutcome, ReplyReceived, SagaStarted
from saga.core.history import FACTS, Entry
from saga.core.identity import SagaId
from saga.core.intents import IntentIssued, Noted, Verdict
from saga.core.status import StepKind
from saga.testing.world.children import is_answered_by_child

BodyT = TypeVar("BodyT")


def all_of(history: Sequence[Entry], kind: type[BodyT]) -> list[tuple[int, BodyT]]:
    return [(entry.version, entry.body) for entry in history if isinstance(entry.body, kind)]


def facts_and_decisions(history: Sequence[Entry]) -> Iterator[tuple[Entry, Sequence[Entry]]]:
    """A history cut into turns: the fact, and what was decided on it."""
    begins = [place for place, entry in enumerate(history) if not place or is_fact(entry)]
    for begin, end in pairwise([*begins, len(history)]):
        yield history[begin], history[begin + 1 : end]


def is_fact(entry: Entry) -> bool:
    return type(entry.body) in FACTS


def begun_in(history: Sequence[Entry]) -> SagaStarted | None:
    return next((started for _, started in all_of(history, SagaStarted)), None)


def issued_in(
    history: Sequence[Entry], direction: str
) -> dict[str, list[tuple[int, IntentIssued]]]:
    """The intents to do or undo each step with their versions, in order of first issue."""
    intents: dict[str, list[tuple[int, IntentIssued]]] = {}
    for version, intent in all_of(history, IntentIssued):
        if intent.direction.value == direction:
            intents.setdefault(intent.step, []).append((version, intent))
    return intents


def kinds_in(history: Sequence[Entry]) -> dict[str, StepKind]:
    """The steps in order of issue, each of the kind that its first intent says."""
    return {step: intents[0][1].kind for step, intents in issued_in(history, "do").items()}


def is_answered(history: Sequence[Entry], step: str, direction: str, outcome: ReplyOutcome) -> bool:
    """Whether a service, or the child of a step, has said this of it, and nobody else before."""
    return any(
        isinstance(reply := entry.body, ReplyReceived)
        and reply.outcome is outcome
        and reply.intent_id.split("/")[1:3] == [step, direction]
        and not _is_conflicting(history[place : place + 1])
        for place, entry in enumerate(history, start=1)
    ) or is_answered_by_child(history, step, direction, outcome)


def _is_conflicting(noted: Sequence[Entry]) -> bool:
    """Whether the entry behind a fact says that it contradicts what came before."""
    return any(
        isinstance(each.body, Noted) and each.body.verdict is Verdict.CONFLICTING for each in noted
    )


def id_of(saga_id: SagaId, intent: IntentIssued) -> str:
    return f"{saga_id}/{intent.step}/{intent.direction.value}/{intent.attempt}"
