"""What a handler says of a refusal beside its text: structured, bounded, kept with the answer."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from saga.contracts import IntentFailed, canonical
from saga.contracts.registry import DETAILS_CHARS_MAX
from saga.effects import Effects, Refused
from saga.errors import MalformedMessage
from tests.effects.fixtures import Scenario, intent
from tests.toys import Paid, Pay, Refund


class Unspeakable:
    """Raises wherever it is asked what it holds."""

    def __getattribute__(self, name: str):
        raise SystemExit(name)


async def answered(details, *, times: int = 1) -> list[dict]:
    """The failures that a service publishes whose handler refuses with *details*."""
    effects = Effects("e")

    @effects.on(Pay)
    async def pay(intent, ctx) -> Paid:
        raise Refused("over the limit", code="limit", details=details)

    async with Scenario(effects) as scenario:
        for _ in range(times):
            await scenario.send(intent(Pay()))
        return [json.loads(value) for _, value in scenario.answers()]


@pytest.mark.parametrize("details", [{"left": 12, "of": [1, None]}, [1, 2], "text", 0, False, {}])
async def test_they_are_published_with_the_refusal(details):
    refusal = {"outcome": "refused", "code": "limit", "message": "over the limit"}
    assert await answered(details) == [refusal | {"details": details}]


async def test_none_are_not_said():
    assert "details" not in (await answered(None))[0]


async def test_what_can_be_written_as_json_is():
    details = {"at": datetime(2026, 1, 1, tzinfo=UTC), "sum": Decimal("1.50"), "who": Refund()}
    said = (await answered(details))[0]["details"]

    assert said == {
        "at": "2026-01-01T00:00:00Z",
        "sum": "1.50",
        "who": {"order_id": "o-1", "receipt": None},
    }


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (object, "PydanticSerializationError"),
        (Unspeakable, "Unspeakable"),
        (lambda: {"x": float("nan")}, ""),
        (lambda: "\ud800", ""),
        (lambda: "x" * DETAILS_CHARS_MAX, "10,002 characters of JSON, of at most 10,000"),
    ],
)
async def test_a_refusal_stands_without_details_that_cannot_be_sent(make, why):
    """It is final, and nothing happened, whatever else it says; its message says why."""
    (refusal,) = await answered(make())

    assert (refusal["outcome"], refusal["code"]) == ("refused", "limit")
    assert "details" not in refusal
    assert refusal["message"].startswith("over the limit (its details are left out: ")
    assert why in refusal["message"]


async def test_they_are_kept_with_the_answer():
    """The same intent again is answered with the same words, without the handler."""
    first, again = await answered({"left": 12}, times=2)

    assert first == again


async def test_a_kept_reply_is_no_detail_of_a_conflict():
    effects = Effects("e")

    @effects.on(Pay)
    async def pay(intent, ctx) -> Paid:
        return Paid(receipt="r-1")

    async with Scenario(effects) as scenario:
        await scenario.send(intent(Pay()), intent(Pay(amount=9)))
        conflict = json.loads(scenario.answers()[-1][1])

    assert conflict["code"] == "id_conflict"
    assert "details" not in conflict


def test_those_of_any_service_are_bounded():
    IntentFailed(outcome="failed", details={"x": "y"})
    with pytest.raises(ValueError, match="has more than 10,000 characters of JSON"):
        IntentFailed(outcome="failed", details="x" * DETAILS_CHARS_MAX)
    with pytest.raises((ValueError, MalformedMessage)):
        canonical(IntentFailed(outcome="failed", details=float("nan")).details)
