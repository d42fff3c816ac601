"""`listens` and `on`: what cannot work is refused at definition, with file and line."""

from datetime import date, datetime
from uuid import UUID

import pytest

from saga import Context, Event, SagaApp, on, saga, upcast
from saga.authoring.listening import Listening
from saga.console.cli.rights import rights_of
from saga.errors import DefinitionError, MalformedMessage
from saga.publishing.writer import EventWriter
from saga.settings import Settings
from saga.testing import given
from tests.toys import OrderConfirmed, OrderPlaced, Pay, Settled, Shipped


class Keyed(Event, topic="other.keyed", version=1):
    text: str = ""
    number: int = 1
    id: UUID | None = None
    day: date | None = None
    moment: datetime | None = None
    many: list[str] | None = None
    pairs: dict[str, str] | None = None
    ratio: float = 0.5
    yes: bool = True


def listening(*listens, **options):
    @saga("order", version=1, starts_on=OrderPlaced, listens=listens, **options)
    async def order(ctx: Context, placed: OrderPlaced) -> None:
        pass

    return order


def refusal(make, *args, **options) -> str:
    with pytest.raises(DefinitionError) as refused:
        make(*args, **options)
    assert refused.value.where is not None
    file, _, line = refused.value.where.rpartition(":")
    assert file == __file__
    assert line.isdecimal()
    return refused.value.problem


def test_classes_and_what_on_gives():
    by_ref = on(Settled, key="order_ref", early="5m")
    assert listening(Shipped, by_ref).listens == (
        Listening(event=Shipped, key=None, early_us=10_000_000),
        Listening(event=Settled, key="order_ref", early_us=300_000_000),
    )
    assert on(Shipped, early=None).early_us == 0


def test_a_single_one_needs_no_tuple():
    @saga("order", version=1, starts_on=OrderPlaced, listens=Shipped)
    async def order(ctx: Context, placed: OrderPlaced) -> None:
        pass

    @saga("order", version=1, starts_on=OrderPlaced, listens=on(Settled, key="order_ref"))
    async def other(ctx: Context, placed: OrderPlaced) -> None:
        pass

    assert [each.event for each in (*order.listens, *other.listens)] == [Shipped, Settled]


@pytest.mark.parametrize("field", ["text", "number", "id", "day"])
def test_a_field_with_one_text_is_a_key(field):
    assert on(Keyed, key=field).key == field


@pytest.mark.parametrize("field", ["many", "pairs", "moment", "ratio", "yes"])
def test_a_field_that_is_a_collection_or_has_several_texts_is_no_key(field):
    said = refusal(on, Keyed, key=field)
    assert f"Keyed has the key {field!r} of type" in said
    assert "expected a str, int, UUID, date or StrEnum" in said


def test_a_key_that_is_no_field():
    said = refusal(on, Settled, key="order_id")
    assert said == (
        "listens to Settled by key 'order_id', which is none of its fields: order_ref, amount"
    )


def test_a_key_that_is_neither_a_name_nor_a_function():
    assert "expected a field name or a function" in refusal(on, Settled, key=7)


def test_an_event_that_names_no_key():
    said = refusal(listening, Settled)
    assert said.startswith("saga 'order' listens to Settled, which names no key: write on(Settled")
    assert refusal(on, Settled).startswith("listens to Settled, which names no key")


@pytest.mark.parametrize("other", [Pay, OrderPlaced(), "carrier.shipped", None, int])
def test_what_is_no_event_class(other):
    assert "which is no Event class" in refusal(listening, other)


def test_an_early_that_is_no_duration():
    assert "is no duration" in refusal(on, Shipped, early="soon")


def test_an_old_version_is_refused_as_for_starts_on():
    class Old(Event, topic="other.aged", version=1, key="order_id"):
        order_id: str

    class New(Event, topic="other.aged", version=2, key="order_id"):
        order_id: str

    @upcast
    def up(old: Old) -> New:
        return New(order_id=old.order_id)

    said = refusal(lambda: SagaApp(sagas=[listening(Old)]))
    assert "listens to other.evt.aged.v1, which is upcast to other.evt.aged.v2" in said
    SagaApp(sagas=[listening(New)])


def test_a_key_whose_type_is_known_only_later_is_refused_by_the_application():
    class Late(Event, topic="other.late", version=1):
        key: "Later"

    definition = listening(on(Late, key="key"))

    class Later(Event, topic="other.later", version=1):
        text: str = ""

    Late.model_rebuild()
    assert "of type Later" in refusal(lambda: SagaApp(sagas=[definition]))


def test_next_of_an_event_to_which_the_saga_does_not_listen():
    def make():
        @saga("order", version=1, starts_on=OrderPlaced, listens=Shipped)
        async def order(ctx: Context, placed: OrderPlaced) -> None:
            await ctx.next(Shipped)
            await ctx.next(Shipped, Settled)

    said = refusal(make)
    assert said == (
        "ctx.next(Settled): the saga does not listen to it: add it to @saga(listens=(…))"
    )


def test_next_that_is_never_awaited():
    def make():
        @saga("order", version=1, starts_on=OrderPlaced, listens=Shipped)
        async def order(ctx: Context, placed: OrderPlaced) -> None:
            ctx.next(Shipped)

    assert "ctx.next(Shipped) is never awaited" in refusal(make)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda ctx: ctx.next(), "needs the event class to wait for"),
        (lambda ctx: ctx.next(Pay), "takes event classes, not"),
        (lambda ctx: ctx.next(OrderConfirmed), "does not listen to it"),
        (lambda ctx: ctx.next(Shipped()), "takes event classes, not"),
        (lambda ctx: ctx.next(Shipped, timeout="soon"), "is no duration"),
        (lambda ctx: ctx.next(Shipped, where=nobody), "takes a plain function"),
    ],
)
def test_what_only_the_call_shows_parks_the_saga(call, problem):
    @saga("order", version=1, starts_on=OrderPlaced, listens=Shipped)
    async def order(ctx: Context, placed: OrderPlaced) -> None:
        await call(ctx)

    given(order, contracts=(OrderConfirmed,)).when(OrderPlaced()).then_parked(problem)


async def nobody(shipped):
    """No predicate: it would have to be awaited."""


def test_its_contracts_are_the_applications():
    app = SagaApp(sagas=[listening(Shipped)])
    assert "carrier.evt.shipped.v1" in app.contracts


def written(event):
    """The record that a publisher of the application makes of an event."""
    app = SagaApp(sagas=[listening(Shipped, on(Settled, key="order_ref"))])
    settings = Settings.read({})
    return EventWriter.of(settings, contracts=app.contracts, sagas=app.registry).record(event)


def test_what_is_only_listened_to_can_be_published_under_the_key_of_its_saga():
    assert written(Settled(order_ref="o-7")).record.key == b"o-7"
    assert written(Settled(order_ref="o-7")).saga_id is None
    assert written(Shipped(order_id="o-8")).record.key == b"o-8"


def test_one_that_concerns_nobody_needs_a_key():
    with pytest.raises(MalformedMessage, match="needs a business key"):
        written(Settled(order_ref=None))


def test_who_publishes_what_is_listened_to_may_write_its_topic():
    app = SagaApp(sagas=[listening(Shipped)])
    rights = list(rights_of(app, Settings.read({})))
    topic = "dev.saga.carrier.evt.shipped.v1"
    assert {(right.who, right.operation) for right in rights if right.name == topic} >= {
        ("orchestrator", "Read"),
        ("publisher", "Write"),
    }
